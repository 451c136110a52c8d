"""Keep parameters of bijectors: tensors of one dtype, and variables that are read when they are used.

A constructor keeps a parameter under its name with an underscore, `self._scale`. The class has the property:

    scale = TensorParameter("Factor of each activation.")
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.core.checks import as_tensor
from flowpp_tf.core.errors import InputError


class Parameter(property):
  """Property of a bijector's parameter, which the bijector keeps under the same name with an underscore."""

  def __init__(self, doc: str) -> None:
    super().__init__(fget=lambda bijector: getattr(bijector, self._attribute), doc=doc)

  def __set_name__(self, owner: type[tfp.bijectors.Bijector], name: str) -> None:
    self._attribute = f"_{name}"


class TensorParameter(Parameter):
  """Parameter of real numbers: a tensor, or a variable of TensorFlow or Keras.

  Args:
    doc: docstring of the property.
    size: of the last axis where TFP draws the parameter, if that axis is one event; None if the parameter is
      elementwise.
    low: function of the dtype, the bound below which TFP does not draw it; None for any real numbers.
  """

  def __init__(self, doc: str, size: int | None = None, low: Callable[[tf.DType], float] | None = None) -> None:
    super().__init__(doc)
    self._size = size
    self._low = low

  def __set_name__(self, owner: type[Any], name: str) -> None:
    super().__set_name__(owner, name)
    owner._tensor_parameters = {**owner._tensor_parameters, name: self}

  def properties(self, dtype: tf.DType) -> tfp.util.ParameterProperties:
    """Return what TFP has to know of the parameter."""
    options: dict[str, Any] = {}
    if self._size is not None:
      options["event_ndims"] = 1
      options["shape_fn"] = lambda sample_shape: tf.concat([sample_shape, [self._size]], axis=0)
    if low := self._low:
      options["default_constraining_bijector_fn"] = lambda: tfp.bijectors.Softplus(low=tf.constant(low(dtype), dtype))
    return tfp.util.ParameterProperties(**options)


def as_parameters(**values: Any) -> list[Any]:
  """Return parameters as tensors of one dtype, float32 if they have none; variables stay as they are.

  Raises:
    InputError (a ValueError): if tensors are not of real numbers, or have several dtypes.
  """
  dtype = _common_dtype(values)
  return [value if is_variable(value) else as_tensor(name, value, dtype) for name, value in values.items()]


def as_elementwise_parameters(**values: Any) -> list[Any]:
  """Return `as_parameters(**values)`; raise an `InputError` unless they can be broadcast against each other too."""
  parameters = as_parameters(**values)
  check_broadcast(**dict(zip(values, parameters)))
  return parameters


def is_variable(value: Any) -> bool:
  """Return whether a parameter is read when it is used, as variables are."""
  return isinstance(value, (tf.Variable, keras.Variable, tfp.util.DeferredTensor))


def copied(value: Any) -> Any:
  """Return arrays, and lists of them, as copies that nobody else can change; anything else as it is."""
  if isinstance(value, list):
    return [copied(part) for part in value]
  return value.copy() if isinstance(value, np.ndarray) else value


def _common_dtype(values):
  """Return the dtype of parameters, float32 if they have none."""
  dtypes = {name: tf.as_dtype(value.dtype) for name, value in values.items() if _has_real_dtype(value)}
  if len({*dtypes.values()}) > 1:
    found = ", ".join(f"`{name}` {dtype.name}" for name, dtype in dtypes.items())
    raise InputError(f"parameters must have one dtype, got {found}")
  return next(iter(dtypes.values()), tf.float32)


def _has_real_dtype(value):
  """Return whether a parameter sets the dtype of all; others, such as integers in arrays, are cast to it."""
  if isinstance(value, np.ndarray) and value.dtype.kind != "f":
    return False
  with contextlib.suppress(TypeError):  # an array of other things
    return hasattr(value, "dtype") and tf.as_dtype(value.dtype).is_floating
  return False


def check_broadcast(**tensors: Any) -> None:
  """Raise an `InputError` unless tensors can be broadcast against each other; their names are those in the message."""
  shapes = {name: tf.TensorShape(tensor.shape) for name, tensor in tensors.items()}
  try:
    functools.reduce(tf.broadcast_static_shape, shapes.values())
  except ValueError:
    found = ", ".join(f"`{name}` {[*shape]}" for name, shape in shapes.items())
    raise InputError(f"shapes must be those of tensors that can be broadcast, got {found}") from None


def check_variables(owner: str, **parameters: Any) -> None:
  """Raise an `InputError` unless parameters are variables of one shape, which `owner.initialize` can set."""
  for name, value in parameters.items():
    if not hasattr(value, "assign"):
      raise InputError(f"`{owner}.initialize` needs `{name}` to be a tf.Variable, got {value}")
  if len({tuple(value.shape) for value in parameters.values()}) > 1:
    found = ", ".join(f"`{name}` {[*value.shape]}" for name, value in parameters.items())
    raise InputError(f"`{owner}.initialize` needs variables of one shape, got {found}")


# TFP's classes of composite tensors.
COMPOSITE = (
  tfp.experimental.AutoCompositeTensor,
  tfp.distributions.TransformedDistribution,
  tfp.distributions.JointDistributionNamed,
  tfp.distributions.JointDistributionNamedAutoBatched,
  tfp.distributions.JointDistributionSequential,
  tfp.distributions.JointDistributionSequentialAutoBatched,
  tfp.distributions.GaussianProcess,
)


def is_composite(part: Any) -> bool:
  """Return whether a bijector or a distribution can go in and out of a `tf.function`; one of Keras variables cannot."""
  return isinstance(part, COMPOSITE) and not getattr(part, "_keras_variables", None)
