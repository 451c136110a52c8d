"""Photographs larger than a model's images, which is trained on crops of them at random positions.

As an array, photographs are the crops of a grid, side by side from the top left corner of each: an epoch has as many
images, the first and last of them identify the data, and validation and test are measured on them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from flowpp_tf.types import Shape


class Photographs:
  """Crops of photographs, uint8 `[N, H, W, C]`; indexing cuts those of the grid.

  Args:
    pixels: of all photographs, row by row, one after the other: uint8 `[P, C]`, in memory or memory-mapped.
    sizes: `(height, width)` of each photograph, at least `(H, W)`.
    image_shape: `(H, W, C)` of a crop.
    most: how many crops of the grid to keep, evenly spread; None for all.
  """

  dtype = np.dtype(np.uint8)

  def __init__(self, pixels: np.ndarray, sizes: Sequence[tuple[int, int]], image_shape: Shape,
               most: int | None = None) -> None:
    height, width, _ = image_shape
    self._views, first = [], 0
    for rows, columns in sizes:
      self._views.append(pixels[first:first + rows * columns].reshape(rows, columns, -1))
      first += rows * columns
    self._size = height, width
    self._places = np.asarray([(rows - height + 1, columns - width + 1) for rows, columns in sizes])
    # A photograph is chosen in proportion to the positions that a crop has in it.
    self._ends = np.cumsum(np.prod(self._places, axis=1, dtype=np.int64))
    grid = [(i, top, left) for i, (rows, columns) in enumerate(sizes)
            for top in range(0, rows - height + 1, height) for left in range(0, columns - width + 1, width)]
    if most is not None and len(grid) > most:
      grid = [grid[i * len(grid) // most] for i in range(most)]
    self._grid = np.asarray(grid)
    self.shape: tuple[int, ...] = (len(grid), *image_shape)

  def __len__(self) -> int:
    return len(self._grid)

  def __getitem__(self, index: Any) -> np.ndarray:
    chosen = self._grid[index]
    return self._crop(*chosen) if chosen.ndim == 1 else self._stack(chosen)

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    del copy  # the result is a new array in any case
    return np.asarray(self[:], dtype)

  def random_crops(self, draws: np.ndarray) -> np.ndarray:
    """Return the crops at the positions that `draws` choose, all equally likely.

    Args:
      draws: uniform in [0, 1), `[B]`, float64: its 53 bits are enough for any position.

    Returns:
      uint8 `[B, H, W, C]`.
    """
    places = np.minimum((draws * self._ends[-1]).astype(np.int64), self._ends[-1] - 1)
    which = np.searchsorted(self._ends, places, side="right")
    inside = places - np.concatenate([[0], self._ends])[which]
    return self._stack(np.stack([which, *np.divmod(inside, self._places[which, 1])], axis=1))

  def _stack(self, places):
    if not len(places):
      return np.empty((0, *self.shape[1:]), np.uint8)
    return np.stack([self._crop(*place) for place in places])

  def _crop(self, photograph, top, left):
    height, width = self._size
    return self._views[photograph][top:top + height, left:left + width]
