"""Image files with all of their bits: PNG and TIFF of 16 bits, NumPy's .npy, FITS; of real numbers all except PNG.

A file is what it begins with, not what its name says. Values are as in the file: 12 bits in a file of 16 are 0 to
4,095. The rows of FITS files are in the order of the file, which many programs show from the bottom up.
"""

from __future__ import annotations

import contextlib
import io
import math
from typing import Any

import numpy as np

from flowpp_tf.core.checks import real_dtype
from flowpp_tf.core.environment import import_extra
from flowpp_tf.core.errors import InputError
from flowpp_tf.io import gate
from flowpp_tf.io.image_file import PNG, check_pixels, image_errors, open_image, read_content
from flowpp_tf.types import Path

_MOST_BYTES = 1 << 30  # of a file
_MOST = (1 << 16) - 1
_NPY = b"\x93NUMPY"
_FITS = b"SIMPLE  ="
_TIFF = b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"


def read_deep(file: Path | bytes, channels: int, name: str = "", most_pixels: int | None = None) -> np.ndarray:
  """Return the values of an image file with 16 bits for each, uint16 `[H, W, channels]`.

  Args:
    file: path of the file, or its bytes.
    channels: that the image must have.
    name: how errors name the file; its path if not given.
    most_pixels: maximum number of pixels; None for the budget's.

  Raises:
    ImageFileError (an InputError): for another or a damaged file; for 8 bits, or other channels; for values that are
      negative, not integers, or above 65,535.
    InputError (a ValueError): if the package that reads its format is not installed.
  """
  with image_errors(file, name) as name:
    values = _image(read_content(file, _MOST_BYTES), channels, name, most_pixels)
    if values.dtype.kind not in "iu":
      raise InputError(f"it holds {values.dtype.name}; expected integers of 16 bits")
    if values.dtype.itemsize == 1:
      raise InputError("it has 8 bits for each value; the model's images have more, and scaling does not add any")
    if values.dtype != np.uint16 and (values.min() < 0 or values.max() > _MOST):
      raise InputError(f"its values are from {values.min()} to {values.max()}; expected 0 to {_MOST:,}")
    return np.ascontiguousarray(values, np.uint16)


def read_real(file: Path | bytes, channels: int, name: str = "") -> np.ndarray:
  """Return the numbers of an .npy, FITS or TIFF file, `[H, W, channels]`, in the dtype of real-valued images.

  Arguments and errors as of `read_deep`, except that any real numbers will do: NaN and infinite ones are among them.
  """
  with image_errors(file, name) as name:
    content = read_content(file, _MOST_BYTES)
    if not content.startswith((_NPY, _FITS, *_TIFF)):
      raise InputError("it is not an array: expected .npy, FITS or TIFF for a model of real-valued images")
    values = _image(content, channels, name)
    if values.dtype.kind not in "iuf":
      raise InputError(f"it holds {values.dtype.name}; expected real numbers")
    return np.ascontiguousarray(values, real_dtype(values.dtype))


def bits_of_png(path: Path) -> int:
  """Return the bits of a value that the header of a PNG file states; 0 for other files."""
  with contextlib.suppress(OSError), gate.open_regular(path) as file:
    header = file.read(25)
    return header[24] if header.startswith(PNG) and len(header) == 25 else 0
  return 0


def _image(content: bytes, channels: int, name: str, most_pixels: int | None = None) -> Any:
  """The values of a file, `[H, W, channels]`."""
  values = _values(content, name, most_pixels)
  if values.ndim == 2:
    values = values[..., np.newaxis]
  if values.ndim != 3 or values.shape[2] != channels or 0 in values.shape:
    kind = {1: "grey", 3: "RGB"}.get(channels, f"of {channels} channels")
    raise InputError(f"it has the shape {list(values.shape)}; the model's images are {kind}")
  return values


def _values(content: bytes, name: str, most_pixels: int | None) -> Any:
  if content.startswith(_NPY):
    file = io.BytesIO(content)
    gate.check_npy_header(file, len(content))
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)
  if content.startswith(_TIFF):
    return _tiff(content, most_pixels)
  if content.startswith(_FITS):
    return _fits(content, most_pixels)
  with open_image(content, name, most_pixels=most_pixels) as image:
    if content.startswith(PNG) and content[24] == 16:
      if content[25] == 2:  # Pillow keeps only 8 of the 16 bits
        return import_extra("imagecodecs", "codecs", "reading RGB in PNG files of 16 bits").png_decode(content)
      if content[25] != 0 or "transparency" in image.info:
        raise InputError("it has transparency, which a model of 16 bits does not take")
      return np.asarray(image).astype(np.uint16)
    return np.asarray(image)  # of 8 bits


def _tiff(content, most_pixels):
  tifffile = import_extra("tifffile", "science", "reading TIFF files of 16 bits")
  with tifffile.TiffFile(io.BytesIO(content)) as file:
    if len(file.pages) != 1:
      raise InputError(f"it has {len(file.pages)} images; expected one")
    page = file.pages[0]
    if page.photometric not in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB):
      raise InputError(f"its values are {page.photometric.name}; expected MINISBLACK or RGB")
    check_pixels(math.prod(page.shape), f"an image of the shape {list(page.shape)}", most_pixels)
    values = page.asarray()
    separate = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and values.ndim == 3
    return np.moveaxis(values, 0, -1) if separate else values


def _fits(content, most_pixels):
  fits = import_extra("astropy.io.fits", "science", "reading FITS files")
  with fits.open(io.BytesIO(content), memmap=False) as parts:
    for part in parts:
      if part.is_image and part.header.get("NAXIS", 0) and len(part.shape) >= 2:
        check_pixels(math.prod(part.shape), f"an image of the shape {list(part.shape)}", most_pixels)
        values = np.asarray(part.data)
        return np.moveaxis(values, 0, -1) if values.ndim == 3 else values  # planes come first
  raise InputError("it has no image")
