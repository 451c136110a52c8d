"""The loops that kernels.py uses where Numba is installed; importing this file compiles them.

Functions of portable_math.py and maps.py are compiled for numbers in place of arrays. Each further operation on real
numbers is as in maps.py or layers.py, in the same order; the order of sums of integers does not matter. Loops over
values take contiguous float64 arrays and evaluate `_BLOCK` values together; loops of layers take matrices with a row
for each pixel. Results are written to the last arguments.
"""

from collections.abc import Callable
import math
from typing import Any

import numba
from numba.extending import overload
import numpy as np

from flowpp_tf.compression import layers, maps, portable_math

_BLOCK = 256  # whose arrays stay in a core's nearest cache
_LARGEST_ACTIVATION, _ONE = layers.LARGEST, 2.0**layers.FRACTION
_SQUARE, _EPSILON = 2.0**layers.SQUARE_FRACTION, layers.LAYER_NORM_EPSILON
_MOST_ITERATIONS = maps.MOST_ITERATIONS
_EXACT = {"error_model": "numpy"}  # a division by 0 does not raise
_vector, _matrix, _number = numba.float64[::1], numba.float64[:, ::1], numba.float64
_count = numba.int64
part = numba.njit(**_EXACT)  # which LLVM inlines
# For numbers; below are the functions that these call.
one_exp, one_log = part(portable_math.elementwise_exp), part(portable_math.elementwise_log)
one_pair_of_sigmoids, one_newton_step = part(portable_math.sigmoids), part(maps.newton_step)
overload(portable_math.exp)(lambda x: lambda x: one_exp(x))
overload(portable_math.clip)(lambda x, low, high: lambda x, low, high: min(max(x, low), high))
overload(portable_math.choose)(lambda condition, a, b: lambda condition, a, b: a if condition else b)


def loop(*arguments: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
  """Compile a function of arguments of these types; it runs without the GIL."""
  return numba.njit(numba.void(*arguments), nogil=True, **_EXACT)


@part
def _add_components(count, x, pi, loc, rate, cdf, survival, density):
  """Set F, 1 - F and F' of the first values."""
  for k in range(len(pi)):
    for i in range(count):
      below, above = one_pair_of_sigmoids((x[i] - loc[k, i]) * rate[k, i])
      below = pi[k, i] * below
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
      component_quantile = loc[k, i] + scale[k, i] * wanted[i]
      weighted = pi[k, i] * component_quantile
      low[i] = component_quantile if k == 0 else min(low[i], component_quantile)
      high[i] = component_quantile if k == 0 else max(high[i], component_quantile)
      here[i] = weighted if k == 0 else here[i] + weighted
      bound[i] = scale[k, i] if k == 0 else min(bound[i], scale[k, i])
  for i in range(count):
    here[i] = min(max(here[i], low[i]), high[i])
    length[i] = high[i] - low[i]
    bound[i] = error * bound[i]


@part
def _step(count, wanted, factors, bound, cdf, survival, density, here, low, high, length, going):
  """Take a step with each of the first values; density becomes the slope, `length` the length of the step."""
  for i in range(count):
    slope = density[i] / (cdf[i] * survival[i])
    error = one_log(cdf[i] / survival[i]) - wanted[i]
    following, low[i], high[i], is_done = one_newton_step(
      here[i], low[i], high[i], length[i], error, slope, factors[i], bound[i]
    )
    length[i] = abs(following - here[i])
    here[i], density[i], going[i] = following, slope, not is_done


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
      logit[start + i] = one_log(cdf[i] / survival[i])
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
  weights, places, rates = np.empty(shape), np.empty(shape), np.empty(shape)  # of the values that are not done
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
        weights[k, i] = pi[k, at]
        places[k, i] = loc[k, at]
        rates[k, i] = rate[k, at]
    _begin(count, error, wanted, weights, places, scale[:, block], here, low, high, length, bound)
    for _ in range(_MOST_ITERATIONS):
      _add_components(count, here, weights, places, rates, cdf, survival, density)
      _step(count, wanted, factors, bound, cdf, survival, density, here, low, high, length, going)
      kept = 0
      for i in range(count):
        x[index[i]], slope[index[i]] = here[i], density[i]
        if going[i]:
          index[kept] = index[i]
          here[kept] = here[i]
          low[kept] = low[i]
          high[kept] = high[i]
          length[kept] = length[i]
          bound[kept] = bound[i]
          wanted[kept] = wanted[i]
          factors[kept] = factors[i]
          for k in range(len(pi)):
            weights[k, kept] = weights[k, i]
            places[k, kept] = places[k, i]
            rates[k, kept] = rates[k, i]
          kept += 1
      count = kept
      if not count:
        break


@part
def _integer(x):
  """Return an activation in fixed point."""
  return np.rint(portable_math.clip(x, -_LARGEST_ACTIVATION, _LARGEST_ACTIVATION) * _ONE)


@loop(_matrix, numba.boolean, _matrix)
def round_inputs(x: np.ndarray, elu: bool, rounded: np.ndarray) -> None:
  """The integers of x, or of its concat_elu.

  Each inner loop writes to one place only. LLVM vectorizes these: one loop that writes to both halves takes four times
  as long, for rows of 16 to 96 channels.
  """
  count, channels = x.shape
  for i in range(count):
    if not elu:
      for k in range(channels):
        rounded[i, k] = _integer(x[i, k])
      continue
    first, second = rounded[i, :channels], rounded[i, channels:]
    for k in range(channels):
      second[k] = one_exp(-abs(x[i, k])) - 1
    for k in range(channels):
      first[k] = _integer(x[i, k] if x[i, k] > 0 else second[k])
    for k in range(channels):
      second[k] = _integer(-x[i, k] if x[i, k] < 0 else second[k])


@loop(_matrix, _count, _count, _count, _number, _vector, _matrix)
def add_products(
  products: np.ndarray, height: int, width: int, size: int, scale: float, bias: np.ndarray, y: np.ndarray
) -> None:
  """The outputs of a convolution from the products of each pixel with the kernel at each of its places.

  Args:
    products: `[N H W, size^2 D]`; what is outside of the images counts as zeros.
    height: H.
    width: W.
    size: of the kernel.
    scale: of the products.
    bias: `[D]`.
    y: `[N H W, D]`.
  """
  margin, outputs = size // 2, y.shape[1]
  for i in range(len(y)):
    row, column = i // width % height, i % width
    to = y[i]
    to[:] = 0
    for dy in range(max(margin - row, 0), min(height + margin - row, size)):
      for dx in range(max(margin - column, 0), min(width + margin - column, size)):
        place = i + (dy - margin) * width + dx - margin
        shift = (dy * size + dx) * outputs
        for k in range(outputs):
          to[k] += products[place, shift + k]
    for k in range(outputs):
      to[k] = to[k] * scale + bias[k]


@loop(_matrix, _matrix, _matrix)
def gated_sum(x: np.ndarray, h: np.ndarray, result: np.ndarray) -> None:
  """x + a sigmoid(b), for h = [a, b]."""
  count, channels = x.shape
  for i in range(count):
    for k in range(channels):
      gate, _ = one_pair_of_sigmoids(h[i, channels + k])
      result[i, k] = x[i, k] + h[i, k] * gate


@loop(_matrix, _vector, _vector, _matrix)
def layer_norm(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, result: np.ndarray) -> None:
  """Layer norm of each row."""
  count, channels = x.shape
  for i in range(count):
    total = 0.0
    for k in range(channels):
      result[i, k] = portable_math.clip(x[i, k], -_LARGEST_ACTIVATION, _LARGEST_ACTIVATION)
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
