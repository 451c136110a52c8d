"""The gate for image files: known formats only, within limits, and one error for all that can be wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import io
import os
import threading
from typing import BinaryIO
import zlib

from PIL import Image, UnidentifiedImageError

from flowpp_tf.core.errors import InputError
from flowpp_tf.io import budget, gate
from flowpp_tf.types import Path

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # some of the other formats of Pillow start programs
_SHARES = 8  # an image with more than this part of the budget's pixels is decoded while no other such one is
_LARGE = threading.RLock()
_MOST_BYTES = 256 << 20  # of a file
PNG = b"\x89PNG\r\n\x1a\n"  # the beginning of such a file


class ImageFileError(InputError):
  """Raised for a file that is not a complete image of a known format, or is too large; it names the file.

  Attributes:
    reason: what is wrong, without the file's name; the message if not given.
  """

  def __init__(self, message: str, reason: str = "") -> None:
    super().__init__(message)
    self.reason = reason or message


class TooLargeError(ImageFileError):
  """Raised for an image that takes more than the budget has, or than there is memory."""


@contextlib.contextmanager
def open_image(
  file: Path | BinaryIO | bytes, name: str = "", formats: tuple[str, ...] = FORMATS, most_pixels: int | None = None
) -> Iterator[Image.Image]:
  """Open an image file, whose pixels are not decoded yet; decode them within the context.

  Args:
    file: path of the file, open file, or its bytes.
    name: how errors name the file; its path if not given.
    formats: formats that are read.
    most_pixels: maximum number of pixels; None for the budget's.

  Raises:
    ImageFileError (a ValueError): for anything else, and for any exception within the context: Pillow raises many.
  """
  with image_errors(file, name, formats):
    content = read_content(file, _MOST_BYTES)
    _check_png(content)
    _raise_limit_of_pillow(most_pixels)
    with Image.open(io.BytesIO(content), formats=formats) as image:
      pixels = image.width * image.height
      check_pixels(pixels, f"an image of {image.width}x{image.height}", most_pixels)
      with contextlib.nullcontext() if pixels <= budget.current().pixels // _SHARES else _LARGE:
        yield image


@contextlib.contextmanager
def image_errors(file: Path | BinaryIO | bytes, name: str = "", formats: tuple[str, ...] = FORMATS) -> Iterator[str]:
  """Turn any exception of an image's reader into an `ImageFileError`, except for a package that is not installed.

  Yields:
    The name of the file in errors: `name`, or its path.
  """
  name = name or (os.fspath(file) if isinstance(file, (str, os.PathLike)) else "image")
  try:
    yield name
  except ImageFileError:
    raise
  except InputError as error:
    if "pip install" in str(error):
      raise
    kind = TooLargeError if isinstance(error, budget.BudgetError) else ImageFileError
    raise kind(f"{name!r}: {error}", str(error)) from None
  except Image.DecompressionBombError:  # of Pillow's own limit, which is the larger one
    reason = f"it has more than the {budget.current().pixels:,} pixels that are decoded (--max_pixels raises the limit)"
    raise TooLargeError(f"{name!r}: {reason}", reason) from None
  except UnidentifiedImageError:
    what = f"is not an image: expected one of {', '.join(formats)}"
    raise ImageFileError(f"{name!r} {what}", f"it {what}") from None
  except Exception as error:
    reason = gate.reason(error)
    kind = TooLargeError if isinstance(error, MemoryError) else ImageFileError
    raise kind(f"{name!r} cannot be read: {reason}", reason) from None


def read_content(file: Path | BinaryIO | bytes, most: int) -> bytes:
  """Return the bytes of an image file, at least one; raise an `InputError` or an `OSError` for none or too many."""
  if isinstance(file, (str, os.PathLike)):
    content = gate.read_bytes(file, most)
  else:
    content = file if isinstance(file, bytes) else file.read(most + 1)
  if not 0 < len(content) <= most:
    raise InputError(f"it has more than {most:,} bytes" if content else "it is empty")
  return content


def check_pixels(pixels: int, what: str, most: int | None = None) -> None:
  """Raise an `InputError` for more pixels than `most`, or than the budget has, before they are decoded."""
  if most is None:
    budget.claim("pixels", pixels, what)
  elif pixels > most:
    raise InputError(f"it is {what}; expected at most {most:,} pixels")


def png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
  """Yield the kind of each chunk of a PNG file up to IEND, and where its content begins and ends.

  The last one may end behind the file, if that is cut off; a checksum of 4 bytes follows each.
  """
  place = len(PNG)
  kind = b""
  while place + 12 <= len(content) and kind != b"IEND":
    kind = content[place + 4 : place + 8]
    begin = place + 8
    end = begin + int.from_bytes(content[place : place + 4], "big")
    yield kind, begin, end
    place = end + 4


def _check_png(content):
  """Raise an `InputError` if a chunk of a PNG has the wrong checksum: Pillow skips pixel chunks."""
  if not content.startswith(PNG):
    return
  view = memoryview(content)
  for kind, begin, end in png_chunks(content):
    if view[end : end + 4] != zlib.crc32(view[begin - 4 : end]).to_bytes(4, "big"):
      raise InputError("it is damaged: a part has the wrong checksum, or is cut off")
    if kind == b"IEND":
      return
  raise InputError("it is cut off")


def _raise_limit_of_pillow(most_pixels):
  """Let Pillow open what the budget, or `most_pixels`, allows: it has a limit of its own, and warns from half of it."""
  most = budget.current().pixels if most_pixels is None else most_pixels
  if Image.MAX_IMAGE_PIXELS is not None and most > Image.MAX_IMAGE_PIXELS:
    Image.MAX_IMAGE_PIXELS = most
