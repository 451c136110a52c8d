"""Pixels to logits: y = logit(alpha + (1 - 2 alpha) x / levels), Flow++ section 4 (after RealNVP).

With alpha = 0.05 the closed interval [0, levels] goes to [-2.94, 2.94]: the ends stay finite.
"""

import math

import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.base import Bijector, Parameter
from flowpp_tf.core.checks import check_count, check_type


class PixelsToLogit(Bijector, tfp.bijectors.AutoCompositeTensorBijector):
  """Elementwise map of dequantized pixels in [0, levels] to the reals.

  Args:
    levels: number of pixel values, Python `int`: 256 for 8 bits.
    alpha: margin at either end, in (0, 1/2).

  The log-det is in nats per element. The inverse is defined on all reals and can leave [0, levels] by up to
  `alpha / (1 - 2 alpha) levels` on either side.

  Examples:
    >>> fpp.bijectors.PixelsToLogit(levels=256).forward([0.0, 128.0, 256.0]).numpy().round(2)
    array([-2.94,  0.  ,  2.94], dtype=float32)
  """

  def __init__(
    self, levels: int = 256, alpha: float = 0.05, validate_args: bool = False, name: str = "pixels_to_logit"
  ) -> None:
    parameters = dict(locals())
    check_count("levels", levels, high=2**31 - 1)
    check_type("alpha", alpha, float)
    if not 0 < alpha < 0.5:
      raise ValueError(f"`alpha` must lie between 0 and 1/2, got {alpha}")
    with tf.name_scope(name) as name:
      self._levels = levels
      self._alpha = alpha
      super().__init__(forward_min_event_ndims=0, validate_args=validate_args, parameters=parameters, name=name)

  levels = Parameter("Number of pixel values.")
  alpha = Parameter("Margin at either end.")

  @classmethod
  def _parameter_properties(cls, dtype):
    return dict()

  @classmethod
  def _is_increasing(cls):
    return True

  def _log_slope(self):
    return math.log((1 - 2 * self.alpha) / self.levels)

  def _forward_and_log_det(self, x, ctx):
    slope = (1 - 2 * self.alpha) / self.levels
    # 1 - p from the distance to the upper end, which is exact, as x is from the lower one
    log_p, log_q = (tf.math.log(self.alpha + slope * d) for d in (x, self.levels - x))
    return log_p - log_q, self._log_slope() - log_p - log_q

  def _inverse_and_log_det(self, y, ctx):
    x = (tf.sigmoid(y) - self.alpha) * (self.levels / (1 - 2 * self.alpha))
    return x, -tf.nn.softplus(y) - tf.nn.softplus(-y) - self._log_slope()
