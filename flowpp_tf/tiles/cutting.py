"""Cut images of any size into tiles of a model's size, and put them together again.

Tiles are in row-major order. A tile that reaches over the right or the lower edge repeats the last column or row. A
model whose tiles see their neighbours codes only the part of such a tile that lies inside the image, rounded up to a
few rows and columns: its networks are convolutional, so it also models smaller tiles. Other models code whole tiles.
"""

from collections.abc import Iterator, Sequence
import math

import numpy as np

from flowpp_tf.core.checks import as_array, shown
from flowpp_tf.core.errors import InputError
from flowpp_tf.types import Shape

# How many models of cut tiles are cached, one for each size: building one takes seconds, and pictures of one size have
# three sizes of cut tiles.
KEPT_SIZES = 8


def check_whole_tiles(name: str, shape: Shape, tile_shape: Shape, levels: int | None) -> None:
  """Raise an `InputError` if a picture `[H, W, C]` of real numbers (`levels` is None) does not fill whole tiles.

  The density of real numbers would count the repeated pixels of a tile at an edge, which the picture does not have.
  """
  height, width = shape[:2]
  h, w = tile_shape[:2]
  is_cut = height % h > 0 or width % w > 0
  if levels is None and is_cut:
    raise InputError(f"`{name}` of real numbers must consist of whole tiles of {h}x{w} (HxW), got {height}x{width}")


def check_inside(inside: np.ndarray, count: int, tile_shape: Shape) -> np.ndarray:
  """Return how many rows and columns of each tile lie inside of its picture, as an array `[count, 2]`.

  Raises:
    InputError (a ValueError): unless these are integers from 1 to the sides of a tile.
  """
  inside = as_array("inside", inside, [count, 2])
  is_integer = inside.dtype.kind in "iu"
  if not is_integer or np.any(inside < 1) or np.any(inside > tile_shape[:2]):
    raise InputError(f"`inside` must be integers from 1 to the sides of a tile, got {shown(inside)}")
  return inside


def grid_of_tiles(height: int, width: int, tile_shape: Shape) -> tuple[int, int]:
  """Return how many rows and columns of tiles cover an image."""
  rows = math.ceil(height / tile_shape[0])
  columns = math.ceil(width / tile_shape[1])
  return rows, columns


def count_tiles(height: int, width: int, tile_shape: Shape) -> int:
  """Return the number of tiles of an image."""
  rows, columns = grid_of_tiles(height, width, tile_shape)
  return rows * columns


def coded_sizes(inside: np.ndarray, tile_shape: Shape, step: tuple[int, int]) -> np.ndarray:
  """Return how many rows and columns of tiles are coded, `[..., 2]`.

  Args:
    inside: rows and columns from a tile's upper left corner to the edges of its picture, integers `[..., 2]`.
    tile_shape: `(H, W, C)`.
    step: the result is a multiple of these rows and columns, see `config.structure.size_step`.
  """
  steps = -(-np.asarray(inside) // step)
  return np.minimum(steps * step, tile_shape[:2])


def cropped_weights(
  weights: Sequence[np.ndarray], shapes: Sequence[Shape], image_shape: Shape, step: tuple[int, int]
) -> list[np.ndarray]:
  """Crop the weights of a model so that they fit a model of smaller images.

  Args:
    weights: arrays. Those whose shape differs from the one in `shapes` belong to positions `[H, W, ...]`.
    shapes: shapes of the weights of the model of smaller images.
    image_shape: `(H, W, C)` of the model that has the weights.
    step: rows and columns of images that stay together, see `config.structure.size_step`.
  """
  cropped = []
  for whole, shape in zip(weights, shapes, strict=True):
    if whole.shape == tuple(shape):
      cropped.append(whole)
    else:
      unit = unit_of(whole.shape, image_shape, step)
      cropped.append(resize_middle(whole, shape, unit))
  return cropped


def unit_of(shape: Shape, image_shape: Shape, step: tuple[int, int]) -> tuple[int, int]:
  """Return the positions of a tensor `[h, w, ...]` of the flow that come from `step` rows and columns of images."""
  rows = step[0] * shape[0] // image_shape[0]
  columns = step[1] * shape[1] // image_shape[1]
  return rows, columns


def resize_middle(array: np.ndarray, shape: Shape, unit: tuple[int, int]) -> np.ndarray:
  """Return an array `[H, W, ...]` of positions for images of another size, whose `shape` is `(height, width, ...)`.

  Positions near an edge stay near it. In the middle, where positions differ least, some are left out for a smaller
  image, and the central ones are repeated for a larger one, both in multiples of `unit`, see `unit_of`, so that
  resizing and squeezing commute.
  """
  for axis, (new, size) in enumerate(zip(shape, unit)):
    old = array.shape[axis]
    if new != old:
      first = math.ceil(min(old, new) / (2 * size)) * size
      last = min(old, new) - first
      centre = old // (2 * size) * size
      repeated = [centre + i % size for i in range(new - old)]
      places = [*range(first), *repeated, *range(old - last, old)]
      array = np.take(array, places, axis=axis)
  return array


def by_size(sizes: np.ndarray) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
  """Yield each distinct size in `sizes`, `[N, 2]`, and the indices of the tiles that have it."""
  for height, width in np.unique(sizes, axis=0).tolist():
    has_size = np.all(sizes == (height, width), axis=-1)
    yield (height, width), np.flatnonzero(has_size)


def to_tiles(image: np.ndarray, tile_shape: Shape) -> np.ndarray:
  """Cut an image `[H, W, C]` into tiles `[N, h, w, C]`."""
  height, width, channels = image.shape
  h, w = tile_shape[:2]
  rows, columns = grid_of_tiles(height, width, tile_shape)
  below = (0, rows * h - height)
  right = (0, columns * w - width)
  padded = np.pad(image, [below, right, (0, 0)], mode="edge")
  grid = padded.reshape(rows, h, columns, w, channels)
  return grid.swapaxes(1, 2).reshape(-1, h, w, channels)


def from_tiles(tiles: np.ndarray, height: int, width: int) -> np.ndarray:
  """Put tiles `[N, h, w, C]` together to the image `[height, width, C]`."""
  _, h, w, channels = tiles.shape
  rows, columns = grid_of_tiles(height, width, (h, w))
  grid = tiles.reshape(rows, columns, h, w, channels)
  image = grid.swapaxes(1, 2).reshape(rows * h, columns * w, channels)
  return image[:height, :width]
