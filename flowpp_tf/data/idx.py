"""The files of MNIST and Fashion-MNIST as their authors publish them, in the IDX format.

    train-images-idx3-ubyte.gz, t10k-images-idx3-ubyte.gz     or the same without .gz
    train-labels-idx1-ubyte.gz, t10k-labels-idx1-ubyte.gz

An IDX file of images is 0 0 8 3, then the number of images, rows and columns as big-endian 32-bit integers, then the
pixels. One of labels is 0 0 8 1, then their number, then a byte per label.
"""

import gzip
import math
import os
import pathlib
import struct

import numpy as np

from flowpp_tf.core.errors import InputError
from flowpp_tf.io import budget
from flowpp_tf.io.gate import open_regular, reading
from flowpp_tf.types import Path

STEMS = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}


def find_idx(folder: Path) -> dict[str, pathlib.Path] | None:
  """Return the paths of the images of `train` and `test`, or None unless both are there."""
  found = {split: path for split, stem in STEMS.items() if (path := _find(pathlib.Path(folder).expanduser(), stem))}
  return found if len(found) == len(STEMS) else None


def read_idx_images(path: Path) -> np.ndarray:
  """Read the images of an IDX file, compressed or not.

  Returns:
    uint8 `[N, H, W, 1]`.

  Raises:
    InputError (a ValueError): naming the file and what is wrong with it.
  """
  return _read(pathlib.Path(path), "images", 3)[..., np.newaxis]


def read_idx_labels(images_path: Path, count: int) -> np.ndarray:
  """Read the labels that belong to an IDX file of images, from the same folder.

  Args:
    images_path: path of the images.
    count: number of the images.

  Returns:
    uint8 `[count]`.

  Raises:
    InputError (a ValueError): naming the file that is missing, or what is wrong with it.
  """
  images_path = pathlib.Path(images_path)
  stem = images_path.name.removesuffix(".gz").replace("images-idx3", "labels-idx1")
  path = _find(images_path.parent, stem)
  if path is None:
    raise InputError(f"{str(images_path)!r} has no labels: looked for {stem} and {stem}.gz in its folder")
  labels = _read(path, "labels", 1)
  if len(labels) != count:
    raise InputError(f"{str(path)!r} has {len(labels):,} labels; expected one for each of the {count:,} images")
  return labels


def _find(folder, stem):
  paths = folder / stem, folder / f"{stem}.gz"
  return next((path for path in paths if path.is_file()), None)


def _read(path, what, dimensions):
  """Read a uint8 array of so many dimensions; `what` names its content in errors."""
  layout = struct.Struct(f">4B{dimensions}I")
  with reading(path), open_regular(path) as opened:
    with gzip.open(opened) if path.suffix == ".gz" else opened as file:
      header = file.read(layout.size)
      if len(header) < layout.size:
        raise InputError(f"{str(path)!r} is no IDX file of {what}: it has {len(header)} bytes")
      shape = layout.unpack(header)[4:]
      if header[:4] != bytes([0, 0, 8, dimensions]):
        raise InputError(
          f"{str(path)!r} is no IDX file of {what}: it must begin with the bytes 0 0 8 {dimensions}, "
          f"got {' '.join(map(str, header[:4]))}"
        )
      size, claim = math.prod(shape), f"{str(path)!r} claims {what} of shape {shape}"
      if not size:
        raise InputError(f"{claim}; expected at least one")
      budget.claim_output(size, os.fstat(opened.fileno()).st_size, claim)
      budget.claim("memory", size, f"{claim}, which")
      content = file.read(size + 1)
  if len(content) != size:
    found = "is cut off: it has" if len(content) < size else "is too long: it has more than"
    raise InputError(f"{str(path)!r} {found} {min(len(content), size):,} of the {size:,} bytes that its header claims")
  return np.frombuffer(content, np.uint8).reshape(shape)
