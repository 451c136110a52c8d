"""Images that a flag names: a split of the run's data, one image of a split, a file, a folder.

    test   test:3   cat.png   my_photos
"""

import os
import pathlib

import numpy as np

from flowpp_tf.data import SPLITS
from flowpp_tf.data.folder import open_folder
from flowpp_tf.data.images import read_for_model
from flowpp_tf.data.images import reason
from flowpp_tf.errors import InputError


def named_images(names, config, load_data, limit):
  """The images of all of a list of names, one after the other.

  Args:
    names: such as the above; a file by the name of a split is `./test`.
    config: `FlowPlusPlusConfig`, whose image shape and levels files are fitted to.
    load_data: function that returns the run's `ImageDataset`, called if a split is named.
    limit: how many to take from the beginning of each split and each folder.

  Returns:
    uint8 `[N, H, W, C]`.

  Raises:
    InputError (a ValueError): if there is no such image, or it cannot be read.
  """
  return np.concatenate([_images(name, config, load_data, limit) for name in names])


def short_name(name):
  """What stands for a name in that of a file: `test3` for `test:3`, `cat` for `pets/cat.png`."""
  return name.replace(":", "") if _split(name) else pathlib.Path(name).stem or "images"


def _split(name):
  """The split that a name is of, if it is of one."""
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
    return np.asarray(images[int(index):int(index) + 1])
  if os.path.isdir(name):
    folder, files = open_folder(name)
    return np.stack([_read(folder / file, config) for file in files[:limit]])
  if not os.path.exists(name):
    raise InputError(f"there is no image {name!r}; expected a file, a folder, one of "
                     f"{', '.join(SPLITS)}, or one image of them such as test:3")
  return _read(name, config)[np.newaxis]


def _read(path, config):
  try:
    return read_for_model(path, config)
  except InputError:
    raise
  except Exception as error:  # whatever Pillow raises for what is no image
    raise InputError(f"image {str(path)!r} cannot be read: {reason(error)}") from None
