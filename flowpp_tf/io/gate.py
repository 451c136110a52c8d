"""The gate for files from outside: regular files only, within limits, and one line that says what is wrong.

A named pipe would block, a device has no end, and a few kilobytes can claim to be gigabytes. Every file that a
program did not write itself is opened here; image_file.py adds what holds for images.
"""

from collections.abc import Iterator, Sequence
import contextlib
import errno
import json
import os
import stat
from typing import Any, BinaryIO
import zipfile

import numpy as np

from flowpp_tf.core.errors import InputError
from flowpp_tf.types import Path

MOST_TEXT = 256 << 20  # bytes of a text file
# What is compressed by more than this factor is refused beyond so many bytes: images that are worth a model are not.
_LARGE, _SUSPICIOUS_RATIO = 128 << 20, 100
# Something else may take the place of a file between two looks: without O_NONBLOCK a named pipe would wait.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_KINDS = (
  (stat.S_ISDIR, "a folder"),
  (stat.S_ISFIFO, "a named pipe"),
  (stat.S_ISSOCK, "a socket"),
  (stat.S_ISCHR, "a device"),
  (stat.S_ISBLK, "a device"),
)


def open_regular(path: Path) -> BinaryIO:
  """Open a regular file, or a link to one, for reading.

  Raises:
    OSError: if it cannot be opened, or is something else; something else is not opened.
  """
  return os.fdopen(_open(path)[0], "rb")


def read_bytes(path: Path, most: int = MOST_TEXT) -> bytes:
  """Return the content of a regular file of at most so many bytes; raise an `OSError` for others."""
  descriptor, size = _open(path)
  try:
    missing = min(size or 1 << 20, most) + 1  # files of the system say 0 and have more
    parts = []
    while size <= most and missing and (part := os.read(descriptor, missing)):
      parts.append(part)
      missing -= len(part)
  finally:
    os.close(descriptor)
  if size > most or not missing:
    raise OSError(errno.EFBIG, f"it has more than {most:,} bytes, or grows", os.fspath(path))
  return parts[0] if len(parts) == 1 else b"".join(parts)


def _open(path):
  """The descriptor of a regular file, and its size."""
  _check_regular(path, os.stat(path).st_mode)
  descriptor = os.open(path, _FLAGS)
  try:
    status = os.fstat(descriptor)
    _check_regular(path, status.st_mode)
    return descriptor, status.st_size
  except BaseException:
    os.close(descriptor)
    raise


def _check_regular(path, mode):
  if not stat.S_ISREG(mode):
    kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
    raise OSError(errno.EINVAL, f"it is {kind}; expected a regular file", os.fspath(path))


def read_text(path: Path) -> str:
  """Return the content of a file of UTF-8 text; raise an `OSError` or a `ValueError` for others."""
  return read_bytes(path).decode("utf-8-sig")


def read_json(path: Path) -> Any:
  """Return what a JSON file holds; raise an `OSError` or a `ValueError` for others."""
  return parse_json(read_text(path))


def parse_json(text: str) -> Any:
  """Return what a JSON text says; raise a `ValueError` if it is none."""
  try:
    return json.loads(text)
  except RecursionError:
    raise ValueError("it is nested too deeply") from None


def reason(error: BaseException) -> str:
  """Return what an exception of a file's reader says, as one line without the file's name."""
  if isinstance(error, MemoryError):
    return "it takes more memory than there is"
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def reading(path: Path, expected: str = "") -> Iterator[None]:
  """Turn any exception of a file's reader into an `InputError`: "'file' cannot be read: reason".

  Readers raise many kinds of exceptions for damaged files, also those of compression libraries.

  Args:
    path: the file.
    expected: what to say about what was expected.
  """
  try:
    yield
  except InputError:
    raise
  except Exception as error:
    raise InputError(f"{os.fspath(path)!r} cannot be read: {reason(error)}{expected and f'; {expected}'}") from None


def check_sizes(members: Sequence[zipfile.ZipInfo], file: BinaryIO) -> None:
  """Raise a `ValueError` if members of a zip file would unpack to far more than the file holds."""
  size, total = os.fstat(file.fileno()).st_size, sum(member.file_size for member in members)
  if total > _LARGE and total > _SUSPICIOUS_RATIO * size:
    raise ValueError(f"its {size:,} bytes would unpack to {total:,}, more than {_SUSPICIOUS_RATIO} times as many")


def read_npz(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
  """Return arrays of an .npz file.

  Args:
    path: the file.
    names: which of them; None for all.

  Raises:
    InputError (a ValueError): naming what is missing or wrong.
  """
  with (
    reading(path, "expected an .npz file of plain arrays"),
    open_regular(path) as file,
    zipfile.ZipFile(file) as archive,
  ):
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    missing = [name for name in names or () if name not in members]
    if missing:
      raise InputError(
        f"{os.fspath(path)!r} has no array {' and no '.join(map(repr, missing))}; it has "
        f"{', '.join(map(repr, members)) or 'none'}"
      )
    wanted = members if names is None else {name: members[name] for name in names}
    check_sizes(list(wanted.values()), file)
    arrays = {}
    for name, info in wanted.items():
      with archive.open(info) as member:
        arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
    return arrays
