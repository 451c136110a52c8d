"""A data set: integer images in three splits, held in memory."""

import dataclasses

import numpy as np

from flowpp_tf.errors import InputError
from flowpp_tf.errors import check_pixels

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class ImageDataset:
  """uint8 images `[N, H, W, C]` with values in 0 .. levels - 1.

  Raises:
    InputError (a ValueError): if a split has other values, or images of another shape than `train`.
  """
  name: str
  levels: int
  train: np.ndarray
  validation: np.ndarray
  test: np.ndarray

  def __post_init__(self):
    for name in SPLITS:
      images = getattr(self, name)
      if images.ndim != 4 or images.shape[1:] != self.image_shape:
        raise InputError(f"`{name}` must hold images of shape {self.image_shape}, got an array of "
                         f"shape {images.shape}")
      check_pixels(images, self.levels, name)

  @property
  def image_shape(self):
    """`(H, W, C)`."""
    return self.train.shape[1:]

  def split(self, name):
    """The images of a split by name.

    Raises:
      InputError (a ValueError): if there is no such split.
    """
    if name not in SPLITS:
      raise InputError(f"`split` must be one of {', '.join(SPLITS)}, got {name!r}")
    return getattr(self, name)

  def check(self, config):
    """Raises an `InputError` (a ValueError) unless the images fit a model's config."""
    for name, ours, theirs in (("image_shape", self.image_shape, config.image_shape),
                               ("levels", self.levels, config.levels)):
      if ours != theirs:
        raise InputError(f"data set {self.name!r} has {name} {ours}, the model's config {theirs}")
