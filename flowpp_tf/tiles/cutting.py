"""Images of any size as tiles of a model's size.

Tiles are in row-major order. Those that reach over the right or the lower edge repeat the last column or row. A model
whose tiles see their neighbours codes only the part of such a tile that lies inside, up to a few rows and columns: its
networks are convolutional, so that it is a model of smaller tiles too. Other models code whole tiles.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from flowpp_tf.core.checks import as_array, shown
from flowpp_tf.core.errors import InputError

# Of how many sizes models of cut tiles are kept: each takes seconds to make, and pictures of one size have three.
KEPT_SIZES = 8


def check_whole_tiles(name: str, shape: Sequence[int], tile_shape: tuple[int, ...], levels: int | None) -> None:
  """Raise an `InputError` for a picture `[H, W, C]` of real numbers (`levels` None) that is not cut into whole tiles.

  The repeated pixels of a tile at an edge would add to the density of real numbers what the picture has not.
  """
  (height, width), (h, w) = shape[:2], tile_shape[:2]
  if levels is None and (height % h or width % w):
    raise InputError(f"`{name}` of real numbers must consist of whole tiles of {h}x{w} (HxW), got {height}x{width}")


def check_inside(inside: np.ndarray, count: int, tile_shape: Sequence[int]) -> np.ndarray:
  """Return how many rows and columns of each tile lie inside of its picture, as an array `[count, 2]`.

  Raises:
    InputError (a ValueError): unless these are integers from 1 to the sides of a tile.
  """
  inside = as_array("inside", inside, [count, 2])
  if inside.dtype.kind not in "iu" or not np.all((inside >= 1) & (inside <= tile_shape[:2])):
    raise InputError(f"`inside` must be integers from 1 to the sides of a tile, got {shown(inside)}")
  return inside


def count_tiles(height: int, width: int, tile_shape: tuple[int, int, int]) -> int:
  """Return the number of tiles of an image."""
  return -(-height // tile_shape[0]) * -(-width // tile_shape[1])


def coded_sizes(inside: np.ndarray, tile_shape: tuple[int, int, int], step: tuple[int, int]) -> np.ndarray:
  """Return how many rows and columns of tiles are coded, `[..., 2]`.

  Args:
    inside: rows and columns from a tile's upper left corner to the edges of its picture, integers `[..., 2]`.
    tile_shape: `(H, W, C)`.
    step: rows and columns of which the result is a multiple, as of `config.structure.size_step`.
  """
  return np.minimum(-(-np.asarray(inside) // step) * step, tile_shape[:2])


def cropped_weights(
  weights: Sequence[np.ndarray], shapes: Sequence[Sequence[int]], image_shape: Sequence[int], step: tuple[int, int]
) -> list[np.ndarray]:
  """Return the weights of a model of images for one of smaller images.

  Args:
    weights: arrays; of positions `[H, W, ...]` where their shape is not that in `shapes`.
    shapes: those of the model of smaller images.
    image_shape: `(H, W, C)` of the model that has the weights.
    step: rows and columns of images that stay together, as of `config.structure.size_step`.
  """
  cropped = []
  for whole, shape in zip(weights, shapes, strict=True):
    if whole.shape != tuple(shape):
      whole = without_middle(whole, shape[0], shape[1], unit_of(whole.shape, image_shape, step))
    cropped.append(whole)
  return cropped


def unit_of(shape: Sequence[int], image_shape: Sequence[int], step: tuple[int, int]) -> tuple[int, int]:
  """Return the positions of a tensor `[h, w, ...]` of the flow that come from `step` rows and columns of images."""
  rows, columns = (part * size // whole for part, size, whole in zip(step, shape, image_shape))
  return rows, columns


def without_middle(array: np.ndarray, height: int, width: int, unit: tuple[int, int]) -> np.ndarray:
  """Return what belongs to the positions `[height, width, ...]` of a smaller image, of an array `[H, W, ...]`.

  Positions near an edge stay so: those in the middle are left out, where positions differ least. They are left out in
  multiples of `unit`, as of `unit_of`, so that it makes no difference whether this or a squeeze comes first.
  """
  for axis, (part, size) in enumerate(zip((height, width), unit)):
    whole = array.shape[axis]
    if part != whole:
      first = -(-part // (2 * size)) * size
      array = np.take(array, [*range(first), *range(whole - part + first, whole)], axis=axis)
  return array


def by_size(sizes: np.ndarray) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
  """Yield each of the sizes `[N, 2]`, and the indices of the tiles that have it."""
  found, which = np.unique(sizes, axis=0, return_inverse=True)
  for number, (height, width) in enumerate(found.tolist()):
    yield (height, width), np.flatnonzero(which.reshape(-1) == number)


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
