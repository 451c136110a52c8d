"""The training images closest to given ones, by L2 distance of pixel values: are samples copies of them?

    |a - b|^2 = |a|^2 + |b|^2 - 2 a.b, exact in float64 for integers
"""

import numpy as np

from flowpp_tf.errors import InputError
from flowpp_tf.evaluation.batched import batches

_CHUNK_BYTES = 2**26  # of float64


def nearest_neighbours(images, training_images, neighbours):
  """Finds the closest images among many.

  Args:
    images: integers, `[N, H, W, C]`.
    training_images: integers, `[M, H, W, C]`, anything that NumPy can index: it is read once, a part
      of some MiB after the other.
    neighbours: K, how many to find for each.

  Returns:
    Indices `[N, K]`, closest first and the lower index first of equal ones, and L2 distances `[N, K]` in
    levels; divided by sqrt(H W C) they are root mean squares.

  Raises:
    InputError (a ValueError): if `neighbours` is not in 1 .. M, or the shapes do not fit.
  """
  if not 1 <= neighbours <= len(training_images):
    raise InputError(f"`neighbours` must be from 1 to the {len(training_images)} training images, got "
                     f"{neighbours}")
  if tuple(images.shape[1:]) != tuple(training_images.shape[1:]):
    raise InputError("`images` must be of the training images' shape "
                     f"{tuple(training_images.shape[1:])}, got {tuple(images.shape[1:])}")
  a = _flat(images)
  squares = _squares(a)[:, np.newaxis]
  indices = np.empty([len(a), 0], np.int64)
  distances = np.empty([len(a), 0])
  for part in batches(len(training_images), max(1, _CHUNK_BYTES // (8 * a.shape[1]))):
    b = _flat(training_images[part])
    distances = np.concatenate([distances, squares + _squares(b) - 2 * (a @ b.T)], axis=1)
    indices = np.concatenate(
        [indices, np.broadcast_to(np.arange(part.start, part.stop), [len(a), len(b)])], axis=1)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :neighbours]
    indices, distances = (np.take_along_axis(x, nearest, axis=1) for x in (indices, distances))
  return indices, np.sqrt(distances)


def _flat(images):
  return np.asarray(images, np.float64).reshape(len(images), -1)


def _squares(rows):
  return np.einsum("ij,ij->i", rows, rows)
