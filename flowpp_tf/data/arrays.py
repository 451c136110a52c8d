"""A data set from one .npz file with the arrays `train`, `validation` and `test`, and `train_labels` and so on."""

import pathlib

import numpy as np

from flowpp_tf.core.checks import check_pixels, pixel_dtype
from flowpp_tf.core.errors import InputError
from flowpp_tf.data.dataset import MOST_CLASSES, SPLITS, ImageDataset
from flowpp_tf.io.gate import read_npz
from flowpp_tf.types import Path


def load_npz(path: Path, levels: int = 256, labels: bool = False, real_valued: bool = False) -> ImageDataset:
  """Load the arrays of a file into memory.

  Args:
    path: .npz file; each array holds integers `[N, H, W, C]`, or `[N, H, W]` for one channel.
    levels: number of pixel values.
    real_valued: whether images are finite real numbers, in float32 or float64 as they are, rather than integers.
    labels: whether to load `train_labels`, `validation_labels` and `test_labels`, too: integers `[N]` from 0. The
      classes are named "0" to the largest of them.

  Raises:
    InputError (a ValueError): naming what is missing or wrong.
  """
  label_names = {split: f"{split}_labels" for split in SPLITS} if labels else {}
  arrays = read_npz(pathlib.Path(path).expanduser(), (*SPLITS, *label_names.values()))
  for name, array in arrays.items():
    is_real = real_valued and name in SPLITS
    if not np.issubdtype(array.dtype, np.number if is_real else np.integer) or array.dtype.kind == "c":
      raise InputError(
        f"{str(path)!r}: `{name}` must hold {'real numbers' if is_real else 'integers'}, got {array.dtype}"
      )
  of_images = {split: arrays.pop(name) for split, name in label_names.items()}
  num_classes = 1 + max((int(array.max(initial=0)) for array in of_images.values()), default=-1)
  if num_classes > MOST_CLASSES:
    raise InputError(f"{str(path)!r}: labels must be less than {MOST_CLASSES:,}, got {num_classes - 1:,}")
  for name, array in arrays.items():
    array = array[..., np.newaxis] if array.ndim == 3 else array
    if array.dtype != np.uint8 or real_valued:
      check_pixels(array, None if real_valued else levels, name)
    floating = np.float64 if array.dtype == np.float64 else np.float32
    arrays[name] = array.astype(floating if real_valued else pixel_dtype(levels), copy=False)
  train, validation, test = (arrays[split] for split in SPLITS)
  return ImageDataset(
    f"npz:{pathlib.Path(path).name}",
    None if real_valued else levels,
    train,
    validation,
    test,
    labels=of_images or None,
    classes=tuple(map(str, range(num_classes))),
  )
