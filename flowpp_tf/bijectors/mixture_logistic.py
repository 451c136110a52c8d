"""The mixture of logistics as pure functions, in log space. Flow++ section 3.2.1.

    MixLogCDF(x; pi, mu, s) = sum_i pi_i sigmoid(z_i),   z_i = (x - mu_i) / s_i        (equation 10)

With F the CDF, S = 1 - F and F' the density, the functions here are log F, log S, log F' and

    logit F = log F - log S,      d logit F / dx = F' / (F S).

Far from all components log sigmoid(+-z_i) is as large as z_i, next to which log pi_i would be rounded
away: its largest value leaves the sum before the weights come in.
"""

import tensorflow as tf


def mixture_logistic_log_prob(x, logits, loc, log_scale):
  """Log density of the mixture.

  Args:
    x: `[...]`.
    logits: unnormalised log weights, `[..., K]`.
    loc: means, `[..., K]`.
    log_scale: log scales, `[..., K]`.

  Returns:
    `[...]`, nats.
  """
  below, above = _log_sigmoids(x, loc, log_scale)
  largest, rest = _split_off_largest(below + above - log_scale)
  return largest + tf.reduce_logsumexp(tf.nn.log_softmax(logits) + rest, axis=-1)


def mixture_logistic_log_cdf(x, logits, loc, log_scale):
  """log P(X <= x), nats; arguments as in `mixture_logistic_log_prob`."""
  return tf.math.log_sigmoid(logit_mixture_logistic_cdf(x, logits, loc, log_scale)[0])


def mixture_logistic_log_survival(x, logits, loc, log_scale):
  """log P(X > x), nats; arguments as in `mixture_logistic_log_prob`."""
  return tf.math.log_sigmoid(-logit_mixture_logistic_cdf(x, logits, loc, log_scale)[0])


def logit_mixture_logistic_cdf(x, logits, loc, log_scale):
  """Logit of the CDF, and the log of its derivative in x.

  Args:
    x: `[...]`.
    logits: unnormalised log weights, `[..., K]`.
    loc: means, `[..., K]`.
    log_scale: log scales, `[..., K]`.

  Returns:
    Two tensors `[...]`.
  """
  log_pi = tf.nn.log_softmax(logits)
  below, above = _log_sigmoids(x, loc, log_scale)
  largest_below, below = _split_off_largest(below)
  largest_above, above = _split_off_largest(above)
  log_cdf = tf.reduce_logsumexp(log_pi + below, axis=-1)  # less the largest, as the next two
  log_survival = tf.reduce_logsumexp(log_pi + above, axis=-1)
  log_prob = tf.reduce_logsumexp(log_pi + (below + above) - log_scale, axis=-1)
  value = (largest_below - largest_above) + (log_cdf - log_survival)
  return value, log_prob - log_cdf - log_survival


def _log_sigmoids(x, loc, log_scale):
  """log sigmoid(z_i) and log sigmoid(-z_i), `[..., K]`."""
  z = (x[..., tf.newaxis] - loc) * tf.exp(-log_scale)
  return -tf.nn.softplus(-z), -tf.nn.softplus(z)


def _split_off_largest(terms):
  """The largest of `terms [..., K]`, `[...]`, and what the terms are without it."""
  largest = tf.stop_gradient(tf.reduce_max(terms, axis=-1, keepdims=True))
  largest = tf.where(tf.math.is_finite(largest), largest, tf.zeros_like(largest))
  return largest[..., 0], terms - largest
