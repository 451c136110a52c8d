"""Measure the sizes of images in other lossless codecs, which put bits/dim in context.

Each codec is measured twice. One file per image includes headers and tables, which weigh on small images. One sheet
with all images lets a codec also learn from one image for the next, which a density of single images cannot. All bytes
of a file count.

Pixel values are stored verbatim: for a model with fewer than 256 levels they are small numbers. WebP has no grey
images, so it gets three equal channels, and its bits are divided by one channel's values. bzip2 and xz compress the
bytes of the pixels.
"""

import bz2
from collections.abc import Callable
import dataclasses
import functools
import lzma
import math

import numpy as np

from flowpp_tf.core.checks import as_array, check_pixels
from flowpp_tf.core.environment import import_extra
from flowpp_tf.core.errors import InputError
from flowpp_tf.data.images import parallel_map
from flowpp_tf.data.source import Images, as_images
from flowpp_tf.evaluation.likelihood import standard_error
from flowpp_tf.tiles.cutting import check_inside

_SIDE = 16_000  # pixels; WebP ends at 16,383
_EFFORTS = {1 << 14: 10, 1 << 20: 9, 1 << 30: 7}  # JPEG XL's effort by the most pixels: more would take minutes


@dataclasses.dataclass(frozen=True)
class CodecBits:
  """Bits/dim of a codec over a set of images.

  Attributes:
    codec: name of the codec.
    each: bits/dim, one file per image.
    standard_error: standard error of `each`, over the images.
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
  """Return the file size of one image in bytes by the name of each lossless codec.

  Args:
    image: integers in 0 .. 255, or uint16 of 16 bits, which WebP does not support; `[H, W, C]` with C 1 or 3.

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
  codecs = _codecs(image.dtype, image.shape[2])
  return {name: len(encode(image)) for name, encode in codecs.items()}


def measure_codecs(images: Images, inside: np.ndarray | None = None) -> list[CodecBits]:
  """Return bits/dim of PNG, WebP, JPEG XL and JPEG-LS, all lossless, and of bzip2 and xz.

  Args:
    images: uint8, or uint16 of 16 bits, which WebP does not support; `[N, H, W, C]` with C 1 or 3, anything that NumPy
      can index.
    inside: for tiles, the rows and columns of each tile that lie inside its picture, integers `[N, 2]`, as for
      `evaluate_bits_per_dim`: only these are in files and count as values. A sheet has whole tiles.

  Raises:
    InputError (a ValueError): if imagecodecs is not installed, for another number of channels, or if `inside` is
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
  sheets = list(_sheets(images))
  results = []

  def file_size(encode, i):
    rows, columns = sides[i]
    return len(encode(images[i][:rows, :columns]))

  for name, encode in codecs.items():
    sizes = list(parallel_map(functools.partial(file_size, encode), range(count)))
    bits = 8 * np.asarray(sizes, np.float64)
    sheet_bits = 8 * sum(len(encode(sheet)) for sheet in sheets)
    each = bits.sum() / dims.sum()  # a ratio of means, where images differ in size
    error = standard_error(bits - each * dims) / float(dims.mean())
    results.append(CodecBits(name, float(each), error, float(sheet_bits / dims.sum())))
  return results


def _codecs(dtype: np.dtype, channels: int) -> dict[str, Callable[[np.ndarray], bytes]]:
  """Return encoders of `[H, W, C]` by name, each with the settings that make the smallest files."""
  imagecodecs = import_extra("imagecodecs", "codecs", "the size of an image in other codecs")
  if channels not in (1, 3):
    raise InputError(f"codecs are for images of 1 or 3 channels, got {channels}")

  def squeeze_grey(image):
    return np.ascontiguousarray(image[..., 0] if channels == 1 else image)

  def png(image):
    return imagecodecs.png_encode(squeeze_grey(image), level=9, strategy=1)  # zlib's strategy for filtered data

  def webp(image):
    rgb = np.broadcast_to(image, (*image.shape[:2], 3)).copy()
    return imagecodecs.webp_encode(rgb, lossless=True, level=100)

  def jpeg_xl(image):
    pixels = image.shape[0] * image.shape[1]
    effort = next(effort for most_pixels, effort in _EFFORTS.items() if pixels <= most_pixels)
    return imagecodecs.jpegxl_encode(squeeze_grey(image), lossless=True, effort=effort)

  codecs = {
    "PNG": png,
    "WebP": webp,
    "JPEG XL": jpeg_xl,
    "JPEG-LS": lambda image: imagecodecs.jpegls_encode(squeeze_grey(image)),
    "bzip2": lambda image: bz2.compress(image.tobytes()),
    "xz": lambda image: lzma.compress(image.tobytes(), preset=9 | lzma.PRESET_EXTREME),
  }
  if dtype != np.uint8:
    del codecs["WebP"]
  return codecs


def _sheets(images):
  """Yield nearly square sheets with all images; one sheet unless there are very many images."""
  count, height, width, channels = images.shape
  most_rows, most_columns = _SIDE // height, _SIDE // width
  most = most_rows * most_columns
  for start in range(0, count, most):
    chunk = np.asarray(images[start : start + most])
    square = math.ceil(math.sqrt(len(chunk)))
    columns = max(min(square, most_columns), math.ceil(len(chunk) / most_rows))
    rows = math.ceil(len(chunk) / columns)
    sheet = np.zeros((rows * columns, height, width, channels), chunk.dtype)
    sheet[: len(chunk)] = chunk
    yield (
      sheet.reshape(rows, columns, height, width, channels)
      .swapaxes(1, 2)
      .reshape(rows * height, columns * width, channels)
    )
