"""Mixture-of-logistics CDF as bijectors, the transform of Flow++'s couplings, section 3.2.1.

    MixLogCDF(x; pi, mu, s) = sum_i pi_i sigmoid((x - mu_i) / s_i)                     (equation 10)
    y = logit(MixLogCDF(x; pi, mu, s)) exp(a) + b                                     (equation 11)

`elementwise.py` has the affine map, `mixture_logistic.py` the functions and `mixture_quantile.py` their inverse.
"""

from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.base import Elementwise
from flowpp_tf.bijectors.chain import Chain
from flowpp_tf.bijectors.coupling_kinds import CouplingKind
from flowpp_tf.bijectors.elementwise import BoundedAffine, LogitMargin, per_value
from flowpp_tf.bijectors.mixture_logistic import check_components, log_density, logit_cdf
from flowpp_tf.bijectors.mixture_quantile import quantile
from flowpp_tf.bijectors.parameters import TensorParameter, as_elementwise_parameters
from flowpp_tf.core.checks import as_tensor, check_count, check_number

tfb = tfp.bijectors
SMALLEST_LOG_SCALE = -7.0


class _Mixture(Elementwise):
  """Base class with the parameters that the two bijectors below share."""

  def __init__(self, parameters: dict[str, Any]) -> None:
    mixture = {name: parameters[name] for name in ("logits", "loc", "log_scale")}
    self._logits, self._loc, self._log_scale = as_elementwise_parameters(**mixture)
    check_components(logits=self._logits, loc=self._loc, log_scale=self._log_scale)
    super().__init__(parameters, dtype=self._loc.dtype)

  logits = TensorParameter("Unnormalised log weights `[..., K]`.", size=2)
  loc = TensorParameter("Means `[..., K]`.", size=2)
  log_scale = TensorParameter("Log scales `[..., K]`.", size=2)

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

  The log-det is in nats per element. The inverse is exact to working precision, and differentiable in `y` and in all
  three parameters any number of times. The inverse of +-infinity is +-infinity, with derivative 0.

  Examples:
    >>> bijector = fpp.bijectors.LogitMixtureLogisticCDF(logits=tf.zeros(2), loc=[-2.0, 2.0], log_scale=tf.zeros(2))
    >>> y = bijector.forward([-5.0, 0.0, 5.0])
    >>> bijector.inverse(y).numpy().round(3)
    array([-5.,  0.,  5.], dtype=float32)
  """

  def __init__(
    self, logits: Any, loc: Any, log_scale: Any, validate_args: bool = False, name: str = "logit_mixture_logistic_cdf"
  ) -> None:
    super().__init__(dict(locals()))

  def _forward_and_log_det(self, x, ctx):
    return logit_cdf(x, *self._mixture())

  def _inverse_and_log_det(self, y, ctx):
    mixture = self._mixture()
    x = quantile(y, *mixture)
    return x, -logit_cdf(x, *mixture)[1]


class MixtureLogisticCDF(_Mixture, tfp.bijectors.AutoCompositeTensorBijector):
  r"""y = MixLogCDF(x), elementwise, from the reals to (0, 1) (equation 10).

  $$
  y = F(x) = \sum_{i=1}^{K} \pi_i \, \sigma\left( \frac{x - \mu_i}{s_i} \right),
  \qquad \pi = \operatorname{softmax}(\text{logits})
  $$

  Arguments as in `LogitMixtureLogisticCDF`. The inverse of numbers outside of [0, 1] is NaN.

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
    super().__init__(dict(locals()))

  def _forward_and_log_det(self, x, ctx):
    mixture = self._mixture()
    logit, log_derivative = logit_cdf(x, *mixture)
    # F' = F S (logit F)'
    return tf.sigmoid(logit), log_derivative - tf.nn.softplus(logit) - tf.nn.softplus(-logit)

  def _inverse_and_log_det(self, y, ctx):
    mixture = self._mixture()
    logit = tf.math.log(y) - tf.math.log1p(-y)
    x = quantile(logit, *mixture)
    return x, -log_density(x, *mixture)


def mixture_logistic_coupling_bijector(parameters: tf.Tensor, components: int, margin: float = 0.0) -> Chain:
  r"""Return equation 11: affine after the logit of the mixture CDF.

      F(x) = sum_i pi_i sigmoid((x - mu_i) / s_i),   pi = softmax(logits)
      y = exp(tanh a) logit(F(x)) + b
      log-det = tanh a + log F'(x) - log F(x) - log(1 - F(x)), nats per value

  $$
  y = e^{\tanh a} \operatorname{logit}\left(
  \sum_{i=1}^{K} \pi_i \, \sigma\left( \frac{x - \mu_i}{s_i} \right) \right) + b
  $$

  Args:
    parameters: `[..., C (2 + 3 K)]`; for each value in the order scale, shift, K logits, K means, K log scales. Log
      scales are kept >= -7.
    components: K.
    margin: m in [0, 1/2), 0.05 in VFlow: the affine map comes after logit((1 - 2 m) F + m), F the CDF. With m > 0 this
      is not onto the reals; `LogitMargin` states what its inverse does outside of its range.

  Raises:
    ValueError: if the last axis is not a multiple of 2 + 3 K, or for another margin.

  Examples:
    >>> parameters = tf.zeros([5, 2 * fpp.bijectors.num_parameters("mixture_logistic", 4)])  # of two values
    >>> fpp.bijectors.mixture_logistic_coupling_bijector(parameters, components=4).forward(tf.zeros([5, 2])).shape
    TensorShape([5, 2])
  """
  check_count("components", components)
  check_number("margin", margin, 0)
  parameters = per_value(as_tensor("parameters", parameters, None, tf.float32), 2 + 3 * components)
  sizes = [1, 1, components, components, components]
  scale_logit, shift, logits, loc, log_scale = tf.split(parameters, sizes, axis=-1)
  affine = BoundedAffine(tf.squeeze(scale_logit, axis=-1), tf.squeeze(shift, axis=-1))
  log_scale = tf.maximum(log_scale, tf.constant(SMALLEST_LOG_SCALE, log_scale.dtype))
  logit_cdf_bijector = LogitMixtureLogisticCDF(logits, loc, log_scale)
  if margin:
    return Chain([affine, LogitMargin(margin), logit_cdf_bijector])
  return Chain([affine, logit_cdf_bijector])


MIXTURE_LOGISTIC = CouplingKind(lambda components: 2 + 3 * components, mixture_logistic_coupling_bijector)
