"""The inverse of the mixture-of-logistics CDF: a safeguarded Newton method in a tight bracket.

The quantile of a mixture lies between the smallest and the largest of its components' quantiles,
and that of component i at logit y is mu_i + s_i y. Newton's method works on f(x) = logit(CDF(x)),
which is close to linear, and gives way to bisection of the bracket wherever its step would leave
the bracket or is not at most half the last one (between well separated components plain Newton
cycles).
"""

import numpy as np
import tensorflow as tf

_MAX_ITERATIONS = 100  # bisection alone closes any bracket in float64 with fewer


def logit_mixture_logistic_quantile(function, target, logits, loc, log_scale):
  """Solves `function(x) = target`, the logit of the CDF of the mixture, to working precision.

  Args:
    function: `(x, logits, loc, log_scale) -> (logit of the CDF, log of its derivative)`.
    target: `[...]`, the logit of the wanted probability.
    logits: unnormalised log weights, `[..., K]`.
    loc: means, `[..., K]`.
    log_scale: log scales, `[..., K]`.

  Returns:
    `x [...]`, differentiable once in the target and in the parameters, by the implicit function
    theorem. A target of +-infinity gives +-infinity.
  """
  root = _solve(function, *map(tf.stop_gradient, (target, logits, loc, log_scale)))
  # A Newton step from the root has the derivative of the implicit function; of the step itself, which
  # is rounding error, nothing is taken. Between far components the slope underflows.
  value, log_derivative = function(root, logits, loc, log_scale)
  flattest = tf.constant(-0.9 * np.log(np.finfo(root.dtype.as_numpy_dtype).max), root.dtype)
  step = (value - target) * tf.exp(-tf.stop_gradient(tf.maximum(log_derivative, flattest)))
  return tf.where(tf.math.is_finite(target), root - (step - tf.stop_gradient(step)), root)


def _solve(function, target, logits, loc, log_scale):
  quantiles = loc + tf.exp(log_scale) * target[..., tf.newaxis]
  low = tf.reduce_min(quantiles, axis=-1)
  high = tf.reduce_max(quantiles, axis=-1)
  x = tf.reduce_sum(tf.nn.softmax(logits) * quantiles, axis=-1)
  x = tf.where(high > low, tf.clip_by_value(x, low, high), low)
  epsilon = 2 * np.finfo(x.dtype.as_numpy_dtype).eps

  def body(x, low, high, last_step, active):
    value, log_derivative = function(x, logits, loc, log_scale)
    low = tf.where(active & (value <= target), x, low)
    high = tf.where(active & (value >= target), x, high)
    tolerance = epsilon * tf.maximum(tf.abs(low), tf.abs(high))
    newton = x - (value - target) * tf.exp(-log_derivative)
    newton_step = tf.abs(newton - x)
    safe = ((newton >= low) & (newton <= high)
            & ((2 * newton_step <= last_step) | (newton_step <= tolerance)))
    proposal = tf.where(safe, newton, low + (high - low) / 2)
    step = tf.abs(proposal - x)
    x = tf.where(active, proposal, x)
    return x, low, high, step, active & (step > tolerance)

  return tf.while_loop(
      cond=lambda x, low, high, last_step, active: tf.reduce_any(active),
      body=body,
      loop_vars=(x, low, high, high - low, high > low),
      maximum_iterations=_MAX_ITERATIONS)[0]
