"""Constant linear maps on grids: ActNorm and 1x1 convolution without a bit of cost.

A tensor of the flow is an array of integers n on a grid, value = scale n + shift, with a scale and a shift for each
position, the same for all images. ActNorm only changes the grid. A 1x1 convolution with the matrix W on a grid with
the scales a is the matrix M = diag(a) W on integers, and M = P L D U: a permutation P, unit-triangular L and U,
diagonal D, which becomes the new grid's scales. The triangles are lifts,

    n_i += round(sum_j n_j L_ji),   one i after the other,

which integers undo exactly (the lifting scheme of wavelets and of integer flows).
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import numpy as np

from flowpp_tf.compression.stack import check_inside

_SMALLEST_SCALE = 1e-10
_LARGEST = 2.0**60


@dataclasses.dataclass(frozen=True)
class Grid:
  """Scales and shifts, each of the tensor's shape without the batch."""

  scale: np.ndarray
  shift: np.ndarray

  @classmethod
  def uniform(cls, shape: tuple[int, ...], step: float, shift: float = 0.0) -> Grid:
    """Return a grid that is the same everywhere."""
    return cls(np.full(shape, step), np.full(shape, shift))

  def values(self, n: np.ndarray) -> np.ndarray:
    """Return the values of integers `[N, ...]`."""
    return n * self.scale + self.shift

  def places(self, values: np.ndarray) -> np.ndarray:
    """Return where values lie on the grid, as real numbers."""
    return (values - self.shift) / self.scale

  def rearranged(self, function: Callable[[np.ndarray], np.ndarray]) -> Grid:
    """Return the grid after `function`, which moves the elements of a batch."""
    return Grid(function(self.scale[None])[0], function(self.shift[None])[0])

  def halves(self) -> tuple[Grid, Grid]:
    """Return the grids of both halves of the last axis."""
    half = self.scale.shape[-1] // 2
    return (Grid(self.scale[..., :half], self.shift[..., :half]), Grid(self.scale[..., half:], self.shift[..., half:]))

  def beside(self, other: Grid) -> Grid:
    """Return the grid of both tensors, one behind the other on the last axis."""
    return Grid(*(np.concatenate(pair, axis=-1) for pair in zip((self.scale, self.shift), (other.scale, other.shift))))


class Lifts:
  """ActNorm and 1x1 convolution of a coupling step, on integers.

  Args:
    grid: of the step's input, `[H, W, C]`.
    scale: ActNorm's, `[H, W, C]`.
    bias: ActNorm's, `[H, W, C]`.
    kernel: a matrix for each half, `[2, C / 2, C / 2]`, or None.

  Attributes:
    grid: of the output.
  """

  def __init__(self, grid: Grid, scale: np.ndarray, bias: np.ndarray, kernel: np.ndarray | None) -> None:
    factor = np.maximum(scale.astype(np.float64), _SMALLEST_SCALE)
    self.grid = Grid(grid.scale * factor, grid.shift * factor + bias.astype(np.float64))
    self._triangles = None
    if kernel is None:
      return
    *places, channels = grid.scale.shape
    half = channels // 2
    scales = self.grid.scale.reshape(*places, 2, half)
    matrices = scales[..., :, None] * kernel.astype(np.float64)  # a row vector of integers times this
    self._order, self._lower, diagonal, self._upper = _decompose(matrices)
    self._triangles = (self._lower, self._upper)
    shifts = self.grid.shift.reshape(*places, 2, half)
    mixed = np.zeros_like(shifts)
    for j in range(half):
      mixed += shifts[..., j, None] * kernel[:, j, :].astype(np.float64)
    self.grid = Grid(diagonal.reshape(*places, channels), mixed.reshape(*places, channels))

  def forward(self, n: np.ndarray) -> np.ndarray:
    """Return the integers of the output, int64 `[N, H, W, C]`.

    Raises:
      WindowError: if they are too large.
    """
    if self._triangles is None:
      return n
    halves = n.reshape(*n.shape[:-1], 2, -1)
    halves = np.take_along_axis(halves, self._order[None], axis=-1)
    size = halves.shape[-1]
    for i in range(size - 1):
      halves[..., i] += _rounded_sum(halves, self._lower, range(i + 1, size), i)
    for i in range(size - 1, 0, -1):
      halves[..., i] += _rounded_sum(halves, self._upper, range(i), i)
    return halves.reshape(n.shape)

  def inverse(self, n: np.ndarray) -> np.ndarray:
    """Return the integers of the input; errors as for `forward`."""
    if self._triangles is None:
      return n
    halves = n.reshape(*n.shape[:-1], 2, -1).copy()
    size = halves.shape[-1]
    for i in range(1, size):
      halves[..., i] -= _rounded_sum(halves, self._upper, range(i), i)
    for i in range(size - 2, -1, -1):
      halves[..., i] -= _rounded_sum(halves, self._lower, range(i + 1, size), i)
    result = np.empty_like(halves)
    np.put_along_axis(result, np.broadcast_to(self._order, halves.shape), halves, axis=-1)
    return result.reshape(n.shape)


def _rounded_sum(n, matrix, rows, column):
  """round(sum over the rows j of n_j matrix_j,column), one addition after the other."""
  result = 0.0
  for j in rows:
    result = result + n[..., j] * matrix[..., j, column]
  check_inside(np.abs(result) < _LARGEST, np.shape(result))
  return np.rint(result).astype(np.int64)


def _decompose(matrices):
  """P, L, D, U of `[..., C, C]`, with M = P L diag(D) U, by Gaussian elimination with row pivots.

  Written out, so that every machine rounds alike: the order of LAPACK's sums is that of the processor.

  Returns:
    Row of M for each row of L, `[..., C]`; L with unit diagonal; D, `[..., C]`; U with unit diagonal, as what a row
    vector that D has scaled is multiplied with: D^-1 comes into its columns.
  """
  work = matrices.copy()
  size = work.shape[-1]
  order = np.broadcast_to(np.arange(size), work.shape[:-1]).copy()
  for k in range(size):
    pivot = np.argmax(np.abs(work[..., k:, k]), axis=-1)[..., None] + k
    here = np.full_like(pivot, k)
    for array, index in ((work, (pivot[..., None], here[..., None])), (order, (pivot, here))):
      axis = -2 if array is work else -1
      there, first = (np.take_along_axis(array, i, axis=axis) for i in index)
      np.put_along_axis(array, index[0], first, axis=axis)
      np.put_along_axis(array, index[1], there, axis=axis)
    for i in range(k + 1, size):
      factor = work[..., i, k] / work[..., k, k]
      work[..., i, k] = factor
      work[..., i, k + 1 :] -= factor[..., None] * work[..., k, k + 1 :]
  diagonal = np.diagonal(work, axis1=-2, axis2=-1).copy()
  identity = np.eye(size)
  lower = np.tril(work, -1) + identity
  upper = np.triu(work, 1) / diagonal[..., None, :] + identity
  return order, lower, diagonal, upper
