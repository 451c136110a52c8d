"""The inverse of the mixture-of-logistics CDF: Newton's method in a tight bracket.

The quantile of a mixture lies between the smallest and the largest of its components' quantiles. Component i has the
quantile mu_i + s_i y at logit y. Newton's method works on

    f(x) = logit F(x) - y,      f'(x) = F'(x) / (F(x) S(x)),

which is close to linear. It bisects the bracket wherever its step would leave the bracket, or is more than half the
last step (between well separated components it would cycle).

Each element stops on its own. f'' / f' is at most 2 / min s_i, so a step d ends within d^2 / min s_i of the root. The
iteration stops once that is below the rounding of x.

One evaluation of f takes two exponentials per component. For y > 0 the mirror image of the problem is solved, so that
S >= 1/2 at the root. F is multiplied by exp(|y|), so that F is about 1 there. So nothing that matters to the root over-
or underflows, and far from the root only the sign of f counts.
"""

import functools

import numpy as np
import tensorflow as tf

from flowpp_tf.bijectors.mixture_logistic import logit_cdf_gradients, sum_to_shape
from flowpp_tf.core.tensors import finfo
from flowpp_tf.core.tracing import traced_once

_MAX_ITERATIONS = 200  # bisection closes any bracket with fewer
_LARGEST_LOG_SCALE = 0.45  # of the log of the largest number: squares of scales do not overflow


# Traced, because in graphs forward-mode autodiff sees the gradient of a function, but not a `tf.custom_gradient`.
@functools.partial(traced_once, inline=True)
def quantile(target: tf.Tensor, logits: tf.Tensor, loc: tf.Tensor, log_scale: tf.Tensor) -> tf.Tensor:
  r"""Return the x at which the logit of the CDF of a mixture of logistics is `target`.

  With y the target, Newton's method runs in the bracket of the components' quantiles, and bisects it instead of leaving
  it:

  $$
  \min_i (\mu_i + s_i y) \le x \le \max_i (\mu_i + s_i y),
  \qquad x \leftarrow x - (\operatorname{logit} F(x) - y) \frac{F(x) (1 - F(x))}{F'(x)}
  $$

  Args:
    target: `[...]`, the logit of the wanted probability.
    logits: as in `log_density`, and so are the others.

  Returns:
    `x [...]`, to working precision. It is differentiable in all arguments, any number of times, by the implicit
    function theorem. A target of +-infinity gives +-infinity, with derivative 0. NaN gives NaN; so does a scale whose
    square or inverse square overflows.
  """
  constants = [tf.stop_gradient(argument) for argument in (target, logits, loc, log_scale)]
  root, _ = search(*constants)
  return _implicit_function(root, target, logits, loc, log_scale)


@tf.custom_gradient
def _implicit_function(root, target, logits, loc, log_scale):
  """Return `root`, with the derivatives of x in  logit F(x; logits, loc, log_scale) = target."""

  # Written out, without a tape or a traced function, which forward-mode autodiff does not see through.
  def grad(upstream):
    arguments = [target, logits, loc, log_scale]
    # For derivatives of this derivative; the tensors may be from another graph.
    copies = [tf.identity(argument) for argument in (root, *arguments)]
    x = _implicit_function(*copies)
    finite = tf.math.is_finite(x)
    x = tf.where(finite, x, tf.zeros_like(x))
    log_slope, by_parameters = logit_cdf_gradients(x, logits, loc, log_scale)
    flattest = tf.constant(-0.9 * _log_of_largest(x.dtype), x.dtype)
    slope = tf.exp(tf.maximum(log_slope, flattest))  # underflows between far components
    by_target = tf.where(finite, upstream / slope, tf.zeros_like(x))
    by_all = -by_target[..., tf.newaxis]
    gradients = [by_target, *[by_all * by for by in by_parameters]]
    return [None, *map(sum_to_shape, gradients, arguments)]

  return root, grad


def search(target: tf.Tensor, logits: tf.Tensor, loc: tf.Tensor, log_scale: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Return the quantile, without derivatives, and how many evaluations of the CDF each element took."""
  state, step, sign = _newton(target, logits, loc, log_scale)
  x, evaluations, *_ = tf.while_loop(
    cond=lambda *state: tf.reduce_any(state[-1]), body=step, loop_vars=state, maximum_iterations=_MAX_ITERATIONS
  )
  # Comparisons with NaN, from an overflow too, are false: the search would end at once, at a number.
  limit = tf.constant(_LARGEST_LOG_SCALE * _log_of_largest(x.dtype), x.dtype)
  finite = (logits < np.inf) & (loc == loc) & (tf.abs(log_scale) < limit)
  has_weight = tf.reduce_any(logits > -np.inf, axis=-1)
  valid = tf.reduce_all(finite, axis=-1) & has_weight & (target == target)
  root = tf.where(valid, x * sign, tf.constant(np.nan, x.dtype))
  return root, evaluations


def _log_of_largest(dtype):
  """Return the log of the largest number of a dtype."""
  return np.log(float(finfo(dtype).max))


def _newton(target, logits, loc, log_scale):
  """Return the state of the search (x first, whether an element is active last), its step, and the sign of x."""
  epsilon = float(finfo(target.dtype).eps)

  # The mirror image where the target is positive: there, F <= 1/2 at the root.
  sign = tf.where(target > 0, -tf.ones_like(target), tf.ones_like(target))
  depth = tf.abs(target)
  loc = loc * sign[..., tf.newaxis]
  scale = tf.exp(log_scale)
  rate = tf.exp(-log_scale)
  log_pi = tf.nn.log_softmax(logits)
  pi = tf.exp(log_pi)
  log_pi += depth[..., tf.newaxis]  # F times exp(depth)

  quantiles = loc - scale * depth[..., tf.newaxis] + tf.zeros_like(logits)  # of the full shape
  low = tf.reduce_min(quantiles, axis=-1)
  high = tf.reduce_max(quantiles, axis=-1)
  x = tf.reduce_sum(pi * quantiles, axis=-1)
  x = tf.where(high > low, tf.clip_by_value(x, low, high), low)
  narrowest = tf.reduce_min(scale + tf.zeros_like(quantiles), axis=-1)

  def evaluate(x):
    """Return f(x) and f'(x)."""
    minus_z = (loc - x[..., tf.newaxis]) * rate
    above = tf.sigmoid(minus_z)
    # sigmoid(z) = exp(min(z, 0)) sigmoid(|z|)
    nearer = tf.maximum(above, 1 - above)
    cdf_terms = tf.exp(log_pi - tf.nn.relu(minus_z)) * nearer
    cdf = tf.reduce_sum(cdf_terms, axis=-1)
    survival = tf.reduce_sum(pi * above, axis=-1)
    density = tf.reduce_sum(cdf_terms * (above * rate), axis=-1)
    value = tf.math.log(cdf / survival)
    slope = density / (cdf * survival)
    return value, slope

  def step(x, evaluations, low, high, last_length, active):
    value, slope = evaluate(x)
    low = tf.where(active & (value <= 0), x, low)
    high = tf.where(active & (value >= 0), x, high)
    newton = x - value / slope
    length = tf.abs(newton - x)
    exact = tf.abs(value) <= 4 * epsilon * tf.maximum(depth, 1.0)  # the rest is rounding
    newton = tf.where(exact & ~(length <= narrowest), x, newton)  # on a plateau it would diverge
    magnitude = tf.maximum(tf.abs(x), narrowest)
    last = exact | (tf.square(length) <= 0.25 * epsilon * narrowest * magnitude)
    inside = (newton >= low) & (newton <= high)
    shrinks = 2 * length <= last_length
    # Far below the root F S underflows: an infinite slope would end the search.
    safe = tf.math.is_finite(slope) & inside & (last | shrinks)
    middle = low + (high - low) / 2
    proposal = tf.where(safe, newton, middle)
    length = tf.abs(proposal - x)
    evaluations += tf.cast(active, tf.int32)
    x = tf.where(active, proposal, x)
    largest = tf.maximum(tf.abs(low), tf.abs(high))
    closed = high - low <= 2 * epsilon * largest
    found = last & safe
    return x, evaluations, low, high, length, active & ~found & ~closed

  evaluations = tf.zeros_like(x, tf.int32)
  state = (x, evaluations, low, high, high - low, high > low)
  return state, step, sign
