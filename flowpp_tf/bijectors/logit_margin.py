"""The margin of VFlow's couplings (Chen et al. 2020): y = logit((1 - 2 m) sigmoid(x) + m).

After `LogitMixtureLogisticCDF` this is logit((1 - 2 m) F + m), F the CDF of the mixture. The tails of F end at
+-logit(m), as those of pixels do in `PixelsToLogit`, but for x as a logit, which keeps both tails exact.
"""

import math

import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.base import Bijector, Parameter
from flowpp_tf.core.checks import check_type
from flowpp_tf.core.tensors import finfo


class LogitMargin(Bijector, tfp.bijectors.AutoCompositeTensorBijector):
  """y = logit((1 - 2 margin) sigmoid(x) + margin), elementwise, from the reals to (logit margin, -logit margin).

  Args:
    margin: m, in (0, 1/2).

  The log-det is in nats per element. The inverse keeps sigmoid(x) between eps and 1 - eps, eps the spacing of the
  dtype's numbers at 1: a y outside of the range gives the x of its end, which is finite (15.9 in float32, 36.0 in
  float64), and the log-det there. So every latent of a flow of such couplings gives a finite sample, if not always one
  whose latent it is.

  Raises:
    ValueError: for another margin.

  Examples:
    >>> margin = fpp.bijectors.LogitMargin(0.05)
    >>> margin.forward([-100.0, 0.0, 100.0]).numpy().round(2)
    array([-2.94,  0.  ,  2.94], dtype=float32)
    >>> margin.inverse([-5.0, 0.0, 5.0]).numpy().round(2)
    array([-15.94,   0.  ,  15.94], dtype=float32)
  """

  def __init__(self, margin: float, validate_args: bool = False, name: str = "logit_margin") -> None:
    parameters = dict(locals())
    check_type("margin", margin, float)
    if not 0 < margin < 0.5:
      raise ValueError(f"`margin` must lie between 0 and 1/2, got {margin}")
    with tf.name_scope(name) as name:
      self._margin = margin
      super().__init__(forward_min_event_ndims=0, validate_args=validate_args, parameters=parameters, name=name)

  margin = Parameter("What y lacks of 0 and 1 as a probability.")

  @classmethod
  def _parameter_properties(cls, dtype):
    return dict()

  @classmethod
  def _is_increasing(cls):
    return True

  def _forward_and_log_det(self, x, ctx):
    slope = 1 - 2 * self.margin
    log_p, log_q = (tf.math.log(self.margin + slope * tf.sigmoid(t)) for t in (x, -x))
    return log_p - log_q, math.log(slope) - tf.nn.softplus(x) - tf.nn.softplus(-x) - log_p - log_q

  def _inverse_and_log_det(self, y, ctx):
    eps, slope = float(finfo(y.dtype).eps), 1 - 2 * self.margin
    # Each from its own end, as one less the other would lose the upper tail.
    below, above = (tf.clip_by_value((tf.sigmoid(t) - self.margin) / slope, eps, 1.0) for t in (y, -y))
    x = tf.math.log(below) - tf.math.log(above)
    x = tf.where(tf.math.is_nan(y), y, x)  # on some devices the minimum of NaN and a number is the number
    return x, -self._forward_and_log_det(x, ctx)[1]
