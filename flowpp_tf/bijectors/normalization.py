"""Normalization by the moments of a first batch (data-dependent initialisation).

    ActNorm             y = x scale + bias               Flow++ appendix ("normalises all activations")
    Standardization     y = (x - mean) / stddev          of real-valued fields

Glow normalises per channel; Flow++ has one scale and one bias for every position and channel. Both are initialised
from a batch so that each activation has mean 0 and variance 1 over the batch. A standardization is fitted to data once.
"""

from typing import Any

from jaxtyping import Float
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.base import Elementwise
from flowpp_tf.bijectors.parameters import Parameter, TensorParameter, as_elementwise_parameters, check_variables
from flowpp_tf.core.checks import check_number, check_type
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.lanes import moments, whole_batch
from flowpp_tf.core.tensors import finfo

SMALLEST_SCALE = 1e-10
_MIN_UNITS = 1000  # in the last place, that a standard deviation must have: else rounding changes the density


class ActNorm(Elementwise, tfp.bijectors.AutoCompositeTensorBijector):
  """y = x scale + bias, elementwise, with data-dependent initialisation.

  Args:
    scale: `[H, W, C]` (or any shape that the trailing dimensions of `x` match); kept >= 1e-10. A tensor or a variable
      of TensorFlow or Keras.
    bias: of the same shape.
    epsilon: added to the variance at initialisation.
    min_variance: floor under the variance at initialisation, 0 as published. A batch of few images underestimates the
      variance of many activations, which would scale later images out of range.

  Evaluated with `ctx=EvalContext(initialize=True)`, `forward(x)` first sets `scale` and `bias`, which must then be
  variables, by the moments of `x` over its leading dimensions, and `inverse(y)` sets them by the moments of `y`. The
  log-det is in nats per element.

  Examples:
    >>> act_norm = fpp.bijectors.ActNorm(tf.Variable(tf.ones(2)), tf.Variable(tf.zeros(2)))
    >>> x = tf.random.normal([64, 2], mean=3.0)
    >>> act_norm.initialize(x)
    >>> tf.math.reduce_std(act_norm.forward(x), axis=0).numpy().round(2)
    array([1., 1.], dtype=float32)
  """

  def __init__(
    self,
    scale: Any,
    bias: Any,
    epsilon: float = 1e-8,
    min_variance: float = 0.0,
    validate_args: bool = False,
    name: str = "act_norm",
  ) -> None:
    parameters = dict(locals())
    check_number("epsilon", epsilon, 0)
    check_number("min_variance", min_variance, 0)
    self._scale, self._bias = as_elementwise_parameters(scale=scale, bias=bias)
    self._epsilon = epsilon
    self._min_variance = min_variance
    super().__init__(parameters, dtype=self._bias.dtype, is_constant_jacobian=True)

  scale = TensorParameter("Factor of each activation.", low=lambda dtype: SMALLEST_SCALE)
  bias = TensorParameter("Number added to each scaled activation.")
  epsilon = Parameter("Number added to the variance at initialisation.")
  min_variance = Parameter("Floor under the variance at initialisation.")

  def initialize(self, x: Float[tf.Tensor, " n *event"], inverse: bool = False) -> None:
    """Set `scale` and `bias` so that `forward(x)` has mean 0 and variance 1 over its batch.

    Activations whose variance is below `min_variance` end with less than 1.

    Args:
      x: `[..., H, W, C]`; at least one leading dimension, over which the moments are taken.
      inverse: whether `inverse(x)` gets these moments instead.

    Raises:
      ValueError: if `scale` and `bias` are not variables of one shape, or `x` has no batch dimension, another shape, or
        values that are not finite.
    """
    check_type("inverse", inverse, bool)
    self._fit(x, inverse)

  def _fit(self, x, inverse):
    x = self._initial_batch(x, self.scale.shape)
    check_variables("ActNorm", scale=self.scale, bias=self.bias)
    mean, variance = moments(x, len(x.shape) - len(self.scale.shape))
    variance = tf.maximum(variance, self.min_variance) + self.epsilon
    if inverse:
      self.scale.assign(tf.sqrt(variance))
      self.bias.assign(mean)
    else:
      scale = tf.math.rsqrt(variance)
      self.scale.assign(scale)
      self.bias.assign(-mean * scale)

  def is_initialized(self) -> bool:
    """Return whether scale and bias differ from 1 and 0: they were initialised, trained or loaded."""
    return _differs(self.scale, 1) or _differs(self.bias, 0)

  def _forward_and_log_det(self, x, ctx):
    scale = tf.maximum(self.scale, SMALLEST_SCALE)
    y = x * scale + self.bias
    return y, tf.math.log(scale)

  def _inverse_and_log_det(self, y, ctx):
    scale = tf.maximum(self.scale, SMALLEST_SCALE)
    x = (y - self.bias) / scale
    return x, -tf.math.log(scale)


class Standardization(Elementwise, tfp.bijectors.AutoCompositeTensorBijector):
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
    check_type("allow_constant", allow_constant, bool)
    self._mean, self._stddev = as_elementwise_parameters(mean=mean, stddev=stddev)
    self._allow_constant = allow_constant
    super().__init__(parameters, dtype=self._mean.dtype, is_constant_jacobian=True)

  mean = TensorParameter("Subtracted from each value.")
  stddev = TensorParameter("Divisor of each centred value.", low=lambda dtype: float(finfo(dtype).tiny))
  allow_constant = Parameter("Whether initialisation takes channels whose values are all equal.")

  def initialize(self, x: Float[tf.Tensor, " n *event"]) -> None:
    """Set `mean` and `stddev` so that `forward(x)` has mean 0 and variance 1 over its leading dimensions.

    Args:
      x: `[..., *event]`, in eager mode; the event has the shape of `mean`.

    Raises:
      InputError (a ValueError): if `mean` and `stddev` are not variables of one shape, in a graph, if `x` has another
        shape or values that are not finite, or if its values are all equal, or so close to each other that the dtype
        hardly resolves them.
    """
    self._fit(x, inverse=False)

  def _fit(self, x, inverse):
    if inverse:
      return
    x = self._initial_batch(x, self.mean.shape, batched=not self.allow_constant)
    check_variables("Standardization", mean=self.mean, stddev=self.stddev)
    if not tf.executing_eagerly():
      raise InputError(
        "`Standardization.initialize` needs the values of `x`, which graphs do not have: call it eagerly"
      )
    values = whole_batch(x).numpy().reshape(-1, *self.mean.shape).astype(np.float64)
    constant = values.min(axis=0) == values.max(axis=0)
    stddev = np.where(constant, float(self.allow_constant), values.std(axis=0))
    if not np.all((stddev > 0) & np.isfinite(stddev)):
      raise InputError(
        f"`x`, the data, must have a positive, finite standard deviation in each channel, got {stddev}: leave out "
        "channels whose values are all equal"
      )
    check_resolved(f"`x` of {self.name!r}", values, self.dtype)
    self.mean.assign(values.mean(axis=0))
    self.stddev.assign(stddev)

  def is_initialized(self) -> bool:
    """Return whether mean and stddev differ from 0 and 1: they were fitted or loaded."""
    return _differs(self.mean, 0) or _differs(self.stddev, 1)

  def _forward_and_log_det(self, x, ctx):
    stddev = tf.convert_to_tensor(self.stddev)
    y = (x - self.mean) / stddev
    return y, -tf.math.log(stddev)

  def _inverse_and_log_det(self, y, ctx):
    stddev = tf.convert_to_tensor(self.stddev)
    x = y * stddev + self.mean
    return x, tf.math.log(stddev)


def _differs(variable, value):
  """Return whether any number of a variable differs from a value."""
  return bool(tf.reduce_any(tf.not_equal(variable, value)))


def check_resolved(what: str, values: np.ndarray, dtype: tf.DType) -> None:
  """Raise an `InputError` if channels vary by so little around their mean that a dtype hardly resolves them.

  Args:
    what: the argument, in the message.
    values: `[N, *event]`, finite; channels whose values are all equal pass.
    dtype: floating.
  """
  values = values.astype(np.float64, copy=False)
  mean = values.mean(axis=0)
  stddev = values.std(axis=0)
  unit = np.abs(mean) * float(finfo(dtype).eps)
  narrow = (stddev < _MIN_UNITS * unit) & (values.min(axis=0) < values.max(axis=0))
  if np.any(narrow):
    raise InputError(
      f"{what} must vary by {_MIN_UNITS} units of {tf.as_dtype(dtype).name} around its mean, got standard deviation "
      f"{stddev[narrow][0]:.3g} at mean {mean[narrow][0]:.6g}: subtract the mean, or use float64"
    )
