"""Images of any size as tiles of a model's size.

Tiles are in row-major order. Those that reach over the right or the lower edge repeat the last column or row, which
costs few bits and is cut off again.
"""

import numpy as np


def count_tiles(height: int, width: int, tile_shape: tuple[int, int, int]) -> int:
  """Return the number of tiles of an image."""
  return -(-height // tile_shape[0]) * -(-width // tile_shape[1])


def to_tiles(image: np.ndarray, tile_shape: tuple[int, int, int]) -> np.ndarray:
  """Return an image `[H, W, C]` as tiles `[N, h, w, C]`."""
  (height, width, channels), (h, w, _) = image.shape, tile_shape
  rows, columns = -(-height // h), -(-width // w)
  padded = np.pad(image, ((0, rows * h - height), (0, columns * w - width), (0, 0)), mode="edge")
  return padded.reshape(rows, h, columns, w, channels).swapaxes(1, 2).reshape(-1, h, w, channels)


def from_tiles(tiles: np.ndarray, height: int, width: int) -> np.ndarray:
  """Return the image `[H, W, C]` of tiles `[N, h, w, C]`."""
  _, h, w, channels = tiles.shape
  rows, columns = -(-height // h), -(-width // w)
  image = tiles.reshape(rows, columns, h, w, channels).swapaxes(1, 2).reshape(rows * h, columns * w, channels)
  return image[:height, :width]
