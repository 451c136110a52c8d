"""Read image files into uint8 arrays of one shape with Pillow.

A file is opened by `open_image`, which refuses other formats, more pixels than are good for the memory, and what is no
regular file.

- EXIF orientation is applied; only the first frame of an animation is read; colour profiles are ignored.
- Of 16 bits per channel the upper 8 are kept.
- Transparent pixels (RGBA, LA, palettes) are composited on white.
- Grey, palette and CMYK become RGB; for a model of one channel everything becomes grey (ITU-R 601 luma).
- The centre is cropped to the model's aspect ratio and resized by Lanczos with antialiasing. An image of
  the model's size keeps its pixels.
"""

from collections.abc import Callable, Iterable, Iterator
import concurrent.futures
import contextlib
import io
import itertools
import os
import threading
from typing import Any, BinaryIO
import zlib

import numpy as np
from PIL import ExifTags, Image, ImageOps

from flowpp_tf.core.errors import InputError
from flowpp_tf.data.dataset import ImageSpec
from flowpp_tf.io.gate import read_bytes
from flowpp_tf.types import Path, Shape

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # some of the other formats of Pillow start programs
MOST_PIXELS = 64_000_000  # of an image, and of all that are decoded at a time: they take up to 12 bytes each
_SMALL = 1 << 18  # pixels of an image that does not count
_MOST_BYTES = 256 << 20  # of a file
_PNG = b"\x89PNG\r\n\x1a\n"


class _Budget:
  """Lets threads decode images of `MOST_PIXELS` pixels in all at a time."""

  def __init__(self):
    self._changed, self._used = threading.Condition(), 0

  @contextlib.contextmanager
  def take(self, pixels):
    with self._changed:
      self._changed.wait_for(lambda: self._used + pixels <= MOST_PIXELS or not self._used)
      self._used += pixels
    try:
      yield
    finally:
      with self._changed:
        self._used -= pixels
        self._changed.notify_all()


_BUDGET = _Budget()


def _check_png(content):
  """Raise an `InputError` if a chunk of a PNG has the wrong checksum: Pillow does not look at those of pixels."""
  if not content.startswith(_PNG):
    return
  place, view = len(_PNG), memoryview(content)
  while place + 12 <= len(content):
    end = place + 8 + int.from_bytes(view[place : place + 4], "big")
    if view[end : end + 4] != zlib.crc32(view[place + 4 : end]).to_bytes(4, "big"):
      raise InputError("it is damaged: a part has the wrong checksum, or is cut off")
    if view[place + 4 : place + 8] == b"IEND":
      return
    place = end + 4
  raise InputError("it is cut off")


@contextlib.contextmanager
def open_image(file: Path | BinaryIO) -> Iterator[Image.Image]:
  """Open an image file, whose pixels are not decoded yet; decode them within the context.

  Raises:
    InputError (a ValueError): for more than `MOST_PIXELS` pixels.
    OSError: for what is no regular file, or no image of one of the `FORMATS`.
  """
  if isinstance(file, (str, os.PathLike)):
    content = read_bytes(file, _MOST_BYTES)
  else:
    content = file.read(_MOST_BYTES + 1)
  if not 0 < len(content) <= _MOST_BYTES:
    raise InputError("it is empty" if not content else f"it has more than {_MOST_BYTES:,} bytes")
  _check_png(content)
  with Image.open(io.BytesIO(content), formats=FORMATS) as image:
    pixels = image.width * image.height
    if pixels > MOST_PIXELS:
      raise InputError(f"it has {image.width}x{image.height} pixels; expected at most {MOST_PIXELS / 1e6:.0f} million")
    if pixels <= _SMALL:
      yield image
    else:
      with _BUDGET.take(pixels):
        yield image


def read_image(file: Path | BinaryIO, image_shape: Shape) -> tuple[np.ndarray, bool]:
  """Read an image file and fit it to `image_shape`: `(H, W, C)` with C 1 or 3.

  Returns:
    uint8 `[H, W, C]`, and whether the image was smaller and had to be enlarged.

  Raises:
    Exception: whatever Pillow raises for a file that is not a complete image.
  """
  with open_image(file) as image:
    return fit_image(upright(image), image_shape)


def read_photograph(file: Path | BinaryIO, channels: int) -> np.ndarray:
  """Read an image file in its own size.

  Returns:
    uint8 `[H, W, channels]`.

  Raises:
    Exception: whatever Pillow raises for a file that is not a complete image.
  """
  with open_image(file) as image:
    flat = flat_image(upright(image), channels)
    return np.asarray(flat).reshape(flat.height, flat.width, channels)


def read_for_model(file: Path | BinaryIO, config: ImageSpec) -> np.ndarray:
  """Read an image file as pixel values of a model.

  With 2**bits levels the upper bits are kept, as in training. With another number, such as the 17 of digits, each
  value is rounded to the nearest of as many equally spaced levels from black to white.

  Returns:
    uint8 `[H, W, C]`, values 0 .. levels - 1.

  Raises:
    Exception: whatever Pillow raises for a file that is not a complete image.
  """
  check_channels(config.image_shape)
  image, _ = read_image(file, config.image_shape)
  if 256 % config.levels == 0:
    return image // (256 // config.levels)
  return np.round(image * ((config.levels - 1) / 255)).astype(np.uint8)


def upright_size(file: Path | BinaryIO) -> tuple[int, int]:
  """Return `(width, height)` of an image file in its EXIF orientation; raise like `read_image`."""
  with open_image(file) as image:
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) > 4
    return image.size[::-1] if turned else image.size


def upright(image: Image.Image) -> Image.Image:
  """Decode a Pillow image, turn it in place to its EXIF orientation, and return it."""
  image.load()
  ImageOps.exif_transpose(image, in_place=True)
  return image


def fit_image(image: Image.Image, image_shape: Shape) -> tuple[np.ndarray, bool]:
  """Convert a Pillow image to what `read_image` returns."""
  height, width, channels = image_shape
  image = flat_image(image, channels)
  scale = min(image.width / width, image.height / height)
  image = centre_crop(image, round(scale * height), round(scale * width))
  if image.size != (width, height):
    image = image.resize((width, height), Image.Resampling.LANCZOS)
  return np.asarray(image).reshape(image_shape), scale < 1


def flat_image(image: Image.Image, channels: int) -> Image.Image:
  """Convert a Pillow image to one of 8 bits, without transparency, of 1 or 3 channels."""
  if image.mode.startswith("I"):  # 16-bit grey
    pixels = np.asarray(image)
    image = Image.fromarray((pixels.astype(np.uint16, copy=False) >> 8).astype(np.uint8))
  if image.has_transparency_data:
    image = image if image.mode == "RGBA" else image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
  wanted = "L" if channels == 1 else "RGB"
  return image if image.mode == wanted else image.convert(wanted)


def centre_crop(image: Image.Image, height: int, width: int) -> Image.Image:
  """Crop the centre of a Pillow image."""
  left, top = (image.width - width) // 2, (image.height - height) // 2
  return image.crop((left, top, left + width, top + height))


def check_channels(image_shape: Shape) -> None:
  """Raise an `InputError` unless image files can be read as this shape."""
  if len(image_shape) != 3 or image_shape[2] not in (1, 3):
    raise InputError(
      f"`image_shape` must be (height, width, channels) with 1 or 3 channels to read images, got {image_shape}"
    )


def parallel_map(function: Callable[[Any], Any], items: Iterable[Any], ahead: int = 64) -> Iterator[Any]:
  """Yield `function(item)` of each item in order, on up to 16 threads, each up to `ahead` items ahead."""
  items = iter(items)
  threads = min(os.cpu_count() or 1, 16)
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    pending = [pool.submit(function, item) for item in itertools.islice(items, ahead * threads)]
    while pending:
      done, pending = pending[: ahead * threads // 2], pending[ahead * threads // 2 :]
      yield from (future.result() for future in done)
      pending += [pool.submit(function, item) for item in itertools.islice(items, len(done))]
