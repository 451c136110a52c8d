"""Loops of layers.py for compiled.py, which imports this file where Numba is installed.

They take contiguous float64 matrices with a row for each pixel, and write to their last argument. Each operation on
real numbers is that of layers.py, in the same order; the order of sums of integers does not matter.
"""

import math

import numba
import numpy as np

from flowpp_tf.compression import layers
from flowpp_tf.compression.loops import loop, one_exp

_LARGEST, _ONE = layers.LARGEST, 2.0**layers.FRACTION
_SQUARE, _EPSILON = 2.0**layers.SQUARE_FRACTION, layers.LAYER_NORM_EPSILON
_matrix, _vector, _count, _yes_or_no = numba.float64[:, ::1], numba.float64[::1], numba.int64, numba.boolean


@loop(_matrix, _yes_or_no, _matrix)
def round_inputs(x: np.ndarray, elu: bool, rounded: np.ndarray) -> None:
  """The integers of x, or of its concat_elu."""
  count, channels = x.shape
  for i in range(count):
    if elu:
      for k in range(channels):
        value = x[i, k]
        small = one_exp(-abs(value)) - 1
        first, second = value if value > 0 else small, small if value > 0 else -value
        rounded[i, k] = np.rint(min(max(first, -_LARGEST), _LARGEST) * _ONE)
        rounded[i, channels + k] = np.rint(min(max(second, -_LARGEST), _LARGEST) * _ONE)
    else:
      for k in range(channels):
        rounded[i, k] = np.rint(min(max(x[i, k], -_LARGEST), _LARGEST) * _ONE)


@loop(_matrix, _count, _count, _count, _count, _count, numba.float64, _vector, _matrix)
def add_products(
  products: np.ndarray,
  rows: int,
  above: int,
  height: int,
  width: int,
  size: int,
  scale: float,
  bias: np.ndarray,
  y: np.ndarray,
) -> None:
  """The outputs of a convolution from the products of each pixel with the kernel at each of its places.

  Args:
    products: `[N R W, size^2 D]`, of R rows of N images; what is beyond counts as zeros.
    rows: R.
    above: how many of these rows are above those of y.
    height: rows of y.
    width: W.
    size: of the kernel.
    scale: of the products.
    bias: `[D]`.
    y: `[N height W, D]`.
  """
  margin, outputs = size // 2, y.shape[1]
  for i in range(len(y)):
    line, column = i // width, i % width
    image = line // height
    row = line - image * height + above
    to = y[i]
    to[:] = 0
    for dy in range(max(margin - row, 0), min(rows + margin - row, size)):
      for dx in range(max(margin - column, 0), min(width + margin - column, size)):
        place = (image * rows + row + dy - margin) * width + column + dx - margin
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
      result[i, k] = min(max(x[i, k], -_LARGEST), _LARGEST)
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
