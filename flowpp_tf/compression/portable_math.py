"""Elementary functions that give the same bits on every machine.

IEEE 754 defines +, -, *, /, sqrt and rounding to the last bit, but not exp or log, in which libraries and processors
differ. Here they use the defined operations only, one NumPy operation at a time, so that a compiler cannot fuse two of
them; loops.py has them compiled by one that does not. Their relative error of about 1e-12 is far below the noise of the
codec.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowpp_tf.compression.kernels import KERNELS

BLOCK = 1 << 15  # values; temporary arrays of this size stay in a core's cache
_TABLE_BITS = 6
_TABLE = 1 << _TABLE_BITS
_LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")  # 20 of its bits are 0: products with integers below 2^20 are exact
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
_STEP_HIGH = _LN2_HIGH / _TABLE
_STEP_LOW = _LN2_LOW / _TABLE
_PER_STEP = float.fromhex("0x1.71547652b82fep+6")  # 64 / ln 2
_LARGEST = 690.0  # exp of it and of its negative are far from overflow and from subnormal numbers


def _powers():
  """Return 2^(j / 64) for j = 0 .. 63, as products of the square roots 2^(1/2), 2^(1/4), ..."""
  powers = np.ones(_TABLE)
  root = np.float64(2.0)
  for bit in range(_TABLE_BITS - 1, -1, -1):
    root = np.sqrt(root)
    powers[np.arange(_TABLE) >> bit & 1 == 1] *= root
  return powers


_POWERS = _powers()


def _in_blocks(function, x):
  """Return an elementwise function of an array, which is evaluated one block at a time."""
  if x.size <= BLOCK:
    return function(x)
  flat = x.reshape(-1)
  result = np.empty_like(flat)
  for start in range(0, len(flat), BLOCK):
    result[start : start + BLOCK] = function(flat[start : start + BLOCK])
  return result.reshape(x.shape)


def exp(x: np.ndarray) -> np.ndarray:
  """Return e^x; x is clipped to -690 .. 690."""
  loops = KERNELS.loops
  if loops is None:
    return _in_blocks(elementwise_exp, x)
  result = np.empty(x.shape)
  loops.exp(np.ascontiguousarray(x, np.float64).reshape(-1), result.reshape(-1))
  return result


def elementwise_exp(x: Any) -> Any:
  """Return the same for an array, or for a number, for which Numba compiles this."""
  x = clip(x, -_LARGEST, _LARGEST)
  steps = np.rint(x * _PER_STEP)
  r = x - steps * _STEP_HIGH
  r -= steps * _STEP_LOW  # |r| <= ln 2 / 128
  series = r * (1 / 120) + (1 / 24)
  for coefficient in (1 / 6, 1 / 2, 1.0, 1.0):
    series *= r
    series += coefficient
  whole = np.int64(steps)
  series *= _POWERS[whole & (_TABLE - 1)]
  exponent = (whole >> _TABLE_BITS) + 1023
  series *= np.int64(exponent << 52).view(np.float64)
  return series


def log(x: np.ndarray) -> np.ndarray:
  """Return the natural logarithm of x from 2^-1022 to 2^1022."""
  return _in_blocks(elementwise_log, x)


def elementwise_log(x: Any) -> Any:
  """Return the same for an array or a number, as `elementwise_exp`."""
  exponent = (np.float64(x).view(np.int64) >> 52) - 1022
  mantissa = x * np.int64((1023 - exponent) << 52).view(np.float64)  # x = mantissa 2^exponent; of NaN it is NaN
  small = mantissa < 0.70710678118654752
  mantissa = mantissa + mantissa * small
  exponent = exponent - small
  s = (mantissa - 1) / (mantissa + 1)
  square = s * s
  series = square * (1 / 15)
  for divisor in (13, 11, 9, 7, 5, 3):
    series += 1 / divisor
    series *= square
  series += 1
  series *= s + s
  return series + exponent * _LN2_LOW + exponent * _LN2_HIGH


def clip(x: Any, low: float, high: float) -> Any:
  """Return the nearest value from low to high, of an array or a number."""
  return np.clip(x, low, high)


def choose(condition: Any, a: Any, b: Any) -> Any:
  """Return a where a condition is true, and b elsewhere."""
  return np.where(condition, a, b)


def sigmoids(x: Any) -> tuple[Any, Any]:
  """Return sigmoid(x) and sigmoid(-x), both without cancellation, of an array or a number."""
  e = exp(-np.abs(x))
  large = 1 / (1 + e)
  small = e * large
  positive = x > 0
  return choose(positive, large, small), choose(positive, small, large)


def tanh(x: np.ndarray) -> np.ndarray:
  """Return the hyperbolic tangent."""
  e = exp(-2 * np.abs(x))
  return np.copysign((1 - e) / (1 + e), x)


def concat_elu(x: np.ndarray) -> np.ndarray:
  """Return elu of `[x, -x]` on the last axis."""
  small = exp(-np.abs(x)) - 1
  first = np.where(x > 0, x, small)
  second = np.where(x < 0, -x, small)
  return np.concatenate([first, second], axis=-1)


def total(x: np.ndarray, axis: int = -1) -> np.ndarray:
  """Return the sum over an axis, term by term: the order of `np.sum` depends on the processor."""
  slices = x if axis == 0 else np.moveaxis(x, axis, 0)
  result = slices[0].copy()
  for term in slices[1:]:
    result += term
  return result
