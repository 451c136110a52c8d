"""Writing: an existing file or directory stays in place until the new one is complete and on disk.

Content is written to a temporary name in the same folder, synced to disk, and then renamed. A process that is
killed leaves the old content, and perhaps a `.tmp.PID.MACHINE.NAME` that nothing reads. The first write of a process
into a folder removes the files of dead processes. On another machine the number of a process says nothing: what
others left on a shared file system stays, except in the folder of a run, whose lock is held, where it goes after an
hour.

A directory that holds files cannot be replaced by `rename`: the old one is moved aside first. A process that is killed
between the two moves leaves it as `.old.NAME`, which the next write moves back.
"""

from collections.abc import Callable, Iterator
import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import pathlib
import platform
import re
import shutil
import time
from typing import Any, BinaryIO

from absl import logging
import filelock
import numpy as np
import numpy.typing as npt

from flowpp_tf.core.errors import InputError
from flowpp_tf.io.gate import open_claimed, read_json, reason
from flowpp_tf.types import Path

_TEMPORARY = ".tmp."
# Containers of one machine have numbers of processes of their own.
_PROCESSES = os.readlink("/proc/self/ns/pid") if os.path.islink("/proc/self/ns/pid") else ""
_MACHINE = hashlib.sha256(f"{platform.node()} {_PROCESSES}".encode()).hexdigest()[:8]
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_DIGESTS = pathlib.PurePath("assets.extra", "digests.json")  # of a SavedModel


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
    OSError: if it cannot be written, or `path` exists and is not a regular file.
  """
  target = pathlib.Path(os.path.realpath(path))
  if os.path.lexists(target) and not target.is_file():
    raise OSError(errno.EEXIST, "it exists, and is not a regular file", str(path))
  temporary = _temporary(target)
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
    OSError: if it cannot be written, or `path` exists and is not a directory.
  """
  target = pathlib.Path(os.path.realpath(path))
  if os.path.lexists(target) and not target.is_dir():
    raise OSError(errno.EEXIST, "it exists, and is not a directory", str(path))
  temporary = _temporary(target)
  old = target.with_name(f".old.{target.name}")

  def tidy_up():
    _remove(temporary)
    if old.exists() and not target.exists():  # the process stopped between the two moves below
      os.replace(old, target)
    _remove(old)

  target.parent.mkdir(parents=True, exist_ok=True)
  tidy_up()
  temporary.mkdir()
  try:
    write(temporary)
    for written in temporary.rglob("*"):
      sync(written)
    if target.exists():
      os.replace(target, old)
    os.replace(temporary, target)
    sync(target.parent)
  finally:
    tidy_up()


def check_replaceable(path: pathlib.Path, what: str, known_by: str, overwrite: bool) -> None:
  """Raise an `InputError` if a path is taken, unless it may be overwritten and its folder holds the same kind of thing.

  Args:
    path: folder to write.
    what: the kind, in the message.
    known_by: name of a file that only folders of this kind have.
    overwrite: whether the folder may be replaced.
  """
  if not (path.is_file() or (path.is_dir() and any(path.iterdir()))):
    return
  if not overwrite:
    raise InputError(f"{str(path)!r} exists already; `overwrite` (--overwrite) replaces it")
  if not (path / known_by).exists():
    raise InputError(f"{str(path)!r} cannot be overwritten: it is not {what}")


def _temporary(target):
  """Return where to write a target first."""
  _remove_dead(target.parent)
  return target.with_name(f"{_TEMPORARY}{os.getpid()}.{_MACHINE}.{target.name[-40:]}")  # a name has 255 bytes at most


def _remove(folder):
  """Remove a folder, if it exists; twice, for what failed only once, such as too many open files."""
  for _ in range(2):
    shutil.rmtree(folder, ignore_errors=True)


def create_array(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> np.memmap:
  """Create a memory-mapped .npy file whose place on the disk is reserved; raise an `OSError` if there is none.

  A write to a map of a file for which the disk has no room would kill the process.

  Args:
    path: path of the file.
    dtype: of the array.
    shape: of the array.
  """
  array: np.memmap = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
  if hasattr(os, "posix_fallocate"):
    with open(path, "r+b") as file:
      os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
  return array


def remove_leftovers(folder: Path, seconds: float = 3600) -> None:
  """Remove what dead processes of this machine left in a folder, and what nobody has written to for so many seconds."""
  for leftover in pathlib.Path(folder).glob(f"{_TEMPORARY}*"):
    with contextlib.suppress(OSError):
      if not _is_of_dead(leftover.name) and time.time() - leftover.lstat().st_mtime < seconds:
        continue
      if leftover.is_dir() and not leftover.is_symlink():
        shutil.rmtree(leftover, ignore_errors=True)
      else:
        leftover.unlink()


# Once in a process, for a folder that others may write to.
_remove_dead = functools.cache(functools.partial(remove_leftovers, seconds=math.inf))


def _is_of_dead(name):
  """Return whether a temporary name has the number of a process of this machine that does not run."""
  found = re.match(rf"{re.escape(_TEMPORARY)}(\d{{1,9}})\.{_MACHINE}\.", name)
  try:
    if found and os.name == "posix":  # elsewhere the call would end the process
      os.kill(int(found[1]), 0)
  except ProcessLookupError:
    return True
  return False


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


def write_digests(folder: pathlib.Path) -> None:
  """Write the digests of a SavedModel that is complete except for them."""
  digests = _digests_of(folder)
  (folder / _DIGESTS).parent.mkdir()
  (folder / _DIGESTS).write_text(json.dumps(digests, indent=2) + "\n")


def check_digests(folder: pathlib.Path) -> None:
  """Raise an exception if a file of a SavedModel has changed, or it has no digests."""
  expected = read_json(folder / _DIGESTS)
  wrong = {name for name, _ in _digests_of(folder).items() ^ expected.items()}
  if wrong:
    raise ValueError(f"{', '.join(sorted(wrong))} changed since it was written")


def _digests_of(folder):
  return {
    path.relative_to(folder).as_posix(): file_sha256(path)
    for path in sorted(folder.rglob("*"))
    if not path.is_dir() and path.relative_to(folder).parts[0] != _DIGESTS.parts[0]
  }


@contextlib.contextmanager
def sole_owner(
  path: pathlib.Path, what: str = "workdir", advice: str = "wait until that run has ended, or give another --workdir"
) -> Iterator[Callable[[], bool]]:
  """Hold the lock of a directory, which the system frees when its process ends, however it ends.

  Yields:
    A function that returns whether the locked file is still the one at `path`. It is not if the directory was moved or
    deleted: another process may then hold the lock of a new one of the same name.

  Args:
    path: the file of the lock; it stays when the lock is free, so that no two processes lock different files.
    what: how the error calls the directory.
    advice: what the error says at its end.

  Raises:
    InputError (a ValueError): if another process holds it.
    OSError: if the file cannot be written.
  """
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(locked(path, timeout=0))
    except filelock.Timeout:
      raise InputError(f"{what} {str(path.parent)!r} is in use by another process; {advice}") from None
    status = os.stat(path)
    yield lambda: path.exists() and os.path.samestat(status, os.stat(path))


@contextlib.contextmanager
def locked(path: pathlib.Path, timeout: float = -1) -> Iterator[None]:
  """Hold a lock, or none, with a warning, on a file system without locks.

  Args:
    path: the file of the lock.
    timeout: seconds after which `filelock.Timeout` is raised; -1 waits until the lock is free.
  """
  lock = filelock.FileLock(path, fallback_to_soft=False)  # a soft lock stays when its process is killed
  try:
    lock.acquire(timeout=timeout)
  except (NotImplementedError, OSError) as error:
    if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
      raise
    logging.warning("%s is on a file system without locks: a second writer would not be noticed", path.parent)
  try:
    yield
  finally:
    lock.release()
