"""Pictures of what examples/epidemic.py finds, which takes some minutes."""

import functools
import sys
import tempfile

from PIL import Image
import style

sys.path.append(str(style.IMAGES.parents[1] / "examples"))
import epidemic as example  # noqa: E402


@functools.cache
def found():
  """What the example finds by its defaults."""
  return example.run()


def calibration(theme):
  """What `fpp.calibration` plots."""
  with style.settings(theme), tempfile.NamedTemporaryFile(suffix=".png") as file:
    found()[0].plot(file.name)
    return Image.open(file.name).copy()


def epidemic(theme):
  """A posterior and its forecast."""
  with style.settings(theme):
    return example.posterior_picture(*found()[1:])
