"""Apply ActNorm and 1x1 convolutions to integers on grids, which costs no bits.

A tensor of the flow is an array of integers n on a grid: value = scale n + shift. Each position has a scale and a
shift, which are the same for all images; smaller images lack those in the middle. ActNorm only changes the
grid. A 1x1 convolution with the matrix W on a grid with the scales a is the matrix M = diag(a) W on integers, and
M = P L D U: a permutation P, unit-triangular L and U, and a diagonal D, which becomes the new grid's scales. The
triangles are lifts,

    n_i += round(sum_j n_j L_ji),   one i after the other,

which are inverted exactly on integers (the lifting scheme of wavelets and of integer flows).
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import numpy as np

from flowpp_tf.compression import portable_math
from flowpp_tf.compression.stack import check_inside
from flowpp_tf.tiles.cutting import resize_middle, unit_of

_SMALLEST_SCALE = 1e-10
_LARGEST = 2.0**60


@dataclasses.dataclass(frozen=True)
class Grid:
  """Map integers to real values: value = scale n + shift, each of the tensor's shape without the batch.

  Smaller images lack positions in the middle, in multiples of `unit` (tiles/cutting.py).
  """

  scale: np.ndarray
  shift: np.ndarray
  unit: tuple[int, int] = (1, 1)

  @classmethod
  def uniform(cls, shape: tuple[int, ...], step: float, shift: float = 0.0, unit: tuple[int, int] = (1, 1)) -> Grid:
    """Return a grid with the same step and shift at each position."""
    return cls(np.full(shape, step), np.full(shape, shift), unit)

  def part(self, height: int, width: int) -> Grid:
    """Return the grid of smaller images."""
    scale = resize_middle(self.scale, (height, width), self.unit)
    shift = resize_middle(self.shift, (height, width), self.unit)
    return Grid(scale, shift, self.unit)

  def values(self, n: np.ndarray) -> np.ndarray:
    """Map grid indices `[N, H, W, C]`, of these images or smaller, to real values."""
    part = self.part(*n.shape[1:3])
    return n * part.scale + part.shift

  def places(self, values: np.ndarray) -> np.ndarray:
    """Map real values, as of `values`, to grid indices, which are not rounded."""
    part = self.part(*values.shape[1:3])
    return (values - part.shift) / part.scale

  def rearranged(self, function: Callable[[np.ndarray], np.ndarray]) -> Grid:
    """Return the grid of `function(n)`, where `function` moves the elements of a batch."""
    scale = function(self.scale[None])[0]
    shift = function(self.shift[None])[0]
    unit = unit_of(scale.shape, self.scale.shape, self.unit)
    return Grid(scale, shift, unit)

  def halves(self) -> tuple[Grid, Grid]:
    """Return the grids of both halves of the last axis."""
    half = self.scale.shape[-1] // 2
    return self.rearranged(lambda n: n[..., :half]), self.rearranged(lambda n: n[..., half:])

  def beside(self, other: Grid) -> Grid:
    """Return the grid of both tensors, concatenated on the last axis."""
    scale = np.concatenate([self.scale, other.scale], axis=-1)
    shift = np.concatenate([self.shift, other.shift], axis=-1)
    return Grid(scale, shift, self.unit)


class Lifts:
  """ActNorm and 1x1 convolution of a coupling step, on integers.

  Args:
    grid: of the step's input, `[H, W, C]`.
    scale: ActNorm's, `[H, W, C]`.
    bias: ActNorm's, `[H, W, C]`.
    kernel: a matrix for each half, `[2, C / 2, C / 2]`; None for the identity.

  Attributes:
    grid: of the output.
  """

  def __init__(self, grid: Grid, scale: np.ndarray, bias: np.ndarray, kernel: np.ndarray | None) -> None:
    # Weights of an archive's model may have any shape; they must not make the grid larger.
    scale = np.broadcast_to(scale, grid.scale.shape)
    bias = np.broadcast_to(bias, grid.scale.shape)
    factor = np.maximum(scale.astype(np.float64), _SMALLEST_SCALE)
    shift = grid.shift * factor + bias.astype(np.float64)
    self.grid = Grid(grid.scale * factor, shift, grid.unit)
    self._lifts: list[tuple[int, range, np.ndarray]] = []  # i, the j, and the factors of the j
    *places, channels = grid.scale.shape
    half = channels // 2
    if kernel is None:
      kernel = np.stack([np.eye(half)] * 2)
    kernel = kernel.astype(np.float64).reshape(2, half, half)
    mixed = portable_math.total(self.grid.shift.reshape(*places, 2, half, 1) * kernel, axis=-2)
    # A row vector of integers times this matrix.
    matrices = self.grid.scale.reshape(*places, 2, half, 1) * kernel
    self._order, diagonal, lower, upper = _decompose(matrices)
    for i in range(half - 1):
      self._lifts.append((i, range(i + 1, half), lower[..., i]))
    for i in range(half - 1, 0, -1):
      self._lifts.append((i, range(i), upper[..., i]))
    self.grid = Grid(diagonal.reshape(*places, channels), mixed.reshape(*places, channels), grid.unit)

  def forward(self, n: np.ndarray) -> np.ndarray:
    """Return the integers of the output, int64 `[N, H, W, C]`, or of smaller images.

    Raises:
      WindowError: if they are too large.
    """
    halves = n.reshape(*n.shape[:-1], 2, -1)
    order = self._part(self._order, n)
    halves = np.take_along_axis(halves, order[None], axis=-1)
    for i, rows, factors in self._lifts:
      halves[..., i] += _rounded_sum(halves, rows, self._part(factors, n))
    return halves.reshape(n.shape)

  def inverse(self, n: np.ndarray) -> np.ndarray:
    """Return the integers of the input; errors as for `forward`."""
    halves = n.reshape(*n.shape[:-1], 2, -1).copy()
    for i, rows, factors in self._lifts[::-1]:
      halves[..., i] -= _rounded_sum(halves, rows, self._part(factors, n))
    order = self._part(self._order, n)
    result = np.empty_like(halves)
    np.put_along_axis(result, np.broadcast_to(order, halves.shape), halves, axis=-1)
    return result.reshape(n.shape)

  def _part(self, array, n):
    """Return what belongs to the positions of n `[N, H, W, C]`."""
    return resize_middle(array, n.shape[1:3], self.grid.unit)


def _rounded_sum(n, rows, factors):
  """Return round(sum over the rows j of n_j factors_j), one addition after the other."""
  result = 0.0
  for j in rows:
    result = result + n[..., j] * factors[..., j]
  check_inside(np.abs(result) < _LARGEST, np.shape(result))
  return np.rint(result).astype(np.int64)


def _decompose(matrices):
  """Decompose `[..., C, C]` as M = P L diag(D) U, by Gaussian elimination with row pivots.

  The loops are explicit so that every machine rounds alike: the order of LAPACK's sums depends on the processor.

  Returns:
    The row of M for each row of L, `[..., C]`; D, `[..., C]`; a matrix with L below its diagonal; and one with U above
    its diagonal, whose columns are divided by D so that it applies to a row vector that D has scaled.
  """
  size = matrices.shape[-1]
  work = matrices.reshape(-1, size, size).copy()
  order = np.tile(np.arange(size), (len(work), 1))
  each = np.arange(len(work))
  for k in range(size):
    pivot = k + np.argmax(np.abs(work[:, k:, k]), axis=-1)
    for array in (work, order):
      array[each, k], array[each, pivot] = array[each, pivot], array[each, k]
    factors = work[:, k + 1 :, k] / work[:, k, k, None]
    work[:, k + 1 :, k] = factors
    work[:, k + 1 :, k + 1 :] -= factors[..., None] * work[:, k, None, k + 1 :]
  work = work.reshape(matrices.shape)
  order = order.reshape(matrices.shape[:-1])
  diagonal = np.diagonal(work, axis1=-2, axis2=-1).copy()
  return order, diagonal, work, work / diagonal[..., None, :]
