"""Faults: the n-th call to the system that touches files below a folder fails, or the n-th claim on the budget.

    with Faults(folder) as faults:  # count
      work()
    for n in range(len(faults.calls)):
      with Faults(folder, n, errno.ENOSPC):
        work()

Patched are calls that Python code makes: opening, writing and syncing files, folders, links, renames, memory maps,
`claim`. TensorFlow's writers are C++ and are not.
"""

import builtins
import contextlib
import errno
import io
import mmap
import os
import signal
import threading
from typing import Any

from flowpp_tf.io import budget

MEMORY = "MemoryError"  # in place of an error number: what an allocation raises
CLAIM = "BudgetError"
# What each kind of call fails with; all of them are what Linux gives for it.
ERRORS: dict[str, tuple[Any, ...]] = {
  "open to read": (errno.EMFILE, errno.EIO),
  "open to write": (errno.ENOSPC, errno.EMFILE),
  "read": (errno.EIO,),
  "write": (errno.ENOSPC, errno.EIO),
  "fsync": (errno.EIO, errno.ENOSPC),
  "rename": (errno.ENOSPC, errno.EIO),
  "mkdir": (errno.ENOSPC, errno.EMLINK),
  "link": (errno.EPERM, errno.EMLINK),
  "fallocate": (errno.ENOSPC, errno.EIO),
  "mmap": (errno.ENOMEM,),
  "msync": (errno.EIO,),
  "claim": (CLAIM, MEMORY),
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Hang(BaseException):
  """Raised where a call has not come back in time; nothing catches it by mistake."""


class Faults:
  """A context in which calls that touch files below a folder are counted, and one fails.

  Args:
    folder: the folder; files elsewhere are left alone.
    number: index of the call that fails; None for none.
    error: an error number, `MEMORY` or `CLAIM`.
    lasting: whether all calls of the same kind after it fail, too, as on a full disk.

  Attributes:
    calls: kind and place of each call.
    failed: the kinds of the calls that failed.
  """

  def __init__(self, folder, number: int | None = None, error: Any = errno.ENOSPC, lasting: bool = False) -> None:
    self._root = os.path.realpath(folder)
    self._number, self._error, self._lasting = number, error, lasting
    self.calls: list[tuple[str, str]] = []
    self.failed: list[str] = []
    self._lock = threading.RLock()
    self._stack = contextlib.ExitStack()

  def __enter__(self):
    for owner, name, make in (
      (os, "open", self._os_open),
      (os, "write", self._of_descriptor("write")),
      (os, "pwrite", self._of_descriptor("write")),
      (os, "ftruncate", self._of_descriptor("write")),
      (os, "sendfile", self._of_descriptor("write")),
      (os, "read", self._of_descriptor("read")),
      (os, "fsync", self._of_descriptor("fsync")),
      (os, "posix_fallocate", self._of_descriptor("fallocate")),
      (os, "replace", self._of_path("rename")),
      (os, "rename", self._of_path("rename")),
      (os, "mkdir", self._of_path("mkdir")),
      (os, "link", self._of_path("link", 1)),
      (builtins, "open", self._open),
      (io, "open", self._open),
      (mmap, "mmap", self._mmap),
      (budget, "current", self._claim),
    ):
      original = getattr(owner, name)
      setattr(owner, name, make(original))
      self._stack.callback(setattr, owner, name, original)
    return self

  def __exit__(self, *error):
    self._stack.close()

  def call(self, kind, where):
    """Count a call, and raise if it is to fail."""
    with self._lock:
      number = len(self.calls)
      self.calls.append((kind, os.path.relpath(where, self._root) if os.path.isabs(where) else where))
      begun = self._number is not None and number >= self._number
      if not begun or (number > self._number and not (self._lasting and kind == self.calls[self._number][0])):
        return
      self.failed.append(kind)
    if self._error == MEMORY:
      raise MemoryError("Unable to allocate an array")
    if self._error == CLAIM:
      raise budget.BudgetError(f"{where} would take more memory than is allowed")
    raise OSError(self._error, os.strerror(self._error), where)

  def _place(self, path):
    """The absolute path of a file below the folder, or None."""
    try:
      path = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.path.abspath(os.fsdecode(path))
    except (OSError, TypeError, ValueError):
      return None
    return path if path == self._root or path.startswith(f"{self._root}/") else None

  def _of_descriptor(self, kind):
    def make(original):
      def patched(descriptor, *arguments, **more):
        if place := self._place(descriptor):
          self.call(kind, place)
        return original(descriptor, *arguments, **more)

      return patched

    return make

  def _of_path(self, kind, which=0):
    def make(original):
      def patched(*arguments, **more):
        if place := self._place(arguments[which]):
          self.call(kind, place)
        return original(*arguments, **more)

      return patched

    return make

  def _os_open(self, original):
    def patched(path, flags, *arguments, **more):
      if more.get("dir_fd") is None and (place := self._place(path)):
        self.call("open to write" if flags & _WRITING else "open to read", place)
      return original(path, flags, *arguments, **more)

    return patched

  def _open(self, original):
    def patched(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
      place = None if isinstance(file, int) or opener is not None else self._place(file)
      if place is None:
        return original(file, mode, buffering, encoding, errors, newline, closefd, opener)
      writes = not set(mode).isdisjoint("wax+")
      self.call("open to write" if writes else "open to read", place)
      if not writes:
        return original(file, mode, buffering, encoding, errors, newline, closefd, opener)
      raw = _Raw(file, mode.replace("b", "").replace("t", ""))
      raw.faults, raw.place = self, place
      if buffering == 0:
        return raw
      buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
      return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)

    return patched

  def _mmap(self, original):
    class Map(original):
      def __new__(cls, descriptor, *arguments, **more):
        place = self._place(descriptor) if descriptor >= 0 else None
        if place:
          self.call("mmap", place)
        map_ = super().__new__(cls, descriptor, *arguments, **more)
        map_.place = place
        return map_

      def flush(self_, *arguments):
        if self_.place:
          self.call("msync", self_.place)
        return super().flush(*arguments)

    return Map

  def _claim(self, original):
    def patched():
      self.call("claim", "a file")
      return original()

    return patched


class _Raw(io.FileIO):
  """A file whose writes are counted; one that fails for want of room has written a part, as a full disk does."""

  def write(self, data):
    try:
      self.faults.call("write", self.place)
    except OSError as error:
      if error.errno == errno.ENOSPC and len(data) > 1:
        super().write(bytes(data[: len(data) // 2]))
      raise
    return super().write(data)


@contextlib.contextmanager
def ends_within(seconds):
  """Context that raises `Hang` after so many seconds."""

  def end(number, frame):
    raise Hang(f"more than {seconds:g} s")

  before = signal.signal(signal.SIGALRM, end)
  signal.setitimer(signal.ITIMER_REAL, seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def open_files(folder):
  """The files below a folder that this process has open."""
  root, found = os.path.realpath(folder), []
  for number in os.listdir("/proc/self/fd"):
    with contextlib.suppress(OSError):
      if (path := os.readlink(f"/proc/self/fd/{number}")).startswith(f"{root}/"):
        found.append(path)
  return found
