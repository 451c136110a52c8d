"""A data set: integer images in three splits, their classes if wanted, and a fingerprint that identifies them."""

import dataclasses
import hashlib
from typing import Any

import numpy as np

from flowpp_tf.config.model import FlowPlusPlusConfig
from flowpp_tf.core.checks import as_array, check_arguments, check_labels, check_pixels, check_type, pixel_dtype
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import SPLITS
from flowpp_tf.data.random_crops import RandomCrops, tiles_of
from flowpp_tf.data.source import Images, ReducedBits, as_images

MOST_CLASSES = 1 << 16  # a larger label is refused before so many names are made
_HASHED = 100  # images at each end of a split


@dataclasses.dataclass(frozen=True, eq=False)
class ImageDataset:
  """Three splits of images `[N, H, W, C]`.

  Their values are integers in 0 .. levels - 1, uint8 or, of more than 256 levels, uint16, or real numbers.

  With class labels, `labels` has by split the class of each image, int32 `[N]` in 0 .. num_classes - 1, and `classes`
  the names of the classes in this order.

  Attributes:
    name: of the data set.
    levels: number of pixel values; None for real-valued images.
    train: training images.
    validation: validation images.
    test: test images.
    version: of the data, as text.
    notes: lines for the user about the data.
    labels: class of each image, by split; None without labels.
    classes: names of the classes.

  Raises:
    InputError (a ValueError): if a split has other values, images of another shape than `train`, or not one valid label
      per image.

  Examples:
    >>> from flowpp_tf.data import ImageDataset
    >>> images = np.random.RandomState(0).randint(0, 17, [12, 8, 8, 1]).astype(np.uint8)
    >>> dataset = ImageDataset("mine", 17, train=images[:8], validation=images[8:10], test=images[10:])
    >>> dataset.image_shape
    (8, 8, 1)
  """

  name: str
  levels: int | None
  train: Images
  validation: Images
  test: Images
  version: str = ""
  notes: tuple[str, ...] = ()  # lines to print with the data set
  labels: dict[str, np.ndarray] | None = None  # by split
  classes: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    for name in ("name", "levels", "version", "notes", "labels", "classes"):
      check_type(name, getattr(self, name), self.__dataclass_fields__[name].type)
    if self.levels is not None:
      pixel_dtype(self.levels)  # an error for an invalid number
      object.__setattr__(self, "levels", int(self.levels))  # NumPy's integers have another text, and so fingerprint
    for name in SPLITS:
      shape = None if name == "train" else self.image_shape
      images = as_images(name, getattr(self, name), shape)
      object.__setattr__(self, name, images)
      self._check_values(name, images)
    if (self.labels is None) != (not self.classes):
      raise InputError("`labels` and `classes` must be given together")
    if self.labels is not None:
      labels_by_split = {}
      for split in SPLITS:
        of = f" of {split}"
        labels_by_split[split] = as_labels(self.labels.get(split, ()), len(getattr(self, split)), of)
        check_labels(labels_by_split[split], 0, self.num_classes, of)
      object.__setattr__(self, "labels", labels_by_split)

  def _check_values(self, name, images):
    if self.levels is None:
      if isinstance(images, np.ndarray):  # fields that are made when they are read are finite
        check_pixels(images, None, name)
    elif not (isinstance(images, ReducedBits) and 2**images.bits == self.levels):
      if images.dtype != pixel_dtype(self.levels) or self.levels <= np.iinfo(images.dtype).max:  # else all are valid
        check_pixels(np.asarray(images), self.levels, name)

  @property
  def num_classes(self) -> int:
    """Return the number of classes, 0 without labels."""
    return len(self.classes)

  @property
  def image_shape(self) -> tuple[int, ...]:
    """Return `(H, W, C)`."""
    return tuple(self.train.shape[1:])

  @check_arguments
  def split(self, name: str) -> Images:
    """Return the images of a split; raise an `InputError` (a ValueError) for an unknown name."""
    if name not in SPLITS:
      raise InputError(f"`split` must be one of {', '.join(SPLITS)}, got {name!r}")
    return getattr(self, name)

  @check_arguments
  def labels_of(self, split: str) -> np.ndarray | None:
    """Return the labels of a split, int32 `[N]`, or None without labels; raise like `split`."""
    self.split(split)
    return None if self.labels is None else self.labels[split]

  @check_arguments
  def check(self, config: FlowPlusPlusConfig) -> None:
    """Raise an `InputError` (a ValueError) unless the images, and the classes if it has any, fit a model's config."""
    name = f"data set {self.name!r}"
    if self.image_shape != config.image_shape:
      raise InputError(f"{name} has image_shape {self.image_shape}, the model's config {config.image_shape}")
    levels = config.pixel_levels
    if self.levels != levels:
      reduces = self.levels == 256 and levels is not None and 256 % levels == 0
      hint = f"; --bits={config.levels.bit_length() - 1} reduces its images to that" if reduces else ""
      raise InputError(f"{name} has {_levels_text(self.levels)}, the model's config {_levels_text(levels)}{hint}")
    if config.tile_neighbours and tiles_of(self.train) is None:
      raise InputError(f"{name} must be loaded with `neighbours`: the model sees the neighbours of its tiles")
    if config.num_classes and config.num_classes != self.num_classes:
      found = f"{self.num_classes} classes" if self.classes else "no labels, or is loaded without them"
      raise InputError(f"{name} has {found}; the model's config has num_classes {config.num_classes}")

  @check_arguments
  def reduce_bits(self, bits: int) -> "ImageDataset":
    """Return the same images and labels with `2**bits` levels: x // 2**(8 - bits).

    Raises:
      InputError (a ValueError): if `bits` is not in 1 .. 8, or the images do not have 256 levels.
    """
    if self.levels != 256:
      raise InputError(f"`bits` is for images of 256 levels; data set {self.name!r} has {self.levels}")
    return self._replace(lambda images: ReducedBits(images, bits), levels=2**bits)

  def with_neighbours(self) -> "ImageDataset":
    """Return the same photographs as tiles that come with the context of their neighbours, see `RandomCrops`.

    Raises:
      InputError (a ValueError): if a split does not consist of photographs.
    """

    def tiles(images):
      if not isinstance(images, RandomCrops):
        raise InputError(f"a model with `tile_neighbours` is for crops of photographs: load {self.name!r} with --crops")
      return images.with_neighbours(self.levels)

    return self._replace(tiles)

  def with_edges(self) -> "ImageDataset":
    """Return the same photographs, with tiles that cover them: whole photographs are measured, not trained on.

    Raises:
      InputError (a ValueError): if a split does not consist of tiles with neighbours.
    """

    def covered(images):
      tiles = tiles_of(images)
      if tiles is None:
        raise InputError("the images must be tiles with neighbours, see `RandomCrops`")
      return ReducedBits(tiles.with_edges(), images.bits) if isinstance(images, ReducedBits) else tiles.with_edges()

    return self._replace(covered)

  def _replace(self, function, **changes):
    """Return the data set with other images: what a function of a split's images returns."""
    splits = {name: function(self.split(name)) for name in SPLITS}
    return dataclasses.replace(self, **splits, **changes)

  def fingerprint(self) -> dict[str, Any]:
    """Return a JSON-serializable `dict` that identifies the images, and the labels if there are any.

    `sha256` covers levels, shape, split sizes, the first and last 100 images of each split, and all labels. Data sets
    with the same `sha256` are treated as the same images. `digest` is its first 12 digits. With labels, `classes` has
    the names of the classes.
    """
    sizes = {name: len(getattr(self, name)) for name in SPLITS}
    digest = hashlib.sha256(repr((self.levels, self.image_shape, *sizes.items())).encode())
    for name in SPLITS:
      images = getattr(self, name)
      for part in (images[:_HASHED], images[-_HASHED:]):
        dtype = "<f8" if self.levels is None else pixel_dtype(self.levels)
        digest.update(np.ascontiguousarray(part, dtype).tobytes())
    for labels in (self.labels or {}).values():
      digest.update(labels.astype("<i4").tobytes())
    sha256 = digest.hexdigest()
    return {
      "name": self.name,
      "version": self.version,
      "splits": sizes,
      "levels": self.levels,
      "image_shape": list(self.image_shape),
      "sha256": sha256,
      "digest": sha256[:12],
      **({"classes": list(self.classes)} if self.labels else {}),
    }


@check_arguments
def describe(fingerprint: dict[str, Any]) -> str:
  """Return a fingerprint as one line of text.

  Examples:
    >>> from flowpp_tf.data import describe, load_dataset
    >>> "digits" in describe(load_dataset("digits").fingerprint())
    True
  """
  sizes = " / ".join(f"{fingerprint['splits'][name]:,}" for name in SPLITS)
  version = f", {fingerprint['version']}" if fingerprint.get("version") else ""
  shape = "x".join(map(str, fingerprint["image_shape"]))
  levels = _levels_text(fingerprint["levels"])
  classes = f", {len(fingerprint['classes'])} classes" if fingerprint.get("classes") else ""
  return f"{fingerprint['name']}{version}, {sizes} images of {shape}, {levels}{classes} (data {fingerprint['digest']})"


def _levels_text(levels):
  return "real-valued" if levels is None else f"{levels} levels"


def as_labels(labels: Any, count: int, of: str = "") -> np.ndarray:
  """Return the labels of so many images as int32 `[count]`.

  Args:
    labels: integers.
    count: number of images.
    of: what messages say of whose labels they are.

  Raises:
    InputError (a ValueError): for anything else.
  """
  labels = as_array("labels", labels)
  if labels.shape != (count,) or labels.dtype.kind not in "iu":
    found = f"{labels.dtype} of shape {labels.shape}"
    raise InputError(f"`labels`{of} must hold one integer for each of the {count:,} images, got {found}")
  if labels.min() < -(2**31) or labels.max() >= 2**31:
    raise InputError(f"`labels`{of} must be integers of 32 bits, got values from {labels.min()} to {labels.max()}")
  return labels.astype(np.int32)


def split_train(splits: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
  """Take missing splits from the end of `train`.

  Test is the last tenth, validation the last fiftieth of the remaining images, each at most 10,000. Labels are split
  in the same way.

  Args:
    splits: arrays by the names of their splits, with at least `train`.

  Returns:
    The arrays of all three splits, and a line of text for each split that was taken.

  Raises:
    InputError (a ValueError): if there are too few images.
  """
  splits = dict(splits)
  notes = []
  for name, part in (("test", 10), ("validation", 50)):
    if name not in splits:
      count = max(1, min(10_000, len(splits["train"]) // part))
      if len(splits["train"]) <= count:
        raise InputError(f"`{name}` cannot be taken from the {len(splits['train'])} images of `train`")
      splits["train"], splits[name] = splits["train"][:-count], splits["train"][-count:]
      notes.append(f"{name} is the last {count:,} images of the published train")
  return splits, tuple(notes)
