"""Files as JPEG XL in an archive, which only --allow=jpegxl writes: they need imagecodecs to be decoded."""

from __future__ import annotations

import numpy as np

from flowpp_tf.core.environment import import_extra
from flowpp_tf.io.budget import claim

ALLOWED = ("jpegxl",)  # what --allow may name: entries that need more than NumPy and constriction
_WHAT = "a file that is JPEG XL in the archive"
_EFFORT = 9  # 1 % smaller than 7; 10 takes minutes for large pictures
_COPIES = 24  # bytes of memory for each pixel value while an image is decoded


def encode(pixels: np.ndarray) -> bytes | None:
  """Return pixels `[H, W, C]` without loss; None for those that `decode` would refuse, which may be too many.

  Raises:
    InputError (a ValueError): if imagecodecs is not installed.
  """
  grey = pixels.shape[2] == 1
  image = np.ascontiguousarray(pixels[..., 0] if grey else pixels)
  codec = import_extra("imagecodecs", "codecs", _WHAT)
  try:
    coded = codec.jpegxl_encode(image, lossless=True, effort=_EFFORT)
    return coded if np.array_equal(decode(coded, pixels.shape, pixels.dtype.type), pixels) else None
  except (codec.JpegxlError, ValueError, RuntimeError):
    return None


def decode(data: bytes, shape: tuple[int, int, int], dtype: type = np.uint8) -> np.ndarray:
  """Return pixels `[H, W, C]`, of which an archive says shape and dtype.

  Raises:
    InputError (a ValueError): if imagecodecs is not installed, or the budget has no room.
    ValueError: if the data are no such image.
  """
  codec = import_extra("imagecodecs", "codecs", _WHAT)
  claim("memory", _COPIES * int(np.prod(shape)), "an image that is JPEG XL in the archive")
  image = np.empty(shape if shape[2] > 1 else shape[:2], dtype)
  try:
    # Into an array that is there: an image of another size is refused before its pixels are decoded.
    codec.jpegxl_decode(data, keeporientation=True, out=image)
  except (codec.JpegxlError, ValueError, RuntimeError, MemoryError) as error:
    raise ValueError(f"its JPEG XL cannot be decoded: {' '.join(str(error).split())[:200]}") from None
  return image.reshape(shape)


def encode_jpeg(data: bytes, shape: tuple[int, int, int]) -> bytes | None:
  """Return a JPEG file of a shape as JPEG XL, from which its bytes come back; None for one whose bytes do not.

  Raises:
    InputError (a ValueError): if imagecodecs is not installed.
  """
  codec = import_extra("imagecodecs", "codecs", _WHAT)
  try:
    coded = codec.jpegxl_encode_jpeg(data)
    return coded if decode_jpeg(coded, shape) == data else None
  except (codec.JpegxlError, ValueError, RuntimeError):  # grey files, and those with bytes behind the image
    return None


def decode_jpeg(data: bytes, shape: tuple[int, int, int]) -> bytes:
  """Return the JPEG file of `encode_jpeg`; arguments and errors as of `decode`."""
  decode(data, shape)  # which refuses images of another size; the reader of JPEG files would take memory for any
  codec = import_extra("imagecodecs", "codecs", _WHAT)
  try:
    return codec.jpegxl_decode_jpeg(data)
  except (codec.JpegxlError, ValueError, RuntimeError, MemoryError) as error:
    raise ValueError(f"its JPEG XL cannot be decoded: {' '.join(str(error).split())[:200]}") from None
