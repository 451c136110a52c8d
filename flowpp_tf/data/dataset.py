"""A data set: integer images in three splits, and what identifies them."""

import dataclasses
import hashlib

import numpy as np

from flowpp_tf.errors import InputError
from flowpp_tf.errors import check_pixels

SPLITS = ("train", "validation", "test")
_HASHED = 100  # images at each end of a split


@dataclasses.dataclass(frozen=True, eq=False)
class ImageDataset:
  """uint8 images `[N, H, W, C]` with values in 0 .. levels - 1.

  A split is anything that NumPy can index: an array, a memory map of a large file, `ReducedBits`.

  Raises:
    InputError (a ValueError): if a split has other values, or images of another shape than `train`.
  """
  name: str
  levels: int
  train: np.ndarray
  validation: np.ndarray
  test: np.ndarray
  version: str = ""
  notes: tuple = ()  # what else there is to know, a line each

  def __post_init__(self):
    for name in SPLITS:
      images = getattr(self, name)
      if len(images.shape) != 4 or images.shape[1:] != self.image_shape:
        raise InputError(f"`{name}` must hold images of shape {self.image_shape}, got an array of "
                         f"shape {images.shape}")
      if len(images) == 0 or self.levels < 256 or images.dtype != np.uint8:  # else all values are good
        if not (isinstance(images, ReducedBits) and 2**images.bits == self.levels):
          check_pixels(images, self.levels, name)

  @property
  def image_shape(self):
    """`(H, W, C)`."""
    return tuple(self.train.shape[1:])

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
        bits = [bits for bits in range(1, 8) if name == "levels" and (ours, theirs) == (256, 2**bits)]
        raise InputError(f"data set {self.name!r} has {name} {ours}, the model's config {theirs}"
                         + "".join(f"; --bits={b} reduces its images to that" for b in bits))

  def reduce_bits(self, bits):
    """The same images with `2**bits` levels: x // 2**(8 - bits).

    Raises:
      InputError (a ValueError): if `bits` is not in 1 .. 8, or there are not 256 levels to start from.
    """
    if not 1 <= bits <= 8:
      raise InputError(f"`bits` must be from 1 to 8, got {bits}")
    if self.levels != 256:
      raise InputError(f"`bits` is for images of 256 levels; data set {self.name!r} has {self.levels}")
    return dataclasses.replace(self, levels=2**bits, **{
        name: ReducedBits(getattr(self, name), bits) for name in SPLITS})

  def fingerprint(self):
    """What the images are, as a `dict` that JSON can hold.

    `sha256` is of levels, shape, sizes of the splits, and the first and last 100 images of each: two
    data sets with the same are the same images for all purposes. `digest` is its beginning.
    """
    sizes = {name: len(getattr(self, name)) for name in SPLITS}
    digest = hashlib.sha256(repr((self.levels, self.image_shape, *sizes.items())).encode())
    for name in SPLITS:
      images = getattr(self, name)
      for part in (images[:_HASHED], images[-_HASHED:]):
        digest.update(np.ascontiguousarray(part, np.uint8).tobytes())
    return {"name": self.name, "version": self.version, "splits": sizes, "levels": self.levels,
            "image_shape": list(self.image_shape), "sha256": digest.hexdigest(),
            "digest": digest.hexdigest()[:12]}


def describe(fingerprint):
  """A fingerprint in a few words."""
  sizes = " / ".join(f"{fingerprint['splits'][name]:,}" for name in SPLITS)
  version = f", {fingerprint['version']}" if fingerprint["version"] else ""
  shape = "x".join(map(str, fingerprint["image_shape"]))
  return (f"{fingerprint['name']}{version}, {sizes} images of {shape}, {fingerprint['levels']} levels "
          f"(data {fingerprint['digest']})")


class ReducedBits:
  """uint8 images with their upper bits alone, reduced when they are looked up.

  Args:
    images: uint8, anything that NumPy can index.
    bits: how many of the 8.
  """

  dtype = np.dtype(np.uint8)

  def __init__(self, images, bits):
    self._images = images
    self.bits = bits
    self.shape = images.shape

  def __len__(self):
    return len(self._images)

  def __getitem__(self, index):
    return np.asarray(self._images[index]) >> (8 - self.bits)

  def __array__(self, dtype=None, copy=None):
    del copy  # it is one
    return np.asarray(self[:], dtype)


def complete_splits(splits):
  """Splits with those that are missing taken from the end of `train`.

  Test is the last tenth, validation the last fiftieth of what is left, both at most 10,000 images.

  Args:
    splits: `dict` of arrays, `train` among them.

  Returns:
    A `dict` of all three, and a `tuple` of lines that say what was taken.

  Raises:
    InputError (a ValueError): if there are too few images.
  """
  splits, notes = dict(splits), []
  for name, part in (("test", 10), ("validation", 50)):
    if name not in splits:
      count = max(1, min(10_000, len(splits["train"]) // part))
      if len(splits["train"]) <= count:
        raise InputError(f"`{name}` cannot be taken from the {len(splits['train'])} images of `train`")
      splits["train"], splits[name] = splits["train"][:-count], splits["train"][-count:]
      notes.append(f"{name} is the last {count:,} images of the published train")
  return splits, tuple(notes)
