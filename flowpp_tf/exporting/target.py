"""The directory that an export is written to, and what its metadata.json says."""

from collections.abc import Callable
import json
import pathlib
from typing import Any

from flowpp_tf.core.errors import InputError
from flowpp_tf.io.files import writing
from flowpp_tf.types import Path


def checked_target(path: Path, overwrite: bool, is_export: Callable[[pathlib.Path], bool], kind: str) -> pathlib.Path:
  """Return the absolute path of a directory that may be written.

  Args:
    path: new or empty directory, or an export, which is replaced.
    overwrite: whether it may be replaced.
    is_export: whether a directory holds such an export.
    kind: what the message calls it.

  Raises:
    InputError (a ValueError): if something else is there, it must not be replaced, or the system refuses to look.
  """
  target = pathlib.Path(path).absolute()
  with writing(repr(str(target))):  # a name may be too long, a folder not to be read
    if target.is_file() or target.is_dir() and any(target.iterdir()):
      if not overwrite:
        raise InputError(f"{str(target)!r} exists already; `overwrite` replaces it")
      if not is_export(target):
        raise InputError(f"{str(target)!r} cannot be overwritten: it is no {kind}")
  return target


def metadata_text(metadata: dict[str, Any] | None, about: dict[str, Any]) -> str:
  """Return the content of metadata.json: what the user gives, and what an export says of itself.

  Raises:
    InputError (a ValueError): if `metadata` has keys of the export, or what JSON cannot hold.
  """
  if taken := sorted((metadata or {}).keys() & about.keys()):
    raise InputError(f"`metadata` has keys that the export writes itself: {', '.join(taken)}")
  try:
    return json.dumps({**(metadata or {}), **about}, indent=2, allow_nan=False) + "\n"
  except (TypeError, ValueError) as error:
    raise InputError(f"`metadata` must be what JSON can hold: {error}") from None
