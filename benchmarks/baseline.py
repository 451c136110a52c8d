"""The straightforward Flow++, to compare with: the same model of the same weights, as one writes it first.

TFP's own `Chain` and `TransformedDistribution`, couplings that compute value and log-det each on its own,
so that their networks run twice; the mixture CDF by log-sum-exp with autodiff's gradients; its inverse by
bisection in a fixed bracket, as in the release.
"""

import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from flowpp_tf import bijectors as fb
from flowpp_tf.core.context import EvalContext
from flowpp_tf.models.bound import BoundTerms, importance_weighted

tfb = tfp.bijectors
tfd = tfp.distributions

_BISECTIONS = 50
_SMALLEST_LOG_SCALE = -7.0


class StraightforwardFlowPlusPlus(fpp.FlowPlusPlus):
  """`FlowPlusPlus` with variational dequantization and mixture couplings, in the straightforward way."""

  def __init__(self, config, **kwargs):
    if config.coupling != "mixture_logistic" or config.coupling_margin or config.augment_channels:
      raise ValueError("the baseline has mixture couplings without a margin, and no augmented channels")
    super().__init__(config, **kwargs)
    self._noise_to_unit = _plain(self.dequantizer.bijector, config.components)
    self.flow = tfd.TransformedDistribution(
      self.flow.distribution, tfb.Invert(_plain(self.flow.bijector.bijector, config.components))
    )

  def log_prob_bound(
    self, images, num_samples=1, noise=None, seed=None, training=False, batch_offset=0, labels=None, condition=None
  ):
    inputs = self._checked_inputs(images, labels, condition, num_samples, noise, seed, training, batch_offset)
    terms = [self._terms_of_draw(inputs, draw) for draw in tf.unstack(inputs.noise)]
    return importance_weighted(BoundTerms(*map(tf.stack, zip(*terms))))

  def _terms_of_draw(self, inputs, noise):
    call = inputs.ctx
    x, q_call = tf.cast(inputs.images, self.variable_dtype), call.fold_in("dequantizer")
    q_call = q_call.with_condition(self.dequantizer.context_net(x, ctx=q_call.fold_in("context_net")))
    kwargs = _for_couplings(self._noise_to_unit, q_call)
    u = self._noise_to_unit.forward(noise, **kwargs)
    normal = tfd.Normal(tf.zeros([], noise.dtype), 1.0)
    log_q = tf.reduce_sum(normal.log_prob(noise), axis=[-3, -2, -1]) - (
      self._noise_to_unit.forward_log_det_jacobian(noise, 3, **kwargs)
    )
    log_p = self.flow.log_prob(x + u, bijector_kwargs=_for_couplings(self.flow.bijector.bijector, call.fold_in("flow")))
    return tf.zeros_like(log_p), log_p, -log_q


def _plain(bijector, components):
  """Return a chain of this package as one of TFP's, without a cache of log-dets."""
  if isinstance(bijector, fb.Chain):
    return tfb.Chain([_plain(part, components) for part in bijector.bijectors], name=bijector.name)
  if isinstance(bijector, fb.Coupling):
    return _Coupling(bijector.conditioner, components, bijector.name)
  return bijector  # the other parts cost next to nothing


def _for_couplings(chain, call):
  """Return keyword arguments of a chain of TFP's, by the names of its parts; each coupling has its own stream."""
  return {
    part.name: dict(ctx=call.fold_in(f"{i}_{part.name}"))
    for i, part in enumerate(reversed(chain.bijectors))
    if isinstance(part, _Coupling)
  }


class _Coupling(tfb.Bijector):
  """The mixture coupling, by `_logit_cdf`."""

  def __init__(self, conditioner, components, name):
    parameters = dict(locals())
    self._conditioner = conditioner
    self._components = components
    super().__init__(forward_min_event_ndims=3, parameters=parameters, name=name)

  def _condition(self, x1, ctx=None):
    parameters = self._conditioner(tf.reshape(x1, [-1, *x1.shape[-3:]]), ctx=ctx or EvalContext())
    size = 2 + 3 * self._components
    parameters = tf.reshape(parameters, tf.concat([tf.shape(x1)[:-1], [parameters.shape[-1] // size, size]], axis=0))
    logits, loc, log_scale = tf.split(parameters[..., 2:], 3, axis=-1)
    scale_logit, shift = parameters[..., 0], parameters[..., 1]
    return scale_logit, shift, (tf.nn.log_softmax(logits), loc, tf.maximum(log_scale, _SMALLEST_LOG_SCALE))

  def _forward(self, x, **kwargs):
    x1, x2 = tf.split(x, 2, axis=-1)
    scale_logit, shift, mixture = self._condition(x1, **kwargs)
    affine = fb.BoundedAffine(scale_logit, shift)
    return tf.concat([x1, affine.forward(_logit_cdf(x2, *mixture)[0])], axis=-1)

  def _forward_log_det_jacobian(self, x, **kwargs):
    x1, x2 = tf.split(x, 2, axis=-1)
    scale_logit, shift, mixture = self._condition(x1, **kwargs)
    value, log_derivative = _logit_cdf(x2, *mixture)
    affine = fb.BoundedAffine(scale_logit, shift).forward_log_det_jacobian(value)
    return tf.reduce_sum(log_derivative + affine, axis=[-3, -2, -1])

  def _inverse(self, y, **kwargs):
    y1, y2 = tf.split(y, 2, axis=-1)
    scale_logit, shift, mixture = self._condition(y1, **kwargs)
    y2 = fb.BoundedAffine(scale_logit, shift).inverse(y2)
    _, loc, log_scale = mixture
    width = 200 * tf.reduce_max(tf.exp(log_scale), axis=-1)
    low, high = tf.reduce_min(loc, axis=-1) - width, tf.reduce_max(loc, axis=-1) + width
    for _ in range(_BISECTIONS):
      middle = (low + high) / 2
      above = _logit_cdf(middle, *mixture)[0] > y2
      low, high = tf.where(above, low, middle), tf.where(above, middle, high)
    return tf.concat([y1, (low + high) / 2], axis=-1)


def _logit_cdf(x, log_pi, loc, log_scale):
  """Return logit F and the log of its derivative."""
  z = (x[..., tf.newaxis] - loc) * tf.exp(-log_scale)
  log_cdf = tf.reduce_logsumexp(log_pi + tf.math.log_sigmoid(z), axis=-1)
  log_survival = tf.reduce_logsumexp(log_pi + tf.math.log_sigmoid(-z), axis=-1)
  log_prob = tf.reduce_logsumexp(log_pi + z - log_scale - 2 * tf.nn.softplus(z), axis=-1)
  return log_cdf - log_survival, log_prob - log_cdf - log_survival
