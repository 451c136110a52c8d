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
import numpy as np
import tensorflow as tf

from flowpp_tf.bijectors.base import check_broadcast
from flowpp_tf.core.checks import as_tensor
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.tracing import traced_once
from flowpp_tf.types import TensorLike


def checked_mixture(**values: Any) -> list[tf.Tensor]:
  """Return a value and the parameters of a mixture as real tensors of one dtype, that of the first tensor or array.

  Raises:
    InputError (a ValueError): if they are not, or the parameters have different numbers of components, of which one
      would be broadcast, or the value cannot be broadcast against them.
  """
  of_tensors = [v.dtype for v in values.values() if tf.is_tensor(v) and v.dtype.is_floating]
  of_arrays = [v.dtype for v in values.values() if isinstance(v, np.ndarray) and v.dtype.kind == "f"]
  dtype = tf.as_dtype(next(iter([*of_tensors, *of_arrays]), tf.float32))
  value, *parameters = (as_tensor(key, v, dtype) for key, v in values.items())
  names = [*values]
  check_components(dict(zip(names[1:], parameters)))
  check_broadcast(**{names[0]: value[..., tf.newaxis]}, **dict(zip(names[1:], parameters)))
  return [value, *parameters]


def check_components(parameters: dict[str, tf.Tensor]) -> None:
  """Raise an `InputError` unless the parameters of a mixture have as many components: one would be broadcast."""
  shapes = {name: tf.TensorShape(value.shape) for name, value in parameters.items()}
  sizes = {shape[-1] for shape in shapes.values() if shape.rank}
  if any(shape.rank == 0 for shape in shapes.values()) or len(sizes - {None}) > 1 or 0 in sizes:
    found = ", ".join(f"`{name}` {[*shape]}" for name, shape in shapes.items())
    raise InputError(f"parameters must be of shape [..., K] with the same K, got {found}")


def mixture_logistic_log_prob(
  x: TensorLike, logits: TensorLike, loc: TensorLike, log_scale: TensorLike
) -> Float[tf.Tensor, "..."]:
  """Return the log density of the mixture.

  Args:
    x: `[...]`.
    logits: unnormalised log weights, `[..., K]`.
    loc: means, `[..., K]`.
    log_scale: log scales, `[..., K]`.

  Returns:
    `[...]`, nats.

  Examples:
    >>> log_prob = fpp.bijectors.mixture_logistic_log_prob(tf.constant(0.0), tf.zeros(1), tf.zeros(1), tf.zeros(1))
    >>> round(float(log_prob), 3)  # log(1/4)
    -1.386
  """
  return log_density(*checked_mixture(x=x, logits=logits, loc=loc, log_scale=log_scale))


def mixture_logistic_log_cdf(
  x: TensorLike, logits: TensorLike, loc: TensorLike, log_scale: TensorLike
) -> Float[tf.Tensor, "..."]:
  """Return log P(X <= x), nats; arguments as in `mixture_logistic_log_prob`.

  Examples:
    >>> log_cdf = fpp.bijectors.mixture_logistic_log_cdf(tf.constant(0.0), tf.zeros(1), tf.zeros(1), tf.zeros(1))
    >>> round(float(log_cdf), 3)  # log(1/2)
    -0.693
  """
  logit, _ = logit_cdf(*checked_mixture(x=x, logits=logits, loc=loc, log_scale=log_scale))
  return tf.math.log_sigmoid(logit)


def mixture_logistic_log_survival(
  x: TensorLike, logits: TensorLike, loc: TensorLike, log_scale: TensorLike
) -> Float[tf.Tensor, "..."]:
  """Return log P(X > x), nats; arguments as in `mixture_logistic_log_prob`.

  Examples:
    >>> float(fpp.bijectors.mixture_logistic_log_survival(tf.constant(50.0), tf.zeros(1), tf.zeros(1), tf.zeros(1)))
    -50.0
  """
  logit, _ = logit_cdf(*checked_mixture(x=x, logits=logits, loc=loc, log_scale=log_scale))
  return tf.math.log_sigmoid(-logit)


def logit_mixture_logistic_cdf(
  x: TensorLike, logits: TensorLike, loc: TensorLike, log_scale: TensorLike
) -> tuple[Float[tf.Tensor, "*n"], Float[tf.Tensor, "*n"]]:
  """Return the logit of the CDF, and the log of its derivative in x; arguments as in `mixture_logistic_log_prob`.

  Returns:
    Two tensors `[...]`. They have derivatives of any order, the first in closed form.

  Examples:
    >>> logits, loc, log_scale = tf.zeros(1), tf.ones(1), tf.zeros(1)
    >>> value, log_derivative = fpp.bijectors.logit_mixture_logistic_cdf(tf.constant(3.0), logits, loc, log_scale)
    >>> round(float(value), 3)  # of one component: (x - loc) / scale
    2.0
  """
  return logit_cdf(*checked_mixture(x=x, logits=logits, loc=loc, log_scale=log_scale))


# --- Without checks -----------------------------------------------------------------------------


def log_density(x: tf.Tensor, logits: tf.Tensor, loc: tf.Tensor, log_scale: tf.Tensor) -> tf.Tensor:
  """Return `mixture_logistic_log_prob` of tensors that are checked."""
  _, below, above = _log_sigmoids(x, loc, log_scale)
  largest, rest = _split_off_largest(below + above - log_scale)
  return largest + tf.reduce_logsumexp(tf.nn.log_softmax(logits) + rest, axis=-1)


@functools.partial(traced_once, inline=True, jit=True)
@tf.custom_gradient
def logit_cdf(
  x: tf.Tensor, logits: tf.Tensor, loc: tf.Tensor, log_scale: tf.Tensor
) -> tuple[Float[tf.Tensor, "*n"], Float[tf.Tensor, "*n"]]:
  """Return `logit_mixture_logistic_cdf` of tensors that are checked."""
  x, logits, loc, log_scale = map(tf.convert_to_tensor, (x, logits, loc, log_scale))
  z, largest, terms = _log_terms(x, logits, loc, log_scale)
  log_cdf, log_survival, log_prob = (tf.reduce_logsumexp(t, axis=-1) for t in terms)
  value = largest[0] - largest[1] + (log_cdf - log_survival)

  def grad(by_value, by_log_derivative):
    # With p, r, w, pi the shares of the components in F, S, F' and 1, and with a = sigmoid(-z) / s and
    # b = sigmoid(z) / s, whose means under p and r are F' / F and F' / S:
    #   d logit F / dz = (p a + r b) s
    #   d log(logit F)' / dz = w s (a - E_p a - b + E_r b)
    by_value, by_log_derivative = by_value[..., tf.newaxis], by_log_derivative[..., tf.newaxis]
    p, r, w, pi = map(softmax_of_any_rank, (*terms, logits))
    scale, rate = tf.exp(log_scale), tf.exp(-log_scale)
    a, b = tf.sigmoid(-z) * rate, tf.sigmoid(z) * rate
    by_z = scale * (by_value * (p * a + r * b) + by_log_derivative * w * (_less_mean(a, p) - _less_mean(b, r)))
    by_x = by_z * rate
    gradients = (
      tf.reduce_sum(by_x, axis=-1),
      by_value * (p - r) + by_log_derivative * (w - p - r + pi),
      -by_x,
      -by_z * z - by_log_derivative * w,
    )
    return [sum_to_shape(g, t) for g, t in zip(gradients, (x, logits, loc, log_scale))]

  return (value, log_prob - log_cdf - log_survival), grad


def logit_cdf_gradients(
  x: tf.Tensor, logits: tf.Tensor, loc: tf.Tensor, log_scale: tf.Tensor
) -> tuple[tf.Tensor, list[tf.Tensor]]:
  """Return the log of the derivative of the logit of the CDF in x, `[...]`, and its derivatives in `logits`, `loc` and
  `log_scale`, `[..., K]`; see `grad` above."""
  z, _, terms = _log_terms(x, logits, loc, log_scale)
  log_cdf, log_survival, log_prob = (tf.reduce_logsumexp(t, axis=-1) for t in terms)
  p, r = softmax_of_any_rank(terms[0]), softmax_of_any_rank(terms[1])
  by_z = p * tf.sigmoid(-z) + r * tf.sigmoid(z)
  return log_prob - log_cdf - log_survival, [p - r, -by_z * tf.exp(-log_scale), -by_z * z]


def _log_terms(x, logits, loc, log_scale):
  """Return z `[..., K]`; the largest log sigmoid(z) and log sigmoid(-z), `[...]`; and, less the largest, the logs
  `[..., K]` of the terms that add up to F, S and F'."""
  log_pi = tf.nn.log_softmax(logits)
  z, below, above = _log_sigmoids(x, loc, log_scale)
  largest_below, below = _split_off_largest(below)
  largest_above, above = _split_off_largest(above)
  return z, (largest_below, largest_above), (log_pi + below, log_pi + above, log_pi + (below + above) - log_scale)


def _log_sigmoids(x, loc, log_scale):
  """z, log sigmoid(z) and log sigmoid(-z), `[..., K]`."""
  z = (x[..., tf.newaxis] - loc) * tf.exp(-log_scale)
  return z, -tf.nn.softplus(-z), -tf.nn.softplus(z)


def _split_off_largest(terms):
  """Return the largest of `terms [..., K]`, `[...]`, and the terms less it."""
  largest = tf.stop_gradient(tf.reduce_max(terms, axis=-1, keepdims=True))
  largest = tf.where(tf.math.is_finite(largest), largest, tf.zeros_like(largest))
  return largest[..., 0], terms - largest


def softmax_of_any_rank(terms: tf.Tensor) -> tf.Tensor:
  """`tf.nn.softmax`; oneDNN's kernel, the default on many CPUs, rejects more than five dimensions."""
  if terms.shape.rank in range(1, 6):
    return tf.nn.softmax(terms)
  shape = tf.shape(terms)
  return tf.reshape(tf.nn.softmax(tf.reshape(terms, [-1, shape[-1]])), shape)


def _less_mean(values, weights):
  """`values [..., K]` less their mean under `weights`; the second pass corrects the first's rounding."""
  for _ in range(2):
    values -= tf.reduce_sum(weights * values, axis=-1, keepdims=True)
  return values


def sum_to_shape(gradient: tf.Tensor, argument: tf.Tensor) -> tf.Tensor:
  """Sum a gradient over the axes along which the argument was broadcast."""
  axes = tf.raw_ops.BroadcastGradientArgs(s0=tf.shape(argument), s1=tf.shape(gradient)).r0
  return tf.reshape(tf.reduce_sum(gradient, axes), tf.shape(argument))
