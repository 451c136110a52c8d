"""Image files to uint8 arrays of one shape, by Pillow.

What becomes of which file:
- turned upright by its EXIF orientation; the first frame of an animation; colour profiles are ignored;
- 16 bits a channel: the upper 8;
- transparency (RGBA, LA, palettes with it): laid on white;
- grey, palette, CMYK: to RGB, or all to grey (ITU-R 601 luma) for a model of one channel;
- cropped to the model's aspect ratio around the centre, then resized by Lanczos with antialiasing. An
  image that has the size keeps its pixels.
"""

import concurrent.futures
import itertools
import os

import numpy as np
from PIL import ExifTags
from PIL import Image
from PIL import ImageOps

from flowpp_tf.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def read_image(file, image_shape):
  """An image file as an array.

  Args:
    file: path or file object.
    image_shape: `(H, W, C)` with C 1 or 3.

  Returns:
    uint8 `[H, W, C]`, and whether the image was smaller than that and had to be enlarged.

  Raises:
    Exception: whatever Pillow raises for files that are no whole image.
  """
  with Image.open(file) as image:
    image.load()
    return fit_image(ImageOps.exif_transpose(image), image_shape)


def read_for_model(file, config):
  """An image file as pixel values of a model.

  Of 2**bits levels they are the upper bits, as in training; of other numbers, such as the 17 of the
  digits, the nearest of as many greys from black to white.

  Args:
    file: path or file object.
    config: `FlowPlusPlusConfig`.

  Returns:
    uint8 `[H, W, C]`, values 0 .. levels - 1.

  Raises:
    Exception: whatever Pillow raises for files that are no whole image.
  """
  check_channels(config.image_shape)
  image, _ = read_image(file, config.image_shape)
  if 256 % config.levels == 0:
    return image // (256 // config.levels)
  return np.round(image * ((config.levels - 1) / 255)).astype(np.uint8)


def upright_size(file):
  """`(width, height)` of an image file as `read_image` sees it, before it is fitted; raises like it."""
  with Image.open(file) as image:
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) > 4
    return image.size[::-1] if turned else image.size


def reason(error):
  """One line from whatever Pillow raises for files that are no whole image."""
  return " ".join(str(error).split()) or type(error).__name__


def fit_image(image, image_shape):
  """A Pillow image as `read_image` gives it."""
  height, width, channels = image_shape
  if image.mode.startswith("I"):  # 16 bits, grey
    image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
  if image.has_transparency_data:
    image = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
  image = image.convert("L" if channels == 1 else "RGB")
  scale = min(image.width / width, image.height / height)
  image = centre_crop(image, round(scale * height), round(scale * width))
  if image.size != (width, height):
    image = image.resize((width, height), Image.Resampling.LANCZOS)
  return np.asarray(image).reshape(image_shape), scale < 1


def centre_crop(image, height, width):
  """The middle of a Pillow image."""
  left, top = (image.width - width) // 2, (image.height - height) // 2
  return image.crop((left, top, left + width, top + height))


def check_channels(image_shape):
  """Raises an `InputError` unless image files can be read as this shape."""
  if len(image_shape) != 3 or image_shape[2] not in (1, 3):
    raise InputError("`image_shape` must be (height, width, channels) with 1 or 3 channels to read "
                     f"images, got {image_shape}")


def parallel_map(function, items):
  """`function(item)` of each item, in order, on up to 16 cores, reading ahead by a few items only."""
  items = iter(items)
  threads = min(os.cpu_count() or 1, 16)
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    pending = [pool.submit(function, item) for item in itertools.islice(items, 64 * threads)]
    while pending:
      done, pending = pending[:32 * threads], pending[32 * threads:]
      yield from (future.result() for future in done)
      pending += [pool.submit(function, item) for item in itertools.islice(items, len(done))]
