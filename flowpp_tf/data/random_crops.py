"""Photographs larger than a model's images, which is trained on crops of them at random positions.

As an array, photographs are the crops of a grid, next to each other from the top left corner of each: an epoch has as
many images, the first and last of them identify the data, and validation and test are measured on them.

For a model of tiles that see their neighbours (tiles/neighbours.py) the pipeline gives each crop the context of its
neighbours. To measure whole photographs, the grid can cover them: crops at the right and lower edge then repeat the
last column or row.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from flowpp_tf.core.checks import INT32_MAX, as_array, check_arguments, check_count, check_shape_of_images, shown
from flowpp_tf.core.errors import InputError
from flowpp_tf.data.source import Images, ImageSource, ReducedBits
from flowpp_tf.tiles.neighbours import OFFSETS
from flowpp_tf.types import Shape


class Places(NamedTuple):
  """Where crops are: the number of each photograph, int64 `[B]`, and the row and column of each corner, `[B, 2]`."""

  photographs: np.ndarray
  corners: np.ndarray


class RandomCrops(ImageSource):
  """Crops of photographs, uint8 or uint16 `[N, H, W, C]`; indexing cuts the crops of the grid.

  Args:
    pixels: of all photographs, row by row, one after the other: uint8 or uint16 `[P, C]`, in memory or memory-mapped.
    sizes: `(height, width)` of each photograph, at least `(H, W)`.
    image_shape: `(H, W, C)` of a crop.
    most: how many crops of the grid to keep, evenly spread; None for all.
    neighbours: whether crops are tiles that come with the context of their neighbours.
    edges: whether the grid covers the photographs, and not only what whole crops cover.
    levels: number of pixel values, which contexts are scaled by; None for the number of values of the dtype.
    balanced: whether a photograph's share of the random crops grows with the square root of its area, so that a large
      one does not supply most of them; else all positions of all photographs are equally likely.

  Raises:
    InputError (a ValueError): if the number of pixels does not match the sizes, or a photograph is too small.

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
    balanced: bool = False,
  ) -> None:
    pixels = as_array("pixels", pixels)
    _check(pixels, sizes, image_shape, most, levels)
    self._arguments = pixels, sizes, image_shape, most
    self.dtype = pixels.dtype
    self.neighbours = neighbours
    self.levels = levels or np.iinfo(pixels.dtype).max + 1
    self._edges = edges
    self._balanced = balanced
    sides = np.asarray(sizes)
    areas = np.prod(sides, axis=1, dtype=np.int64)
    ends = np.cumsum(areas)
    parts = np.split(pixels, ends[:-1])
    self._photographs = [part.reshape(*size, -1) for part, size in zip(parts, sides)]
    self._size = np.asarray(image_shape[:2])
    self._positions = _Numbering(sides - self._size + 1)
    self._counts = counts = np.diff(self._positions.ends, prepend=0)
    # Photographs of one size have the same draws either way, to the last bit.
    self._shares = counts
    if balanced:
      self._shares = np.sqrt(areas / areas.max()) * counts[np.argmax(areas)]
    tiles_per_side = sides // self._size
    if edges:
      tiles_per_side = -(-sides // self._size)
    self._grid = _Numbering(tiles_per_side)
    count = self._grid.count
    if most is not None:
      count = min(most, count)
    self.shape = count, *image_shape

  def __getitem__(self, index: Any) -> np.ndarray:
    chosen = np.arange(len(self))[index]
    tiles = self.cut(self.grid_places(chosen.ravel()))
    return tiles.reshape(*chosen.shape, *self.shape[1:])

  @check_arguments
  def with_neighbours(self, levels: int | None = None) -> "RandomCrops":
    """Return the same photographs as tiles that come with the context of their neighbours; `levels` as above."""
    return RandomCrops(*self._arguments, neighbours=True, levels=levels, balanced=self._balanced)

  def with_edges(self) -> "RandomCrops":
    """Return the same photographs with a grid that covers them."""
    return RandomCrops(*self._arguments, self.neighbours, self.levels, edges=True, balanced=self._balanced)

  def grid_places(self, indices: np.ndarray) -> Places:
    """Return the places of crops of the grid, whose indices are integers `[B]`."""
    indices = as_array("indices", indices, [None])
    if indices.dtype.kind not in "iu" or not np.all((indices >= 0) & (indices < len(self))):
      raise InputError(f"`indices` must be integers in 0 .. {len(self) - 1}, got {shown(indices)}")
    which, cells = self._grid.find(indices * self._grid.count // len(self))
    return Places(which, cells * self._size)

  def random_places(self, draws: np.ndarray) -> Places:
    """Return the places that `draws` choose; places in one photograph are equally likely.

    Args:
      draws: uniform in [0, 1), `[B]`, float64: its 53 bits are enough for any position.
    """
    draws = as_array("draws", draws, [None])
    if not np.all((draws >= 0) & (draws < 1)):
      raise InputError(f"`draws` must lie in [0, 1), got values from {draws.min()} to {draws.max()}")
    chosen, starts = draws * np.sum(self._shares), np.cumsum(self._shares) - self._shares
    which = np.searchsorted(starts, chosen, side="right") - 1
    counts = self._counts[which]
    inside = (chosen - starts[which]) * (counts / self._shares[which])
    return self._positions.find(self._positions.ends[which] - counts + np.minimum(inside.astype(np.int64), counts - 1))

  def cut(self, places: Places) -> np.ndarray:
    """Return the crops at some places, `[B, H, W, C]`."""
    if self._edges:
      return self.cut_regions(places)[0][:, -1]
    crops = np.empty((len(places.photographs), *self.shape[1:]), self.dtype)
    height, width = self._size
    for crop, photograph, (top, left) in zip(crops, *places):
      crop[...] = self._photographs[photograph][top : top + height, left : left + width]
    return crops

  def cut_regions(self, places: Places, mirrored: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return crops with their neighbours.

    Args:
      places: of the crops.
      mirrored: bool `[B]`, whether to take a crop from the photograph mirrored left to right; None for no mirroring.

    Returns:
      The neighbours of each crop in the order of `OFFSETS` and the crop itself, `[B, 4, H, W, C]`, edges of photographs
      repeated; and whether the photograph has these neighbours, bool `[B, 3]`.
    """
    offsets = self._size * (*OFFSETS, (0, 0))
    regions = np.empty((len(places.photographs), len(offsets), *self.shape[1:]), self.dtype)
    for n, (number, corner) in enumerate(zip(*places)):
      photograph = self._photographs[number]
      if mirrored is not None and mirrored[n]:
        photograph = photograph[:, ::-1]
      for region, (top, left) in zip(regions[n], corner + offsets):
        rows = np.clip(top + np.arange(self._size[0]), 0, photograph.shape[0] - 1)
        columns = np.clip(left + np.arange(self._size[1]), 0, photograph.shape[1] - 1)
        region[...] = photograph[rows[:, np.newaxis], columns]
    present = np.all(places.corners[:, np.newaxis] + offsets[:-1] >= 0, axis=-1)
    return regions, present

  def inside(self, indices: np.ndarray) -> np.ndarray:
    """Return the rows and columns of crops of the grid that lie inside of their photographs, int64 `[B, 2]`."""
    which, corners = self.grid_places(indices)
    return np.minimum(np.asarray(self._arguments[1])[which] - corners, self._size)


def crops_of(pictures: np.ndarray, image_shape: Shape, most: int | None = None) -> RandomCrops:
  """Return the `RandomCrops` of pictures of one size, `[N, H, W, C]`."""
  return RandomCrops(pictures.reshape(-1, pictures.shape[-1]), [pictures.shape[1:3]] * len(pictures), image_shape, most)


def photographs_of(images: Images) -> RandomCrops | None:
  """Return the photographs that images are crops of, with all bits, or None if they are not crops."""
  source = images.source if isinstance(images, ReducedBits) else images
  return source if isinstance(source, RandomCrops) else None


def tiles_of(images: Images) -> RandomCrops | None:
  """Return the `photographs_of` images that come with the context of their neighbours, or None if they do not."""
  photographs = photographs_of(images)
  return photographs if photographs is not None and photographs.neighbours else None


def _check(pixels, sizes, image_shape, most, levels):
  """Raise an `InputError` unless these are the arguments of `RandomCrops`."""
  check_shape_of_images("image_shape", image_shape)
  if most is not None:
    check_count("most", most, high=INT32_MAX)
  array = as_array("sizes", sizes, [None, 2])
  if array.dtype.kind not in "iu" or not np.all(array >= image_shape[:2]):
    raise InputError(f"`sizes` must be integers of at least {tuple(image_shape[:2])}, got {sizes}")
  expected = int(np.sum(np.prod(array, axis=1))), image_shape[2]
  if pixels.dtype not in (np.uint8, np.uint16) or pixels.shape != expected:
    raise InputError(f"`pixels` must be uint8 or uint16 of shape {expected}, as `sizes` says, got {shown(pixels)}")
  if levels is not None:
    check_count("levels", levels, 2, np.iinfo(pixels.dtype).max + 1)


class _Numbering:
  """Numbers the positions of all photographs, row by row: `[rows, columns]` of them in each."""

  def __init__(self, counts):
    self._columns = counts[:, 1]
    self.ends = np.cumsum(np.prod(counts, axis=1, dtype=np.int64))
    self.count = int(self.ends[-1])

  def find(self, numbers):
    """Return the `Places` of positions `[B]`."""
    which = np.searchsorted(self.ends, numbers, side="right")
    inside = numbers - np.concatenate([[0], self.ends])[which]
    return Places(which, np.stack(np.divmod(inside, self._columns[which]), axis=1))
