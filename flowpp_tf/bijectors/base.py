"""Value and log-det in one call; the four methods of TFP follow from it.

    y, log_det = bijector.forward_and_log_det(x)     log_det = log|det dy/dx|
    x, log_det = bijector.inverse_and_log_det(y)     log_det = log|det dx/dy|

as in distrax. `Chain`, `Invert`, `FlowDistribution` and the model compose these two methods in plain loops. For TFP's
own `Chain` and `TransformedDistribution`, which ask for value and log-det separately, the log-det is left in TFP's
cache.
"""

import contextlib
import functools
import math
from typing import Any

from jaxtyping import Float
import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability.python.internal import cache_util

from flowpp_tf.core.checks import as_tensor, check_type, shown
from flowpp_tf.core.context import EvalContext
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.tensors import shape_of
from flowpp_tf.types import TensorLike


class Bijector(tfp.bijectors.Bijector):
  """Base class of bijectors that return the value together with its log-det.

  Subclasses define `_forward_and_log_det(x, ctx)` and `_inverse_and_log_det(y, ctx)`, whose log-dets are those of
  events of `forward_min_event_ndims` and `inverse_min_event_ndims` dimensions, in nats. As in TFP, constructors take
  `validate_args`, a Python `bool`, and `name`, a Python `str`; so do those of the distributions.

  Examples:
    >>> class Double(fpp.bijectors.Bijector):
    ...   def __init__(self):
    ...     super().__init__(forward_min_event_ndims=0)
    ...
    ...   def _forward_and_log_det(self, x, ctx):
    ...     return 2 * x, tf.math.log(2.0)
    ...
    ...   def _inverse_and_log_det(self, y, ctx):
    ...     return y / 2, -tf.math.log(2.0)
    >>> float(Double().forward(3.0)), round(float(Double().inverse_log_det_jacobian(6.0)), 3)
    (6.0, -0.693)
  """

  def __init__(self, *args: Any, parameters: dict[str, Any] | None = None, **kwargs: Any) -> None:
    # Arrays may change later, and with them what the bijector and its copies are equal to.
    parameters = parameters and {name: unshared(value) for name, value in parameters.items()}
    super().__init__(*args, parameters=parameters, **kwargs)

  def forward_and_log_det(
    self, x: TensorLike, ctx: EvalContext | None = None
  ) -> tuple[Float[tf.Tensor, "..."], Float[tf.Tensor, "..."]]:
    """Return y and log|det dy/dx|.

    Args:
      x: `[..., *event]`.
      ctx: what the evaluation carries besides its input; None for an unconditional one outside of training.

    Returns:
      y, and the log-det in nats per event of `forward_min_event_ndims` dimensions. A log-det that does not depend on x
      may lack dimensions of the batch.
    """
    return forward_and_log_det(self, x, ctx=ctx)

  def inverse_and_log_det(
    self, y: TensorLike, ctx: EvalContext | None = None
  ) -> tuple[Float[tf.Tensor, "..."], Float[tf.Tensor, "..."]]:
    """Return x and log|det dx/dy|; arguments and log-det as in `forward_and_log_det`."""
    return inverse_and_log_det(self, y, ctx=ctx)

  def _to_tensor(self, name, value):
    tensor = as_tensor(name, value, self.dtype, tf.float32)
    least = self.forward_min_event_ndims if name == "x" else self.inverse_min_event_ndims
    if tensor.shape.rank is not None and tensor.shape.rank < least:
      raise InputError(f"`{name}` must have the {least} dimensions of an event, got shape {[*tensor.shape]}")
    return tensor

  def _set_parameters(self, **values: Any) -> tf.DType:
    """Keep parameters under their names and return their dtype, float32 if they have none.

    Tensors are converted; variables stay as they are, and are read when they are used. The `tf.Variable`s of Keras
    variables are kept too, so that `trainable_variables`, checkpoints and SavedModels find them.

    Raises:
      TypeError: if the parameters have several dtypes.
      InputError (a ValueError): if one is not of real numbers.
    """
    dtype = _common_dtype(values)
    for name, value in values.items():
      setattr(self, f"_{name}", value if is_variable(value) else as_tensor(name, value, dtype))
    self._keras_variables = [value.value for value in values.values() if isinstance(value, keras.Variable)]
    return dtype

  # --- TFP's methods ----------------------------------------------------------------------------

  # For slices TFP gives every parameter a batch. Without one there is nothing to slice, and weights stay what they are.
  def _broadcast_parameters_with_batch_shape(self, batch_shape, x_event_ndims=None):
    if self.experimental_batch_shape(x_event_ndims=x_event_ndims).rank == 0:
      return self
    return super()._broadcast_parameters_with_batch_shape(batch_shape, x_event_ndims)

  # In eager mode TFP's cache does not see that weights have changed since it saw a tensor.
  def forward(self, x: TensorLike, name: str = "forward", **kwargs: Any) -> Float[tf.Tensor, "..."]:
    return super().forward(_unknown_to_cache(self._to_tensor("x", x)), name=name, **kwargs)

  def inverse(self, y: TensorLike, name: str = "inverse", **kwargs: Any) -> Float[tf.Tensor, "..."]:
    return super().inverse(_unknown_to_cache(self._to_tensor("y", y)), name=name, **kwargs)

  def forward_log_det_jacobian(
    self, x: TensorLike, event_ndims: int | None = None, name: str = "forward_log_det_jacobian", **kwargs: Any
  ) -> Float[tf.Tensor, "..."]:
    _check_event_ndims(event_ndims, self.forward_min_event_ndims)
    return super().forward_log_det_jacobian(
      _unknown_to_cache(self._to_tensor("x", x)), event_ndims, name=name, **kwargs
    )

  def inverse_log_det_jacobian(
    self, y: TensorLike, event_ndims: int | None = None, name: str = "inverse_log_det_jacobian", **kwargs: Any
  ) -> Float[tf.Tensor, "..."]:
    _check_event_ndims(event_ndims, self.inverse_min_event_ndims)
    return super().inverse_log_det_jacobian(
      _unknown_to_cache(self._to_tensor("y", y)), event_ndims, name=name, **kwargs
    )

  _cache = cache_util.BijectorCacheWithGreedyAttrs(
    forward_name="_forward_and_attributes", inverse_name="_inverse_and_attributes"
  )

  def _forward_and_attributes(self, x, ctx=None):
    y, log_det = self.forward_and_log_det(x, ctx)
    return y, {"ildj": -log_det}

  def _inverse_and_attributes(self, y, ctx=None):
    x, log_det = self.inverse_and_log_det(y, ctx)
    return x, {"ildj": log_det}

  def _forward_log_det_jacobian(self, x, **kwargs):
    self._cache.forward(x, **kwargs)  # leaves the log-det in the cache
    return -self._cache.forward_attributes(x, **kwargs)["ildj"]

  def _inverse_log_det_jacobian(self, y, **kwargs):
    self._cache.inverse(y, **kwargs)
    return self._cache.inverse_attributes(y, **kwargs)["ildj"]


def _unknown_to_cache(x):
  return tf.identity(x) if tf.executing_eagerly() and tf.is_tensor(x) else x


def forward_and_log_det(
  bijector: tfp.bijectors.Bijector, x: TensorLike, event_ndims: int | None = None, ctx: EvalContext | None = None
) -> tuple[Float[tf.Tensor, "..."], Float[tf.Tensor, "..."]]:
  """Return y and log|det dy/dx| of any bijector, of this package or TFP's own.

  Args:
    bijector: `tfp.bijectors.Bijector`.
    x: `[..., *event]`.
    event_ndims: dimensions of an event, over which the log-det is summed; None for those of the bijector.
    ctx: as in `Bijector.forward_and_log_det`; TFP's own bijectors do not get it.
  """
  _check_context(ctx)
  least, count = bijector.forward_min_event_ndims, bijector.inverse_min_event_ndims
  more = _more_event_ndims(event_ndims, least)
  if isinstance(bijector, Bijector):
    with tf.name_scope(f"{bijector.name}/forward"):
      x = bijector._to_tensor("x", x)
      try:
        y, log_det = bijector._forward_and_log_det(x, ctx)
      except (ValueError, tf.errors.InvalidArgumentError):
        _check_broadcast("x", bijector, x.shape)
        raise
  else:
    x = _unknown_to_cache(x)
    y, log_det = bijector.forward(x), bijector.forward_log_det_jacobian(x, least)
  _check_event(
    "x", tf.TensorShape(getattr(x, "shape", None)), least + more, y.shape, count + more, bijector.forward_event_shape
  )
  return y, _sum_log_det(log_det, y, count, more)


def inverse_and_log_det(
  bijector: tfp.bijectors.Bijector, y: TensorLike, event_ndims: int | None = None, ctx: EvalContext | None = None
) -> tuple[Float[tf.Tensor, "..."], Float[tf.Tensor, "..."]]:
  """Return x and log|det dx/dy| of any bijector; arguments as in `forward_and_log_det`."""
  _check_context(ctx)
  least, count = bijector.inverse_min_event_ndims, bijector.forward_min_event_ndims
  more = _more_event_ndims(event_ndims, least)
  if isinstance(bijector, Bijector):
    with tf.name_scope(f"{bijector.name}/inverse"):
      y = bijector._to_tensor("y", y)
      try:
        x, log_det = bijector._inverse_and_log_det(y, ctx)
      except (ValueError, tf.errors.InvalidArgumentError):
        _check_broadcast("y", bijector, y.shape)
        raise
  else:
    y = _unknown_to_cache(y)
    x, log_det = bijector.inverse(y), bijector.inverse_log_det_jacobian(y, least)
  _check_event(
    "y", tf.TensorShape(getattr(y, "shape", None)), least + more, x.shape, count + more, bijector.inverse_event_shape
  )
  return x, _sum_log_det(log_det, x, count, more)


def _more_event_ndims(event_ndims, least):
  """Return how many dimensions an event has in addition to those of the bijector."""
  _check_event_ndims(event_ndims, least)
  return 0 if event_ndims is None else event_ndims - least


def _check_context(ctx):
  if not (ctx is None or isinstance(ctx, EvalContext)):
    raise InputError(f"`ctx` must be an `EvalContext` or None, got {shown(ctx)}")


def _check_event_ndims(event_ndims, least):
  if event_ndims is not None:
    check_type("event_ndims", event_ndims, int | tf.Tensor)
    if not tf.is_tensor(event_ndims) and not least <= event_ndims < 2**31:
      raise InputError(f"`event_ndims` must be at least {least}, the dimensions of an event, got {event_ndims}")


def _check_event(name, shape, ndims, result, result_ndims, event_shape):
  """Raise an `InputError` if parameters have broadcast an event, which then is not one of the bijector's."""
  if not ndims or shape.rank is None or result.rank is None:
    return
  found, event = result[result.rank - result_ndims :], shape[shape.rank - ndims :]
  if found != event and not found.is_compatible_with(event_shape(event)):
    raise InputError(f"`{name}` must be of shape [..., {', '.join(map(str, found))}], got {[*shape]}")


def _check_broadcast(name, bijector, shape):
  """Raise an `InputError` if the parameters of an elementwise bijector are not those of a tensor of this shape."""
  if bijector.forward_min_event_ndims:
    return
  of_parameters = bijector.experimental_batch_shape()
  try:
    tf.broadcast_static_shape(shape, of_parameters)
  except ValueError:
    raise InputError(
      f"`{name}` must be of shape [..., {', '.join(map(str, of_parameters))}], that of the parameters of "
      f"{bijector.name!r}, got {[*shape]}"
    ) from None


def _sum_log_det(log_det, output, least, count):
  """Sum a log-det over the `count` dimensions of the output that precede its last `least`, the bijector's own event."""
  if not count:
    return log_det
  last = len(output.shape) - least
  shape = shape_of(output)[last - count : last]
  if log_det.shape.rank == 0:
    return log_det * tf.cast(math.prod(shape), log_det.dtype)
  if not (output.shape[last - count : last].is_fully_defined() and log_det.shape[-count:] == shape):
    # It is constant along some of them.
    log_det = tf.broadcast_to(log_det, tf.broadcast_dynamic_shape(tf.shape(log_det), shape))
  return tf.reduce_sum(log_det, axis=list(range(-count, 0)))


# --- Parameters ---------------------------------------------------------------------------------


def unshared(value: Any) -> Any:
  """Return arrays, and lists of them, as copies that nobody else can change; anything else as it is."""
  if isinstance(value, list):
    return [unshared(part) for part in value]
  return value.copy() if isinstance(value, np.ndarray) else value


class Parameter(property):
  """Property of a bijector's parameter, which the bijector keeps under the same name with an underscore."""

  def __init__(self, doc: str) -> None:
    super().__init__(fget=lambda bijector: getattr(bijector, self._attribute), doc=doc)

  def __set_name__(self, owner: type, name: str) -> None:
    self._attribute = f"_{name}"


# All composite tensors of TFP.
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


def _common_dtype(values):
  """The dtype of parameters, float32 if they have none."""
  dtypes = {name: tf.as_dtype(value.dtype) for name, value in values.items() if _has_real_dtype(value)}
  if len({*dtypes.values()}) > 1:
    found = ", ".join(f"`{name}` {dtype.name}" for name, dtype in dtypes.items())
    raise TypeError(f"parameters must have one dtype, got {found}")
  return next(iter(dtypes.values()), tf.float32)


def _has_real_dtype(value):
  """Whether a parameter says the dtype of all; what says none, and integers in arrays, are cast to it."""
  if isinstance(value, np.ndarray) and value.dtype.kind != "f":
    return False
  with contextlib.suppress(TypeError):  # of an array of other things
    return hasattr(value, "dtype") and tf.as_dtype(value.dtype).is_floating
  return False


def is_variable(value: Any) -> bool:
  """Return whether a parameter is read when it is used, as variables are."""
  return isinstance(value, (tf.Variable, keras.Variable, tfp.util.DeferredTensor))
