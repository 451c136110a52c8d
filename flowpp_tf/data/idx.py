"""The files of MNIST and Fashion-MNIST as their authors publish them, in the IDX format.

    train-images-idx3-ubyte.gz, t10k-images-idx3-ubyte.gz     or the same without .gz

An IDX file of images is 0 0 8 3, then the number of images, rows and columns as big-endian 32-bit integers, then the
pixels.
"""

import gzip
import pathlib
import struct
import zlib

import numpy as np

from flowpp_tf.errors import InputError
from flowpp_tf.types import Path

STEMS = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
_HEADER = struct.Struct(">HBBIII")
_MOST_BYTES = 1 << 30  # a file that claims more is refused before it is read


def find_idx(folder: Path) -> dict[str, pathlib.Path] | None:
  """Return the paths of the images of `train` and `test`, or None unless both are there."""
  found: dict[str, pathlib.Path] = {}
  for split, stem in STEMS.items():
    for name in (stem, f"{stem}.gz"):
      path = pathlib.Path(folder).expanduser() / name
      if split not in found and path.is_file():
        found[split] = path
  return found if len(found) == len(STEMS) else None


def read_idx_images(path: Path) -> np.ndarray:
  """Read the images of an IDX file, compressed or not.

  Returns:
    uint8 `[N, H, W, 1]`.

  Raises:
    InputError (a ValueError): naming the file and what is wrong with it.
  """
  path = pathlib.Path(path)
  try:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
      header = file.read(_HEADER.size)
      if len(header) < _HEADER.size:
        raise InputError(f"{str(path)!r} is no IDX file of images: it has {len(header)} bytes")
      zero, kind, dimensions, count, height, width = _HEADER.unpack(header)
      if (zero, kind, dimensions) != (0, 8, 3):
        raise InputError(f"{str(path)!r} is no IDX file of images: it must begin with the bytes 0 0 8 3, got "
                         f"{' '.join(map(str, header[:4]))}")
      size = count * height * width
      if not 0 < size <= _MOST_BYTES:
        raise InputError(f"{str(path)!r} claims {count:,} images of {height}x{width}; expected at most 1 GiB of pixels")
      pixels = file.read(size + 1)
  except (OSError, EOFError, zlib.error) as error:
    raise InputError(f"{str(path)!r} cannot be read: {error}") from None
  if len(pixels) != size:
    what = "is cut off: it has" if len(pixels) < size else "is too long: it has more than"
    raise InputError(f"{str(path)!r} {what} {min(len(pixels), size):,} of the {size:,} bytes that its header claims")
  return np.frombuffer(pixels, np.uint8).reshape(count, height, width, 1)
