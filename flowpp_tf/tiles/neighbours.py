"""Tiles that see their neighbours: the context of a tile, and where the tiles of a segment lie in their pictures.

The context is what is known of the larger picture when a tile is coded. Tiles are coded row by row, so that the left,
the upper and the upper left neighbour of a tile are known. Each is mirrored at the side or corner that it shares with
the tile: its nearest pixels then lie on the tile's nearest ones, and a network of small convolutions sees across the
seam. The last channels say which neighbours exist. The very last one is 1: a convolution, which pads the tile with
zeros, sees from it where the tile ends.

    [left, upper, upper left: C channels each; left?, upper?, upper left?, 1]       3 C + 4 channels

A run is a part of a picture's tiles: u32 height and width of the picture, index of the first tile in row-major order,
and number of tiles. A tile does not see neighbours in another segment, so that each segment is decoded without the
others.

A tile is decoded after its neighbours. The tiles of a wave, from all pictures, have one size and are decoded together.
The first waves have the whole tiles, by row plus column. Tiles cut off at the right edge follow, size by size and by
row, then tiles cut off at the lower edge, by column, then corners. No whole tile has a neighbour that is cut off. The
stack returns last what was pushed first, so later waves are pushed first.
"""

from __future__ import annotations

from collections.abc import Sequence
import itertools

import numpy as np

from flowpp_tf.tiles.cutting import coded_sizes
from flowpp_tf.types import Shape

NEIGHBOURS = ("left", "upper", "upper left")
# From a tile to each of its neighbours, in rows and columns of tiles.
OFFSETS = ((0, -1), (-1, 0), (-1, -1))

RUN = np.dtype([(name, "<u4") for name in ("height", "width", "first", "count")])


def tile_context(neighbours: np.ndarray, present: np.ndarray, levels: int) -> np.ndarray:
  """Return the context of tiles.

  Args:
    neighbours: integers `[N, 3, H, W, C]`, in the order of `NEIGHBOURS`; values of missing neighbours are ignored.
    present: bool `[N, 3]`, whether the neighbour exists.
    levels: number of pixel values.

  Returns:
    float64 `[N, H, W, 3 C + 4]` in [-1, 1]: pixel value v is 2 v / (levels - 1) - 1, a missing neighbour 0.
  """
  count, _, height, width, _ = neighbours.shape
  values = 2 * (neighbours / (levels - 1)) - 1
  values = np.where(present[:, :, np.newaxis, np.newaxis, np.newaxis], values, 0.0)
  left = values[:, 0, :, ::-1]
  upper = values[:, 1, ::-1]
  upper_left = values[:, 2, ::-1, ::-1]
  flags = np.column_stack([present, np.ones(count, bool)])
  flags_shape = (count, height, width, flags.shape[-1])
  flags = np.broadcast_to(flags[:, np.newaxis, np.newaxis], flags_shape)
  return np.concatenate([left, upper, upper_left, flags], axis=-1)


class TileLayout:
  """Where the tiles of a segment lie in their pictures.

  Args:
    tile_shape: `(H, W, C)`.
    runs: array of dtype `RUN`, in the order of the tiles.
    step: the coded part of a tile is a multiple of these rows and columns (cutting.py).

  Attributes:
    runs: the argument.
    inside: int64 `[N, 2]`, rows and columns of each tile that lie inside its picture.
    sizes: int64 `[N, 2]`, rows and columns of each tile that are coded.
    waves: int64 `[N]`: a tile's neighbours are in lower waves, and all tiles of a wave have one size.
    order: int64 `[N]`, the tiles in the order in which they are pushed.

  Raises:
    ValueError: if a run has no tiles, or more than its picture has.
  """

  def __init__(self, tile_shape: Shape, runs: np.ndarray, step: tuple[int, int]) -> None:
    self.runs = runs
    size = np.array(tile_shape[:2])
    pictures = np.column_stack([runs["height"], runs["width"]]).astype(np.int64)
    first = runs["first"].astype(np.int64)
    counts = runs["count"].astype(np.int64)
    grids = -(-pictures // size)
    is_empty = (counts == 0) | np.any(grids == 0, axis=-1)
    is_too_long = first + counts > np.prod(grids, axis=-1)
    if np.any(is_empty | is_too_long):
      raise ValueError("its layout is invalid")
    run = np.repeat(np.arange(len(runs)), counts)  # the run of each tile
    starts = np.cumsum(counts) - counts
    in_run = np.arange(len(run)) - starts[run]
    columns = grids[run, 1]
    position = np.column_stack(np.divmod(first[run] + in_run, columns))
    self.inside = np.minimum(pictures[run] - position * size, size)
    self.sizes = coded_sizes(self.inside, tile_shape, step)
    self._neighbours = np.full((len(run), len(OFFSETS)), -1)
    for k, (row, column) in enumerate(OFFSETS):
      distance = row * columns + column  # in tiles, in row-major order
      in_picture = np.all(position + (row, column) >= 0, axis=-1)
      exists = in_picture & (in_run + distance >= 0)
      self._neighbours[exists, k] = np.flatnonzero(exists) + distance[exists]
    self.waves = _waves(position, self.sizes, self.sizes < size)
    self.order = np.argsort(-self.waves, kind="stable")

  @classmethod
  def from_runs(cls, tile_shape: Shape, runs: Sequence[tuple[int, ...]], step: tuple[int, int]) -> TileLayout:
    """Return the layout of runs `(height, width, first, count)`."""
    array = np.array(list(runs), RUN)
    return cls(tile_shape, array, step)

  @classmethod
  def from_single_tiles(cls, tile_shape: Shape, count: int) -> TileLayout:
    """Return the layout of `count` pictures of one tile each."""
    height, width, _ = tile_shape
    return cls.from_runs(tile_shape, [(height, width, 0, 1)] * count, (height, width))

  def first_wave(self, indices: list[int]) -> list[int]:
    """Return the first of `indices`, and the tiles right after it in the same wave."""
    wave = self.waves[indices[0]]
    return list(itertools.takewhile(lambda index: self.waves[index] == wave, indices))

  def context(self, tiles: np.ndarray, indices: np.ndarray, levels: int) -> np.ndarray:
    """Return the context of the tiles `indices`, see `tile_context`, given all tiles `[N, H, W, C]`."""
    neighbours = self._neighbours[indices]
    present = neighbours >= 0
    return tile_context(tiles[neighbours], present, levels)


def _waves(position, sizes, is_cut):
  """Return the wave of each tile, given its row and column, its size, and which sides are less than a whole tile's."""
  cut_sides = np.sum(is_cut, axis=-1)
  steps = np.sum(position * ~is_cut, axis=-1)
  keys = np.column_stack([cut_sides, sizes, steps])
  _, waves = np.unique(keys, axis=0, return_inverse=True)
  return waves.reshape(len(keys))
