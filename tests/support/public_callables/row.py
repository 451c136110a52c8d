"""A row of the table, and what a result is compared by."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, NamedTuple

import keras
import numpy as np
from PIL import Image
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.data import ImageDataset
from support.public_callables.world import World


def look(result: Any) -> Any:
  """What a result is compared by: nested lists and dicts of arrays and plain values."""
  if isinstance(result, (tf.Variable, keras.Variable, np.ndarray, np.generic)) or tf.is_tensor(result):
    return np.asarray(result)
  if isinstance(result, ImageDataset):
    return look({"fingerprint": result.fingerprint(), "labels": result.labels})
  if dataclasses.is_dataclass(result) and not isinstance(result, type):
    return {field.name: look(getattr(result, field.name)) for field in dataclasses.fields(result)}
  if isinstance(result, Mapping):
    return {key: look(value) for key, value in result.items()}
  if isinstance(result, (list, tuple)):
    return [look(part) for part in result]
  if isinstance(result, Image.Image):
    return np.asarray(result)
  if isinstance(result, tf.data.Dataset):
    return look(next(iter(result)))
  if isinstance(result, (keras.Model, keras.layers.Layer)):
    return [(w.dtype, tuple(w.shape)) for w in result.weights]
  if isinstance(result, (tfp.bijectors.Bijector, tfp.distributions.Distribution)):
    return [type(result).__name__, look([v for v in result.parameters.values() if tf.is_tensor(v)])]
  return result


class Row(NamedTuple):
  """How to make a callable in a `World`, its arguments, and how to look at what it returns."""

  make: Callable[[World], Callable[..., Any]] | None
  arguments: dict[str, Any]  # `Argument`s, or valid values
  look: Callable[[Any], Any] = look
  reset: Callable[[World], Any] | None = None  # undoes what a call changes
  slow: bool = False


def row(make=None, look=look, reset=None, slow=False, **valid) -> Row:
  """Return the row of a callable from one valid call.

  Args:
    make: as in `Row`; None for the callable of the row's name, of the object that its file has for the class.
    look: as in `Row`.
    reset: as in `Row`.
    slow: as in `Row`.
    **valid: arguments that are not what their names are in the file, or their default. One that is not an `Argument`
      is the valid value of the kind that the annotation says.
  """
  return Row(make, valid, look, reset, slow)
