"""Files that a command writes: checked before the work, replaced as a whole, named in a line."""

from collections.abc import Callable, Iterable
import os
import pathlib
from typing import Any

from flowpp_tf.core.errors import InputError
from flowpp_tf.io.files import replace_file, writing
from flowpp_tf.io.image_folder import DEEP_SUFFIXES
from flowpp_tf.io.model_folders import CONFIG, HUB_FILES
from flowpp_tf.types import Path


def check_can_be_written(path: Path, inputs: Iterable[Path] = ()) -> None:
  """Raise an `InputError` if a file cannot or must not be written. Call this before the work of producing it.

  Args:
    path: the file.
    inputs: files that the program reads, and folders of images, which must stay as they are.
  """
  folder = os.path.dirname(path) or "."
  reasons = {
    "it is a folder": os.path.isdir(path),
    f"there is no folder {folder!r}": not os.path.isdir(folder),
    "it is not a regular file": os.path.exists(path) and not os.path.isfile(path),
    "no permission": not os.access(folder, os.W_OK),
    "it is one of the files that are read": os.path.exists(path) and any(_is_read(path, place) for place in inputs),
    "it belongs to a run or a preset": _is_of_run(path),
  }
  for reason, holds in reasons.items():
    if holds:
      raise InputError(f"cannot write {str(path)!r}: {reason}")


def _is_read(path, place):
  """Return whether a file is what is read at a place, or one of the images below it."""
  if os.path.isdir(place):
    folder = pathlib.Path(place).resolve()
    return str(path).lower().endswith(DEEP_SUFFIXES) and folder in pathlib.Path(path).resolve().parents
  return os.path.exists(place) and os.path.samefile(path, place)


def are_one(path: Path | None, other: Path | None) -> bool:
  """Return whether two outputs are given that name one place to write."""
  return path is not None and other is not None and os.path.realpath(path) == os.path.realpath(other)


def check_is_new(path: Path) -> None:
  """Raise an `InputError` if a file exists already, or cannot be written."""
  if os.path.lexists(path):
    raise InputError(f"{str(path)!r} exists already; give another name, or remove it")
  check_can_be_written(path)


def replace(path: Path, write: Callable[[pathlib.Path], Any]) -> None:
  """Call `replace_file`; raise an `InputError` if the file cannot be written."""
  with writing(repr(str(path))):
    replace_file(path, write)


def write_file(path: Path, write: Callable[[pathlib.Path], Any]) -> None:
  """Call `replace` and print the path."""
  replace(path, write)
  print(f"wrote {path}")


def _is_of_run(path):
  target = pathlib.Path(os.path.realpath(path))
  return target.exists() and target.name in HUB_FILES and (target.parent / CONFIG).exists()
