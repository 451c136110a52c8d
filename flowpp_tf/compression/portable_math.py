"""Elementary functions that give the same bits on every machine.

IEEE 754 defines +, -, *, /, sqrt and rounding to the last bit, but not exp or log, in which libraries and processors
differ. Here they use the defined operations only, one NumPy operation at a time, so that a compiler cannot fuse two of
them; loops.py has the same for a compiler that does not. Their relative error of about 1e-12 is far below the noise of
the codec.
"""

from __future__ import annotations

from collections.abc import Callable
import functools

import numpy as np

from flowpp_tf.compression.kernels import KERNELS

BLOCK = 1 << 15  # values; temporary arrays of this size stay in a core's cache
TABLE_BITS = 6
_TABLE = 1 << TABLE_BITS
LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")  # 20 of its bits are 0: products with integers below 2^20 are exact
LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
STEP_HIGH, STEP_LOW = LN2_HIGH / _TABLE, LN2_LOW / _TABLE
PER_STEP = float.fromhex("0x1.71547652b82fep+6")  # 64 / ln 2
LARGEST = 690.0  # exp of it and of its negative are far from overflow and from subnormal numbers


def _powers():
  """Return 2^(j / 64) for j = 0 .. 63, as products of the square roots 2^(1/2), 2^(1/4), ..."""
  powers = np.ones(_TABLE)
  root = np.float64(2.0)
  for bit in range(TABLE_BITS - 1, -1, -1):
    root = np.sqrt(root)
    powers[np.arange(_TABLE) >> bit & 1 == 1] *= root
  return powers


POWERS = _powers()


def _in_blocks(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
  """Return an elementwise function that evaluates one block of its argument at a time."""

  @functools.wraps(function)
  def evaluate(x):
    if x.size <= BLOCK:
      return function(x)
    flat = x.reshape(-1)
    result = np.empty_like(flat)
    for start in range(0, len(flat), BLOCK):
      result[start : start + BLOCK] = function(flat[start : start + BLOCK])
    return result.reshape(x.shape)

  return evaluate


def exp(x: np.ndarray) -> np.ndarray:
  """Return e^x; x is clipped to -690 .. 690."""
  loops = KERNELS.loops
  if loops is None:
    return exp_in_numpy(x)
  result = np.empty(x.shape)
  loops.exp(np.ascontiguousarray(x, np.float64).reshape(-1), result.reshape(-1))
  return result


@_in_blocks
def exp_in_numpy(x: np.ndarray) -> np.ndarray:
  """Return the same, an operation at a time."""
  x = np.clip(x, -LARGEST, LARGEST)
  steps = np.rint(x * PER_STEP)
  r = x - steps * STEP_HIGH
  r -= steps * STEP_LOW  # |r| <= ln 2 / 128
  series = r * (1 / 120) + (1 / 24)
  for coefficient in (1 / 6, 1 / 2, 1.0, 1.0):
    series *= r
    series += coefficient
  whole = steps.astype(np.int64)
  series *= POWERS[whole & (_TABLE - 1)]
  exponent = (whole >> TABLE_BITS) + 1023
  exponent <<= 52
  series *= exponent.view(np.float64)
  return series


@_in_blocks
def log(x: np.ndarray) -> np.ndarray:
  """Return the natural logarithm of x > 0."""
  mantissa, exponent = np.frexp(x)
  small = mantissa < 0.70710678118654752
  mantissa = np.where(small, mantissa + mantissa, mantissa)
  exponent = exponent - small
  s = (mantissa - 1) / (mantissa + 1)
  square = s * s
  series = square * (1 / 15)
  for divisor in (13, 11, 9, 7, 5, 3):
    series += 1 / divisor
    series *= square
  series += 1
  series *= s + s
  return series + exponent * LN2_LOW + exponent * LN2_HIGH


def sigmoids(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Return sigmoid(x) and sigmoid(-x), both without cancellation."""
  e = exp(-np.abs(x))
  large = 1 / (1 + e)
  small = e * large
  positive = x > 0
  return np.where(positive, large, small), np.where(positive, small, large)


@_in_blocks
def sigmoid(x: np.ndarray) -> np.ndarray:
  """Return 1 / (1 + e^-x)."""
  return sigmoids(x)[0]


@_in_blocks
def tanh(x: np.ndarray) -> np.ndarray:
  """Return the hyperbolic tangent."""
  e = exp(-2 * np.abs(x))
  return np.copysign((1 - e) / (1 + e), x)


def concat_elu(x: np.ndarray) -> np.ndarray:
  """Return elu of `[x, -x]` on the last axis."""
  return _elu(np.concatenate([x, -x], axis=-1))


@_in_blocks
def _elu(x):
  return np.where(x > 0, x, exp(np.minimum(x, 0)) - 1)


def total(x: np.ndarray, axis: int = -1) -> np.ndarray:
  """Return the sum over an axis, term by term: the order of `np.sum` depends on the processor."""
  slices = x if axis == 0 else np.moveaxis(x, axis, 0)
  result = slices[0].copy()
  for term in slices[1:]:
    result += term
  return result
