"""Read an image file as it is to be stored: its pixels and what else it holds, or its bytes.

8-bit grey or RGB pixels, as the model has them, are coded as tiles; of a model of more than 256 levels those of 16-bit
PNG, TIFF, .npy and FITS files. The metadata of a file come back with its pixels (metadata.py); .npy and FITS files come
back byte for byte, by the wrapper of their pixels. Every other file is stored verbatim: other modes and depths,
transparency, several images, and files that are not images. So are JPEG and lossy WebP, since their pixels take more
bytes than the files, and every file that is smaller than its pixels coded.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import os
import pathlib

import numpy as np

from flowpp_tf.compression.files.entries import ImageFile
from flowpp_tf.compression.files.metadata import MAX_CODED, VerbatimError, is_lossy, read_metadata, split_wrapper
from flowpp_tf.compression.lzma_images import pack
from flowpp_tf.core.errors import InputError
from flowpp_tf.io.deep_image import is_array, read_deep
from flowpp_tf.io.gate import read_bytes
from flowpp_tf.io.image_file import FORMATS, ImageFileError, open_image

MAX_VERBATIM_FILE = 1 << 27  # bytes of a file that is stored verbatim
_LONGEST_NAME = 255  # bytes of a part of a path
_MAX_FILE = 1 << 31  # bytes of a file that is read
_FORMATS = (*FORMATS, "PPM")  # of what is decoded
SMALLER = "smaller than its pixels coded"


def read_picture(
  folder: pathlib.Path,
  name: str,
  channels: int,
  lossy_pixels: bool = False,
  bits: Callable[[np.ndarray], float] | None = None,
  keep_bytes: bool = False,
  levels: int = 256,
) -> ImageFile:
  """Read a file, as it is to be stored.

  Args:
    folder: where it is.
    name: its path below the folder.
    channels: of the model.
    lossy_pixels: whether the pixels of JPEG and lossy WebP files are coded too, though they take more bytes.
    bits: returns about how many bits pixels `[H, W, C]` take, to store files verbatim that are smaller; None to code
      all.
    keep_bytes: whether the bytes of the file must come back, not only its pixels and metadata.
    levels: of the model.

  Raises:
    OSError: if it cannot be read.
  """
  data = read_bytes(folder / name, _MAX_FILE)
  verbatim = ImageFile(name, data=data, reason=SMALLER)
  try:
    pixels, metadata, lossy = _read(data, name, channels, lossy_pixels, levels)
    picture = _with_pixels(data, name, pixels, metadata, keep_bytes)
  except VerbatimError as error:
    return dataclasses.replace(verbatim, reason=str(error))
  if lossy or bits is None or len(data) > MAX_VERBATIM_FILE:  # coded at any cost
    return picture
  room = (len(pack(data)) if len(data) >= pixels.nbytes else len(data)) - picture.size
  if room > 0 and bits(pixels) <= 8 * room:
    return dataclasses.replace(picture, fallback=verbatim)
  return verbatim


def _read(data, name, channels, lossy_pixels, levels):
  """Return pixels, metadata, and whether the file is lossy; raise a `VerbatimError` for a file to store verbatim."""
  reason, metadata, lossy, pixels = "", b"", False, None
  bits = 8 if levels <= 256 else 16
  try:
    with open_image(data, name, _FORMATS, MAX_CODED) as image:
      try:
        metadata = read_metadata(image, data, channels, lossy_pixels, bits)
      except VerbatimError as error:  # any exception would become an `ImageFileError`
        reason = str(error)
      else:
        lossy = is_lossy(image, data)
        if bits == 8:
          pixels = np.asarray(image).reshape(image.height, image.width, channels).copy()
  except ImageFileError:
    if bits == 8 or not is_array(data):
      reason = "no image"
  if reason:
    raise VerbatimError(reason)
  return _deep_pixels(data, name, channels) if bits == 16 else pixels, metadata, lossy


def _deep_pixels(data, name, channels):
  """Return the pixels of a file of 16 bits."""
  try:
    pixels = read_deep(data, channels, name, MAX_CODED)
  except ImageFileError:
    raise VerbatimError("another depth or format") from None
  except InputError:
    raise VerbatimError("a package that reads it is not installed") from None
  if pixels.size > MAX_CODED:
    raise VerbatimError("too large")
  return pixels


def _with_pixels(data, name, pixels, metadata, keep_bytes):
  """Return a file whose pixels are coded."""
  if keep_bytes or is_array(data):
    wrapper = split_wrapper(data, pixels)
    if wrapper is None or len(wrapper[0]) > MAX_VERBATIM_FILE:
      raise VerbatimError("its pixels are compressed, or not in one piece")
    return ImageFile(name, pixels, data=data, wrapper=wrapper)
  base = os.path.basename(name)
  if not base.lower().endswith(".png") and len(os.fsencode(f"{base}.png")) > _LONGEST_NAME:
    raise VerbatimError("long name")
  return ImageFile(name, pixels, metadata=metadata)
