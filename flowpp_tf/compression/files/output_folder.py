"""The folder of an archive's files: NAME.partial until all are written, then NAME.

    NAME.partial/files/       what is written, under its names
    NAME.partial/journal      a line for each segment that is done: JSON, on disk before the next segment begins
    NAME.partial/lock         held by the process that writes

A killed process leaves NAME.partial only. `resume` goes on from the last line of the journal whose files, and those of
all lines before it, are there with their checksums; other files are removed.
"""

from __future__ import annotations

from collections.abc import Iterator
import concurrent.futures
import contextlib
import dataclasses
import errno
import io
import itertools
import json
import os
import pathlib
import shutil
from typing import Any
import zlib

import numpy as np
from PIL import Image

from flowpp_tf.compression.archive import ArchiveError
from flowpp_tf.compression.files.metadata import with_metadata
from flowpp_tf.compression.files.pictures import ImageFile, Point
from flowpp_tf.compression.files.verbatim import LONGEST_NAME
from flowpp_tf.core.environment import import_extra
from flowpp_tf.core.errors import InputError
from flowpp_tf.io import gate
from flowpp_tf.io.files import sync, write_file
from flowpp_tf.io.lock import sole_owner
from flowpp_tf.types import Path

# Of a disk, which will not do better with other files.
FATAL = tuple(getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EIO", "EROFS", "EMFILE") if hasattr(errno, name))
_LONGEST_PATH = 4000  # bytes
_DEEPEST = 255  # folders in each other: Python walks through them by recursion
_BLOCK = 1 << 22
_SYNCS = 16  # files at a time
_JOURNAL = 1 << 30  # bytes of a journal that is read


@dataclasses.dataclass
class _Line:
  """What a line of the journal says: the point that was reached, files `[name, path, bytes, CRC-32]`, and problems."""

  point: Point
  files: list[list]
  problems: list[str]


class OutputFolder:
  """Files that are written to a folder.

  Args:
    folder: new, or empty.
    contents: what is written, as text: a journal of something else is not resumed.
    resume: whether to go on with what an earlier process has written.

  Attributes:
    point: from where to read the archive.
    names: of the files in the archive that are written.
    problems: lines on what could not be decoded or written; to be appended to.

  Raises:
    InputError (a ValueError): if the folder is there and not empty, or was begun by an earlier process.
    OSError: if it cannot be written.
  """

  def __init__(self, folder: Path, contents: str, resume: bool = False) -> None:
    self._target = pathlib.Path(os.path.realpath(folder))
    self._partial = self._target.with_name(f"{self._target.name}.partial")
    self._files, self._journal = self._partial / "files", self._partial / "journal"
    self._contents, self._resume = contents, resume
    self.point, self.problems = Point(), list[str]()
    self.names: set[str] = set()
    self._count, self._line, self._said = 0, list[list](), 0
    self._folders, self._numbers = set[str](), dict[str, int]()

  @contextlib.contextmanager
  def writing(self) -> Iterator[OutputFolder]:
    """Hold the folder's lock within the context; at its end the folder gets its name, unless an exception ends it."""
    _check_new(self._target)
    begun = os.path.lexists(self._files) or os.path.lexists(self._journal)
    if begun and not self._resume:
      raise InputError(
        f"{str(self._partial)!r} is there, which an earlier process left; --resume goes on with it, or remove it"
      )
    self._partial.mkdir(parents=True, exist_ok=True)
    lock = self._partial / "lock"
    with sole_owner(lock, "output", "wait until it has ended, or give another --output"):
      if begun:
        self._recover()
      self._files.mkdir(exist_ok=True)
      self._append(None if self._journal.exists() else {"contents": self._contents})
      yield self
      if self._count:
        self._finish()
      else:
        shutil.rmtree(self._partial)

  def write(self, file: ImageFile) -> str:
    """Write a file; return the name below the folder that it has, as the last part of a path may have another one.

    Raises:
      ArchiveError (a ValueError): if its name leads out of the folder.
      OSError, UnicodeError: if it cannot be written.
    """
    content = _content(file)
    path = self._new_path(file.name, file.pixels is not None)
    try:
      with open(self._files / path, "xb") as output:
        output.write(content)
    except OSError:
      with contextlib.suppress(OSError):
        os.unlink(self._files / path)
      raise
    self._line.append([file.name, path, len(content), zlib.crc32(content)])
    self.names.add(file.name)
    self._count += 1
    return path

  def commit(self, point: Point) -> None:
    """Note that all files before a point are written, or are problems."""
    with concurrent.futures.ThreadPoolExecutor(_SYNCS) as pool:  # file systems write what several wait for at once
      list(pool.map(lambda file: sync(self._files / file[1]), self._line))
    said, self._said = self.problems[self._said :], len(self.problems)
    self._append({"point": dataclasses.astuple(point), "files": self._line, "problems": said})
    self._line = []

  @property
  def count(self) -> int:
    """How many files are written, also by earlier processes."""
    return self._count

  def _append(self, line):
    with open(self._journal, "ab") as journal:
      if line is not None:
        journal.write(json.dumps(line).encode() + b"\n")
      journal.flush()
      os.fsync(journal.fileno())

  def _finish(self):
    for root, _, _ in os.walk(self._files):
      sync(root)
    os.replace(self._files, self._target)  # also over an empty folder
    sync(self._target.parent)
    shutil.rmtree(self._partial, ignore_errors=True)

  def _recover(self):
    """Take over what the journal says and is there; remove all else."""
    lines = _read_journal(self._journal)
    if lines and lines[0] != {"contents": self._contents}:
      raise InputError(f"{str(self._partial)!r} was written from another archive, or with other --files; remove it")
    good = lines[:1]
    for fields in lines[1:]:
      line = _line(fields)
      if line is None or not all(_is_there(self._files, *file[1:]) for file in line.files):
        break
      good.append(fields)
      self.point = line.point
      self.problems += line.problems
      self.names |= {file[0] for file in line.files}
      self._count += len(line.files)
    self._said = len(self.problems)
    known = {file[1] for fields in good[1:] for file in fields["files"]}
    for root, folders, files in os.walk(self._files, topdown=False):
      inside = os.path.relpath(root, self._files)
      for name in files:
        if os.path.normpath(os.path.join(inside, name)) not in known:
          os.unlink(os.path.join(root, name))
      for name in folders:
        with contextlib.suppress(OSError):  # not empty
          os.rmdir(os.path.join(root, name))
    if good:
      write_file(self._journal, "".join(json.dumps(fields) + "\n" for fields in good))
    else:
      self._journal.unlink(missing_ok=True)

  def _new_path(self, name, pixels):
    """Return a path below the folder that is not taken, whose folder is there; its name is that of a PNG for pixels."""
    path = relative_path(name, pixels)
    whole = self._files / path
    if len(os.fsencode(whole)) > _LONGEST_PATH or max(len(os.fsencode(part)) for part in path.parts) > LONGEST_NAME:
      raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    if len(path.parts) > _DEEPEST:
      raise ArchiveError(f"it lies in more than {_DEEPEST} folders")
    self._make_folder(path.parent)
    for number in itertools.count(self._numbers.get(str(path), 0)):
      numbered = path if not number else path.with_name(_fitting(path.stem, f".{number}{path.suffix}"))
      if not os.path.lexists(self._files / numbered):
        self._numbers[str(path)] = number + 1
        return str(numbered)
    raise AssertionError("not reached")

  def _make_folder(self, folder):
    if str(folder) in self._folders:
      return
    inside = self._files
    for part in folder.parts:  # one after the other: `mkdir` with parents calls itself for each
      inside = inside / part
      with contextlib.suppress(FileExistsError):
        os.mkdir(inside)
    self._folders.add(str(folder))


def relative_path(name: str, pixels: bool) -> pathlib.PurePosixPath:
  """Return the path of a file below its folder.

  Args:
    name: of the file, as in the archive.
    pixels: whether it is written as PNG: then `.png` is appended to other names, which are cut where they become too
      long.

  Raises:
    ArchiveError (a ValueError): if the name leads out of the folder.
  """
  path = pathlib.PurePosixPath(name)
  on_windows = os.name == "nt" and any(character in name for character in "\\:")
  if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in name or on_windows:
    raise ArchiveError("its name leads out of the folder")
  if pixels and path.suffix.lower() != ".png":
    path = path.with_name(_fitting(path.name, ".png"))
  return path


def _fitting(stem, suffix):
  """Return a name of at most 255 bytes; one that is longer without the suffix stays too long."""
  most = LONGEST_NAME - len(os.fsencode(suffix))
  if most < len(os.fsencode(stem)) <= LONGEST_NAME:
    while len(os.fsencode(stem)) > most:
      stem = stem[:-1]
  return stem + suffix


def _check_new(target):
  if os.path.lexists(target) and (not target.is_dir() or any(target.iterdir())):
    raise InputError(f"--output {str(target)!r} is there and not empty; give a new folder")
  if os.path.lexists(target) and target.samefile("."):
    raise InputError(f"--output {str(target)!r} is the current folder; give a new one")


def _content(file):
  if file.pixels is None:
    return file.data
  pixels, content = file.pixels[..., 0] if file.pixels.shape[-1] == 1 else file.pixels, io.BytesIO()
  if pixels.dtype == np.uint16 and pixels.ndim == 3:  # which Pillow does not write
    content.write(import_extra("imagecodecs", "codecs", "writing RGB in PNG files of 16 bits").png_encode(pixels))
  else:
    Image.fromarray(pixels).save(content, format="PNG")
  png = content.getvalue()
  return with_metadata(png, file.metadata) if file.metadata else png


def _read_journal(path) -> list[Any]:
  """Return the lines of a journal that are whole."""
  lines = []
  with contextlib.suppress(FileNotFoundError, ValueError):
    for text in gate.read_bytes(path, _JOURNAL).split(b"\n"):
      lines.append(gate.parse_json(text.decode()))
  return lines


def _line(fields) -> _Line | None:
  """Return what a line says, None if it has no meaning."""
  try:
    point = Point(*map(int, fields["point"]))
    files: list[list[Any]] = [[str(name), str(path), int(size), int(crc)] for name, path, size, crc in fields["files"]]
    for file in files:
      relative_path(file[1], False)
    return _Line(point, files, list(map(str, fields["problems"])))
  except (ValueError, TypeError, KeyError):
    return None


def _is_there(folder, path, size, crc) -> bool:
  """Return whether a file has a size and a checksum."""
  try:
    with gate.open_regular(folder / path) as file:
      if os.fstat(file.fileno()).st_size != size:
        return False
      found = 0
      while block := file.read(_BLOCK):
        found = zlib.crc32(block, found)
      return found == crc
  except (OSError, ValueError):
    return False
