"""Files that a command writes: checked before the work, replaced as a whole, named in a line.

A file that exists is replaced only if it is empty, or begins as the files that the flag writes: another PNG, another
array, another table of scores. A name that a run or a preset has for its own files is refused in its folder.
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

# How files begin that flags write.
PICTURE = re.compile(rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF....WEBP", re.DOTALL)
ARRAY = re.compile(rb"\x93NUMPY")
SCORES = re.compile(rb"image,log_likelihood,")
RECORD = re.compile(rb"\{")  # `read_record` reads the rest


def check_can_be_written(path: Path, begins: re.Pattern[bytes], inputs: Iterable[Path] = ()) -> None:
  """Raise an `InputError` if a file cannot or must not be written. Call this before the work of producing it.

  Args:
    path: the file.
    begins: how files of the kind begin that is written; another file is not replaced.
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
    "a file of another kind is there, which would be lost": not _may_be_replaced(path, begins),
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
  check_can_be_written(path, re.compile(b""))


def check_holds_only(folder: pathlib.Path, patterns: Iterable[str]) -> None:
  """Raise an `InputError` if a folder that is to be replaced has files of other names, or subfolders."""
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
  """Return whether a file has a name that the run or the preset in its folder has for its own, linked or not."""
  paths = [pathlib.Path(os.path.abspath(path)), pathlib.Path(os.path.realpath(path))]
  names = [path.name for path in paths if (path.parent / CONFIG).exists()]
  return any(fnmatch.fnmatch(name, own) for name in names for own in RUN_FILES)


def _may_be_replaced(path, begins):
  """Return whether a file does not exist, is empty, or begins as files of a kind."""
  if not os.path.isfile(path):
    return True
  with gate.reading(path), gate.open_regular(path) as file:
    content = file.read(64)
  return not content or begins.match(content) is not None
