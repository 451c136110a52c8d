"""A data set: integer images in three splits, and a fingerprint that identifies them."""

from collections.abc import Callable
import dataclasses
import hashlib
from typing import Any, TYPE_CHECKING, TypeAlias

import numpy as np

from flowpp_tf.data.photographs import Photographs
from flowpp_tf.errors import InputError, check_pixels

if TYPE_CHECKING:
  from flowpp_tf.models import FlowPlusPlusConfig

SPLITS = ("train", "validation", "test")
_HASHED = 100  # images at each end of a split


class ReducedBits:
  """uint8 images `[N, H, W, C]` of which only the upper bits are kept; indexing computes them.

  Args:
    images: uint8, anything that NumPy can index.
    bits: how many of the 8 bits to keep.
  """

  dtype = np.dtype(np.uint8)

  def __init__(self, images: "Images", bits: int) -> None:
    self._images = images
    self.bits = bits
    self.shape: tuple[int, ...] = images.shape

  def __len__(self) -> int:
    return len(self._images)

  def __getitem__(self, index: Any) -> np.ndarray:
    return np.asarray(self._images[index]) >> (8 - self.bits)

  @property
  def random_crops(self) -> Callable[[np.ndarray], np.ndarray] | None:
    """As in `Photographs`; None if the images are no photographs."""
    crops = getattr(self._images, "random_crops", None)
    return crops and (lambda draws: crops(draws) >> (8 - self.bits))

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    del copy  # the result is a new array in any case
    return np.asarray(self[:], dtype)


Images: TypeAlias = np.ndarray | Photographs | ReducedBits  # an array may be a memory map


@dataclasses.dataclass(frozen=True, eq=False)
class ImageDataset:
  """Three splits of uint8 images `[N, H, W, C]` with values in 0 .. levels - 1.

  Raises:
    InputError (a ValueError): if a split has other values, or images of another shape than `train`.
  """
  name: str
  levels: int
  train: Images
  validation: Images
  test: Images
  version: str = ""
  notes: tuple[str, ...] = ()  # lines to print with the data set

  def __post_init__(self) -> None:
    for name in SPLITS:
      images = getattr(self, name)
      if len(images.shape) != 4 or images.shape[1:] != self.image_shape:
        raise InputError(f"`{name}` must hold images of shape {self.image_shape}, got an array of "
                         f"shape {images.shape}")
      if len(images) == 0 or self.levels < 256 or images.dtype != np.uint8:  # else all values are valid
        if not (isinstance(images, ReducedBits) and 2**images.bits == self.levels):
          check_pixels(images, self.levels, name)

  @property
  def image_shape(self) -> tuple[int, ...]:
    """Return `(H, W, C)`."""
    return tuple(self.train.shape[1:])

  def split(self, name: str) -> Images:
    """Return the images of a split; raise an `InputError` (a ValueError) for an unknown name."""
    if name not in SPLITS:
      raise InputError(f"`split` must be one of {', '.join(SPLITS)}, got {name!r}")
    return getattr(self, name)

  def check(self, config: "FlowPlusPlusConfig") -> None:
    """Raise an `InputError` (a ValueError) unless the images fit a model's config."""
    for name, ours, theirs in (("image_shape", self.image_shape, config.image_shape),
                               ("levels", self.levels, config.levels)):
      if ours != theirs:
        bits = [bits for bits in range(1, 8) if name == "levels" and (ours, theirs) == (256, 2**bits)]
        raise InputError(f"data set {self.name!r} has {name} {ours}, the model's config {theirs}"
                         + "".join(f"; --bits={b} reduces its images to that" for b in bits))

  def reduce_bits(self, bits: int) -> "ImageDataset":
    """Return the same images with `2**bits` levels: x // 2**(8 - bits).

    Raises:
      InputError (a ValueError): if `bits` is not in 1 .. 8, or the images do not have 256 levels.
    """
    if not 1 <= bits <= 8:
      raise InputError(f"`bits` must be from 1 to 8, got {bits}")
    if self.levels != 256:
      raise InputError(f"`bits` is for images of 256 levels; data set {self.name!r} has {self.levels}")
    train, validation, test = (ReducedBits(self.split(name), bits) for name in SPLITS)
    return dataclasses.replace(self, levels=2**bits, train=train, validation=validation, test=test)

  def fingerprint(self) -> dict[str, Any]:
    """Return a JSON-serializable `dict` that identifies the images.

    `sha256` covers levels, shape, split sizes, and the first and last 100 images of each split. Data sets with the
    same `sha256` are treated as the same images. `digest` is its first 12 digits.
    """
    sizes = {name: len(getattr(self, name)) for name in SPLITS}
    digest = hashlib.sha256(repr((self.levels, self.image_shape, *sizes.items())).encode())
    for name in SPLITS:
      images = getattr(self, name)
      for part in (images[:_HASHED], images[-_HASHED:]):
        digest.update(np.ascontiguousarray(part, np.uint8).tobytes())
    sha256 = digest.hexdigest()
    return {"name": self.name, "version": self.version, "splits": sizes, "levels": self.levels,
            "image_shape": list(self.image_shape), "sha256": sha256, "digest": sha256[:12]}


def describe(fingerprint: dict[str, Any]) -> str:
  """Return a fingerprint as one line of text."""
  sizes = " / ".join(f"{fingerprint['splits'][name]:,}" for name in SPLITS)
  version = f", {fingerprint['version']}" if fingerprint["version"] else ""
  shape = "x".join(map(str, fingerprint["image_shape"]))
  return (f"{fingerprint['name']}{version}, {sizes} images of {shape}, {fingerprint['levels']} levels "
          f"(data {fingerprint['digest']})")


def complete_splits(splits: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
  """Take missing splits from the end of `train`.

  Test is the last tenth, validation the last fiftieth of the remaining images, each at most 10,000.

  Args:
    splits: arrays by the names of their splits, with at least `train`.

  Returns:
    The arrays of all three splits, and a line of text for each split that was taken.

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
