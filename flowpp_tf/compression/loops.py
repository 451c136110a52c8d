"""The loops that kernels.py uses where Numba is installed; importing this file compiles them.

Each operation on real numbers is that of portable_math.py, maps.py, layers.py or grids.py, in the same order; the order
of sums of integers does not matter. Loops over values take contiguous float64 arrays and evaluate `_BLOCK` values
together; loops of layers take matrices with a row for each pixel. Results are written to the last arguments.
"""

from collections.abc import Callable
import math
from typing import Any

import numba
import numpy as np

from flowpp_tf.compression import grids, layers, maps, portable_math

_BLOCK = 256  # whose arrays stay in a core's nearest cache
_POWERS, _LAST, _TABLE_BITS = portable_math.POWERS, len(portable_math.POWERS) - 1, portable_math.TABLE_BITS
_LARGEST, _PER_STEP = portable_math.LARGEST, portable_math.PER_STEP
_STEP_HIGH, _STEP_LOW = portable_math.STEP_HIGH, portable_math.STEP_LOW
_LN2_HIGH, _LN2_LOW = portable_math.LN2_HIGH, portable_math.LN2_LOW
_MOST_ITERATIONS = maps.MOST_ITERATIONS
_LARGEST_ACTIVATION, _ONE = layers.LARGEST, 2.0**layers.FRACTION
_SQUARE, _EPSILON = 2.0**layers.SQUARE_FRACTION, layers.LAYER_NORM_EPSILON
_LARGEST_LIFT = grids.LARGEST
_OPTIONS = {"nogil": True, "error_model": "numpy"}  # a division by 0 is no exception
_vector, _matrix, _number = numba.float64[::1], numba.float64[:, ::1], numba.float64
_integers, _orders, _factors = numba.int64[:, :, ::1], numba.int64[:, ::1], numba.float64[:, :, ::1]
part = numba.njit(**_OPTIONS)  # which LLVM inlines


def loop(*arguments: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
  """Compile a function of arguments of these types; it runs without the GIL."""
  return numba.njit(numba.void(*arguments), **_OPTIONS)


@part
def one_exp(x: float) -> float:
  """Return e^x."""
  x = min(max(x, -_LARGEST), _LARGEST)
  steps = np.rint(x * _PER_STEP)
  r = x - steps * _STEP_HIGH
  r = r - steps * _STEP_LOW
  series = r * (1 / 120) + (1 / 24)
  series = series * r + 1 / 6
  series = series * r + 1 / 2
  series = series * r + 1.0
  series = series * r + 1.0
  whole = np.int64(steps)
  series *= _POWERS[whole & _LAST]
  return series * np.int64(((whole >> _TABLE_BITS) + 1023) << 52).view(np.float64)


@part
def _log(x):
  """Of x that is neither 0 nor subnormal nor infinite."""
  bits = np.float64(x).view(np.int64)
  exponent = (bits >> 52) - 1022
  mantissa = np.int64((bits & ((1 << 52) - 1)) | (1022 << 52)).view(np.float64)
  small = mantissa < 0.70710678118654752
  mantissa = mantissa + mantissa if small else mantissa
  exponent = exponent - 1 if small else exponent
  s = (mantissa - 1) / (mantissa + 1)
  square = s * s
  series = square * (1 / 15)
  series = (series + 1 / 13) * square
  series = (series + 1 / 11) * square
  series = (series + 1 / 9) * square
  series = (series + 1 / 7) * square
  series = (series + 1 / 5) * square
  series = (series + 1 / 3) * square
  series = (series + 1) * (s + s)
  return series + exponent * _LN2_LOW + exponent * _LN2_HIGH


@part
def _add_components(count, x, pi, loc, rate, cdf, survival, density):
  """Set F, 1 - F and F' of the first values; F and 1 - F are never below e^-690 / K, so that `_log` holds."""
  for k in range(len(pi)):
    for i in range(count):
      z = (x[i] - loc[k, i]) * rate[k, i]
      e = one_exp(-abs(z))
      large = 1 / (1 + e)
      small = e * large
      below = pi[k, i] * (large if z > 0 else small)
      above = small if z > 0 else large
      both = below * above * rate[k, i]
      above = pi[k, i] * above
      cdf[i] = below if k == 0 else cdf[i] + below
      survival[i] = above if k == 0 else survival[i] + above
      density[i] = both if k == 0 else density[i] + both


@part
def _begin(count, error, wanted, pi, loc, scale, here, low, high, length, bound):
  """Set a point to begin at, the ends of an interval around it and its length, and the largest error at the end."""
  for k in range(len(pi)):
    for i in range(count):
      of_component = loc[k, i] + scale[k, i] * wanted[i]
      weighted = pi[k, i] * of_component
      low[i] = of_component if k == 0 else min(low[i], of_component)
      high[i] = of_component if k == 0 else max(high[i], of_component)
      here[i] = weighted if k == 0 else here[i] + weighted
      bound[i] = scale[k, i] if k == 0 else min(bound[i], scale[k, i])
  for i in range(count):
    here[i] = min(max(here[i], low[i]), high[i])
    length[i] = high[i] - low[i]
    bound[i] = error * bound[i]


@part
def _step(count, wanted, factors, bound, cdf, survival, density, here, low, high, length, going):
  """Take a Newton step, or halve the interval; density becomes the slope, `length` that of the step."""
  for i in range(count):
    now = here[i]
    slope = density[i] / (cdf[i] * survival[i])
    excess = _log(cdf[i] / survival[i]) - wanted[i]
    left = now if excess <= 0 else low[i]
    right = now if excess >= 0 else high[i]
    newton = now - excess / slope
    step = abs(newton - now)
    safe = (newton >= left) & (newton <= right) & (step + step <= length[i])
    following = newton if safe else left + (right - left) / 2
    near = safe & (step * step * math.sqrt(slope * factors[i]) <= bound[i])
    closed = right - left <= 4e-16 * (abs(left) + abs(right))
    going[i] = not (near | closed)
    here[i] = following
    low[i], high[i] = left, right
    length[i] = abs(following - now)
    density[i] = slope


@loop(_vector, _vector)
def exp(x: np.ndarray, result: np.ndarray) -> None:
  """e^x, `[N]`."""
  for i in range(len(x)):
    result[i] = one_exp(x[i])


@loop(_vector, _matrix, _matrix, _matrix, _vector, _vector)
def logit_cdf(
  x: np.ndarray, pi: np.ndarray, loc: np.ndarray, rate: np.ndarray, logit: np.ndarray, slope: np.ndarray
) -> None:
  """logit F(x) and its slope, `[N]`, of mixtures whose weights, places and inverse scales are `[K, N]`."""
  cdf, survival, density = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK)
  for start in range(0, len(x), _BLOCK):
    block = slice(start, min(start + _BLOCK, len(x)))
    count = block.stop - start
    _add_components(count, x[block], pi[:, block], loc[:, block], rate[:, block], cdf, survival, density)
    for i in range(count):
      logit[start + i] = _log(cdf[i] / survival[i])
      slope[start + i] = density[i] / (cdf[i] * survival[i])


@loop(_vector, _number, _matrix, _matrix, _matrix, _matrix, _vector, _vector, _vector)
def quantile(
  target: np.ndarray,
  error: float,
  pi: np.ndarray,
  loc: np.ndarray,
  scale: np.ndarray,
  rate: np.ndarray,
  factor: np.ndarray,
  x: np.ndarray,
  slope: np.ndarray,
) -> None:
  """The x with logit F(x) = target, and the slope there, all `[N]`: `Mixture.inverse` in maps.py has the error."""
  shape = len(pi), _BLOCK
  weights, places, rates = np.empty(shape), np.empty(shape), np.empty(shape)  # those of the values that are not done
  wanted, factors, bound = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK)
  here, low, high, length = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK)
  cdf, survival, density = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK)
  going, index = np.empty(_BLOCK, np.bool_), np.empty(_BLOCK, np.int64)
  for start in range(0, len(target), _BLOCK):
    block = slice(start, min(start + _BLOCK, len(target)))
    count = block.stop - start
    for i in range(count):
      at = start + i
      index[i] = at
      wanted[i], factors[i] = target[at], factor[at]
      for k in range(len(pi)):
        weights[k, i], places[k, i], rates[k, i] = pi[k, at], loc[k, at], rate[k, at]
    _begin(count, error, wanted, weights, places, scale[:, block], here, low, high, length, bound)
    for _ in range(_MOST_ITERATIONS):
      _add_components(count, here, weights, places, rates, cdf, survival, density)
      _step(count, wanted, factors, bound, cdf, survival, density, here, low, high, length, going)
      kept = 0
      for i in range(count):
        x[index[i]], slope[index[i]] = here[i], density[i]
        if going[i]:
          index[kept] = index[i]
          here[kept], low[kept], high[kept] = here[i], low[i], high[i]
          length[kept], bound[kept] = length[i], bound[i]
          wanted[kept], factors[kept] = wanted[i], factors[i]
          for k in range(len(pi)):
            weights[k, kept], places[k, kept] = weights[k, i], places[k, i]
            rates[k, kept] = rates[k, i]
          kept += 1
      count = kept
      if not count:
        break


@loop(_matrix, _matrix, _matrix)
def gated_sum(x: np.ndarray, h: np.ndarray, result: np.ndarray) -> None:
  """x + a sigmoid(b), for h = [a, b]."""
  count, channels = x.shape
  for i in range(count):
    for k in range(channels):
      gate = h[i, channels + k]
      e = one_exp(-abs(gate))
      large = 1 / (1 + e)
      result[i, k] = x[i, k] + h[i, k] * (large if gate > 0 else e * large)


@loop(_matrix, _vector, _vector, _matrix)
def layer_norm(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, result: np.ndarray) -> None:
  """Layer norm of each row."""
  count, channels = x.shape
  for i in range(count):
    total = 0.0
    for k in range(channels):
      result[i, k] = min(max(x[i, k], -_LARGEST_ACTIVATION), _LARGEST_ACTIVATION)
      total += np.rint(result[i, k] * _ONE)
    mean = total * (1 / _ONE) / channels
    total = 0.0
    for k in range(channels):
      centred = result[i, k] - mean
      result[i, k] = centred
      total += np.rint(centred * centred * _SQUARE)
    deviation = math.sqrt(total * (1 / _SQUARE) / channels + _EPSILON)
    for k in range(channels):
      result[i, k] = result[i, k] / deviation * gamma[k] + beta[k]


@loop(_matrix, _matrix)
def largest_of_three(h: np.ndarray, result: np.ndarray) -> None:
  """The largest of each three neighbours of a row."""
  count, channels = result.shape
  for i in range(count):
    for k in range(channels):
      result[i, k] = max(h[i, 3 * k], h[i, 3 * k + 1], h[i, 3 * k + 2])


@numba.njit(numba.boolean(_integers, _orders, _factors, numba.boolean), **_OPTIONS)
def lift(n: np.ndarray, order: np.ndarray, factors: np.ndarray, backwards: bool) -> bool:
  """Permute the last axis of n and lift it in place, or undo that, by the operations of grids.py in their order.

  Args:
    n: `[N, P, C]`, of P positions.
    order: `[P, C]`, from where each integer comes.
    factors: `[P, C, C]`, of L below the diagonal and of U above.
    backwards: whether to undo it.

  Returns:
    Whether all sums were small enough; if not, n is of no use.
  """
  count, positions, channels = n.shape
  values, lifts = np.empty(channels, np.int64), 2 * (channels - 1)
  for p in range(positions):
    for image in range(count):
      for i in range(channels):
        values[i] = n[image, p, i if backwards else order[p, i]]
      for k in range(lifts):
        at = lifts - 1 - k if backwards else k
        lower = at < channels - 1
        i = at if lower else lifts - at
        total = 0.0
        for j in range(i + 1 if lower else 0, channels if lower else i):
          total = total + values[j] * factors[p, j, i]
        if not abs(total) < _LARGEST_LIFT:
          return False
        change = np.int64(np.rint(total))
        values[i] += -change if backwards else change
      for i in range(channels):
        n[image, p, order[p, i] if backwards else i] = values[i]
  return True
