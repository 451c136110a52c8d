"""Read image files into arrays of one shape: uint8, uint16 for a model of more than 256 levels, or real numbers.

Files are opened by `open_image`, whose `ImageFileError` names a file that is not a complete image.

- EXIF orientation is applied, except for models of more than 256 levels; only the first frame of an animation is read;
  colour profiles are ignored.
- Of 16 bits per channel the upper 8 are kept, unless the model has more than 256 levels: then all of them, as they
  are, and files of 8 bits, with another number of channels or with values that the model does not have are errors.
  So are real numbers, and integers with a sign or of more bits, which have no black and no white.
- Transparent pixels (RGBA, LA, palettes) are composited on white.
- Grey, palette and CMYK become RGB; for a model of one channel everything becomes grey (ITU-R 601 luma).
- The centre is cropped to the model's aspect ratio and resized by Lanczos with antialiasing. An image of
  the model's size keeps its pixels.
- Real numbers, for a model of real-valued images, keep the values of the file. It must have the model's size:
  resizing would change the density. Values that are not finite are errors.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
import concurrent.futures
import contextlib
import itertools
import os
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from flowpp_tf.config.model import FlowPlusPlusConfig
from flowpp_tf.core.checks import check_pixels, check_shape
from flowpp_tf.core.environment import usable_cores
from flowpp_tf.core.errors import InputError
from flowpp_tf.io.deep_image import bits_of_png, read_deep, read_real
from flowpp_tf.io.image_file import ImageFileError, open_image
from flowpp_tf.tiles.cutting import check_whole_tiles
from flowpp_tf.types import Path, Shape

_WITH_FRAMES = ("PNG", "WEBP", "GIF", "TIFF")


def read_image(
  file: Path | BinaryIO, image_shape: Shape, name: str = "", levels: int | None = 256
) -> tuple[np.ndarray, bool]:
  """Read an image file and fit it to `image_shape`: `(H, W, C)` with C 1 or 3; errors call the file `name`.

  Args:
    file: path of the file, or open file.
    image_shape: of the result.
    name: how errors name the file.
    levels: of the model; up to 256 for all 8 bits of a file, None for real numbers.

  Returns:
    uint8 `[H, W, C]`, of more than 256 levels uint16, of real numbers float32 or float64, and whether the image was
    smaller and had to be enlarged.

  Raises:
    ImageFileError (a ValueError): for a file that is not a complete image; so do the functions below.
  """
  if levels is None:
    values = _read_array(file, image_shape[2], levels, name)
    with _named(file, name):
      check_shape("image", values.shape, image_shape)
    return values, False
  if levels > 256:
    return _fit_deep(_read_array(file, image_shape[2], levels, name), image_shape, levels)
  with open_image(file, name) as image:
    return fit_image(upright(image), image_shape)


def _read_array(file, channels, levels, name=""):
  """Return an image of more than 8 bits or of real numbers, whose values the model must have."""
  content = file if isinstance(file, (str, os.PathLike)) else file.read()
  values = read_real(content, channels, name) if levels is None else read_deep(content, channels, name)
  with _named(file, name):
    check_pixels(values, levels, "image")
  return values


@contextlib.contextmanager
def _named(file, name):
  """Turn an `InputError` about the values of a file into an `ImageFileError` that names it."""
  try:
    yield
  except InputError as error:
    name = name or (os.fspath(file) if isinstance(file, (str, os.PathLike)) else "image")
    raise ImageFileError(f"{name!r}: {error}", str(error)) from None


def _fit_deep(values, image_shape, levels):
  """Crop and resize as `fit_image`, in float32, which has all integers of 16 bits."""
  planes = [Image.fromarray(plane.astype(np.float32)) for plane in np.moveaxis(values, -1, 0)]
  fitted = [_fit(plane, *image_shape[:2]) for plane in planes]
  pixels = np.stack([np.asarray(plane) for plane, _ in fitted], axis=-1)
  return np.clip(np.rint(pixels), 0, levels - 1).astype(np.uint16), fitted[0][1]


def _fit(image, height, width):
  """Crop the centre of a Pillow image and resize it; return it, and whether it was enlarged."""
  scale = min(image.width / width, image.height / height)
  image = centre_crop(image, round(scale * height), round(scale * width))
  if image.size != (width, height):
    image = image.resize((width, height), Image.Resampling.LANCZOS)
  return image, scale < 1


def read_photograph(file: Path | BinaryIO, channels: int, levels: int | None = 256, name: str = "") -> np.ndarray:
  """Read an image file in its own size, `[H, W, channels]`; `levels`, `name` and dtype as for `read_image`."""
  if levels is None or levels > 256:
    return _read_array(file, channels, levels, name)
  with open_image(file, name) as image:
    flat = flat_image(upright(image), channels)
    return np.asarray(flat).reshape(flat.height, flat.width, channels)


def read_for_model(file: Path | BinaryIO, config: FlowPlusPlusConfig, name: str = "") -> np.ndarray:
  """Read an image file as pixel values of a model.

  With 2**bits levels the upper bits are kept, as in training. With another number, such as the 17 of digits, each
  value is rounded to the nearest of as many equally spaced levels from black to white.

  Returns:
    uint8 or, of more than 256 levels, uint16 `[H, W, C]`, values 0 .. levels - 1; of a model of real-valued images
    float32 or float64."""
  levels = config.pixel_levels
  check_channels(config.image_shape, levels)
  return _to_levels(read_image(file, config.image_shape, name, levels)[0], levels)


def read_whole_for_model(file: Path | BinaryIO, config: FlowPlusPlusConfig) -> np.ndarray:
  """Read an image file in its own size, `[H, W, C]`, with the pixel values of `read_for_model`.

  Real-valued images must consist of whole tiles of the model's size, see `tiles.cutting.check_whole_tiles`.
  """
  levels = config.pixel_levels
  check_channels(config.image_shape, levels)
  image = _to_levels(read_photograph(file, config.image_shape[2], levels), levels)
  with _named(file, ""):
    check_whole_tiles("image", image.shape, config.image_shape, levels)
  return image


def _to_levels(image, levels):
  if levels is None or levels > 256:
    return image
  if 256 % levels == 0:
    return image // (256 // levels)
  return np.round(image * ((levels - 1) / 255)).astype(np.uint8)


def upright_size(file: Path | BinaryIO, channels: int = 1, levels: int | None = 256) -> tuple[int, int]:
  """Return `(width, height)` of an image file in its EXIF orientation; other arguments as for `read_photograph`."""
  if levels is None or levels > 256:
    return _read_array(file, channels, levels).shape[1::-1]
  with open_image(file) as image:
    turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return image.size[::-1] if turned else image.size


def parts_left_out(path: Path, levels: int | None) -> list[str]:
  """Return the parts of an image file that a model of so many levels does not get.

  Models of more than 256 levels get all of a file or refuse it.
  """
  if levels is None or levels > 256:
    return []
  parts = ["16 bits, of which a model of at most 256 levels gets the upper 8"] if bits_of_png(path) == 16 else []
  with contextlib.suppress(ImageFileError), open_image(path, formats=_WITH_FRAMES) as image:
    parts += ["several frames, of which a model gets the first"] if getattr(image, "n_frames", 1) > 1 else []
  return parts


def upright(image: Image.Image) -> Image.Image:
  """Decode a Pillow image, turn it in place to its EXIF orientation, and return it."""
  image.load()
  ImageOps.exif_transpose(image, in_place=True)
  return image


def fit_image(image: Image.Image, image_shape: Shape) -> tuple[np.ndarray, bool]:
  """Convert a Pillow image to what `read_image` returns."""
  height, width, channels = image_shape
  image, is_enlarged = _fit(flat_image(image, channels), height, width)
  return np.asarray(image).reshape(image_shape), is_enlarged


def flat_image(image: Image.Image, channels: int) -> Image.Image:
  """Convert a Pillow image to one of 8 bits, without transparency, of 1 or 3 channels.

  Raises:
    InputError (a ValueError): for real numbers, and for integers that have a sign or more than 16 bits.
  """
  if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
    kind = "real numbers" if image.mode == "F" else "integers that have a sign or more than 16 bits"
    raise InputError(f"it holds {kind}; expected values of 8 or 16 bits")
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


def check_channels(image_shape: Shape, levels: int | None = 256) -> None:
  """Raise an `InputError` unless image files can be read as this shape; real numbers have any number of channels."""
  if len(image_shape) != 3 or (levels is not None and image_shape[2] not in (1, 3)):
    raise InputError(
      f"`image_shape` must be (height, width, channels) with 1 or 3 channels to read images, got {image_shape}"
    )


def parallel_map(function: Callable[[Any], Any], items: Iterable[Any], ahead: int = 64) -> Iterator[Any]:
  """Yield `function(item)` of each item in order, on up to 16 threads, each up to `ahead` items ahead."""
  items = iter(items)
  threads = min(len(usable_cores()), 16)
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    pending = collections.deque(pool.submit(function, item) for item in itertools.islice(items, ahead * threads))
    while pending:
      result = pending.popleft().result()
      pending.extend(pool.submit(function, item) for item in itertools.islice(items, 1))
      yield result
