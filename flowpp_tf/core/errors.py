"""`InputError` for invalid user input, and checks that raise it; `Diverged` and `WorkerLost`."""

from collections.abc import Iterable
import difflib

import numpy as np


class InputError(ValueError):
  """Raised for invalid user input, with the argument, the value and what was expected in one line.

  Examples:
    >>> fpp.get_config("digit")
    Traceback (most recent call last):
      ...
    flowpp_tf.core.errors.InputError: unknown config 'digit'; did you mean digits?
  """


class Diverged(Exception):
  """Too many steps in a row had a loss or gradients that were not finite."""


class WorkerLost(Exception):
  """Another worker of the run has ended or cannot be reached."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
  """Return the error for an unknown name, with the known names that are close to it."""
  known = sorted(known)
  close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.6)
  hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
  return InputError(f"unknown {kind} {name!r}; {hint}")


def check_pixels(images: np.ndarray, levels: int, name: str = "images") -> None:
  """Raise an `InputError` unless all values of an array are integers in 0 .. levels - 1.

  Args:
    images: array of any shape.
    levels: number of pixel values.
    name: name of the argument in the message.
  """
  if images.size == 0:
    raise InputError(f"`{name}` must hold at least one image, got shape {images.shape}")
  if np.issubdtype(images.dtype, np.floating):
    if not np.all(np.isfinite(images)):
      count = np.sum(~np.isfinite(images))
      raise InputError(f"`{name}` must be finite, got {count} values that are NaN or infinite")
    fractional = images[images != np.floor(images)]
    if fractional.size:
      divided = images.min() >= 0 and images.max() <= 1
      raise InputError(f"{not_integers(levels, divided, name)} {fractional[0]}")
  low, high = images.min(), images.max()
  if low < 0 or high >= levels:
    raise InputError(f"`{name}` must lie in 0 .. {levels - 1} ({levels} levels), got values from {low} to {high}")


def not_integers(levels: int, divided: bool, name: str = "images") -> str:
  """Return the message about pixels that are not integers in 0 .. levels - 1, up to the value.

  Args:
    levels: number of pixel values.
    divided: whether all values are from 0 to 1, so that they may have been integers.
    name: name of the argument.
  """
  hint = ", not scaled to 0 .. 1 (did you divide by 255?)" if divided else ""
  return f"`{name}` must be integers in 0 .. {levels - 1}{hint}, got"
