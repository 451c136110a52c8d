"""A progress bar on stderr, for programs whose output on stdout is read by others."""

from collections.abc import Callable
import contextlib
import sys

import keras


def progress_on_stderr(count: int | None) -> Callable[[int], None]:
  """Return a function to call with a number of images done; it draws a bar if stderr is a terminal.

  Args:
    count: of all images, None if it is not known.
  """
  if not sys.stderr.isatty():
    return lambda done: None
  with contextlib.redirect_stdout(sys.stderr):  # where Keras draws is stdout
    bar = keras.utils.Progbar(count, unit_name="image")

  def add(done):
    with contextlib.redirect_stdout(sys.stderr):
      bar.add(done)

  return add
