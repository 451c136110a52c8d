"""Writing: an existing file or directory stays in place until the new one is complete and on disk.

Content is written to a temporary name in the same folder, synced to disk, and then renamed. A process that is
killed leaves the old content, and perhaps a `.tmp.*` that nothing reads.

A directory that holds files cannot be replaced by `rename`: the two change places in one call where the system has one
(Linux). Elsewhere the old one is moved aside first, and a process that is killed between the two moves leaves it as
`.old.NAME`, which the next write moves back.
"""

from collections.abc import Callable, Iterator
import contextlib
import ctypes
import errno
import hashlib
import json
import math
import os
import pathlib
import re
import shutil
import sys
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from flowpp_tf.core.errors import InputError
from flowpp_tf.io.gate import open_claimed, reason
from flowpp_tf.types import Path

_TEMPORARY = ".tmp."
# Of Linux' renameat2.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_C = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@contextlib.contextmanager
def writing(what: str) -> Iterator[None]:
  """Turn what the system says into an `InputError`: "`what` cannot be written: reason"."""
  try:
    yield
  except OSError as error:
    raise InputError(f"{what} cannot be written: {reason(error)}") from None


def write_file(path: Path, content: bytes | str) -> None:
  """Write a file that is in memory; `replace_file` says how."""
  data = content.encode() if isinstance(content, str) else content
  replace_file(path, lambda temporary: temporary.write_bytes(data))


def write_json(path: Path, value: object) -> None:
  """Write a value as JSON, with null for numbers that are not finite, as JSON has none; `replace_file` says how."""
  write_file(path, json.dumps(finite_json(value), indent=2, allow_nan=False) + "\n")


def finite_json(value: Any) -> Any:
  """Return a value with None in place of numbers that are not finite, which JSON does not have."""
  if isinstance(value, dict):
    return {name: finite_json(item) for name, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [finite_json(item) for item in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value


def replace_file(path: Path, write: Callable[[pathlib.Path], object]) -> None:
  """Write a file by `write(temporary path)`, which has the same suffix, and move it to `path`.

  A link is followed: the file that it names is replaced.

  Raises:
    OSError: if it cannot be written, or `path` is there and no regular file.
  """
  target = pathlib.Path(os.path.realpath(path))
  if os.path.lexists(target) and not target.is_file():
    raise OSError(errno.EEXIST, "it is there, and is no regular file", str(path))
  temporary = target.with_name(f"{_TEMPORARY}{os.getpid()}.{target.name[-40:]}")  # a name has 255 bytes at most
  try:
    write(temporary)
    sync(temporary)
    os.replace(temporary, target)
    sync(target.parent)
  finally:
    temporary.unlink(missing_ok=True)


def copy_file(source: Path, path: Path) -> None:
  """Copy a regular file to `path`; `replace_file` says how.

  Raises:
    OSError: if `source` is something else, or cannot be read, or `path` cannot be written.
    BudgetError (an InputError): if `source` has more bytes than are read.
  """

  def write(temporary):
    with open_claimed(source) as file, open(temporary, "wb") as target:
      shutil.copyfileobj(file, target, 1 << 22)

  replace_file(path, write)


def replace_directory(path: Path, write: Callable[[pathlib.Path], object]) -> None:
  """Write a directory by `write(temporary path)`, and move it to `path` when it is complete.

  A link is followed: the directory that it names is replaced.

  Raises:
    OSError: if it cannot be written, or `path` is there and no directory.
  """
  target = pathlib.Path(os.path.realpath(path))
  if os.path.lexists(target) and not target.is_dir():
    raise OSError(errno.EEXIST, "it is there, and is no directory", str(path))
  temporary = target.with_name(f"{_TEMPORARY}{os.getpid()}.{target.name[-40:]}")
  old = target.with_name(f".old.{target.name}")

  def tidy_up():
    if old.exists() and not target.exists():  # the process stopped between the two moves below
      os.replace(old, target)
    for leftover in 2 * (temporary, old):  # again, for what failed only once, such as too many open files
      shutil.rmtree(leftover, ignore_errors=True)

  target.parent.mkdir(parents=True, exist_ok=True)
  tidy_up()
  temporary.mkdir()
  try:
    write(temporary)
    for written in temporary.rglob("*"):
      sync(written)
    if not target.exists():
      os.replace(temporary, target)
    elif not _exchange(temporary, target):
      os.replace(target, old)
      os.replace(temporary, target)
    sync(target.parent)
  finally:
    tidy_up()


def _exchange(one, other):
  """Let two files or directories change places in one step; return False where the system cannot."""
  function = getattr(_C, "renameat2", None)
  if function is None:
    return False
  if function(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
    return True
  number = ctypes.get_errno()
  if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):  # an older system, or its file system
    return False
  raise OSError(number, os.strerror(number), os.fspath(other))


# The files of a run and of a preset that no other program may write; see training/workdir.py and pretrained/presets.py.
_OWNED = re.compile(
  r"(config|preset|evaluation|typicality)\.json|best\.weights\.(h5|safetensors)|metrics\.jsonl|run\.lock|card\.md|README\.md|"
  r"evaluation-[0-9a-f]{12}\.npy|codec_model\..*\.npz"
)


def owner_of(path: Path) -> str | None:
  """Return why a file belongs to a run or to a SavedModel, so that nothing else may write it; None if it does not."""
  target = pathlib.Path(os.path.realpath(path))
  for folder in target.parents[:4]:
    inside = target.relative_to(folder).parts
    if (folder / "saved_model.pb").exists():
      return f"it belongs to the SavedModel {str(folder)!r}"
    if (folder / "config.json").exists() and (
      inside[0] in ("checkpoints", "tensorboard") or (len(inside) == 1 and _OWNED.fullmatch(inside[0]))
    ):
      return f"it belongs to the run {str(folder)!r}"
  return None


def create_array(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...], end: bytes = b"") -> np.memmap:
  """Create a memory-mapped .npy file whose place on the disk is reserved; raise an `OSError` if there is none.

  A write to a map of a file for which the disk has no room would kill the process.

  Args:
    path: path of the file.
    dtype: of the array.
    shape: of the array.
    end: what follows the array in the file, which NumPy does not read.
  """
  array: np.memmap = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
  with open(path, "ab") as file:
    file.write(end)
  if hasattr(os, "posix_fallocate"):
    with open(path, "r+b") as file:
      os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
  return array


def remove_leftovers(folder: Path) -> None:
  """Remove what killed processes of this machine left in a folder that belongs to this one."""
  for leftover in pathlib.Path(folder).glob(f"{_TEMPORARY}*"):
    number = leftover.name[len(_TEMPORARY) :].partition(".")[0]
    if number.isdecimal() and _is_alive(int(number)):
      continue
    if leftover.is_dir() and not leftover.is_symlink():
      shutil.rmtree(leftover, ignore_errors=True)
    else:
      with contextlib.suppress(OSError):
        leftover.unlink()


def _is_alive(process: int) -> bool:
  try:
    os.kill(process, 0)
    return True
  except (ProcessLookupError, OverflowError):
    return False
  except PermissionError:
    return True


def sync(path: Path) -> None:
  """Wait until the content of a file, or the list of a folder's files, is on disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def file_sha256(path: Path) -> str:
  """Return the SHA-256 of a regular file's content as hexadecimal digits.

  Raises:
    OSError: if it cannot be read, or is something else.
    BudgetError (an InputError): if it has more bytes than are read.
  """
  with open_claimed(path) as file:
    return stream_sha256(file)


def stream_sha256(file: BinaryIO) -> str:
  """Return the SHA-256 of what is left to read of an open file as hexadecimal digits."""
  digest = hashlib.sha256()
  while block := file.read(1 << 22):
    digest.update(block)
  return digest.hexdigest()
