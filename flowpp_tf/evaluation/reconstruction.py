"""Reconstruction of images: decode(encode(x)) = x.

This holds in exact arithmetic. In float32 a pixel can be off by one level if its dequantization noise is within the
flow's rounding error of 0 or 1.
"""

import dataclasses

import numpy as np

from flowpp_tf.core.checks import check_arguments, pixel_dtype
from flowpp_tf.core.errors import InputError
from flowpp_tf.evaluation.batched_model import LatentModel


@dataclasses.dataclass(frozen=True, eq=False)
class Reconstruction:
  """Images and their reconstructions, uint8 or uint16 `[N, H, W, C]`.

  Attributes:
    images: the images.
    decoded: what their latents give back.

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
    dtype = pixel_dtype(levels)
    differences = self.differences
    shades = 0.5 + 0.5 * differences / max(1, differences.max())
    return np.where(differences == 0, 0, np.round((levels - 1) * shades)).astype(dtype)

  def __str__(self):
    differences = self.differences
    count, most = np.count_nonzero(differences), differences.max()
    by = f", by at most {most} level{'s' if most > 1 else ''}" if count else ""
    return f"{count:,} of {differences.size:,} pixel values differ{by}"


@check_arguments
def reconstruct(batched: LatentModel, images: np.ndarray, seed: int = 0) -> Reconstruction:
  """Encode and decode integer images `[N, H, W, C]`; `seed` is that of the dequantization noise.

  Examples:
    >>> from flowpp_tf.data import load_dataset
    >>> from flowpp_tf.evaluation import BatchedModel, reconstruct
    >>> images = load_dataset("digits").test[:4]
    >>> batched = BatchedModel(fpp.FlowPlusPlus.from_preset("digits"))
    >>> print(reconstruct(batched, images))
    0 of 256 pixel values differ
  """
  decoded = batched.decode(batched.encode(images, seed=seed))  # which checks the images
  if decoded.dtype.kind == "f":
    raise InputError("the model must be one of integer images, whose reconstructions can be compared pixel by pixel")
  return Reconstruction(np.asarray(images, decoded.dtype), decoded)
