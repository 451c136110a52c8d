"""Write an archive's files to a folder: NAME.partial until it is complete, then NAME.

A file gets its name in NAME.partial only when it is complete. A killed process leaves NAME.partial. A second call
decodes the archive again and writes the missing files. A file that exists with other bytes is never overwritten.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
import concurrent.futures
import contextlib
import errno
import io
import itertools
import os
import pathlib
import shutil

import numpy as np
from PIL import Image

from flowpp_tf.compression.archive import ArchiveError
from flowpp_tf.compression.files.reading import ImageFile, with_metadata
from flowpp_tf.core.environment import import_extra
from flowpp_tf.core.errors import InputError
from flowpp_tf.io import gate
from flowpp_tf.io.files import sole_owner, sync, writing
from flowpp_tf.types import Path

# The errors of a disk, which occur with other files too.
_FATAL = tuple(getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EIO", "EROFS", "EMFILE") if hasattr(errno, name))
_DEEPEST = 255  # folders in each other: Python walks through them by recursion
_SYNCS = 16  # files at a time
_LOCK = ".flowpp_tf.lock"  # in NAME.partial
_UNFINISHED = ".flowpp_tf.unfinished"  # in NAME.partial


class DifferentFileError(InputError):
  """Raised for files of NAME.partial that are not those to be written."""


def is_fatal(error: Exception) -> bool:
  """Return whether what kept a file from being written would keep the next ones too."""
  return isinstance(error, DifferentFileError) or (isinstance(error, OSError) and error.errno in _FATAL)


class OutputFolder:
  """Writes files to a folder.

  Args:
    folder: new, or empty.

  Attributes:
    paths: of the files that are written, below the folder.
  """

  def __init__(self, folder: Path) -> None:
    self._target = pathlib.Path(os.path.realpath(folder))
    self._partial = self._target.with_name(f"{self._target.name}.partial")
    # Of the files that are written. File systems may hold two names for one, and list another form of a name, so files
    # are compared by their inodes.
    self.paths = set[str]()
    self._inodes = set[int | None]()
    self._numbers = collections.defaultdict[pathlib.PurePath, Iterator[int]](itertools.count)

  @contextlib.contextmanager
  def writing(self) -> Iterator[OutputFolder]:
    """Hold the folder's lock within the context; at its end the folder gets its name, unless an exception ends it.

    Raises:
      InputError (a ValueError): if the folder exists and is not empty, another process writes it, NAME.partial has
        files of something else, or it cannot be written.
    """
    _check_new(self._target)
    try:
      with writing(repr(str(self._target))):
        self._partial.mkdir(parents=True, exist_ok=True)
        _check_without_links(self._partial)
        with sole_owner(self._partial / _LOCK, "output", "wait until it has ended, or give another --output"):
          yield self
          self._finish()
    except InputError as error:
      name = self._partial.name
      raise InputError(f"{error}; what is written so far is in {name}; the same command writes the rest") from None

  def write(self, file: ImageFile) -> str:
    """Write a file unless it exists with these bytes; return its path below the folder.

    Further files of the same name have numbers in their names.

    Raises:
      ArchiveError (a ValueError): if its name leads out of the folder.
      DifferentFileError (an InputError): if it exists with other bytes.
      OSError, UnicodeError: if it cannot be written.
    """
    content = _content(file)
    path = self._new_path(file.name, file.pixels is not None)
    whole = self._partial / path
    unfinished = self._partial / _UNFINISHED
    if not os.path.isfile(whole):
      unfinished.write_bytes(content)
      os.replace(unfinished, whole)
    elif os.path.getsize(whole) != len(content) or gate.read_bytes(whole, len(content)) != content:
      raise DifferentFileError(f"{str(whole)!r} exists with other bytes than in the archive; remove it")
    self.paths.add(path)
    self._inodes.add(_inode(whole))
    return path

  def _finish(self):
    """Give the folder its name when all files are on the disk; without files remove it."""
    (self._partial / _UNFINISHED).unlink(missing_ok=True)
    lock = self._partial / _LOCK
    found = [self._partial, *self._partial.rglob("*")]
    known = {*self._inodes, _inode(lock)}
    for path in found:
      if not path.is_dir() and _inode(path) not in known:
        raise DifferentFileError(f"{str(path)!r} is not one of the files that this command writes; remove it")
    if not self.paths:
      shutil.rmtree(self._partial)
      return
    with concurrent.futures.ThreadPoolExecutor(_SYNCS) as pool:  # file systems write what several wait for at once
      list(pool.map(sync, found))
    lock.unlink()
    os.replace(self._partial, self._target)  # also over an empty folder
    sync(self._target.parent)

  def _new_path(self, name, pixels):
    """Return a path below the folder that is not taken, whose folder exists; pixels get a PNG's name."""
    path = relative_path(name, pixels)
    if len(path.parts) > _DEEPEST:
      raise ArchiveError(f"it lies in more than {_DEEPEST} folders")
    (self._partial / path.parent).mkdir(parents=True, exist_ok=True)
    names = (path.with_name(f"{path.stem}.{n}{path.suffix}") if n else path for n in self._numbers[path])
    return str(next(name for name in names if _inode(self._partial / name) not in self._inodes))


def _check_without_links(partial):
  """Raise a `DifferentFileError` if NAME.partial is or has a link, through which a file would lie outside of it."""
  for path in itertools.chain([partial], partial.rglob("*")):
    if path.is_symlink():
      raise DifferentFileError(f"{str(path)!r} is a link, not what an earlier call has written; remove it")


def _inode(path):
  """Return the inode of a file, or None if it does not exist."""
  with contextlib.suppress(FileNotFoundError):
    return os.lstat(path).st_ino
  return None


def relative_path(name: str, pixels: bool) -> pathlib.PurePosixPath:
  """Return the path of a file below its folder.

  Args:
    name: of the file, as in the archive.
    pixels: whether it is written as PNG: then `.png` is appended to other names.

  Raises:
    ArchiveError (a ValueError): if the name leads out of the folder.
  """
  path = pathlib.PurePosixPath(name)
  on_windows = os.name == "nt" and any(character in name for character in "\\:")
  if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in name or on_windows:
    raise ArchiveError("its name leads out of the folder")
  if path.parts[0].lower() in (_LOCK, _UNFINISHED):  # to some file systems one name
    raise ArchiveError("its name is one that NAME.partial needs")
  if pixels and path.suffix.lower() != ".png":
    path = path.with_name(f"{path.name}.png")
  return path


def _check_new(target):
  if os.path.lexists(target) and (not target.is_dir() or any(target.iterdir())):
    raise InputError(f"--output {str(target)!r} exists and is not empty; give a new folder")
  if os.path.lexists(target) and target.samefile("."):
    raise InputError(f"--output {str(target)!r} is the current folder; give a new one")


def _content(file):
  if file.pixels is None:
    return file.data
  content = io.BytesIO()
  pixels = file.pixels
  if pixels.shape[-1] == 1:
    pixels = pixels[..., 0]
  if pixels.dtype == np.uint16 and pixels.ndim == 3:  # which Pillow does not write
    content.write(import_extra("imagecodecs", "codecs", "writing RGB in PNG files of 16 bits").png_encode(pixels))
  else:
    Image.fromarray(pixels).save(content, format="PNG")
  return with_metadata(content.getvalue(), file.metadata)
