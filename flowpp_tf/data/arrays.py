"""Images from arrays in files: a data set of three splits in one .npz file, or images in one .npy or .npz file."""

import pathlib

import numpy as np

from flowpp_tf.core.checks import check_pixels, pixel_dtype, real_dtype
from flowpp_tf.core.errors import InputError
from flowpp_tf.data.dataset import MOST_CLASSES, SPLITS, ImageDataset, as_labels
from flowpp_tf.data.source import as_images
from flowpp_tf.io.gate import map_npy, read_npz, reading
from flowpp_tf.types import Path, Shape


def load_npz(path: Path, levels: int = 256, labels: bool = False, real_valued: bool = False) -> ImageDataset:
  """Load the arrays `train`, `validation` and `test` of a file into memory, and `train_labels` and so on.

  Args:
    path: .npz file; each array holds integers `[N, H, W, C]`, or `[N, H, W]` for one channel.
    levels: number of pixel values.
    real_valued: whether images are finite real numbers rather than integers: float32, or float64 where that does not
      have all of their values.
    labels: whether to load `train_labels`, `validation_labels` and `test_labels`, too: integers `[N]` from 0. The
      classes are named "0" to the largest of them.

  Raises:
    InputError (a ValueError): naming what is missing or wrong.
  """
  label_names = {}
  if labels:
    label_names = {split: f"{split}_labels" for split in SPLITS}
  arrays = read_npz(pathlib.Path(path).expanduser(), (*SPLITS, *label_names.values()))
  levels_or_none = None if real_valued else levels
  train, validation, test = (_images(path, split, arrays[split], levels_or_none) for split in SPLITS)
  labels_by_split = {}
  for split, name in label_names.items():
    labels_by_split[split] = as_labels(arrays[name], len(arrays[split]), f" of {split} in {str(path)!r}")
  num_classes = 1 + max((int(array.max(initial=0)) for array in labels_by_split.values()), default=-1)
  if num_classes > MOST_CLASSES:
    raise InputError(f"{str(path)!r}: labels must be less than {MOST_CLASSES:,}, got {num_classes - 1:,}")
  return ImageDataset(
    f"npz:{pathlib.Path(path).name}",
    levels_or_none,
    train,
    validation,
    test,
    labels=labels_by_split or None,
    classes=tuple(map(str, range(num_classes))),
  )


def load_array(path: Path, levels: int | None, image_shape: Shape | None = None) -> np.ndarray:
  """Load the images `[N, H, W, C]` of a file with one array.

  Args:
    path: .npy file, or .npz file of one array: `[N, H, W, C]`, or `[N, H, W]` for one channel.
    levels: number of pixel values; None for real-valued images, as of `load_npz`.
    image_shape: `(H, W, C)` that the images must have; None for any.

  Raises:
    InputError (a ValueError): that names the file, and of values that are not finite the first image with one.
  """
  file = pathlib.Path(path).expanduser()
  if file.suffix.lower() == ".npz":
    arrays = read_npz(file)
    if len(arrays) != 1:
      names = ", ".join(map(repr, arrays)) or "none"
      raise InputError(f"{str(path)!r} must hold one array, got {names}; the data set npz:{path} has several")
    ((name, array),) = arrays.items()
  else:
    with reading(path, "expected an .npy file of a plain array"):
      name = "images"
      array = map_npy(file)
  return _images(path, name, array, levels, image_shape)


def _images(path, name, array, levels, image_shape=None):
  """Return images of a file in the dtype of a data set."""
  holds_integers = array.dtype.kind in "iu"
  if levels is not None and not holds_integers:
    raise InputError(f"{str(path)!r}: `{name}` must hold integers, got {array.dtype}")
  if not holds_integers and array.dtype.kind != "f":
    raise InputError(f"{str(path)!r}: `{name}` must hold real numbers, got {array.dtype}")
  if array.ndim == 3:
    array = array[..., np.newaxis]
  try:
    as_images(name, array, image_shape)
    check_pixels(array, levels, name)
  except InputError as error:
    raise InputError(f"{str(path)!r}: {error}") from None
  dtype = real_dtype(array.dtype) if levels is None else pixel_dtype(levels)
  return array.astype(dtype, copy=False)
