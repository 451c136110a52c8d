"""Data sets of installed packages, scikit-learn, scikit-image and elpv-dataset: no download.

digits: 1,797 hand-written digits, 8x8x1, with their own 17 levels (0 .. 16).
photos: non-overlapping 32x32x3 patches of photographs, 256 levels, without exact duplicates; or crops at random
    positions to train on. The split is by photograph: no test patch comes from a photograph in the training split.
elpv: 2,624 grey pictures of solar cells under electroluminescence, 300x300x1, 8 bits (Buerhop-Lutz et al. 2018,
    Deitsch et al. 2019, 2021). The licence of the pictures is CC BY-NC-SA 4.0: this package does not contain them. Test
    pictures are those whose index is 7 modulo 10 (262), validation those with 3 (263). A model smaller than the
    pictures is trained on crops of them at random positions; as arrays, all three splits are then the tiles of a grid,
    32x32 for example, next to each other from the top left corner.
"""

import functools
import math

import numpy as np

from flowpp_tf.core.environment import import_extra
from flowpp_tf.core.errors import InputError
from flowpp_tf.data.dataset import SPLITS, ImageDataset, Images
from flowpp_tf.data.random_crops import RandomCrops, crops_of
from flowpp_tf.types import Shape

_TEST_DIGITS = 180  # a tenth
_VALIDATION_DIGITS = 90  # enough to choose a checkpoint by
_PATCH = 32
_PHOTOGRAPHS = {  # all colour photographs of both packages, except the right eye of a stereo pair
  "train": ("china", "astronaut", "motorcycle", "hubble_deep_field", "retina", "immunohistochemistry"),
  "validation": ("chelsea", "rocket"),
  "test": ("flower", "coffee"),
}
# The class of a picture: the kind of the cell, and how probable a defect is, in thirds.
ELPV_CLASSES = tuple(f"{kind} {third}/3" for kind in ("mono", "poly") for third in range(4))
_VALIDATION_PIXELS = 2048 * 32 * 32  # as many as a validation needs; all would take longer than the steps between


def digits(labels: bool = False) -> ImageDataset:
  """Load scikit-learn's hand-written digits, split into 1,527 / 90 / 180; with `labels`, their classes too."""
  source = import_extra("sklearn.datasets", "data", "the data set 'digits'").load_digits()
  order = np.random.RandomState(0).permutation(len(source.images))

  def split(array):
    parts = np.split(array[order], [_TEST_DIGITS, _TEST_DIGITS + _VALIDATION_DIGITS])
    return dict(zip(("test", "validation", "train"), parts))

  splits = split(source.images.astype(np.uint8)[..., np.newaxis])
  if not labels:
    return ImageDataset("digits", levels=17, **splits)
  classes = tuple(map(str, source.target_names))
  return ImageDataset("digits", levels=17, **splits, labels=split(source.target), classes=classes)


def photos(crops: bool = False) -> ImageDataset:
  """Cut patches from the photographs that scikit-learn and scikit-image ship.

  Args:
    crops: whether the training split is `RandomCrops`: each step takes other crops.
  """
  splits: dict[str, Images] = {}
  seen: set[bytes] = set()
  photographs = {
    split: _crops(list(images_by_name.values())) for split, images_by_name in packaged_photographs().items()
  }
  for split, patches in photographs.items():
    cut = {patch.tobytes(): patch for patch in patches[:]}
    splits[split] = np.stack([patch for key, patch in cut.items() if key not in seen])
    seen.update(cut)
  if crops:
    splits["train"] = photographs["train"]
  return ImageDataset("photos", 256, splits["train"], splits["validation"], splits["test"])


def _crops(photographs):
  pixels = np.concatenate([photograph.reshape(-1, 3) for photograph in photographs])
  return RandomCrops(pixels, [photograph.shape[:2] for photograph in photographs], (_PATCH, _PATCH, 3))


def packaged_photographs() -> dict[str, dict[str, np.ndarray]]:
  """Return the photographs of each split by name, uint8 `[H, W, 3]`."""
  return {split: {name: _photograph(name)[..., :3] for name in names} for split, names in _PHOTOGRAPHS.items()}


def _photograph(name):
  what = "the data set 'photos'"
  if name in ("china", "flower"):
    return import_extra("sklearn.datasets", "data", what).load_sample_image(f"{name}.jpg")
  source = import_extra("skimage.data", "data", what)
  return source.stereo_motorcycle()[0] if name == "motorcycle" else getattr(source, name)()


def elpv(image_shape: Shape | None = None, crops: bool = False, labels: bool = False) -> ImageDataset:
  """Load ELPV, as whole pictures or as tiles.

  Args:
    image_shape: (300, 300, 1) or None for whole pictures; a smaller one for tiles.
    crops: whether to train on random crops of the pictures rather than on the tiles of a grid.
    labels: whether to load the class of each whole picture, one of `ELPV_CLASSES`.

  Raises:
    InputError (a ValueError): if the package is not installed, or the shape does not fit the pictures.
  """
  pictures, defects, kinds = _solar_cells()
  whole = pictures.shape[1:]
  shape = whole if image_shape is None else tuple(image_shape)
  if shape[2] != 1 or shape[0] > whole[0] or shape[1] > whole[1]:
    raise InputError(f"data set 'elpv' has pictures of {whole}, which have no crops of {shape}")
  remainder = np.arange(len(pictures)) % 10
  rows = {"train": (remainder != 3) & (remainder != 7), "validation": remainder == 3, "test": remainder == 7}
  if shape == whole:
    splits = {name: pictures[index] for name, index in rows.items()}
    if not labels:
      return ImageDataset("elpv", levels=256, **splits)
    class_of = np.rint(3 * defects).astype(int) + 4 * (kinds == "poly")
    labels_by_split = {name: class_of[index] for name, index in rows.items()}
    return ImageDataset("elpv", levels=256, **splits, labels=labels_by_split, classes=ELPV_CLASSES)
  if labels:
    raise InputError(f"data set 'elpv' has labels for whole pictures of {whole}, not for parts of {shape}")
  most = {"validation": max(_VALIDATION_PIXELS // math.prod(shape), 1)}
  cut = {name: crops_of(pictures[index], shape, most.get(name)) for name, index in rows.items()}
  train, validation, test = (cut[name] if crops else cut[name][:] for name in SPLITS)
  return ImageDataset("elpv", 256, train, validation, test)


@functools.cache
def _solar_cells():
  """Return the pictures `[N, 300, 300, 1]`, their probabilities of a defect, and their kinds of cell."""
  pictures, defects, kinds = import_extra("elpv_dataset.utils", "elpv", "the data set 'elpv'").load_dataset()
  return pictures[..., np.newaxis], defects, kinds
