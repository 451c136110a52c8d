"""The context of a tile of a larger picture: what is known of the picture when the tile is coded.

Tiles are coded row by row, so that the left, the upper and the upper left neighbour of a tile are known. Each is
mirrored at the side or corner that it shares with the tile: its nearest pixels then lie on the tile's nearest ones, and
a network of small convolutions sees across the seam. The last channels say which neighbours there are; of the very last
one, which is 1, a convolution with zeros around the tile sees where the tile ends.

    [left, upper, upper left: C channels each; left?, upper?, upper left?, 1]       3 C + 4 channels
"""

import numpy as np

NEIGHBOURS = ("left", "upper", "upper left")
# From a tile to each of its neighbours, in rows and columns of tiles.
OFFSETS = ((0, -1), (-1, 0), (-1, -1))


def context_channels(channels: int) -> int:
  """Return the number of channels of the context of tiles with so many channels."""
  return len(NEIGHBOURS) * (channels + 1) + 1


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
