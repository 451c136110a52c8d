"""Reconstruct images from their latents, and interpolate between two images.

decode(encode(x)) = x holds in exact arithmetic. In float32 a pixel can be off by one level if its dequantization noise
is within the flow's rounding error of 0 or 1.

Interpolation is on the sphere where latents of a Gaussian lie:

    z(t) = r(t) [sin((1 - t) a) / sin(a) z0 / |z0| + sin(t a) / sin(a) z1 / |z1|]
    r(t) = (1 - t) |z0| + t |z1|,    a the angle between z0 and z1

The directions are interpolated spherically (slerp: Shoemake 1985; of latents: White 2016, "Sampling Generative
Networks"), the norms linearly. A Gaussian of D dimensions has nearly all of its mass at norms close to sqrt(D). The
straight line between two samples leaves that region: halfway its norm is smaller by a factor of about sqrt(2).
"""

import dataclasses

import numpy as np

from flowpp_tf.core.checks import as_array, check_arguments, check_count, pixel_dtype
from flowpp_tf.core.errors import InputError
from flowpp_tf.evaluation.batched_model import LatentModel


def slerp(z0: np.ndarray, z1: np.ndarray, t: np.ndarray) -> np.ndarray:
  """Return points on the arc from one vector to another; the ends are exactly these vectors.

  Args:
    z0: real numbers of any shape.
    z1: real numbers of the same shape.
    t: `[F]`, from 0 for `z0` to 1 for `z1`.

  Returns:
    `[F, *shape]` of the dtype of `z0`. Where the arc is not unique (parallel, opposite or zero vectors), the points lie
    on the straight line.
  """
  first = z0.astype(np.float64)
  last = z1.astype(np.float64)
  norm0 = np.linalg.norm(first)
  norm1 = np.linalg.norm(last)
  weight0 = 1 - t
  weight1 = t
  if norm0 > 0 and norm1 > 0:
    u = first / norm0
    v = last / norm1
    angle = 2 * np.arctan2(np.linalg.norm(u - v), np.linalg.norm(u + v))  # accurate for small angles too
    if np.sin(angle) > 1e-9:
      norm = (1 - t) * norm0 + t * norm1
      weight0 = np.sin((1 - t) * angle) / np.sin(angle) * (norm / norm0)
      weight1 = np.sin(t * angle) / np.sin(angle) * (norm / norm1)
  path = np.multiply.outer(weight0, first) + np.multiply.outer(weight1, last)
  return path.astype(z0.dtype)


@check_arguments
def interpolate(batched: LatentModel, first: np.ndarray, last: np.ndarray, frames: int, seed: int = 0) -> np.ndarray:
  """Return images that interpolate between two images.

  Both images are encoded with the same dequantization noise. The first and last frames are the images themselves, up to
  the rounding that `FlowPlusPlus.encode` describes.

  Args:
    batched: `BatchedModel`.
    first: integers, `[H, W, C]`.
    last: integers, `[H, W, C]`.
    frames: number of images including both ends, at least 2.
    seed: seed of the noise.

  Returns:
    `[frames, H, W, C]`, of the dtype of the model's samples.

  Raises:
    InputError (a ValueError): if there are too few frames, or the images do not fit the model.

  Examples:
    >>> from flowpp_tf.data import load_dataset
    >>> from flowpp_tf.evaluation import BatchedModel, interpolate
    >>> images = load_dataset("digits").test[:4]
    >>> batched = BatchedModel(fpp.FlowPlusPlus.from_preset("digits"))
    >>> interpolate(batched, images[0], images[1], frames=5).shape
    (5, 8, 8, 1)
  """
  check_count("frames", frames, 2)
  z0 = _encode(batched, "first", first, seed)
  z1 = _encode(batched, "last", last, seed)
  return batched.decode(slerp(z0, z1, np.linspace(0, 1, frames)))


def _encode(batched, name, image, seed):
  """Return the latent of one image; errors name the argument."""
  image = as_array(name, image, [None] * 3)
  try:
    return batched.encode(image[np.newaxis], seed=seed)[0]
  except InputError as error:
    raise InputError(f"`{name}` does not fit the model: {error}") from None


@dataclasses.dataclass(frozen=True, eq=False)
class Reconstruction:
  """Images and their reconstructions, uint8 or uint16 `[N, H, W, C]`.

  Attributes:
    images: the images.
    decoded: images decoded from their latents.

  Examples:
    >>> from flowpp_tf.evaluation import Reconstruction
    >>> images = np.zeros([1, 8, 8, 1], np.uint8)
    >>> print(Reconstruction(images, images))
    0 of 64 pixel values differ
  """

  images: np.ndarray
  decoded: np.ndarray

  @property
  def differences(self) -> np.ndarray:
    """Absolute differences in levels, `[N, H, W, C]`."""
    return np.abs(self.decoded.astype(np.int64) - self.images)

  @check_arguments
  def visible_differences(self, levels: int) -> np.ndarray:
    """Return the differences as images: black for zero, from grey to white for the largest one."""
    differences = self.differences
    shades = 0.5 + 0.5 * differences / max(1, differences.max())
    return np.where(differences == 0, 0, np.round((levels - 1) * shades)).astype(pixel_dtype(levels))

  def __str__(self):
    differences = self.differences
    count = np.count_nonzero(differences)
    text = f"{count:,} of {differences.size:,} pixel values differ"
    if not count:
      return text
    most = differences.max()
    return f"{text}, by at most {most} level{'s' if most > 1 else ''}"


@check_arguments
def reconstruct(batched: LatentModel, images: np.ndarray, seed: int = 0) -> Reconstruction:
  """Encode and decode integer images `[N, H, W, C]`; `seed` seeds the dequantization noise.

  Examples:
    >>> from flowpp_tf.data import load_dataset
    >>> from flowpp_tf.evaluation import BatchedModel, reconstruct
    >>> images = load_dataset("digits").test[:4]
    >>> batched = BatchedModel(fpp.FlowPlusPlus.from_preset("digits"))
    >>> print(reconstruct(batched, images))
    0 of 256 pixel values differ
  """
  decoded = batched.decode(batched.encode(images, seed=seed))  # `encode` checks the images
  if decoded.dtype.kind == "f":
    raise InputError("the model must be one of integer images, whose reconstructions can be compared pixel by pixel")
  return Reconstruction(np.asarray(images, decoded.dtype), decoded)
