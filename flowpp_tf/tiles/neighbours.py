"""Tiles that see their neighbours: the context of a tile, and where the tiles of a segment lie in their pictures.

The context is what is known of the larger picture when a tile is coded. Tiles are coded row by row, so that the left,
the upper and the upper left neighbour of a tile are known. Each is mirrored at the side or corner that it shares with
the tile: its nearest pixels then lie on the tile's nearest ones, and a network of small convolutions sees across the
seam. The last channels say which neighbours there are; of the very last one, which is 1, a convolution with zeros
around the tile sees where the tile ends.

    [left, upper, upper left: C channels each; left?, upper?, upper left?, 1]       3 C + 4 channels

A run is a part of a picture's tiles: u32 height and width of the picture, number of its first tile in row-major order,
and how many tiles. A neighbour in another segment is not seen, so that each segment is decoded without the others.

A tile is decoded after its neighbours. All tiles of a wave, of all pictures, have one size and can be decoded together:
first whole tiles by row plus column, then those that are cut off at the right edge, size by size and by row, those at
the lower edge by column, and those of corners. No whole tile has a neighbour that is cut off. The stack returns last
what was pushed first: later waves are pushed first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flowpp_tf.tiles.cutting import coded_sizes

NEIGHBOURS = ("left", "upper", "upper left")
# From a tile to each of its neighbours, in rows and columns of tiles.
OFFSETS = ((0, -1), (-1, 0), (-1, -1))

RUN = np.dtype([("height", "<u4"), ("width", "<u4"), ("first", "<u4"), ("count", "<u4")])


def tile_context(neighbours: np.ndarray, present: np.ndarray, levels: int) -> np.ndarray:
  """Return the context of tiles.

  Args:
    neighbours: integers, `[N, 3, H, W, C]`, in the order of `NEIGHBOURS`; where there is none, anything.
    present: bool `[N, 3]`, whether there is a neighbour.
    levels: number of pixel values.

  Returns:
    float64 `[N, H, W, 3 C + 4]` in [-1, 1]: pixel value v is 2 v / (levels - 1) - 1, a missing neighbour 0.
  """
  shown = present[:, :, np.newaxis, np.newaxis, np.newaxis]
  values = np.where(shown, 2 * (neighbours / (levels - 1)) - 1, 0.0)
  mirrored = [values[:, 0, :, ::-1], values[:, 1, ::-1], values[:, 2, ::-1, ::-1]]
  flags = np.pad(present, ((0, 0), (0, 1)), constant_values=True)[:, np.newaxis, np.newaxis]
  return np.concatenate([*mirrored, np.broadcast_to(flags, (*values[:, 0].shape[:-1], flags.shape[-1]))], axis=-1)


class TileLayout:
  """Where tiles lie.

  Args:
    tile_shape: `(H, W, C)`.
    runs: of the dtype `RUN`, in the order of the tiles.
    step: rows and columns of which the coded part of a tile is a multiple (cutting.py).

  Attributes:
    runs: as given.
    inside: int64 `[N, 2]`, rows and columns of each tile that lie inside of its picture.
    sizes: int64 `[N, 2]`, rows and columns of each tile that are coded.
    waves: int64 `[N]`: a tile's neighbours are in lower waves, and all tiles of a wave have one size.
    order: int64 `[N]`, the tiles in the order in which they are pushed.

  Raises:
    ValueError: for runs that pictures do not have.
  """

  def __init__(self, tile_shape: tuple[int, int, int], runs: np.ndarray, step: tuple[int, int]) -> None:
    self.runs = runs
    size, counts = np.array(tile_shape[:2]), runs["count"].astype(np.int64)
    number = np.repeat(np.arange(len(runs)), counts)  # of the run of each tile
    pictures, first = np.stack([runs["height"], runs["width"]], axis=-1).astype(np.int64), runs["first"].astype(int)
    grids = -(-pictures // size)
    if (grids == 0).any() or (counts == 0).any() or (first + counts > grids[:, 0] * grids[:, 1]).any():
      raise ValueError("its layout is invalid")
    in_run = np.arange(len(number)) - (np.cumsum(counts) - counts)[number]
    place = in_run + first[number]
    columns = grids[number, 1]
    position = np.stack(np.divmod(place, columns), axis=-1)
    self.inside = np.minimum(pictures[number] - position * size, size)
    self.sizes = coded_sizes(self.inside, tile_shape, step)
    self._neighbours = np.full((len(number), len(OFFSETS)), -1)
    for k, (row, column) in enumerate(OFFSETS):
      neighbour = row * columns + column
      there = (np.min(position + (row, column), axis=-1) >= 0) & (in_run + neighbour >= 0)
      self._neighbours[there, k] = np.flatnonzero(there) + neighbour[there]
    self.waves = _waves(position, self.sizes, self.sizes < size)
    self.order = np.argsort(-self.waves, kind="stable")

  @classmethod
  def from_runs(
    cls, tile_shape: tuple[int, int, int], runs: Sequence[tuple[int, int, int, int]], step: tuple[int, int]
  ) -> TileLayout:
    """Return the layout of runs `(height, width, first, count)`."""
    return cls(tile_shape, np.array(list(runs), RUN), step)

  @classmethod
  def from_single_tiles(cls, tile_shape: tuple[int, int, int], count: int) -> TileLayout:
    """Return the layout of tiles that are pictures of their own."""
    return cls.from_runs(tile_shape, [(*tile_shape[:2], 0, 1)] * count, tile_shape[:2])

  def of_one_wave(self, indices: list[int]) -> list[int]:
    """Return the first of `indices`, and those after it that are of its wave."""
    other = np.flatnonzero(self.waves[indices] != self.waves[indices[0]])
    return indices[: other[0]] if len(other) else indices

  def context(self, tiles: np.ndarray, indices: np.ndarray, levels: int) -> np.ndarray:
    """Return the context of the tiles `indices`, as of `tile_context`, from those of all `[N, H, W, C]`."""
    neighbours = self._neighbours[indices]
    return tile_context(tiles[neighbours], neighbours >= 0, levels)


def _waves(position, sizes, is_cut):
  """Return the waves of tiles by row and column, their sizes, and whether these are less than a whole tile's."""
  steps = np.sum(position * ~is_cut, axis=-1)
  keys = np.column_stack([np.sum(is_cut, axis=-1), sizes, steps])
  return np.unique(keys, axis=0, return_inverse=True)[1].reshape(len(keys))
