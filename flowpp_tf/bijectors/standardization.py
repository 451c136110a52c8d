"""Standardization of real-valued fields: y = (x - mean) / stddev for each channel, fitted to data once."""

from typing import Any

from jaxtyping import Float
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.base import Bijector, Parameter, check_broadcast, check_variables
from flowpp_tf.core.checks import as_tensor, check_all_finite, check_event, check_type
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.lanes import sync_lanes
from flowpp_tf.core.tensors import finfo

ParameterProperties = tfp.util.ParameterProperties
_MIN_UNITS = 1000  # in the last place, that a standard deviation must have: else rounding changes the density


class Standardization(Bijector, tfp.bijectors.AutoCompositeTensorBijector):
  """y = (x - mean) / stddev, elementwise.

  Args:
    mean: `[C]` (or any shape that the trailing dimensions of `x` match): a tensor or a variable of TensorFlow or Keras.
    stddev: of the same shape, positive.
    allow_constant: whether initialisation takes channels whose values are all equal, and gives them standard deviation
      1: right for a context, while the density of such data has no bound.

  Evaluated with `ctx=EvalContext(initialize=True)`, `forward(x)` first sets `mean` and `stddev`, which must then be
  variables, by the moments of `x` over its leading dimensions. Data may have any unit: the moments are taken in
  float64. The log-det is in nats per element.

  Examples:
    >>> standardization = fpp.bijectors.Standardization(tf.Variable(tf.zeros(1)), tf.Variable(tf.ones(1)))
    >>> standardization.initialize(tf.constant([[1e9], [3e9]]))
    >>> standardization.forward([[3e9]]).numpy()
    array([[1.]], dtype=float32)
  """

  def __init__(
    self,
    mean: Any,
    stddev: Any,
    allow_constant: bool = False,
    validate_args: bool = False,
    name: str = "standardization",
  ) -> None:
    parameters = dict(locals())
    with tf.name_scope(name) as name:
      dtype = self._set_parameters(mean=mean, stddev=stddev)
      check_broadcast(mean=self._mean, stddev=self._stddev)
      check_type("allow_constant", allow_constant, bool)
      self._allow_constant = allow_constant
      super().__init__(
        forward_min_event_ndims=0,
        dtype=dtype,
        is_constant_jacobian=True,
        validate_args=validate_args,
        parameters=parameters,
        name=name,
      )

  mean = Parameter("Subtracted from each value.")
  stddev = Parameter("Divisor of each centred value.")
  allow_constant = Parameter("Whether initialisation takes channels whose values are all equal.")

  @classmethod
  def _parameter_properties(cls, dtype):
    positive = lambda: tfp.bijectors.Softplus(low=tf.constant(float(finfo(dtype).tiny), dtype))
    return dict(mean=ParameterProperties(), stddev=ParameterProperties(default_constraining_bijector_fn=positive))

  @classmethod
  def _is_increasing(cls):
    return True

  def initialize(self, x: Float[tf.Tensor, " n *event"]) -> None:
    """Set `mean` and `stddev` so that `forward(x)` has mean 0 and variance 1 over its leading dimensions.

    Args:
      x: `[..., *event]`, in eager mode; the event is that of `mean`.

    Raises:
      InputError (a ValueError): if `mean` and `stddev` are not variables of one shape, in a graph, if `x` has another
        shape or values that are not finite, or if its values are all equal, or so close to each other that the dtype
        hardly resolves them.
    """
    check_variables("Standardization", mean=self.mean, stddev=self.stddev)
    if not tf.executing_eagerly():
      raise InputError("`Standardization.initialize` needs the values of `x`, which a graph has not: call it eagerly")
    x = as_tensor("x", x, self.dtype)
    check_event("x", x.shape, tf.TensorShape(self.mean.shape))
    if 0 in x.shape or (x.shape.rank <= len(self.mean.shape) and not self.allow_constant):
      raise InputError(f"`x` must be a batch of values, got shape {[*x.shape]}")
    check_all_finite("x", x)
    sync_lanes(self._fit, x)

  def _fit(self, lanes):
    event = tuple(self.mean.shape)
    values = np.concatenate([lane.numpy().reshape(-1, *event) for lane in lanes]).astype(np.float64)
    constant = values.min(axis=0) == values.max(axis=0)
    mean, stddev = values.mean(axis=0), np.where(constant, float(self.allow_constant), values.std(axis=0))
    if not np.all((stddev > 0) & np.isfinite(stddev)):
      raise InputError(
        f"`x` must have a positive, finite standard deviation in each channel, got {stddev}: leave out channels whose "
        "values are all equal"
      )
    check_resolved(f"`x` of {self.name!r}", values, self.dtype)
    self.mean.assign(mean)
    self.stddev.assign(stddev)
    return lanes

  def is_initialized(self) -> bool:
    """Return whether mean and stddev differ from 0 and 1: they were fitted or loaded."""
    return bool(tf.reduce_any(tf.not_equal(self.mean, 0)) | tf.reduce_any(tf.not_equal(self.stddev, 1)))

  def _forward_and_log_det(self, x, ctx):
    if ctx is not None and ctx.initialize:
      self.initialize(x)
    stddev = tf.convert_to_tensor(self.stddev)
    return (x - self.mean) / stddev, -tf.math.log(stddev)

  def _inverse_and_log_det(self, y, ctx):
    stddev = tf.convert_to_tensor(self.stddev)
    return y * stddev + self.mean, tf.math.log(stddev)


def check_resolved(what: str, values: np.ndarray, dtype: tf.DType) -> None:
  """Raise an `InputError` if channels vary by so little around their mean that a dtype hardly resolves them.

  Args:
    what: the argument, in the message.
    values: `[N, *event]`, finite; channels whose values are all equal pass.
    dtype: floating.
  """
  values = values.astype(np.float64, copy=False)
  mean, stddev = values.mean(axis=0), values.std(axis=0)
  unit = np.abs(mean) * float(finfo(dtype).eps)
  narrow = (stddev < _MIN_UNITS * unit) & (values.min(axis=0) < values.max(axis=0))
  if np.any(narrow):
    raise InputError(
      f"{what} must vary by {_MIN_UNITS} units of {tf.as_dtype(dtype).name} around its mean, got standard deviation "
      f"{stddev[narrow][0]:.3g} at mean {mean[narrow][0]:.6g}: subtract the mean, or use float64"
    )
