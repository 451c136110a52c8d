"""Reference codecs, all lossless, that put bits/dim in context.

Measured twice: a file for each image, whose header and tables weigh on small images, and all images on one sheet, where
a codec also learns from one image for the next, which a density of single images cannot. Every byte counts.

The pixel values are stored as they are: of a model with fewer than 256 levels, small numbers. WebP knows no grey: its
three channels are equal, and the bits are divided by the one there is. bzip2 and xz compress the bytes of the pixels.
"""

import bz2
from collections.abc import Callable
import dataclasses
import functools
import lzma
import math
from typing import Any

import numpy as np

from flowpp_tf.core.checks import as_array, check_pixels
from flowpp_tf.core.environment import import_extra
from flowpp_tf.core.errors import InputError
from flowpp_tf.data.images import parallel_map
from flowpp_tf.data.source import Images, as_images
from flowpp_tf.evaluation.likelihood import standard_error
from flowpp_tf.tiles.cutting import check_inside

_SIDE = 16_000  # pixels; WebP ends at 16,383
_EFFORTS = {1 << 14: 10, 1 << 20: 9, 1 << 30: 7}  # of JPEG XL, up to so many pixels: more would take minutes


@dataclasses.dataclass(frozen=True)
class CodecBits:
  """What a codec needs for a set of images.

  Attributes:
    codec: name of the codec.
    each: bits/dim, one file for each image.
    standard_error: of `each`, over the images.
    sheet: bits/dim, all images on one sheet.

  Examples:
    >>> from flowpp_tf.evaluation import CodecBits
    >>> CodecBits("PNG", each=4.131, standard_error=0.05, sheet=4.075).sheet
    4.075
  """

  codec: str
  each: float
  standard_error: float
  sheet: float


def codec_bytes(image: np.ndarray) -> dict[str, int]:
  """Return how many bytes one image takes in a file of each codec, by the codec's name, all lossless.

  Args:
    image: integers in 0 .. 255, or uint16 of 16 bits, which WebP does not have; `[H, W, C]` with C 1 or 3.

  Raises:
    InputError (a ValueError): if imagecodecs is not installed, or for another number of channels.

  Examples:
    >>> from flowpp_tf.data import load_dataset
    >>> from flowpp_tf.evaluation import codec_bytes
    >>> sizes = codec_bytes(load_dataset("digits").test[0])
    >>> sizes["JPEG XL"] < sizes["PNG"]
    True
  """
  image = as_array("image", image, [None] * 3)
  if image.dtype != np.uint16 or not image.size:
    check_pixels(image, 256, "image")
    image = image.astype(np.uint8)
  return {name: len(encode(image)) for name, encode in _codecs(image.dtype, image.shape[2]).items()}


def measure_codecs(images: Images, inside: np.ndarray | None = None) -> list[CodecBits]:
  """Return bits/dim of PNG, WebP, JPEG XL and JPEG-LS, all lossless, and of bzip2 and xz.

  Args:
    images: uint8, or uint16 of 16 bits, which WebP does not have; `[N, H, W, C]` with C 1 or 3, anything that NumPy can
      index.
    inside: of tiles, rows and columns of each that lie inside of its picture, integers `[N, 2]`, as for
      `evaluate_bits_per_dim`: only these are in files and count as values. A sheet has whole tiles.

  Raises:
    InputError (a ValueError): if imagecodecs is not installed, for another number of channels, or `inside` that is
      invalid.

  Examples:
    >>> from flowpp_tf.data import load_dataset
    >>> from flowpp_tf.evaluation import measure_codecs
    >>> images = load_dataset("digits").test[:4]
    >>> [result.codec for result in measure_codecs(images)][:2]
    ['PNG', 'WebP']
  """
  images = as_images("images", images)
  if images.dtype not in (np.uint8, np.uint16):
    check_pixels(np.asarray(images), 256)
    images = np.asarray(images, np.uint8)
  count, height, width, channels = images.shape
  codecs = _codecs(images.dtype, channels)
  sides = np.broadcast_to((height, width), (count, 2))
  if inside is not None:
    sides = check_inside(inside, count, (height, width)).astype(np.int64)
  dims = sides.prod(axis=1) * channels
  sheets, results = list(_sheets(images)), []
  for name, encode in codecs.items():
    bytes_of = lambda i, encode=encode: len(encode(images[i][: sides[i, 0], : sides[i, 1]]))
    bits = 8 * np.asarray(list(parallel_map(bytes_of, range(count))), np.float64)
    on_sheets = 8 * sum(len(encode(sheet)) for sheet in sheets)
    each = bits.sum() / dims.sum()  # of images of several sizes a ratio of means
    error = standard_error(bits - each * dims) / float(dims.mean())
    results.append(CodecBits(name, float(each), error, float(on_sheets / dims.sum())))
  return results


def _codecs(dtype: np.dtype, channels: int) -> dict[str, Callable[[np.ndarray], bytes]]:
  """Encoders of `[H, W, C]` by name, each with the settings that make the smallest files."""
  imagecodecs = import_extra("imagecodecs", "codecs", "the size of an image in other codecs")
  if channels not in (1, 3):
    raise InputError(f"codecs are for images of 1 or 3 channels, got {channels}")
  grey = lambda image: np.ascontiguousarray(image[..., 0] if image.shape[-1] == 1 else image)

  def jpeg_xl(image):
    effort = next(effort for pixels, effort in _EFFORTS.items() if image.shape[0] * image.shape[1] <= pixels)
    return imagecodecs.jpegxl_encode(grey(image), lossless=True, effort=effort)

  def webp(image):
    return imagecodecs.webp_encode(np.broadcast_to(image, (*image.shape[:2], 3)).copy(), lossless=True, level=100)

  png: Any = functools.partial(imagecodecs.png_encode, level=9, strategy=1)  # zlib's strategy for filtered data
  return {
    "PNG": lambda image: png(grey(image)),
    **({"WebP": webp} if dtype == np.uint8 else {}),
    "JPEG XL": jpeg_xl,
    "JPEG-LS": lambda image: imagecodecs.jpegls_encode(grey(image)),
    "bzip2": lambda image: bz2.compress(image.tobytes()),
    "xz": lambda image: lzma.compress(image.tobytes(), preset=9 | lzma.PRESET_EXTREME),
  }


def _sheets(images):
  """Yield nearly square sheets with all images; one sheet unless there are very many images."""
  count, height, width, channels = images.shape
  most_rows, most_columns = _SIDE // height, _SIDE // width
  most = most_rows * most_columns
  for start in range(0, count, most):
    part = np.asarray(images[start : start + most])
    square = math.ceil(math.sqrt(len(part)))
    columns = max(min(square, most_columns), math.ceil(len(part) / most_rows))
    rows = math.ceil(len(part) / columns)
    sheet = np.zeros((rows * columns, height, width, channels), part.dtype)
    sheet[: len(part)] = part
    yield (
      sheet.reshape(rows, columns, height, width, channels)
      .swapaxes(1, 2)
      .reshape(rows * height, columns * width, channels)
    )
