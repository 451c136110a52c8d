"""Value and log-det in one call; the four methods of TFP follow from it.

    y, log_det = bijector.forward_and_log_det(x)     log_det = log|det dy/dx|
    x, log_det = bijector.inverse_and_log_det(y)     log_det = log|det dx/dy|

as in distrax. `Chain`, `Invert`, `FlowDistribution` and the model compose these in plain loops, by `evaluate`.
"""

import math
import textwrap
from typing import Any

from jaxtyping import Float
import keras
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.parameters import TensorParameter, copied
from flowpp_tf.bijectors.tfp_methods import TFPMethods, unknown_to_cache
from flowpp_tf.core.checks import as_tensor, check_all_finite, check_event, check_type
from flowpp_tf.core.context import EvalContext
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.tensors import shape_of
from flowpp_tf.types import TensorLike

_LONGEST_CAUSE = 200  # characters of another library's error in a message


class Bijector(TFPMethods):
  """Base class of bijectors that return the value together with its log-det.

  Subclasses define `_forward_and_log_det(x, ctx)` and `_inverse_and_log_det(y, ctx)`. Their log-dets are in nats per
  event of `forward_min_event_ndims` and `inverse_min_event_ndims` dimensions. Where both directions share their code,
  subclasses define `_evaluate(x, inverse, ctx)` in place of the two. As in TFP, the constructors of bijectors and
  distributions take `validate_args`, a Python `bool`, and `name`, a Python `str`. A constructor keeps its arguments,
  and passes all of them, `dict(locals())`, to this one as `parameters`.

  The methods here check their arguments. Compositions call `evaluate`, which checks nothing.

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

  _tensor_parameters: dict[str, TensorParameter] = {}  # of a class, by name

  def __init__(self, *args: Any, parameters: dict[str, Any] | None = None, **kwargs: Any) -> None:
    if parameters is not None:
      # Arrays may change later, and with them what the bijector and its copies are equal to.
      parameters = {name: copied(value) for name, value in parameters.items()}
      for name in ("validate_args", "name"):
        if name in parameters:
          kwargs.setdefault(name, parameters[name])
      # For `trainable_variables`, checkpoints and SavedModels, which do not know Keras variables.
      self._keras_variables = [value.value for value in parameters.values() if isinstance(value, keras.Variable)]
    if kwargs.get("dtype") is not None:
      kwargs["dtype"] = tf.as_dtype(kwargs["dtype"])  # Keras variables have names of dtypes
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
    x = self._as_tensor("x", x)
    return evaluate_checked(self, "x", x, self, False, self.forward_min_event_ndims, ctx)

  def inverse_and_log_det(
    self, y: TensorLike, ctx: EvalContext | None = None
  ) -> tuple[Float[tf.Tensor, "..."], Float[tf.Tensor, "..."]]:
    """Return x and log|det dx/dy|; arguments and log-det as in `forward_and_log_det`."""
    y = self._as_tensor("y", y)
    return evaluate_checked(self, "y", y, self, True, self.inverse_min_event_ndims, ctx)

  def _evaluate(self, x, inverse, ctx):
    """Return the value and the log-det of one direction, after the initialization that the context asks for."""
    if ctx is not None and ctx.initialize:
      self._fit(x, inverse)
    return self._inverse_and_log_det(x, ctx) if inverse else self._forward_and_log_det(x, ctx)

  def _fit(self, x, inverse):
    """Set parameters by the first batch that is evaluated in this direction."""

  def _initial_batch(self, x, shape, batched=True):
    """Return the `x` of `initialize` as a tensor `[..., *shape]`; raise an `InputError` for other values."""
    x = as_tensor("x", x, self.dtype)
    check_event("x", x.shape, tf.TensorShape(shape))
    if 0 in x.shape or (batched and x.shape.rank <= len(shape)):
      raise InputError(f"`x` must be a batch of values, got shape {[*x.shape]}")
    check_all_finite("x", x)
    return x

  @classmethod
  def _parameter_properties(cls, dtype):
    return {name: parameter.properties(dtype) for name, parameter in cls._tensor_parameters.items()}


class Elementwise(Bijector):
  """Base class of increasing elementwise maps: a subclass is its formula, and the log of its slope at each value.

  Args:
    parameters: the arguments of the subclass by name, `dict(locals())`.
    dtype: of the values; None for any.
    is_constant_jacobian: whether the slope does not depend on `x`.
  """

  def __init__(self, parameters: dict[str, Any], dtype: Any = None, is_constant_jacobian: bool = False) -> None:
    super().__init__(
      forward_min_event_ndims=0, dtype=dtype, is_constant_jacobian=is_constant_jacobian, parameters=parameters
    )

  @classmethod
  def _is_increasing(cls):
    return True


def evaluate(
  bijector: tfp.bijectors.Bijector,
  x: tf.Tensor,
  inverse: bool = False,
  event_ndims: int | None = None,
  ctx: EvalContext | None = None,
) -> tuple[Float[tf.Tensor, "..."], Float[tf.Tensor, "..."]]:
  """Return the value and the log-det of any bijector, of this package or TFP's own. Nothing is checked.

  Args:
    bijector: `tfp.bijectors.Bijector`.
    x: `[..., *event]`, of the bijector's dtype.
    inverse: whether to evaluate the inverse at x.
    event_ndims: dimensions of an event, over which the log-det is summed; None for the bijector's own.
    ctx: as in `Bijector.forward_and_log_det`; TFP's own bijectors do not get it.
  """
  least = bijector.forward_min_event_ndims
  least_of_result = bijector.inverse_min_event_ndims
  if inverse:
    least, least_of_result = least_of_result, least
  if isinstance(bijector, Bijector):
    with tf.name_scope(f"{bijector.name}/{'inverse' if inverse else 'forward'}"):
      y, log_det = bijector._evaluate(x, inverse, ctx)
  else:
    x = unknown_to_cache(x)
    if inverse:
      y = bijector.inverse(x)
      log_det = bijector.inverse_log_det_jacobian(x, least)
    else:
      y = bijector.forward(x)
      log_det = bijector.forward_log_det_jacobian(x, least)
  if event_ndims is None or event_ndims == least:
    return y, log_det
  return y, _sum_log_det(log_det, y, least_of_result, event_ndims - least)


def _sum_log_det(log_det, output, least, count):
  """Sum a log-det over the `count` dimensions of the output that precede its last `least`, the bijector's own event."""
  last = len(output.shape) - least
  shape = shape_of(output)[last - count : last]
  if log_det.shape.rank == 0:
    return log_det * tf.cast(math.prod(shape), log_det.dtype)
  is_known = output.shape[last - count : last].is_fully_defined()
  if not is_known or log_det.shape[-count:] != shape:
    # It is constant along some of them.
    log_det = tf.broadcast_to(log_det, tf.broadcast_dynamic_shape(tf.shape(log_det), shape))
  return tf.reduce_sum(log_det, axis=list(range(-count, 0)))


def evaluate_checked(
  owner: Any, name: str, x: tf.Tensor, bijector: Any, inverse: bool, event_ndims: int, ctx: EvalContext | None
) -> tuple[Float[tf.Tensor, "..."], Float[tf.Tensor, "..."]]:
  """Return `evaluate(bijector, x, inverse, event_ndims, ctx)` of a user's value.

  Args:
    owner: bijector or distribution that was called.
    name: of its argument x.
    x: as in `evaluate`, and so are the others.

  Raises:
    InputError (a ValueError): with the name of x, in place of an error from the evaluation; errors of `validate_args`
      stay. Or if parameters broadcast the events of x.
  """
  check_type("ctx", ctx, EvalContext | None)
  shape = list(x.shape) if x.shape.rank is not None else x.shape
  try:
    y, log_det = evaluate(bijector, x, inverse, event_ndims, ctx)
  except (ValueError, tf.errors.InvalidArgumentError) as error:
    if isinstance(error, InputError) or owner.validate_args:
      raise
    cause = textwrap.shorten(str(error), _LONGEST_CAUSE, placeholder=" ...")
    raise InputError(f"`{name}` must be what {owner.name!r} can evaluate, got shape {shape}: {cause}") from error
  if event_ndims and None not in (x.shape.rank, y.shape.rank):
    event = x.shape[x.shape.rank - event_ndims :]
    expected = bijector.inverse_event_shape(event) if inverse else bijector.forward_event_shape(event)
    result = y.shape[y.shape.rank - expected.rank :]
    if not expected.is_compatible_with(result):
      sizes = ", ".join(map(str, result))
      raise InputError(f"`{name}` must be of shape [..., {sizes}], to which parameters broadcast it, got {shape}")
  return y, log_det
