"""The training images closest to given images, by L2 distance of pixel values: are samples copies of them?"""

import numpy as np

from flowpp_tf.core.checks import MOST_LEVELS, check_arguments, check_pixels
from flowpp_tf.core.errors import InputError
from flowpp_tf.data.source import Images, as_images
from flowpp_tf.evaluation.batched_model import batches
from flowpp_tf.evaluation.typicality import typical_indices

_CHUNK_BYTES = 2**26  # of float64
_MOST_COMPARED = 60_000


@check_arguments
def nearest_neighbours(images: np.ndarray, training_images: Images, neighbours: int) -> tuple[np.ndarray, np.ndarray]:
  """Return the closest training images, in float64, which is exact for integer pixel values.

  Args:
    images: integers, `[N, H, W, C]`.
    training_images: integers, `[M, H, W, C]`, anything that NumPy can index; read once, in chunks of some MiB.
    neighbours: K, the number of neighbours of each image.

  Returns:
    Indices `[N, K]`, closest first and the lower index first of equal ones, and L2 distances `[N, K]` in levels.
    Divided by sqrt(H W C), the distances are root mean squares.

  Raises:
    InputError (a ValueError): if `neighbours` is not in 1 .. M, the shapes do not fit, or a value is none of a pixel.

  Examples:
    >>> from flowpp_tf.data import load_dataset
    >>> from flowpp_tf.evaluation import nearest_neighbours
    >>> digits = load_dataset("digits")
    >>> indices, distances = nearest_neighbours(digits.train[5:6], digits.train, neighbours=3)
    >>> int(indices[0, 0]), float(distances[0, 0])
    (5, 0.0)
  """
  images, training_images = np.asarray(as_images("images", images)), as_images("training_images", training_images)
  if not 1 <= neighbours <= len(training_images):
    raise InputError(f"`neighbours` must be from 1 to the {len(training_images)} training images, got {neighbours}")
  if tuple(images.shape[1:]) != tuple(training_images.shape[1:]):
    raise InputError(
      "`images` must be of the training images' shape "
      f"{tuple(training_images.shape[1:])}, got {tuple(images.shape[1:])}"
    )
  rows = _rows("images", images)
  norms = np.einsum("ij,ij->i", rows, rows)
  indices, squares = np.empty([len(rows), 0], np.int64), np.empty([len(rows), 0])
  for part in batches(len(training_images), max(1, _CHUNK_BYTES // (8 * rows.shape[1]))):
    others = _rows("training_images", training_images[part])
    new = norms[:, np.newaxis] - 2 * (rows @ others.T) + np.einsum("ij,ij->i", others, others)
    squares = np.concatenate([squares, new], axis=1)
    indices = np.concatenate([indices, np.broadcast_to(np.arange(part.start, part.stop), new.shape)], axis=1)
    if neighbours == 1:  # the first of equal ones too, in a small part of the time
      nearest = np.argmin(squares, axis=1, keepdims=True)
    else:
      nearest = np.argsort(squares, axis=1, kind="stable")[:, :neighbours]
    indices = np.take_along_axis(indices, nearest, axis=1)
    squares = np.take_along_axis(squares, nearest, axis=1)
  return indices, np.sqrt(squares)


def _rows(name, images):
  """Return images as float64 `[N, H W C]`; the squares of larger integers than pixel values would be rounded."""
  images = np.asarray(images)
  check_pixels(images, MOST_LEVELS, name)
  return images.astype(np.float64).reshape(len(images), -1)


def compared_images(training_images: Images) -> Images:
  """Return the training images among which nearest ones are looked for: all, or 60,000 of more, evenly spread."""
  if len(training_images) <= _MOST_COMPARED:
    return training_images
  return np.asarray(training_images[typical_indices(len(training_images), _MOST_COMPARED)])
