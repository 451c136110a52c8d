"""The elementwise map of a coupling in an inference graph: equation 11, its log-det, and its inverse.

These are the formulas of bijectors/mixture_logistic.py and mixture_quantile.py, without gradients, for N values
`[N, 1]` and their parameters, `[N, K]` each.
"""

from __future__ import annotations

import numpy as np

from flowpp_tf.exporting.ops import Ops, Value

# The search for a quantile takes fewer in float32 for the hardest mixtures, see tests/exporting/test_runtimes.py.
MAX_ITERATIONS = 64
_EPSILON = float(np.finfo(np.float32).eps)
_LARGEST = float(np.finfo(np.float32).max)


def logit_cdf(ops: Ops, x: Value, logits: Value, loc: Value, log_scale: Value) -> tuple[Value, Value]:
  """Return the logit of the CDF of a mixture of logistics and the log of its derivative, `[N, 1]` each."""
  z = (x - loc) * ops.exp(-log_scale)
  below, above = -ops.softplus(-z), -ops.softplus(z)
  largest_below, largest_above = ops.max(below), ops.max(above)
  below, above = below - largest_below, above - largest_above
  log_pi = _log_softmax(ops, logits)
  log_cdf = _log_sum_exp(ops, log_pi + below)
  log_survival = _log_sum_exp(ops, log_pi + above)
  log_prob = _log_sum_exp(ops, log_pi + (below + above) - log_scale)
  logit = largest_below - largest_above + (log_cdf - log_survival)
  log_slope = log_prob - log_cdf - log_survival
  return logit, log_slope


def logit_quantile(ops: Ops, target: Value, logits: Value, loc: Value, log_scale: Value) -> Value:
  """Return the x `[N, 1]` at which the logit of the CDF is `target`: Newton's method in a bracket that it bisects."""
  # The mirror image where the target is positive: there, F <= 1/2 at the root.
  sign = ops.where(target > 0.0, ops.constant([[-1.0]]), 1.0)
  depth = ops.abs(target)
  loc = loc * sign
  scale = ops.exp(log_scale)
  rate = ops.exp(-log_scale)
  log_pi = _log_softmax(ops, logits)
  pi = ops.exp(log_pi)
  log_pi = log_pi + depth  # F times exp(depth)

  quantiles = loc - scale * depth
  low = ops.min(quantiles)
  high = ops.max(quantiles)
  mean = ops.sum(pi * quantiles)
  x = ops.minimum(ops.maximum(mean, low), high)
  narrowest = ops.min(scale)
  exact_below = ops.maximum(depth, 1.0) * (4 * _EPSILON)

  def step(x, low, high, last_length, active):
    minus_z = (loc - x) * rate
    above = ops.sigmoid(minus_z)
    # sigmoid(z) = exp(min(z, 0)) sigmoid(|z|)
    cdf_terms = ops.exp(log_pi - ops.maximum(minus_z, 0.0)) * ops.maximum(above, 1.0 - above)
    cdf = ops.sum(cdf_terms)
    survival = ops.sum(pi * above)
    value = ops.log(cdf / survival)
    density = ops.sum(cdf_terms * (above * rate))
    slope = density / (cdf * survival)

    low = ops.where(active & (value <= 0.0), x, low)
    high = ops.where(active & (value >= 0.0), x, high)
    newton = x - value / slope
    length = ops.abs(newton - x)
    exact = ops.abs(value) <= exact_below  # the rest is rounding
    newton = ops.where(exact & ~(length <= narrowest), x, newton)  # on a plateau it would diverge
    magnitude = ops.maximum(ops.abs(x), narrowest)
    last = exact | (length * length <= narrowest * magnitude * (0.25 * _EPSILON))
    # Far below the root F S underflows: an infinite slope would end the search.
    valid = (ops.abs(slope) <= _LARGEST) & (newton >= low) & (newton <= high)
    converges = last | (length + length <= last_length)
    safe = valid & converges
    middle = low + (high - low) * 0.5
    proposal = ops.where(safe, newton, middle)
    length = ops.abs(proposal - x)
    x = ops.where(active, proposal, x)
    width = high - low
    magnitude = ops.maximum(ops.abs(low), ops.abs(high))
    closed = width <= magnitude * (2 * _EPSILON)
    active = active & ~(last & safe) & ~closed
    return x, low, high, length, active

  state = [x, low, high, high - low, high > low]
  x, *_ = ops.loop(step, state, MAX_ITERATIONS)
  return x * sign


def _log_softmax(ops, x):
  x = x - ops.max(x)
  return x - ops.log(ops.sum(ops.exp(x)))


def _log_sum_exp(ops, x):
  largest = ops.max(x)
  return largest + ops.log(ops.sum(ops.exp(x - largest)))
