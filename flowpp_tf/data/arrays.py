"""A data set from one .npz file with the arrays `train`, `validation` and `test`."""

import pathlib
import zipfile

import numpy as np

from flowpp_tf.data.dataset import SPLITS, ImageDataset
from flowpp_tf.errors import InputError, check_pixels
from flowpp_tf.types import Path


def load_npz(path: Path, levels: int = 256) -> ImageDataset:
  """Load the arrays of a file into memory.

  Args:
    path: .npz file; each array holds integers `[N, H, W, C]`, or `[N, H, W]` for one channel.
    levels: number of pixel values.

  Raises:
    InputError (a ValueError): naming what is missing or wrong.
  """
  try:
    with open(pathlib.Path(path).expanduser(), "rb") as opened, np.load(opened) as file:  # closed if damaged, too
      missing = [name for name in SPLITS if name not in file.files]
      if missing:
        raise InputError(f"{str(path)!r} has no array {' and no '.join(map(repr, missing))}; it has "
                         f"{', '.join(map(repr, file.files)) or 'none'}")
      arrays = {name: file[name] for name in SPLITS}
  except OSError as error:
    raise InputError(f"{str(path)!r} cannot be read: {error.strerror or error}") from None
  except (ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
    if isinstance(error, InputError):
      raise
    raise InputError(f"{str(path)!r} is no .npz file of plain arrays") from None
  for name, array in arrays.items():
    array = array[..., np.newaxis] if array.ndim == 3 else array
    if not np.issubdtype(array.dtype, np.integer):
      raise InputError(f"{str(path)!r}: `{name}` must hold integers, got {array.dtype}")
    if array.dtype != np.uint8:
      check_pixels(array, levels, name)
    arrays[name] = array.astype(np.uint8, copy=False)
  return ImageDataset(f"npz:{pathlib.Path(path).name}", levels=levels, **arrays)
