"""Read uploaded files: fit them to the model, or refuse them with a line that says why."""

import pathlib

import numpy as np

from flowpp_tf.core.errors import InputError
from flowpp_tf.data.images import read_for_model
from flowpp_tf.models import FlowPlusPlusConfig
from flowpp_tf.types import Path


def read_upload(path: Path | None, config: FlowPlusPlusConfig) -> np.ndarray:
  """Read an uploaded file as pixel values of a model, see `read_for_model`; None means no upload.

  Returns:
    uint8 `[H, W, C]`, values 0 .. levels - 1.

  Raises:
    InputError (a ValueError): if it is not a complete image of a known format, or too large.
  """
  if path is None:
    raise InputError("there is no image yet: upload one, or click an example")
  return read_for_model(path, config, name=pathlib.Path(path).name)  # visitors know no path
