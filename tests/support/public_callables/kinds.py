"""What an argument of a public callable is, by its annotation: the kind of its wrong values."""

from collections.abc import Callable, Mapping, Sequence
import inspect
import os
import types
from typing import Any, Union, get_args, get_origin

import numpy as np
import tensorflow as tf

from flowpp_tf.types import Seed, Shape
from support import wrong_values as wrong

_KINDS = {
  bool: wrong.flag,
  int: wrong.count,
  float: wrong.number,
  str: wrong.text,
  bytes: wrong.binary,
  Mapping: wrong.mapping,
  dict: wrong.mapping,
  Callable: wrong.instance,
}
_SHAPES = (Shape, Sequence[int], tuple[int, int, int])


def parameters(thing: Any) -> dict[str, inspect.Parameter]:
  """Return the parameters of a public callable by name, those of a class without `self`."""
  if inspect.isclass(thing) and str(getattr(thing.__init__, "__module__", "")).startswith("flowpp_tf"):
    thing = thing.__init__  # Python 3.10 has the signature of Keras' `__new__` for a layer
  found = dict(inspect.signature(thing).parameters)
  return {name: parameter for name, parameter in found.items() if name != "self"}


def annotations(thing: Any) -> dict[str, Any]:
  """Return the annotations of a public callable; those of classes that are not imported as their names."""
  function = inspect.unwrap(thing.__init__ if inspect.isclass(thing) else thing)
  scope, found = getattr(function, "__globals__", {}), {}
  for name, parameter in parameters(thing).items():
    found[name] = parameter.annotation
    if isinstance(parameter.annotation, str):
      try:
        found[name] = eval(parameter.annotation, scope)
      except (NameError, TypeError):
        pass
  return found


def argument(annotation: Any, valid: Any) -> wrong.Argument | None:
  """Return the argument that an annotation and a valid value say; None if they say nothing of its wrong values."""
  if isinstance(valid, wrong.Argument):
    return valid
  if annotation == Seed:
    return wrong.seed(valid)
  parts = _parts(annotation)
  is_optional = {None, type(None), "None"} & {*parts}
  parts = [part for part in parts if part not in (None, type(None), "None", tf.Tensor)]
  kind = _array(valid) if isinstance(valid, np.ndarray) else _kind(parts)
  if kind is None:
    return None
  return wrong.optional(kind(valid)) if is_optional else kind(valid)


def _parts(annotation):
  if isinstance(annotation, str):
    return [part.strip().strip("\"'") for part in annotation.split("|")]
  return [*get_args(annotation)] if get_origin(annotation) in (Union, types.UnionType) else [annotation]


def _array(valid):
  """The kind of an array: images of bytes, labels of integers, else examples of real numbers."""
  if valid.dtype == np.uint8:
    return lambda valid: wrong.images(valid, 8 if valid.max() < 8 else 256)
  if np.issubdtype(valid.dtype, np.integer):
    return lambda valid: wrong.labels(valid, int(valid.max()) + 1)
  return wrong.data


def _kind(parts):
  if os.PathLike in parts:
    return wrong.path
  if any(part in _SHAPES for part in parts):
    return wrong.shape
  if len(parts) == 1 and (get_origin(parts[0]) or parts[0]) in _KINDS:
    return _KINDS[get_origin(parts[0]) or parts[0]]
  of_classes = all(isinstance(part, str) or isinstance(part, type) and not get_origin(part) for part in parts)
  plain = {int, float, bool, str, bytes, inspect.Parameter.empty} & {*parts}
  return wrong.instance if parts and of_classes and not plain and "ndarray" not in str(parts) else None
