"""Images by name: a split of the run's data, one image of a split, a file, or a folder.

test   test:3   cat.png   my_photos
"""

from collections.abc import Callable, Sequence
import os
import pathlib

import numpy as np

from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import SPLITS
from flowpp_tf.data.dataset import ImageDataset
from flowpp_tf.data.images import read_for_model
from flowpp_tf.io.image_file import ImageFileError
from flowpp_tf.io.image_folder import open_folder
from flowpp_tf.models import FlowPlusPlusConfig
from flowpp_tf.programs import run


def named_images(
  names: Sequence[str], config: FlowPlusPlusConfig, load_data: Callable[[], ImageDataset], limit: int
) -> np.ndarray:
  """Return the images of all names, uint8 or uint16 `[N, H, W, C]`.

  Args:
    names: names as above; use `./test` for a file that is named like a split.
    config: `FlowPlusPlusConfig`, to whose image shape and levels files are fitted.
    load_data: function that returns the run's `ImageDataset`, called if a split is named.
    limit: maximum number of images from each split and each folder.

  Raises:
    InputError (a ValueError): if an image does not exist or cannot be read.
  """
  return np.concatenate([_images(name, config, load_data, limit) for name in names])


def short_name(name: str) -> str:
  """Return a name for use in file names: `test3` for `test:3`, `cat` for `pets/cat.png`."""
  return name.replace(":", "") if _split(name) else pathlib.Path(name).stem or "images"


def _split(name):
  """Return the split in a name such as `test` or `test:3`, None for other names."""
  split = name.partition(":")[0]
  return split if split in SPLITS else None


def _images(name, config, load_data, limit):
  split = _split(name)
  if split:
    images, index = load_data().split(split), name.partition(":")[2]
    if name == split:
      return np.asarray(images[:limit])
    if not (index.isdecimal() and int(index) < len(images)):
      raise InputError(f"{name!r} must have a number from 0 to {len(images) - 1} after the colon")
    return np.asarray(images[int(index) : int(index) + 1])
  if os.path.isdir(name):
    folder, files, kinds_left_out = open_folder(name, config.levels)
    if kinds_left_out:
      run.warn(f"{name}: {kinds_left_out}")
    return np.stack([_read(folder / file, config) for file in files[:limit]])
  if not os.path.exists(name):
    raise InputError(
      f"there is no image {name!r}; expected a file, a folder, one of "
      f"{', '.join(SPLITS)}, or one image of them such as test:3"
    )
  return _read(name, config)[np.newaxis]


def _read(path, config):
  try:
    return read_for_model(path, config)
  except ImageFileError as error:
    raise InputError(f"image {str(path)!r} cannot be read: {error.reason}") from None
