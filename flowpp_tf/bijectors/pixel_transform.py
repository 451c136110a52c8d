"""Transform of the pixels before their logit: frames of 16 bits are dark except for a few bright stars.

In the logit of x / levels, the noise of a dark frame is a thousandth of the range. This map stretches the dark part
(Lupton, Gunn and Szalay 1999), with w = (x / levels - offset) / scale:

    T(x) = levels (asinh(w(x)) - asinh(w(0))) / (asinh(w(levels)) - asinh(w(0)))

It is linear near offset, the brightness of the sky, and logarithmic far from it.
"""

from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.base import Bijector, Parameter
from flowpp_tf.core.checks import check_count
from flowpp_tf.core.tensors import finfo


class AsinhTransform(Bijector, tfp.bijectors.AutoCompositeTensorBijector):
  """Increasing map of dequantized pixels in [0, levels] onto [0, levels], elementwise.

  Args:
    offset: scalar, the brightness around which the map is linear, as a part of `levels`. A tensor or a variable of
      TensorFlow or Keras.
    scale: scalar > 0, as a part of `levels`: at this distance from `offset` the slope is smaller by sqrt(2).
    levels: number of pixel values, Python `int`.

  The log-det is in nats per element. The inverse is defined on all reals, and grows as exp outside of [0, levels].

  Examples:
    >>> transform = fpp.bijectors.AsinhTransform(offset=0.01, scale=0.001, levels=65536)
    >>> transform.forward([0.0, 655.36, 65536.0]).numpy().round()
    array([    0., 18556., 65536.], dtype=float32)
  """

  def __init__(
    self, offset: Any, scale: Any, levels: int = 256, validate_args: bool = False, name: str = "asinh_transform"
  ) -> None:
    parameters = dict(locals())
    check_count("levels", levels, high=2**31 - 1)
    with tf.name_scope(name) as name:
      dtype = self._set_parameters(offset=offset, scale=scale)
      self._levels = levels
      super().__init__(
        forward_min_event_ndims=0, dtype=dtype, validate_args=validate_args, parameters=parameters, name=name
      )

  offset = Parameter("Brightness around which the map is linear, as a part of `levels`.")
  scale = Parameter("Distance from it at which the slope is smaller by sqrt(2), as a part of `levels`.")
  levels = Parameter("Number of pixel values.")

  @classmethod
  def _parameter_properties(cls, dtype):
    positive = lambda: tfp.bijectors.Softplus(low=tf.constant(1e-6, dtype))
    return dict(
      offset=tfp.util.ParameterProperties(),
      scale=tfp.util.ParameterProperties(default_constraining_bijector_fn=positive),
    )

  @classmethod
  def _is_increasing(cls):
    return True

  def _constants(self):
    """offset and scale, and of asinh(w) its value at 0, and how much more it is at `levels`."""
    offset, scale = tf.convert_to_tensor(self.offset), tf.convert_to_tensor(self.scale)
    start = tf.asinh(-offset / scale)
    return offset, scale, start, tf.asinh((1 - offset) / scale) - start

  def _forward_and_log_det(self, x, ctx):
    offset, scale, start, length = self._constants()
    w = (x - offset * self.levels) / (scale * self.levels)
    return (tf.asinh(w) - start) * (self.levels / length), _log_slope(w, scale * length)

  def _inverse_and_log_det(self, y, ctx):
    offset, scale, start, length = self._constants()
    w = tf.sinh(y * (length / self.levels) + start)
    return (w * scale + offset) * self.levels, -_log_slope(w, scale * length)


def _log_slope(w, factor):
  """log T'(x)."""
  far = tf.abs(w) > 1 / float(finfo(w.dtype).eps)  # there w^2 may overflow, and 1 + w^2 is w^2
  near_w, far_w = tf.where(far, tf.zeros_like(w), w), tf.where(far, w, tf.ones_like(w))
  return -tf.where(far, tf.math.log(tf.abs(far_w)), 0.5 * tf.math.log1p(near_w * near_w)) - tf.math.log(factor)
