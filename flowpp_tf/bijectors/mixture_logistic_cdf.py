"""Mixture-of-logistics CDF as bijectors, the transform of Flow++'s couplings, section 3.2.1.

    MixLogCDF(x; pi, mu, s) = sum_i pi_i sigmoid((x - mu_i) / s_i)                     (equation 10)
    y = logit(MixLogCDF(x; pi, mu, s)) exp(a) + b                                     (equation 11)

This file has equation 10 and its logit; `affine.py` has the rest of equation 11, `mixture_logistic.py` the functions
and `mixture_quantile.py` their inverse.
"""

from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.base import Bijector, Parameter, check_broadcast
from flowpp_tf.bijectors.mixture_logistic import check_components, logit_mixture_logistic_cdf, mixture_logistic_log_prob
from flowpp_tf.bijectors.mixture_quantile import (
  InverseResults,
  find_logit_mixture_logistic_quantile,
  logit_mixture_logistic_quantile,
)
from flowpp_tf.types import TensorLike

tfb = tfp.bijectors
ParameterProperties = tfp.util.ParameterProperties


class _Mixture(Bijector):
  """Base class with the parameters that the two bijectors below share."""

  def __init__(self, logits, loc, log_scale, validate_args, parameters, name):
    with tf.name_scope(name) as name:
      dtype = self._set_parameters(logits=logits, loc=loc, log_scale=log_scale)
      check_components(dict(logits=self._logits, loc=self._loc, log_scale=self._log_scale))
      check_broadcast(logits=self._logits, loc=self._loc, log_scale=self._log_scale)
      super().__init__(
        forward_min_event_ndims=0, dtype=dtype, validate_args=validate_args, parameters=parameters, name=name
      )

  logits = Parameter("Unnormalised log weights `[..., K]`.")
  loc = Parameter("Means `[..., K]`.")
  log_scale = Parameter("Log scales `[..., K]`.")

  @classmethod
  def _parameter_properties(cls, dtype):
    per_component = lambda sample_shape: tf.concat([sample_shape, [2]], axis=0)
    names = ("logits", "loc", "log_scale")
    return {name: ParameterProperties(event_ndims=1, shape_fn=per_component) for name in names}

  @classmethod
  def _is_increasing(cls):
    return True

  def _mixture(self):
    return [tf.convert_to_tensor(p) for p in (self.logits, self.loc, self.log_scale)]


class LogitMixtureLogisticCDF(_Mixture, tfp.bijectors.AutoCompositeTensorBijector):
  r"""y = logit(MixLogCDF(x)), elementwise, from the reals to the reals (equations 10 and 11).

  $$
  y = \operatorname{logit} F(x), \qquad F(x) = \sum_{i=1}^{K} \pi_i \, \sigma\left( \frac{x - \mu_i}{s_i} \right),
  \qquad \log \frac{dy}{dx} = \log F'(x) - \log F(x) - \log (1 - F(x))
  $$

  Args:
    logits: unnormalised log weights, `[..., K]`.
    loc: means, `[..., K]`; `x` has the shape of the leading dimensions.
    log_scale: log scales, `[..., K]`.

  The log-det is in nats per element. The inverse is exact to working precision and differentiable in
  `y` and in all three parameters, see `logit_mixture_logistic_quantile`.

  Examples:
    >>> bijector = fpp.bijectors.LogitMixtureLogisticCDF(logits=tf.zeros(2), loc=[-2.0, 2.0], log_scale=tf.zeros(2))
    >>> y = bijector.forward([-5.0, 0.0, 5.0])
    >>> bijector.inverse(y).numpy().round(3)
    array([-5.,  0.,  5.], dtype=float32)
  """

  def __init__(
    self, logits: Any, loc: Any, log_scale: Any, validate_args: bool = False, name: str = "logit_mixture_logistic_cdf"
  ) -> None:
    parameters = dict(locals())
    super().__init__(logits, loc, log_scale, validate_args, parameters, name)

  def _forward_and_log_det(self, x, ctx):
    return logit_mixture_logistic_cdf(x, *self._mixture())

  def _inverse_and_log_det(self, y, ctx):
    mixture = self._mixture()
    x = logit_mixture_logistic_quantile(y, *mixture)
    return x, -logit_mixture_logistic_cdf(x, *mixture)[1]

  def find_inverse(self, y: TensorLike) -> InverseResults:
    """Return `inverse(y)` with statistics of the search, see `find_logit_mixture_logistic_quantile`."""
    return find_logit_mixture_logistic_quantile(y, *self._mixture())


class MixtureLogisticCDF(_Mixture, tfp.bijectors.AutoCompositeTensorBijector):
  r"""y = MixLogCDF(x), elementwise, from the reals to (0, 1) (equation 10).

  $$
  y = F(x) = \sum_{i=1}^{K} \pi_i \, \sigma\left( \frac{x - \mu_i}{s_i} \right),
  \qquad \pi = \operatorname{softmax}(\text{logits})
  $$

  Arguments as in `LogitMixtureLogisticCDF`; with `validate_args`, `inverse` asserts that its argument is in [0, 1].

  A probability above 1/2 cannot resolve the upper tail; where that matters, as in a coupling, use
  `LogitMixtureLogisticCDF`.

  Examples:
    >>> cdf = fpp.bijectors.MixtureLogisticCDF(logits=tf.zeros(2), loc=[-2.0, 2.0], log_scale=[-1.0, -1.0])
    >>> cdf.inverse([0.1, 0.5, 0.9]).numpy().round(2)  # quantiles
    array([-2.51,  0.  ,  2.51], dtype=float32)
  """

  def __init__(
    self, logits: Any, loc: Any, log_scale: Any, validate_args: bool = False, name: str = "mixture_logistic_cdf"
  ) -> None:
    parameters = dict(locals())
    super().__init__(logits, loc, log_scale, validate_args, parameters, name)

  def _forward_and_log_det(self, x, ctx):
    mixture = self._mixture()
    logit, log_derivative = logit_mixture_logistic_cdf(x, *mixture)
    # F' = F S (logit F)'
    return tf.sigmoid(logit), log_derivative - tf.nn.softplus(logit) - tf.nn.softplus(-logit)

  def _inverse_and_log_det(self, y, ctx):
    mixture = self._mixture()
    checks = []
    if self.validate_args:
      message = "`MixtureLogisticCDF.inverse` expects probabilities in [0, 1]"
      checks = [
        tf.debugging.assert_non_negative(y, message),
        tf.debugging.assert_less_equal(y, tf.ones([], y.dtype), message),
      ]
    with tf.control_dependencies(checks):
      logit = tf.math.log(y) - tf.math.log1p(-y)
    x = logit_mixture_logistic_quantile(logit, *mixture)
    return x, -mixture_logistic_log_prob(x, *mixture)
