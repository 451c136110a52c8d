"""Write image files to an archive, and read them again. What a segment stores of each file is in entries.py."""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterable, Iterator

import numpy as np

from flowpp_tf.compression.archive import SEGMENT_IMAGES, ArchiveError, ArchiveReader, ArchiveWriter
from flowpp_tf.compression.files.entries import ImageFile, Lost, StoredFile, list_of_files, parse_list
from flowpp_tf.compression.segment import SegmentError, max_images
from flowpp_tf.compression.tiered_codec import TieredCodec
from flowpp_tf.core.errors import InputError
from flowpp_tf.tiles.cutting import to_tiles

_MAX_STORED, _MAX_ENTRIES = 1 << 26, 1 << 20  # bytes in a segment, and those behind it, before the next one begins
_MAX_SHARED = 1 << 13  # bytes of files without tiles that share a segment, whose headers are 2 % of that
_ENTRY_BYTES = 80  # of a file in a list, without its name


def check_channels(channels: int) -> None:
  """Raise an `InputError` (a ValueError) unless image files can have this number of channels."""
  if channels not in (1, 3):
    raise InputError(f"image files are coded by models of 1 or 3 channels, got {channels}")


def write_pictures(
  writer: ArchiveWriter,
  pictures: Iterable[ImageFile],
  tile_shape: tuple[int, int, int],
  segment_images: int = SEGMENT_IMAGES,
) -> list[str]:
  """Write files to an archive of the kind "files", and close it.

  A segment that holds its files whole, and would take more bytes than their fallbacks, such as one of few small files,
  is replaced by these. So an archive is larger than its files by no more than its headers. Files without tiles are in
  segments of their own; only those of few bytes share one.

  Returns:
    The names of the files that are stored as their fallbacks, verbatim.
  """
  names = collections.deque[list[str]]()  # of the files of a segment that have a fallback; the oldest segment first
  fallen_back: list[str] = []
  contents = _contents(pictures, _Pending(tile_shape, writer.dtype, min(segment_images, max_images(tile_shape))), names)
  for used_fallback in writer.write_segments(contents):
    of_segment = names.popleft()
    if used_fallback:
      fallen_back += of_segment
  writer.close()
  return fallen_back


def _contents(pictures, pending, names):
  """Yield the arguments of `write_segment` for files; append the names of the files that have a fallback in each."""
  segments = 0
  for picture in pictures:
    pending.add(picture)
    while pending.is_full:
      names.append(pending.names())
      yield pending.take()
      segments += 1
  if pending.files or len(pending.tiles) or not segments:
    names.append(pending.names())
    yield pending.take()


class _Pending:
  """The files that begin in the next segment, and the tiles that are not in a segment yet.

  Args:
    tile_shape: of the model.
    dtype: of the tiles.
    size: the most tiles in a segment.

  Attributes:
    begun: the number of tiles, at the beginning, that belong to a file of an earlier segment.
    runs: height and width of a picture, the first of its tiles here, and how many.
  """

  def __init__(self, tile_shape: tuple[int, int, int], dtype: np.dtype, size: int) -> None:
    self._tile_shape, self._size = tile_shape, size
    self.tiles, self.begun = np.zeros((0, *tile_shape), dtype), 0
    self.runs: list[tuple[int, int, int, int]] = []
    self.files: list[ImageFile] = []
    self._stored = self._entries = 0  # bytes of these files beside their tiles, and of their entries

  def add(self, picture: ImageFile) -> None:
    """Add a file."""
    self.files.append(picture)
    self._stored += len(picture.metadata) + picture.size
    self._entries += len(picture.name) + _ENTRY_BYTES
    if picture.pixels is not None:
      new = to_tiles(picture.pixels, self._tile_shape)
      self.tiles = np.concatenate([self.tiles, new])
      self.runs.append((*picture.pixels.shape[:2], 0, len(new)))

  @property
  def is_full(self) -> bool:
    """Return whether there is enough for a segment."""
    return len(self.tiles) >= self._size or self._stored > _MAX_STORED or self._entries > _MAX_ENTRIES

  def names(self) -> list[str]:
    """Return the names of the files that have a fallback."""
    return [picture.name for picture in self.files if picture.fallback]

  def take(self):
    """Return the arguments of `write_segment` for the files and as many tiles as a segment holds; keep the others."""
    files = self.files
    behind = self._without_tiles([picture for picture in files if picture.pixels is None])
    fallback = []
    if self.names() and not self.begun and len(self.tiles) <= self._size:
      fallback = [picture.fallback or picture for picture in files]
    if any(picture.pixels is not None for picture in fallback):
      fallback = []
    if len(self.tiles) or not behind:
      listed = [picture.name if picture.pixels is None else picture for picture in files]
      behind.insert(0, list_of_files(self._tile_shape, self.begun, listed))
    tiles, self.tiles = self.tiles[: self._size], self.tiles[self._size :]
    written, self.runs = _split_runs(self.runs, self._size)
    self.begun, self.files, self._stored, self._entries = len(self.tiles), [], 0, 0
    return tiles, behind[0], self._without_tiles(fallback), written, behind[1:]

  def _without_tiles(self, pictures):
    """Return the extra bytes of segments of files without tiles: only those of a few bytes share one."""
    groups, size = list[list[ImageFile]](), _MAX_SHARED
    for picture in pictures:
      own = picture.size + len(picture.name) + _ENTRY_BYTES
      if size + own > _MAX_SHARED:
        groups.append([])
        size = 0
      groups[-1].append(picture)
      size += own
    return [list_of_files(self._tile_shape, 0, group) for group in groups]


def _split_runs(runs, size):
  """Return the runs of the first `size` tiles, and those of the others."""
  first, others, room = [], [], size
  for height, width, start, count in runs:
    taken = min(count, room)
    room -= taken
    first += [(height, width, start, taken)] if taken else []
    others += [(height, width, start + taken, count - taken)] if taken < count else []
  return first, others


def read_pictures(
  reader: ArchiveReader, coder: TieredCodec, names: Collection[str] | None = None
) -> Iterator[ImageFile | Lost]:
  """Yield the files of an archive in their order.

  Args:
    reader: of an archive of the kind "files".
    coder: its `TieredCodec`.
    names: only these; None for all.

  Raises:
    ArchiveError: after the last file, if the archive is damaged or incomplete.
  """
  reader.check(coder)
  check_channels(coder.model.image_shape[2])
  waiting = _Waiting(names)
  try:
    yield from _read_segments(waiting, reader, coder)
  except ArchiveError:
    yield from waiting.end()
    raise
  yield from waiting.end()


def _parsed(result, coder):
  """Return the tiles of a decoded segment, how many of them are of an earlier segment's file, and its files."""
  if isinstance(result, SegmentError):
    raise result
  tiles, extra = result
  return tiles, *parse_list(extra, coder.model.image_shape, coder.codec.dtype.itemsize)


def _read_segments(waiting, reader, coder):
  for segment, result in reader.decoded(coder):
    if segment.images:  # those behind the one before it have all been read
      waiting.give_up()
      yield from waiting.complete()
    try:
      tiles, begun, items = _parsed(result, coder)
      if segment.images and waiting.files and waiting.missing != begun:
        raise SegmentError("a segment goes on with another file than the one before it")
    except SegmentError as error:
      if segment.images:
        waiting.give_up(str(error))
      waiting.files.append(Lost("", str(error)))
      tiles, begun, items = np.zeros(0), 0, []
    if not waiting.files:
      tiles = tiles[begun:]  # of a file whose beginning is lost
    for item in items:
      if segment.images or isinstance(item, str):
        waiting.files.append(item)
      else:
        waiting.add_named(item)
    tiles = waiting.take(tiles) if segment.images else tiles
    yield from waiting.complete()
    if len(tiles):
      yield Lost("", "a segment has tiles that belong to no file")


class _Waiting:
  """Files in their order; some lack tiles, of some only the name is known so far.

  Args:
    names: of the wanted files; None for all.
  """

  def __init__(self, names: Collection[str] | None) -> None:
    self._names = None if names is None else set(names)
    self.files = collections.deque[Lost | StoredFile | str]()

  @property
  def missing(self) -> int:
    """The number of tiles that the first file lacks."""
    return self.files[0].missing if self.files and isinstance(self.files[0], StoredFile) else 0

  def add_named(self, item: Lost | StoredFile) -> None:
    """Put a file in the place of its name, before which no name can come any more; without its name, at the end."""
    for index, other in enumerate(self.files):
      if other == item.name:
        self.files[index] = item
        return
      if isinstance(other, str):
        self.files[index] = _named_loss(other)
    self.files.append(item)

  def take(self, tiles: np.ndarray) -> np.ndarray:
    """Give the files the tiles that they lack; return those that are left."""
    for item in self.files:
      if isinstance(item, StoredFile) and item.missing:
        tiles = item.take(tiles)
    return tiles

  def give_up(self, reason: str = "") -> None:
    """Let the files of which only names are known be lost; for a reason also the one that lacks tiles."""
    for index, item in enumerate(self.files):
      if isinstance(item, str):
        self.files[index] = _named_loss(item)
      elif reason and isinstance(item, StoredFile) and item.missing:
        self.files[index] = Lost(item.name, reason)

  def complete(self) -> Iterator[ImageFile | Lost]:
    """Remove files that lack nothing from the beginning; yield those that are wanted."""
    while self.files and not self.missing:
      item = self.files[0]
      if isinstance(item, str):
        return
      self.files.popleft()
      if self._names is None or not item.name or item.name in self._names:
        yield item if isinstance(item, Lost) else item.finished()

  def end(self) -> Iterator[ImageFile | Lost]:
    """Yield all that is left, of which nothing more can come."""
    self.give_up("its last tiles are missing")
    yield from self.complete()


def _named_loss(name):
  return Lost(name, "its segment is damaged or missing")
