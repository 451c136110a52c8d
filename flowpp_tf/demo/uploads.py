"""Files that visitors upload: fitted to the model, or refused with a line that says why."""

import os
import pathlib

from PIL import Image

from flowpp_tf.data.images import read_for_model
from flowpp_tf.data.images import reason
from flowpp_tf.errors import InputError

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # Pillow has others that start programs
MOST_PIXELS = 64_000_000  # which take about a second and half a GiB


def read_upload(path, config):
  """An uploaded file as pixel values of a model, see `read_for_model`.

  Args:
    path: of the file; None if there is none.
    config: `FlowPlusPlusConfig`.

  Returns:
    uint8 `[H, W, C]`, values 0 .. levels - 1.

  Raises:
    InputError (a ValueError): if it is no whole image of a known format, or too large.
  """
  if path is None:
    raise InputError("there is no image yet: upload one, or click an example")
  name = pathlib.Path(path).name
  try:
    if not os.path.getsize(path):
      raise InputError(f"{name!r} is empty")
    with Image.open(path, formats=_FORMATS) as image:  # which reads no pixels yet
      width, height = image.size
    if width * height > MOST_PIXELS:
      raise InputError(f"{name!r} is too large: it has {width}x{height} pixels, "
                       f"{width * height / 1e6:.0f} million, expected at most {MOST_PIXELS / 1e6:.0f}")
    return read_for_model(path, config)
  except InputError:
    raise
  except Image.UnidentifiedImageError:
    raise InputError(f"{name!r} is no image: expected one of {', '.join(_FORMATS)}") from None
  except Exception as error:  # pylint: disable=broad-except  # Pillow has many for damaged files
    raise InputError(f"{name!r} cannot be read: {reason(error)}") from None
