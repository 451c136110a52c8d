"""Loops of networks.py for compiled.py, which imports this file where Numba is installed.

They take contiguous float64 matrices with a row for each pixel, and write to their last argument. Each operation on
real numbers is that of networks.py, in the same order; the order of sums of integers does not matter.
"""

import math

import numba
import numpy as np

from flowpp_tf.compression import networks
from flowpp_tf.compression.loops import loop, one_exp

_LARGEST, _ONE = networks.LARGEST, 2.0**networks.FRACTION
_SQUARE, _EPSILON = 2.0**networks.SQUARE_FRACTION, networks.LAYER_NORM_EPSILON
_matrix, _vector, _count, _yes_or_no = numba.float64[:, ::1], numba.float64[::1], numba.int64, numba.boolean


@loop(_matrix, _count, _count, _count, _yes_or_no, _matrix)
def round_inputs(x: np.ndarray, height: int, width: int, margin: int, elu: bool, rounded: np.ndarray) -> None:
  """The integers of x `[N H W, C]`, or of its concat_elu, as rows of a matrix with zeros behind rows and images."""
  count, channels = x.shape
  columns = width + margin
  for i in range(count):
    row, column = i // width, i % width
    image = row // height
    to = rounded[margin * columns + margin + (image * (height + margin) + row - image * height) * columns + column]
    for k in range(channels):
      value = x[i, k]
      if elu:
        small = one_exp(-abs(value)) - 1
        negated = small if value > 0 else -value
        value = value if value > 0 else small
        to[channels + k] = np.rint(min(max(negated, -_LARGEST), _LARGEST) * _ONE)
      to[k] = np.rint(min(max(value, -_LARGEST), _LARGEST) * _ONE)


@loop(_matrix, _count, _count, _count, _count, numba.float64, _vector, _matrix)
def add_products(
  products: np.ndarray, first: int, height: int, width: int, size: int, scale: float, bias: np.ndarray, y: np.ndarray
) -> None:
  """For rows from `first` on of padded images, the sum of the size^2 products of shifted pixels, `[., size^2 D]`."""
  margin, outputs = size // 2, y.shape[1]
  columns, rows = width + margin, height + margin
  for i in range(len(products) - (size - 1) * (columns + 1)):
    row, column = (first + i) // columns, (first + i) % columns
    image = row // rows
    if column >= width or row - image * rows >= height:
      continue
    to = y[(image * height + row - image * rows) * width + column]
    for shift in range(size * size):
      product = products[i + shift // size * columns + shift % size, shift * outputs : (shift + 1) * outputs]
      for k in range(outputs):
        to[k] = product[k] if shift == 0 else to[k] + product[k]
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
