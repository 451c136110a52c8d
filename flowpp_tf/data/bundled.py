"""Two real data sets that ship with scikit-learn and scikit-image: no download.

digits: 1,797 hand-written digits, 8x8x1, with their own 17 levels (0 .. 16).
photos: non-overlapping 32x32x3 patches of photographs, 256 levels, without exact duplicates; or crops at random
    positions to train on. The split is by photograph: no test patch comes from a photograph in the training split.
"""

import numpy as np

from flowpp_tf.core.environment import import_extra
from flowpp_tf.data.dataset import ImageDataset, Images
from flowpp_tf.data.random_crops import RandomCrops

_TEST_DIGITS, _VALIDATION_DIGITS = 180, 90  # a tenth, and enough to choose a checkpoint by
_PATCH = 32
_PHOTOGRAPHS = {  # all colour photographs of both packages, except the right eye of a stereo pair
  "train": ("china", "astronaut", "motorcycle", "hubble_deep_field", "retina", "immunohistochemistry"),
  "validation": ("chelsea", "rocket"),
  "test": ("flower", "coffee"),
}


def digits(labels: bool = False) -> ImageDataset:
  """Load scikit-learn's hand-written digits, split into 1,527 / 90 / 180; with `labels`, their classes too."""
  source = import_extra("sklearn.datasets", "the data set 'digits'").load_digits()
  order = np.random.RandomState(0).permutation(len(source.images))

  def split(array):
    parts = np.split(array[order], [_TEST_DIGITS, _TEST_DIGITS + _VALIDATION_DIGITS])
    return dict(zip(("test", "validation", "train"), parts))

  return ImageDataset(
    "digits",
    levels=17,
    **split(source.images.astype(np.uint8)[..., np.newaxis]),
    labels=split(source.target) if labels else None,
    classes=tuple(map(str, source.target_names)) if labels else (),
  )


def photos(crops: bool = False) -> ImageDataset:
  """Cut patches from the photographs that scikit-learn and scikit-image ship.

  Args:
    crops: whether the training split is the `RandomCrops`, of which each step takes random crops.
  """
  seen: set[bytes] = set()
  splits = []
  photographs = packaged_photographs()
  for of_split in photographs.values():
    cut = {patch.tobytes(): patch for photograph in of_split.values() for patch in _patches(photograph)}
    splits.append(np.stack([patch for key, patch in cut.items() if key not in seen]))
    seen.update(cut)
  patches, validation, test = splits
  train: Images = patches
  if crops:
    whole = photographs["train"].values()
    train = RandomCrops(
      np.concatenate([image.reshape(-1, 3) for image in whole]), [image.shape[:2] for image in whole], test.shape[1:]
    )
  return ImageDataset("photos", levels=256, train=train, validation=validation, test=test)


def packaged_photographs() -> dict[str, dict[str, np.ndarray]]:
  """Return the photographs of each split by name, uint8 `[H, W, 3]`."""
  return {split: {name: _photograph(name)[..., :3] for name in names} for split, names in _PHOTOGRAPHS.items()}


def _photograph(name):
  what = "the data set 'photos'"
  if name in ("china", "flower"):
    return import_extra("sklearn.datasets", what).load_sample_image(f"{name}.jpg")
  source = import_extra("skimage.data", what)
  return source.stereo_motorcycle()[0] if name == "motorcycle" else getattr(source, name)()


def _patches(photograph):
  rows, columns = photograph.shape[0] // _PATCH, photograph.shape[1] // _PATCH
  cropped = photograph[: rows * _PATCH, : columns * _PATCH]
  patches = cropped.reshape(rows, _PATCH, columns, _PATCH, 3).swapaxes(1, 2)
  return patches.reshape(-1, _PATCH, _PATCH, 3)
