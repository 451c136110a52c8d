"""One writer of a directory: a lock that the system frees when its process ends, however it ends."""

from collections.abc import Callable, Iterator
import contextlib
import errno
import json
import os
import pathlib
import socket
import time

from absl import logging

try:
  import fcntl
except ImportError:  # on Windows
  fcntl = None  # type: ignore[assignment]

from flowpp_tf.core.errors import InputError
from flowpp_tf.io import gate


@contextlib.contextmanager
def sole_owner(
  path: pathlib.Path, what: str = "workdir", advice: str = "wait until that run has ended, or give another --workdir"
) -> Iterator[Callable[[], bool]]:
  """Hold the lock of a directory, whose file says who holds it.

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
  descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
  try:
    try:
      if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise InputError(f"{what} {str(path.parent)!r} is in use by {_holder(path)}; {advice}") from None
    except OSError as error:
      if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
        raise
      logging.warning("%s is on a file system without locks: a second run in it would not be noticed", path.parent)
    about = {"host": socket.gethostname(), "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    with contextlib.suppress(OSError):  # on a full disk the lock is still held
      os.ftruncate(descriptor, 0)
      os.pwrite(descriptor, json.dumps(about).encode(), 0)
    yield lambda: _is_at(descriptor, path)
  finally:
    os.close(descriptor)


def _is_at(descriptor, path):
  try:
    return os.path.samestat(os.fstat(descriptor), os.stat(path))
  except (FileNotFoundError, NotADirectoryError):
    return False


@contextlib.contextmanager
def one_at_a_time(folder: pathlib.Path) -> Iterator[None]:
  """Wait until no other process or thread is in this context of a folder: to read a file, and write it changed.

  Raises:
    OSError: if the folder cannot be opened.
  """
  descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
  try:
    if fcntl is not None:
      with contextlib.suppress(OSError):  # a file system without locks of folders
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
  finally:
    os.close(descriptor)


def _holder(path):
  try:
    about = gate.read_json(path)
    return f"process {about['process']} on {about['host']} since {about['since']}"
  except (OSError, ValueError, TypeError, KeyError):
    return "another process"
