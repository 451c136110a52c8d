"""Photographs larger than a model's images, which is trained on crops of them at random positions.

As an array, photographs are the crops of a grid, side by side from the top left corner of each: an epoch has as many
images, the first and last of them identify the data, and validation and test are measured on them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from flowpp_tf.core.arguments import as_array, check_arguments, check_count, check_shape_of_images
from flowpp_tf.core.errors import InputError
from flowpp_tf.types import Shape


class RandomCrops:
  """Crops of photographs, uint8 `[N, H, W, C]`; indexing cuts those of the grid.

  Args:
    pixels: of all photographs, row by row, one after the other: uint8 `[P, C]`, in memory or memory-mapped.
    sizes: `(height, width)` of each photograph, at least `(H, W)`.
    image_shape: `(H, W, C)` of a crop.
    most: how many crops of the grid to keep, evenly spread; None for all.

  Raises:
    InputError (a ValueError): if the pixels are not those of photographs of such sizes, or a photograph is too small.

  Examples:
    >>> from flowpp_tf.data import RandomCrops
    >>> photograph = np.zeros([20, 30, 3], np.uint8)
    >>> crops = RandomCrops(photograph.reshape([-1, 3]), sizes=[(20, 30)], image_shape=(10, 10, 3))
    >>> crops.shape, crops[0].shape
    ((6, 10, 10, 3), (10, 10, 3))
  """

  dtype = np.dtype(np.uint8)

  @check_arguments
  def __init__(
    self, pixels: np.ndarray, sizes: Sequence[tuple[int, int]], image_shape: Shape, most: int | None = None
  ) -> None:
    _check(pixels, sizes, image_shape, most)
    self._photographs, first = [], 0
    for rows, columns in sizes:
      self._photographs.append(pixels[first : first + rows * columns].reshape(rows, columns, -1))
      first += rows * columns
    self._size = np.asarray(image_shape[:2])
    self._positions = _Places(np.asarray(sizes) - self._size + 1)
    self._grid = _Places(np.asarray(sizes) // self._size)
    count = self._grid.count if most is None else min(most, self._grid.count)
    self.shape: tuple[int, ...] = (count, *image_shape)

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, index: Any) -> np.ndarray:
    chosen = np.arange(len(self))[index]
    which, corners = self._grid.find(chosen.ravel() * self._grid.count // len(self))
    crops = self._cut(which, corners * self._size)
    return crops.reshape(*chosen.shape, *self.shape[1:])

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    del copy  # the result is a new array in any case
    return np.asarray(self[:], dtype)

  @check_arguments
  def random_crops(self, draws: np.ndarray) -> np.ndarray:
    """Return the crops at the positions that `draws` choose, all equally likely.

    Args:
      draws: uniform in [0, 1), `[B]`, float64: its 53 bits are enough for any position.

    Returns:
      uint8 `[B, H, W, C]`.
    """
    draws, count = as_array("draws", draws, [None]), self._positions.count
    if not np.all((draws >= 0) & (draws < 1)):
      raise InputError(f"`draws` must lie in [0, 1), got values from {draws.min()} to {draws.max()}")
    return self._cut(*self._positions.find(np.minimum((draws * count).astype(np.int64), count - 1)))

  def _cut(self, which, corners):
    crops = np.empty((len(which), *self.shape[1:]), np.uint8)
    height, width = self._size
    for crop, photograph, (top, left) in zip(crops, which, corners):
      crop[...] = self._photographs[photograph][top : top + height, left : left + width]
    return crops


def _check(pixels, sizes, image_shape, most):
  """Raise an `InputError` unless these are the arguments of `RandomCrops`."""
  check_shape_of_images("image_shape", image_shape)
  if most is not None:
    check_count("most", most, most=2**31 - 1)
  array = as_array("sizes", sizes, [None, 2])
  if array.dtype.kind not in "iu" or not np.all(array >= image_shape[:2]):
    raise InputError(f"`sizes` must be integers of at least {tuple(image_shape[:2])}, got {sizes}")
  count = int(np.sum(np.prod(array, axis=1)))
  if getattr(pixels, "dtype", None) != np.uint8 or pixels.shape != (count, image_shape[2]):
    raise InputError(
      f"`pixels` must be uint8 of shape ({count}, {image_shape[2]}), as `sizes` and `image_shape` say, got "
      + (
        f"{pixels.dtype} of shape {pixels.shape}" if isinstance(pixels, np.ndarray) else f"a `{type(pixels).__name__}`"
      )
    )


class _Places:
  """Numbers the places of all photographs, row by row: `[rows, columns]` of them in each."""

  def __init__(self, counts):
    self._columns = counts[:, 1]
    self._ends = np.cumsum(np.prod(counts, axis=1, dtype=np.int64))
    self.count = int(self._ends[-1])

  def find(self, numbers):
    """The photograph of each place `[B]`, and its row and column `[B, 2]`."""
    which = np.searchsorted(self._ends, numbers, side="right")
    inside = numbers - np.concatenate([[0], self._ends])[which]
    return which, np.stack(np.divmod(inside, self._columns[which]), axis=1)
