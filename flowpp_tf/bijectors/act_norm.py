"""ActNorm: y = x scale + bias for each activation, Flow++ appendix ("normalises all activations").

Glow normalises per channel; Flow++ has one scale and one bias for every position and channel. Both are initialised
from a batch so that each activation has mean 0 and variance 1 over the batch.
"""

from typing import Any

from jaxtyping import Float
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.base import Bijector, Parameter, check_broadcast, check_variables
from flowpp_tf.core.checks import as_tensor, check_all_finite, check_number, check_type
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.lanes import moments, sync_lanes

ParameterProperties = tfp.util.ParameterProperties
SMALLEST_SCALE = 1e-10


class ActNorm(Bijector, tfp.bijectors.AutoCompositeTensorBijector):
  """y = x scale + bias, elementwise, with data-dependent initialisation.

  Args:
    scale: `[H, W, C]` (or any shape that the trailing dimensions of `x` match); kept >= 1e-10. A tensor or a variable
      of TensorFlow or Keras.
    bias: of the same shape.
    epsilon: added to the variance at initialisation.
    min_variance: floor under the variance at initialisation, 0 as published. A batch of few images underestimates the
      variance of many activations, which would scale later images out of range.

  Evaluated with `ctx=EvalContext(initialize=True)`, `forward(x)` first sets `scale` and `bias`, which must then be
  variables, by the moments of `x` over its leading dimensions; so does `inverse(y)`, by those of `y`. The log-det is in
  nats per element.

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
    with tf.name_scope(name) as name:
      dtype = self._set_parameters(scale=scale, bias=bias)
      check_broadcast(scale=self._scale, bias=self._bias)
      check_number("epsilon", epsilon, 0)
      check_number("min_variance", min_variance, 0)
      self._epsilon = epsilon
      self._min_variance = min_variance
      super().__init__(
        forward_min_event_ndims=0,
        dtype=dtype,
        is_constant_jacobian=True,
        validate_args=validate_args,
        parameters=parameters,
        name=name,
      )

  scale = Parameter("Factor of each activation.")
  bias = Parameter("Number added to each scaled activation.")
  epsilon = Parameter("Number added to the variance at initialisation.")
  min_variance = Parameter("Floor under the variance at initialisation.")

  @classmethod
  def _parameter_properties(cls, dtype):
    positive = lambda: tfp.bijectors.Softplus(low=tf.constant(SMALLEST_SCALE, dtype))
    return dict(scale=ParameterProperties(default_constraining_bijector_fn=positive), bias=ParameterProperties())

  @classmethod
  def _is_increasing(cls):
    return True

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
    check_variables("ActNorm", scale=self.scale, bias=self.bias)
    check_type("inverse", inverse, bool)
    x = as_tensor("x", x, self.dtype)
    batch_dims = len(x.shape) - len(self.scale.shape)
    if batch_dims < 1:
      raise ValueError(
        f"`ActNorm.initialize` needs a batch of activations {self.scale.shape}, got `x` of shape {x.shape}"
      )

    if not x.shape[batch_dims:].is_compatible_with(self.scale.shape):
      raise InputError(f"`x` must be of shape [..., {', '.join(map(str, self.scale.shape))}], got {x.shape}")
    if x.shape.num_elements() == 0:
      raise InputError(f"`x` must hold at least one value, got shape {x.shape}")
    check_all_finite("x", x)

    def of_all(parts):
      mean, variance = moments(parts, batch_dims)
      variance = tf.maximum(variance, self.min_variance) + self.epsilon
      scale = tf.sqrt(variance) if inverse else tf.math.rsqrt(variance)
      self.scale.assign(scale)
      self.bias.assign(mean if inverse else -mean * scale)
      return parts

    sync_lanes(of_all, x)

  def is_initialized(self) -> bool:
    """Return whether scale and bias differ from 1 and 0: they were initialised, trained or loaded."""
    return bool(tf.reduce_any(tf.not_equal(self.scale, 1)) | tf.reduce_any(tf.not_equal(self.bias, 0)))

  def _forward_and_log_det(self, x, ctx):
    if ctx is not None and ctx.initialize:
      self.initialize(x)
    scale = tf.maximum(self.scale, SMALLEST_SCALE)
    return x * scale + self.bias, tf.math.log(scale)

  def _inverse_and_log_det(self, y, ctx):
    if ctx is not None and ctx.initialize:
      self.initialize(y, inverse=True)
    scale = tf.maximum(self.scale, SMALLEST_SCALE)
    return (y - self.bias) / scale, -tf.math.log(scale)
