"""The error that means: what was given is wrong, the program is not; and checks that raise it."""

import difflib

import numpy as np


class InputError(ValueError):
  """Bad input: one line that names the argument, the value and what was expected."""


def unknown_name(kind, name, known):
  """The error for a name that is not among the known ones, with the closest of them."""
  known = sorted(known)
  close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.6)
  hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
  return InputError(f"unknown {kind} {name!r}; {hint}")


def check_pixels(images, levels, name="images"):
  """Raises an `InputError` unless all values of an array are integers in 0 .. levels - 1.

  Args:
    images: NumPy array.
    levels: number of pixel values.
    name: of the argument, for the message.
  """
  if images.size == 0:
    raise InputError(f"`{name}` must hold at least one image, got shape {images.shape}")
  if np.issubdtype(images.dtype, np.floating):
    if not np.all(np.isfinite(images)):
      raise InputError(f"`{name}` must be finite, got {np.sum(~np.isfinite(images))} values that are "
                       "NaN or infinite")
    if np.any(images != np.floor(images)):
      raise InputError(f"`{name}` must be integers in 0 .. {levels - 1}, got "
                       f"{images[images != np.floor(images)][0]}")
  low, high = images.min(), images.max()
  if low < 0 or high >= levels:
    raise InputError(f"`{name}` must lie in 0 .. {levels - 1} ({levels} levels), got values from "
                     f"{low} to {high}")
