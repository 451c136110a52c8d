"""Whether images go through the flow and back: decode(encode(x)) = x.

In exact arithmetic they do. In float32 a pixel can be off by a level where its dequantization noise is
within the flow's rounding of 0 or 1.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Reconstruction:
  """Images and what came back, uint8 `[N, H, W, C]`."""
  images: np.ndarray
  decoded: np.ndarray

  @property
  def differences(self):
    """By how many levels each pixel value is off, `[N, H, W, C]`, at least 0."""
    return np.abs(self.decoded.astype(np.int64) - self.images)

  def visible_differences(self, levels):
    """The differences as images: black where there is none, from grey on to white for the largest."""
    differences = self.differences
    shades = 0.5 + 0.5 * differences / max(1, differences.max())
    return np.where(differences == 0, 0, np.round((levels - 1) * shades)).astype(np.uint8)

  def __str__(self):
    differences = self.differences
    count, most = np.count_nonzero(differences), differences.max()
    by = f", by at most {most} level{'s' if most > 1 else ''}" if count else ""
    return f"{count:,} of {differences.size:,} pixel values differ{by}"


def reconstruct(batched, images, seed=0):
  """Encodes and decodes images.

  Args:
    batched: `Batched` model.
    images: integers, `[N, H, W, C]`.
    seed: integer, of the dequantization noise.

  Returns:
    `Reconstruction`.
  """
  return Reconstruction(np.asarray(images, np.uint8), batched.decode(batched.encode(images, seed=seed)))
