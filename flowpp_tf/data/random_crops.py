"""Photographs larger than a model's images, which is trained on crops of them at random positions.

As an array, photographs are the crops of a grid, side by side from the top left corner of each: an epoch has as many
images, the first and last of them identify the data, and validation and test are measured on them.

For a model of tiles that see their neighbours (tiles/neighbours.py) each crop comes with its context. To measure whole
photographs, the grid can cover them: crops at the right and lower edge then repeat the last column or row.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from flowpp_tf.core.checks import as_array, check_arguments, check_count, check_not_masked, check_shape_of_images, shown
from flowpp_tf.core.errors import InputError
from flowpp_tf.tiles.neighbours import OFFSETS, tile_context
from flowpp_tf.types import Shape


class RandomCrops:
  """Crops of photographs, uint8 or uint16 `[N, H, W, C]`; indexing cuts those of the grid.

  Args:
    pixels: of all photographs, row by row, one after the other: uint8 or uint16 `[P, C]`, in memory or memory-mapped.
    sizes: `(height, width)` of each photograph, at least `(H, W)`.
    image_shape: `(H, W, C)` of a crop.
    most: how many crops of the grid to keep, evenly spread; None for all.
    neighbours: whether crops are tiles that come with the context of their neighbours.
    edges: whether the grid covers the photographs, and not only what whole crops cover.
    levels: number of pixel values, which contexts are scaled by; None for that of the dtype.

  Raises:
    InputError (a ValueError): if the pixels are not those of photographs of such sizes, or a photograph is too small.

  Examples:
    >>> from flowpp_tf.data import RandomCrops
    >>> photograph = np.zeros([20, 30, 3], np.uint8)
    >>> crops = RandomCrops(photograph.reshape([-1, 3]), sizes=[(20, 30)], image_shape=(10, 10, 3))
    >>> crops.shape, crops[0].shape
    ((6, 10, 10, 3), (10, 10, 3))
  """

  @check_arguments
  def __init__(
    self,
    pixels: np.ndarray,
    sizes: Sequence[tuple[int, int]],
    image_shape: Shape,
    most: int | None = None,
    neighbours: bool = False,
    levels: int | None = None,
    edges: bool = False,
  ) -> None:
    _check(pixels, sizes, image_shape, most)
    self.dtype = pixels.dtype
    self._photographs, first = [], 0
    for rows, columns in sizes:
      self._photographs.append(pixels[first : first + rows * columns].reshape(rows, columns, -1))
      first += rows * columns
    if levels is not None:
      check_count("levels", levels, 2, np.iinfo(pixels.dtype).max + 1)
    self.neighbours, self._levels = neighbours, levels or np.iinfo(pixels.dtype).max + 1
    self._arguments, self._edges = (pixels, sizes, image_shape, most), edges
    self._size = np.asarray(image_shape[:2])
    self._positions = _Places(np.asarray(sizes) - self._size + 1)
    self._grid = _Places(-(-np.asarray(sizes) // self._size) if edges else np.asarray(sizes) // self._size)
    count = self._grid.count if most is None else min(most, self._grid.count)
    self.shape: tuple[int, ...] = (count, *image_shape)

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, index: Any) -> np.ndarray:
    chosen = np.arange(len(self))[index]
    return self._cut(*self._of_grid(chosen.ravel())).reshape(*chosen.shape, *self.shape[1:])

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    del copy  # the result is a new array in any case
    return np.asarray(self[:], dtype)

  @check_arguments
  def with_neighbours(self, levels: int | None = None) -> "RandomCrops":
    """Return the same photographs as tiles that come with the context of their neighbours; `levels` as above."""
    return RandomCrops(*self._arguments, neighbours=True, levels=levels)

  def with_edges(self) -> "RandomCrops":
    """Return the same photographs with a grid that covers them."""
    return RandomCrops(*self._arguments, neighbours=self.neighbours, levels=self._levels, edges=True)

  @check_arguments
  def inside(self, indices: np.ndarray) -> np.ndarray:
    """Return the rows and columns of crops of the grid that lie inside of their photographs, int64 `[B, 2]`."""
    which, corners = self._of_grid(self._checked(indices))
    sizes = np.array([self._photographs[number].shape[:2] for number in which]).reshape(len(which), 2)
    return np.minimum(sizes - corners, self._size)

  @check_arguments
  def random_crops(self, draws: np.ndarray) -> np.ndarray:
    """Return the crops at the positions that `draws` choose, all equally likely.

    Args:
      draws: uniform in [0, 1), `[B]`, float64: its 53 bits are enough for any position.

    Returns:
      Of the dtype of the pixels, `[B, H, W, C]`.
    """
    return self._cut(*self._drawn(draws))

  @check_arguments
  def tiles(self, indices: np.ndarray, shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return crops of the grid, `[B, H, W, C]`, and their contexts, float32 `[B, H, W, 3 C + 4]`.

    Args:
      indices: of the crops, integers `[B]`.
      shift: how many of the lower bits to leave out.
    """
    which, corners = self._of_grid(self._checked(indices))
    return self._with_context(which, corners, shift, np.zeros(len(which), bool))

  @check_arguments
  def random_tiles(self, draws: np.ndarray, mirrored: np.ndarray, shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the crops that `draws` choose, as `random_crops`, and their contexts, as `tiles`.

    Args:
      draws: as for `random_crops`.
      mirrored: bool `[B]`, whether to take a crop from the photograph mirrored left to right.
      shift: as for `tiles`.
    """
    which, corners = self._drawn(draws)
    mirrored = as_array("mirrored", mirrored, [len(which)])
    if mirrored.dtype.kind != "b":
      raise InputError(f"`mirrored` must be bool, got {mirrored.dtype}")
    return self._with_context(which, corners, shift, mirrored)

  def _checked(self, indices):
    indices = as_array("indices", indices, [None])
    if indices.dtype.kind not in "iu" or not np.all((indices >= 0) & (indices < len(self))):
      raise InputError(f"`indices` must be integers in 0 .. {len(self) - 1}, got {shown(indices)}")
    return indices

  def _of_grid(self, indices):
    """The photograph of each crop of the grid, and the position of its corner."""
    which, places = self._grid.find(indices * self._grid.count // len(self))
    return which, places * self._size

  def _drawn(self, draws):
    draws, count = as_array("draws", draws, [None]), self._positions.count
    if not np.all((draws >= 0) & (draws < 1)):
      raise InputError(f"`draws` must lie in [0, 1), got values from {draws.min()} to {draws.max()}")
    return self._positions.find(np.minimum((draws * count).astype(np.int64), count - 1))

  def _cut(self, which, corners):
    if self._edges:
      return self._cut_regions(which, corners, np.zeros(len(which), bool))[:, -1]
    crops = np.empty((len(which), *self.shape[1:]), self.dtype)
    height, width = self._size
    for crop, photograph, (top, left) in zip(crops, which, corners):
      crop[...] = self._photographs[photograph][top : top + height, left : left + width]
    return crops

  def _cut_regions(self, which, corners, mirrored):
    """Return the neighbours of each crop and the crop itself, `[B, 4, H, W, C]`, edges of photographs repeated."""
    regions = np.empty((len(which), len(OFFSETS) + 1, *self.shape[1:]), self.dtype)
    for region, number, corner, flip in zip(regions, which, corners, mirrored):
      photograph = self._photographs[number][:, ::-1] if flip else self._photographs[number]
      for tile, offset in zip(region, (*OFFSETS, (0, 0))):
        rows, columns = (
          np.clip(start + np.arange(size), 0, most - 1)
          for start, size, most in zip(corner + offset * self._size, self._size, photograph.shape)
        )
        tile[...] = photograph[rows[:, np.newaxis], columns]
    return regions

  def _with_context(self, which, corners, shift, mirrored):
    check_count("shift", shift, 0, 7)
    regions = self._cut_regions(which, corners, mirrored) >> shift
    present = np.stack([np.all(corners + offset * self._size >= 0, axis=1) for offset in OFFSETS], axis=1)
    context = tile_context(regions[:, :-1], present, self._levels >> shift)
    return regions[:, -1], context.astype(np.float32)


def _check(pixels, sizes, image_shape, most):
  """Raise an `InputError` unless these are the arguments of `RandomCrops`."""
  check_shape_of_images("image_shape", image_shape)
  if most is not None:
    check_count("most", most, high=2**31 - 1)
  check_not_masked("pixels", pixels)
  array = as_array("sizes", sizes, [None, 2])
  if array.dtype.kind not in "iu" or not np.all(array >= image_shape[:2]):
    raise InputError(f"`sizes` must be integers of at least {tuple(image_shape[:2])}, got {sizes}")
  count = int(np.sum(np.prod(array, axis=1)))
  if getattr(pixels, "dtype", None) not in (np.uint8, np.uint16) or pixels.shape != (count, image_shape[2]):
    raise InputError(
      f"`pixels` must be uint8 or uint16 of shape ({count}, {image_shape[2]}), as `sizes` and `image_shape` say, got "
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
