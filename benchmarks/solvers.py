"""Ways to invert the mixture-of-logistics CDF, to be compared by inverse.py.

Each solver takes `(target, logits, loc, log_scale)` as `mixture_quantile.quantile` does and
returns the root and how many evaluations of the CDF each element took.
"""

import functools

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors import mixture_quantile
from flowpp_tf.bijectors.mixture_logistic import logit_cdf


def newton(*problem):
  """The library's: Newton's method in the bracket of the components' quantiles."""
  return mixture_quantile.search(*problem)


def newton_fixed(steps, *problem):
  """The same steps, a fixed number of them without a loop."""
  state, step, sign = mixture_quantile._newton(*problem)
  for _ in range(steps):
    state = step(*state)
  return state[0] * sign, state[1]


def halley(*problem):
  """Newton's method with the second derivative, in the same bracket, by the same rules."""
  low, high, scale = _component_bracket(*problem)
  epsilon = np.finfo(low.dtype.as_numpy_dtype).eps
  narrowest = tf.reduce_min(scale, axis=-1)
  target = problem[0]

  def body(x, evaluations, low, high, last_length, active):
    with tf.GradientTape() as tape:
      tape.watch(x)
      cdf, log_slope = logit_cdf(x, *problem[1:])
    value = cdf - target
    newton_step = -value * tf.exp(-log_slope)
    proposal = x + newton_step / tf.clip_by_value(1 + 0.5 * newton_step * tape.gradient(log_slope, x), 0.5, 2.0)
    low = tf.where(active & (value <= 0), x, low)
    high = tf.where(active & (value >= 0), x, high)
    length = tf.abs(proposal - x)
    exact = tf.abs(value) <= 4 * epsilon * tf.maximum(tf.abs(target), 1.0)
    proposal = tf.where(exact & ~(length <= narrowest), x, proposal)
    last = exact | (length**3 <= 0.25 * epsilon * narrowest**2 * tf.maximum(tf.abs(x), narrowest))
    safe = (proposal >= low) & (proposal <= high) & (last | (2 * length <= last_length))
    proposal = tf.where(safe, proposal, low + (high - low) / 2)
    length = tf.abs(proposal - x)
    closed = high - low <= 2 * epsilon * tf.maximum(tf.abs(low), tf.abs(high))
    return (
      tf.where(active, proposal, x),
      evaluations + tf.cast(active, tf.int32),
      low,
      high,
      length,
      active & ~(last & safe) & ~closed,
    )

  start = tf.reduce_sum(tf.nn.softmax(problem[1]) * (problem[2] + scale * target[:, tf.newaxis]), -1)
  start = tf.where(high > low, tf.clip_by_value(start, low, high), low)
  return _loop(body, start, low, high)


def chandrupatla(*problem):
  """`tfp.math.find_root_chandrupatla` in the same bracket."""
  low, high, _ = _component_bracket(*problem)
  result = tfp.math.find_root_chandrupatla(
    lambda x: logit_cdf(x, *problem[1:])[0] - problem[0],
    low,
    high,
    position_tolerance=_tolerance(low, high),
    max_iterations=100,
  )
  return result.estimated_root, tf.cast(result.num_iterations, tf.int32) + 2  # and at both ends


def itp(*problem):
  """Interpolate, truncate, project (Oliveira and Takahashi 2020) in the same bracket."""
  low, high, _ = _component_bracket(*problem)
  function = lambda x: logit_cdf(x, *problem[1:])[0] - problem[0]
  tolerance = _tolerance(low, high)
  width = high - low
  most = tf.math.ceil(tf.math.log(tf.maximum(width / (2 * tolerance), 1.0)) / np.log(2.0)) + 1

  def body(x, evaluations, low, high, at_low, at_high, round_, active):
    half = low + (high - low) / 2
    radius = tolerance * tf.pow(tf.constant(2.0, low.dtype), most - round_) - (high - low) / 2
    secant = (at_high * low - at_low * high) / (at_high - at_low)
    secant = tf.where(tf.math.is_finite(secant), secant, half)
    toward = tf.sign(half - secant)
    delta = 0.2 / width * tf.square(high - low)
    truncated = tf.where(delta <= tf.abs(half - secant), secant + toward * delta, half)
    proposal = tf.where(tf.abs(truncated - half) <= radius, truncated, half - toward * radius)
    proposal = tf.where(active, proposal, x)
    value = function(proposal)
    below, above = active & (value <= 0), active & (value >= 0)
    low, high = tf.where(below, proposal, low), tf.where(above, proposal, high)
    at_low, at_high = tf.where(below, value, at_low), tf.where(above, value, at_high)
    return (
      proposal,
      evaluations + tf.cast(active, tf.int32),
      low,
      high,
      at_low,
      at_high,
      round_ + 1,
      active & (high - low > 2 * tolerance),
    )

  start = tf.where(high > low, low + width / 2, low)
  x, evaluations, low, high, *_ = tf.while_loop(
    lambda *state: tf.reduce_any(state[-1]),
    body,
    (
      start,
      2 * tf.ones_like(start, tf.int32),
      low,
      high,
      function(low),
      function(high),
      tf.zeros([], low.dtype),
      high > low,
    ),
    maximum_iterations=100,
  )
  return tf.where(high > low, low + (high - low) / 2, x), evaluations


def bisection(*problem):
  """Bisection in the same bracket, in logits."""
  low, high, _ = _component_bracket(*problem)
  return _bisect(lambda x: logit_cdf(x, *problem[1:])[0] < problem[0], low, high, _tolerance(low, high))


def bisection_as_released(*problem):
  """Bisection of probabilities, from 20 summed scales beyond the means, until steps are 1e-12."""
  target, _, loc, log_scale = problem
  reach = 20 * tf.reduce_sum(tf.exp(log_scale), axis=-1)
  low, high = tf.reduce_min(loc, axis=-1) - reach, tf.reduce_max(loc, axis=-1) + reach
  probability = tf.sigmoid(target)
  cdf = lambda x: tf.exp(tf.math.log_sigmoid(logit_cdf(x, *problem[1:])[0]))
  return _bisect(lambda x: cdf(x) < probability, low, high, tf.constant(1e-12, low.dtype))


def _component_bracket(target, _, loc, log_scale):
  scale = tf.exp(log_scale)
  quantiles = loc + scale * target[..., tf.newaxis]
  return tf.reduce_min(quantiles, axis=-1), tf.reduce_max(quantiles, axis=-1), scale


def _tolerance(low, high):
  epsilon = np.finfo(low.dtype.as_numpy_dtype).eps
  return epsilon * tf.maximum(tf.maximum(tf.abs(low), tf.abs(high)), 1e-3)


def _bisect(is_below, low, high, tolerance):
  def body(x, evaluations, low, high, last_length, active):
    below = is_below(x)
    low, high = tf.where(active & below, x, low), tf.where(active & ~below, x, high)
    proposal = tf.where(active, low + (high - low) / 2, x)
    length = tf.abs(proposal - x)
    return (proposal, evaluations + tf.cast(active, tf.int32), low, high, length, active & (length > tolerance))

  return _loop(body, low + (high - low) / 2, low, high)


def _loop(body, start, low, high):
  return tf.while_loop(
    lambda *state: tf.reduce_any(state[-1]),
    body,
    (start, tf.zeros_like(start, tf.int32), low, high, high - low, high > low),
    maximum_iterations=200,
  )[:2]


SOLVERS = {
  "newton (library)": newton,
  "newton, 8 fixed": functools.partial(newton_fixed, 8),
  "newton, 20 fixed": functools.partial(newton_fixed, 20),
  "halley": halley,
  "chandrupatla": chandrupatla,
  "itp": itp,
  "bisection": bisection,
  "bisection (release)": bisection_as_released,
}
