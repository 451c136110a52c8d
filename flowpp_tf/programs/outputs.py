"""Check a command's output files before the work, replace them atomically, and print their names.

An existing file is replaced only if it is empty, or of the kind that the flag writes: a picture, an array, a table of
scores. In the folder of a run or a preset, the names of its own files are refused.
"""

from collections.abc import Callable, Iterable
import fnmatch
import os
import pathlib
import re
from typing import Any

from flowpp_tf.core.errors import InputError
from flowpp_tf.io import gate
from flowpp_tf.io.files import replace_file, writing
from flowpp_tf.io.image_folder import DEEP_SUFFIXES
from flowpp_tf.io.model_folders import CONFIG, RUN_FILES
from flowpp_tf.types import Path

# The first bytes of files that flags write.
PICTURE = re.compile(rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF....WEBP", re.DOTALL)
ARRAY = re.compile(rb"\x93NUMPY")
SCORES = re.compile(rb"image,log_likelihood,")
RECORD = re.compile(rb"\{")  # `read_record` reads the rest


def check_can_be_written(path: Path, begins: re.Pattern[bytes], inputs: Iterable[Path] = ()) -> None:
  """Raise an `InputError` if a file cannot or must not be written. Call this before the work.

  Args:
    path: the file.
    begins: pattern of the first bytes of such files; a file with another beginning is not replaced.
    inputs: files and folders of images that the program reads, which must not be overwritten.
  """
  folder = os.path.dirname(path) or "."
  reasons = {
    "it is a folder": os.path.isdir(path),
    f"there is no folder {folder!r}": not os.path.isdir(folder),
    "it is not a regular file": os.path.exists(path) and not os.path.isfile(path),
    "no permission": not os.access(folder, os.W_OK),
    "it is one of the files that are read": os.path.exists(path) and any(_is_read(path, place) for place in inputs),
    "it belongs to a run or a preset": _is_of_run(path),
    "a file of another kind is there, which would be lost": not _may_be_replaced(path, begins),
  }
  for reason, holds in reasons.items():
    if holds:
      raise InputError(f"cannot write {str(path)!r}: {reason}")


def _is_read(path, place):
  """Return whether a file is the input at `place`, or one of the images below that folder."""
  if os.path.isdir(place):
    folder = pathlib.Path(place).resolve()
    return str(path).lower().endswith(DEEP_SUFFIXES) and folder in pathlib.Path(path).resolve().parents
  return os.path.exists(place) and os.path.samefile(path, place)


def are_one(path: Path | None, other: Path | None) -> bool:
  """Return whether two outputs are given, and both name the same place."""
  return path is not None and other is not None and os.path.realpath(path) == os.path.realpath(other)


def check_is_new(path: Path) -> None:
  """Raise an `InputError` if a file exists already, or cannot be written."""
  if os.path.lexists(path):
    raise InputError(f"{str(path)!r} exists already; give another name, or remove it")
  check_can_be_written(path, re.compile(b""))


def check_holds_only(folder: pathlib.Path, patterns: Iterable[str]) -> None:
  """Raise an `InputError` if a folder to be replaced holds entries whose names match none of the patterns."""
  names = sorted(path.name for path in folder.glob("*"))
  if others := [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]:
    raise InputError(f"{str(folder)!r} holds more than an export, which would be lost: {', '.join(others)}")


def replace(path: Path, write: Callable[[pathlib.Path], Any]) -> None:
  """Call `replace_file`; raise an `InputError` if the file cannot be written."""
  with writing(repr(str(path))):
    replace_file(path, write)


def write_file(path: Path, write: Callable[[pathlib.Path], Any]) -> None:
  """Call `replace` and print the path."""
  replace(path, write)
  print(f"wrote {path}")


def _is_of_run(path):
  """Return whether a file, or the target of its link, has a name of its folder's own run or preset files."""
  for place in (os.path.abspath(path), os.path.realpath(path)):
    file = pathlib.Path(place)
    if (file.parent / CONFIG).exists() and any(fnmatch.fnmatch(file.name, pattern) for pattern in RUN_FILES):
      return True
  return False


def _may_be_replaced(path, begins):
  """Return whether a file does not exist, is empty, or matches the pattern of first bytes."""
  if not os.path.isfile(path):
    return True
  with gate.reading(path), gate.open_regular(path) as file:
    content = file.read(64)
  return not content or begins.match(content) is not None
