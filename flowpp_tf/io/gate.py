"""The gate for files from outside: regular files only, within limits, and one line that says what is wrong.

A named pipe would block, a device has no end, and a few kilobytes can claim to be gigabytes. Every file that is read
is opened here, and what it says that it holds is claimed from the budget first; image_file.py adds what holds for
images, weights_file.py what holds for weights. tests/io/test_nothing_past_the_gate.py asserts that nothing else opens
files.
"""

import collections
from collections.abc import Iterator, Sequence
import contextlib
import errno
import io
import json
import math
import os
import stat
from typing import IO, Any, BinaryIO, Literal
import zipfile

import numpy as np

from flowpp_tf.core.errors import InputError
from flowpp_tf.io import budget
from flowpp_tf.types import Path

MOST_TEXT = 256 << 20  # bytes of a text file
_JSON_FACTOR = 24  # bytes of memory that a byte of JSON can take: "{}," is a `dict` of 64 bytes and a pointer
_LONGEST = (1 << 63) - 1  # side of an array
_ENTRY = 46  # bytes that an entry of a zip file's directory has at least
_UNPACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what NumPy writes; LZMA takes memory by what its header says
# Something else may take the place of a file between two looks: without O_NONBLOCK a named pipe would wait.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


def open_regular(path: Path) -> BinaryIO:
  """Open a regular file, or a link to one, for reading.

  Raises:
    OSError: if it cannot be opened, or is something else; something else is not opened.
  """
  _check_regular(path, os.stat(path))
  descriptor = os.open(path, _FLAGS)
  try:
    _check_regular(path, os.fstat(descriptor))
    return os.fdopen(descriptor, "rb")
  except BaseException:
    os.close(descriptor)
    raise


def _check_regular(path, status):
  if not stat.S_ISREG(status.st_mode):
    raise OSError(errno.EINVAL, "it is a folder, a named pipe or a device; expected a regular file", os.fspath(path))


def open_claimed(path: Path) -> BinaryIO:
  """Open a regular file as `open_regular` does, and claim its bytes: a file of holes has no end either.

  Raises:
    OSError: if it cannot be opened, or is something else.
    BudgetError (an InputError): if it has more bytes than are read.
  """
  file = open_regular(path)
  try:
    budget.claim("bytes_in", os.fstat(file.fileno()).st_size, repr(os.fspath(path)))
  except BaseException:
    file.close()
    raise
  return file


def read_bytes(path: Path, most: int = MOST_TEXT) -> bytes:
  """Return the content of a regular file of at most so many bytes.

  Raises:
    OSError: for another file, and for one with more bytes, or another number of bytes than the system states.
    BudgetError (an InputError): for more bytes than the budget has.
  """
  with open_claimed(path) as file:
    size = os.fstat(file.fileno()).st_size
    if size > most:
      raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", os.fspath(path))
    content = file.read(size + 1)
  if len(content) != size:
    raise OSError(errno.EINVAL, "its size changed while it was read", os.fspath(path))
  return content


def read_text(path: Path) -> str:
  """Return the content of a file of UTF-8 text; raise an `OSError` or a `ValueError` for others."""
  return read_bytes(path).decode("utf-8-sig")


def read_json(path: Path) -> Any:
  """Return what a JSON file holds; raise an `OSError` or a `ValueError` for others."""
  return parse_json(read_text(path))


def parse_json(text: str) -> Any:
  """Parse a JSON text.

  Raises:
    ValueError: if it is not one, has a key twice (one would be lost), or takes more memory than the budget has.
  """
  budget.claim("memory", _JSON_FACTOR * len(text), f"JSON of {budget.size_text(len(text))}")
  try:
    return json.loads(text, object_pairs_hook=_table)
  except RecursionError:
    raise ValueError("it is nested too deeply") from None


def _table(pairs):
  table = dict(pairs)
  if len(table) < len(pairs):
    twice = collections.Counter(key for key, _ in pairs).most_common(1)[0][0]
    raise ValueError(f"{twice!r} is there twice")
  return table


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

  Readers raise many kinds of exceptions for damaged files, and so do compression libraries.

  Args:
    path: the file.
    expected: what to say about what was expected.
  """
  try:
    yield
  except budget.BudgetError as error:
    name = repr(os.fspath(path))
    raise error if name in str(error) else budget.BudgetError(f"{name}: {error}") from None
  except InputError:
    raise
  except Exception as error:
    raise InputError(f"{os.fspath(path)!r} cannot be read: {reason(error)}{expected and f'; {expected}'}") from None


class _ListedFile(io.BufferedReader):
  """A zip file whose directory is claimed when `zipfile` reads it, in one piece, before it makes the entries."""

  def read(self, size: int | None = -1) -> bytes:
    budget.claim("items", (size or 0) // _ENTRY, "its directory")
    return super().read(size)


@contextlib.contextmanager
def open_zip(file: BinaryIO) -> Iterator[zipfile.ZipFile]:
  """Open a zip file that the gate has opened, and close it; its entries are claimed before they are listed.

  Raises:
    BudgetError (an InputError), zipfile.BadZipFile: for too many entries, and for another file.
  """
  with _ListedFile(file) as listed, zipfile.ZipFile(listed) as archive:  # type: ignore[arg-type]
    yield archive


def read_npz(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
  """Return arrays of an .npz file.

  Args:
    path: the file.
    names: which of them; None for all.

  Raises:
    InputError (a ValueError): naming what is missing or wrong.
  """
  with reading(path, "expected an .npz file of plain arrays"), open_claimed(path) as file, open_zip(file) as archive:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    missing = [name for name in names or () if name not in members]
    if missing:
      raise InputError(
        f"{os.fspath(path)!r} has no array {' and no '.join(map(repr, missing))}; it has "
        f"{', '.join(map(repr, members)) or 'none'}"
      )
    wanted = members if names is None else {name: members[name] for name in names}
    total = sum(info.file_size for info in wanted.values())
    budget.claim_output(total, os.fstat(file.fileno()).st_size, repr(os.fspath(path)))
    budget.claim("memory", total, repr(os.fspath(path)))
    arrays = {}
    for name, info in wanted.items():
      if info.compress_type not in _UNPACKED:
        raise ValueError(f"its array {name!r} is compressed by a method that NumPy does not write")
      with archive.open(info) as member:
        check_npy_header(member, info.file_size)
        member.seek(0)
        arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
    return arrays


def map_npy(path: Path, mode: Literal["r", "r+"] = "r") -> np.ndarray:
  """Return the array of an .npy file as a memory map; raise an `OSError` or a `ValueError` for another file."""
  with open_regular(path) as file:
    check_npy_header(file, os.fstat(file.fileno()).st_size)
  return np.load(path, mmap_mode=mode, allow_pickle=False)


def check_npy_header(file: IO[bytes], size: int) -> None:
  """Raise a `ValueError` if the header of an .npy file, open at its beginning, claims more than its `size` bytes."""
  version = np.lib.format.read_magic(file)
  readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
  if version not in readers:
    raise ValueError(f"it has an array of version {version}; expected 1.0 or 2.0")
  shape, _, dtype = readers[version](file)
  # An array of no sides or of no bytes for each value could have any length, and what is made of it too.
  sides = all(type(side) is int and 0 <= side <= _LONGEST for side in shape)
  bytes_left = size - file.tell()
  if not dtype.hasobject and (not sides or math.prod(shape) * max(dtype.itemsize, 1) > bytes_left):
    raise ValueError(f"it claims an array of shape {shape}, and has {size:,} bytes")
