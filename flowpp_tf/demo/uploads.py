"""Read uploaded files: fit them to the model, or refuse them with a line that says why."""

import os
import pathlib

import numpy as np
from PIL import Image

from flowpp_tf.data.images import read_for_model, reason
from flowpp_tf.errors import InputError
from flowpp_tf.models import FlowPlusPlusConfig
from flowpp_tf.types import Path

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # some other formats of Pillow start programs
MOST_PIXELS = 64_000_000  # decoding so many takes about a second and half a GiB


def read_upload(path: Path | None, config: FlowPlusPlusConfig) -> np.ndarray:
  """Read an uploaded file as pixel values of a model, see `read_for_model`; None means no upload.

  Returns:
    uint8 `[H, W, C]`, values 0 .. levels - 1.

  Raises:
    InputError (a ValueError): if it is not a complete image of a known format, or too large.
  """
  if path is None:
    raise InputError("there is no image yet: upload one, or click an example")
  name = pathlib.Path(path).name
  try:
    if not os.path.getsize(path):
      raise InputError(f"{name!r} is empty")
    with Image.open(path, formats=_FORMATS) as image:  # this reads only the header
      width, height = image.size
    if width * height > MOST_PIXELS:
      raise InputError(f"{name!r} is too large: it has {width}x{height} pixels, "
                       f"{width * height / 1e6:.0f} million, expected at most {MOST_PIXELS / 1e6:.0f}")
    return read_for_model(path, config)
  except InputError:
    raise
  except Image.UnidentifiedImageError:
    raise InputError(f"{name!r} is no image: expected one of {', '.join(_FORMATS)}") from None
  except Exception as error:  # pylint: disable=broad-except  # Pillow raises many exception types
    raise InputError(f"{name!r} cannot be read: {reason(error)}") from None
