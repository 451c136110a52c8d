"""The mixture of logistics as pure functions, in log space. Flow++ section 3.2.1.

    MixLogCDF(x; pi, mu, s) = sum_i pi_i sigmoid(z_i),   z_i = (x - mu_i) / s_i        (equation 10)

With F the CDF, S = 1 - F and F' the density, the functions here are log F, log S, log F' and

    logit F = log F - log S,      d logit F / dx = F' / (F S).

Far from all components log sigmoid(+-z_i) is as large as z_i, next to which log pi_i would be rounded away: the
largest value is taken out of the sum before the weights come in.
"""

import functools
from typing import Any

from jaxtyping import Float
import tensorflow as tf

from flowpp_tf.core.errors import InputError
from flowpp_tf.core.tracing import traced_once


def check_components(one_more: str | None = None, **parameters: Any) -> None:
  """Raise an `InputError` unless parameters have the same number of components, so that none is broadcast.

  Args:
    one_more: name of the parameter that is `[..., K + 1]`, or None.
    **parameters: tensors or variables `[..., K]` by name.
  """
  shapes = {name: tf.TensorShape(value.shape) for name, value in parameters.items()}
  sizes = set()
  for name, shape in shapes.items():
    if shape.rank and shape[-1] is not None:
      sizes.add(shape[-1] - 1 if name == one_more else shape[-1])
  has_scalar = any(shape.rank == 0 for shape in shapes.values())
  if has_scalar or len(sizes) > 1 or min(sizes, default=1) < 1:
    wanted = "[..., K] with the same K"
    if one_more:
      wanted += f", `{one_more}` [..., K + 1]"
    found = ", ".join(f"`{name}` {[*shape]}" for name, shape in shapes.items())
    raise InputError(f"parameters must be of shape {wanted}, got {found}")


def log_density(x: tf.Tensor, logits: tf.Tensor, loc: tf.Tensor, log_scale: tf.Tensor) -> tf.Tensor:
  """Return the log density of the mixture, `[...]` nats.

  Args:
    x: `[...]`.
    logits: unnormalised log weights, `[..., K]`.
    loc: means, `[..., K]`.
    log_scale: log scales, `[..., K]`.
  """
  _, below, above = _log_sigmoids(x, loc, log_scale)
  largest, rest = _split_off_largest(below + above - log_scale)
  log_pi = tf.nn.log_softmax(logits)
  return largest + tf.reduce_logsumexp(log_pi + rest, axis=-1)


@functools.partial(traced_once, inline=True, jit=True)
@tf.custom_gradient
def logit_cdf(
  x: tf.Tensor, logits: tf.Tensor, loc: tf.Tensor, log_scale: tf.Tensor
) -> tuple[Float[tf.Tensor, "*n"], Float[tf.Tensor, "*n"]]:
  """Return the logit of the CDF, and the log of its derivative in x; arguments as in `log_density`.

  Returns:
    Two tensors `[...]`. They have derivatives of any order, the first in closed form. The log of the CDF is
    `tf.math.log_sigmoid` of the first tensor, and the log of the survival function is `tf.math.log_sigmoid` of its
    negative.
  """
  x, logits, loc, log_scale = map(tf.convert_to_tensor, (x, logits, loc, log_scale))
  z, largest, terms = _log_terms(x, logits, loc, log_scale)
  log_cdf, log_survival, log_prob = [tf.reduce_logsumexp(term, axis=-1) for term in terms]
  value = largest[0] - largest[1] + (log_cdf - log_survival)
  log_derivative = log_prob - log_cdf - log_survival

  def grad(by_value, by_log_derivative):
    # With p, r, w, pi the shares of the components in F, S, F' and 1, and with a = sigmoid(-z) / s and
    # b = sigmoid(z) / s, whose means under p and r are F' / F and F' / S:
    #   d logit F / dz = (p a + r b) s
    #   d log(logit F)' / dz = w s (a - E_p a - b + E_r b)
    by_value = by_value[..., tf.newaxis]
    by_log_derivative = by_log_derivative[..., tf.newaxis]
    p, r, w, pi = [softmax_of_any_rank(term) for term in (*terms, logits)]
    scale = tf.exp(log_scale)
    rate = tf.exp(-log_scale)
    a = tf.sigmoid(-z) * rate
    b = tf.sigmoid(z) * rate
    by_w = by_log_derivative * w
    log_derivative_by_z = _less_mean(a, p) - _less_mean(b, r)
    by_z = scale * (by_value * (p * a + r * b) + by_w * log_derivative_by_z)
    by_x = by_z * rate
    by_logits = by_value * (p - r) + by_log_derivative * (w - p - r + pi)
    by_log_scale = -by_z * z - by_w
    return [
      sum_to_shape(tf.reduce_sum(by_x, axis=-1), x),
      sum_to_shape(by_logits, logits),
      sum_to_shape(-by_x, loc),
      sum_to_shape(by_log_scale, log_scale),
    ]

  return (value, log_derivative), grad


def logit_cdf_gradients(
  x: tf.Tensor, logits: tf.Tensor, loc: tf.Tensor, log_scale: tf.Tensor
) -> tuple[tf.Tensor, list[tf.Tensor]]:
  """Return the derivatives of the logit of the CDF: the log of the one in x, `[...]`, and those in the parameters.

  The latter are a list, in `logits`, `loc` and `log_scale`, `[..., K]` each; see `grad` above.
  """
  z, _, terms = _log_terms(x, logits, loc, log_scale)
  log_cdf, log_survival, log_prob = [tf.reduce_logsumexp(term, axis=-1) for term in terms]
  log_derivative = log_prob - log_cdf - log_survival
  p, r = [softmax_of_any_rank(term) for term in terms[:2]]
  by_z = p * tf.sigmoid(-z) + r * tf.sigmoid(z)
  by_loc = -by_z * tf.exp(-log_scale)
  return log_derivative, [p - r, by_loc, -by_z * z]


def _log_terms(x, logits, loc, log_scale):
  """Return z, the largest log sigmoid(z) and log sigmoid(-z), and the logs of the terms of F, S and F' less these.

  z and the logs are `[..., K]`, the two largest numbers `[...]`.
  """
  log_pi = tf.nn.log_softmax(logits)
  z, below, above = _log_sigmoids(x, loc, log_scale)
  largest_below, below = _split_off_largest(below)
  largest_above, above = _split_off_largest(above)
  terms = [log_pi + below, log_pi + above, log_pi + (below + above) - log_scale]
  return z, (largest_below, largest_above), terms


def _log_sigmoids(x, loc, log_scale):
  """Return z, log sigmoid(z) and log sigmoid(-z), `[..., K]`."""
  z = (x[..., tf.newaxis] - loc) * tf.exp(-log_scale)
  return z, -tf.nn.softplus(-z), -tf.nn.softplus(z)


def _split_off_largest(terms):
  """Return the largest of `terms [..., K]`, `[...]`, and the terms less it."""
  largest = tf.stop_gradient(tf.reduce_max(terms, axis=-1, keepdims=True))
  largest = tf.where(tf.math.is_finite(largest), largest, tf.zeros_like(largest))
  return largest[..., 0], terms - largest


def softmax_of_any_rank(terms: tf.Tensor) -> tf.Tensor:
  """Return `tf.nn.softmax(terms)`; oneDNN's kernel, the default on many CPUs, rejects more than five dimensions."""
  if terms.shape.rank in range(1, 6):
    return tf.nn.softmax(terms)
  shape = tf.shape(terms)
  rows = tf.reshape(terms, [-1, shape[-1]])
  return tf.reshape(tf.nn.softmax(rows), shape)


def _less_mean(values, weights):
  """Return `values [..., K]` less their mean under `weights`; the second pass corrects the first's rounding."""
  for _ in range(2):
    values -= tf.reduce_sum(weights * values, axis=-1, keepdims=True)
  return values


def sum_to_shape(gradient: tf.Tensor, argument: tf.Tensor) -> tf.Tensor:
  """Sum a gradient over the axes along which the argument was broadcast."""
  axes = tf.raw_ops.BroadcastGradientArgs(s0=tf.shape(argument), s1=tf.shape(gradient)).r0
  return tf.reshape(tf.reduce_sum(gradient, axes), tf.shape(argument))
