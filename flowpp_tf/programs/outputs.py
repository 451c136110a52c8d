"""Files that a command writes: checked before the work, replaced as a whole, named in a line."""

from collections.abc import Callable, Iterable
import os
import pathlib
from typing import Any

from flowpp_tf.core.errors import InputError
from flowpp_tf.io import gate
from flowpp_tf.io.files import replace_file
from flowpp_tf.io.model_folders import CONFIG, HUB_FILES
from flowpp_tf.types import Path


def check_can_be_written(path: Path, inputs: Iterable[Path] = ()) -> None:
  """Raise an `InputError` if a file cannot or must not be written. Call this before the work of producing it.

  Args:
    path: the file.
    inputs: files that the program reads, which must stay as they are.
  """
  folder = os.path.dirname(path) or "."
  problem = None
  if os.path.isdir(path):
    problem = "it is a folder"
  elif not os.path.isdir(folder):
    problem = f"there is no folder {folder!r}"
  elif os.path.exists(path) and not os.path.isfile(path):
    problem = "it is not a regular file"
  elif not os.access(folder, os.W_OK):
    problem = "no permission"
  elif any(_is_same(path, file) for file in inputs):
    problem = "it is one of the files that are read"
  elif _is_of_run(path):
    problem = "it belongs to a run or a preset"
  if problem:
    raise InputError(f"cannot write {str(path)!r}: {problem}")


def check_differ(**outputs: Path | None) -> None:
  """Raise an `InputError` if two options, whose values are given by name, name one place to write."""
  name_of: dict[str, str] = {}
  for name, path in outputs.items():
    other = name if path is None else name_of.setdefault(os.path.realpath(path), name)
    if other != name:
      raise InputError(f"--{other} and --{name} are one file, {os.fspath(outputs[other] or '')!r}; give them two names")


def check_is_new(path: Path) -> None:
  """Raise an `InputError` if a file exists already, or cannot be written."""
  if os.path.lexists(path):
    raise InputError(f"{str(path)!r} exists already; give another name, or remove it")
  check_can_be_written(path)


def replace(path: Path, write: Callable[[pathlib.Path], Any]) -> None:
  """Call `replace_file`; raise an `InputError` if the file cannot be written."""
  try:
    replace_file(path, write)
  except OSError as error:
    raise InputError(f"cannot write {str(path)!r}: {gate.reason(error)}") from None


def write_file(path: Path, write: Callable[[pathlib.Path], Any]) -> None:
  """Call `replace` and print the path."""
  replace(path, write)
  print(f"wrote {path}")


def _is_of_run(path):
  target = pathlib.Path(os.path.realpath(path))
  return target.exists() and target.name in HUB_FILES and (target.parent / CONFIG).exists()


def _is_same(path, other):
  try:
    return os.path.samefile(path, other)
  except OSError:
    return False
