"""Write image files to an archive, and read them again.

The extra bytes of a segment (segment.py) list in JSON the files that begin in it: `[tiles, entries]`, with the number
of tiles at its beginning that belong to a file of an earlier segment, and an entry for each file, one of

    name                                                   of a file in the segments without images that follow
    name, size, CRC-32 of its bytes
    name, width, height, CRC-32 of its pixels, number of its tiles
    name, "metadata", width, height, CRC-32 of pixels and metadata, tiles, size of the metadata
    name, "wrapper", width, height, CRC-32 of the file, tiles, size of the wrapper, place, layout

The bytes whose sizes the entries state follow, in their order. The tiles of a file may go on in the following segments.
Files without tiles lie in segments without images, so that damage to one of these loses few files; a segment with
images has their names in its list, for their order.
"""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterable, Iterator, Sequence
import dataclasses
import json
import struct
import zlib

import numpy as np

from flowpp_tf.compression.archive import SEGMENT_IMAGES, ArchiveError, ArchiveReader, ArchiveWriter, SegmentContent
from flowpp_tf.compression.codec import Codec
from flowpp_tf.compression.files.reading import ImageFile, check_metadata, join_wrapper
from flowpp_tf.compression.segment import SegmentError, max_images
from flowpp_tf.core.errors import InputError
from flowpp_tf.io import gate
from flowpp_tf.io.budget import BudgetError, claim
from flowpp_tf.tiles.cutting import count_tiles, from_tiles, to_tiles

_MAX_STORED, _MAX_ENTRIES = 1 << 26, 1 << 20  # bytes in a segment, and those behind it, before the next one begins
_MAX_SHARED = 1 << 13  # bytes of files without tiles that share a segment, whose headers are 2 % of that
_ENTRY_BYTES = 80  # of a file in a list, without its name
_MAX_DECODED = 1 << 30  # pixel values of a file that is decoded
_COPIES = 4  # of the pixels of a file, while its tiles are put together and written
_MAX_LIST = 1 << 24  # bytes of a list that is decoded
_LENGTH = struct.Struct("<I")
_WITH_TILES = ("tiles", "metadata", "wrapper")
# How many numbers an entry has, by its word, and which of them are sizes of bytes behind the list.
_NUMBERS = {"name": (0, []), "verbatim": (2, [0]), "tiles": (4, []), "metadata": (5, [4]), "wrapper": (7, [4])}


@dataclasses.dataclass(frozen=True)
class Lost:
  """A file that cannot be decoded, and why; the name is empty if it is not known."""

  name: str
  reason: str


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
  """Yield the contents of segments; append the names of the files that have a fallback in each."""
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
    self._stored = self._entries = 0  # bytes of these files without their tiles, and of their entries

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

  def take(self) -> SegmentContent:
    """Return the content of a segment: the files, and as many tiles as it holds; keep the others."""
    files = self.files
    behind = self._without_tiles([picture for picture in files if picture.pixels is None])
    fallback = list[ImageFile]()
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
    return SegmentContent(tiles, behind[0], self._without_tiles(fallback), written, behind[1:])

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


def list_of_files(tile_shape: tuple[int, int, int], begun: int, pictures: Sequence[ImageFile | str]) -> bytes:
  """Return the extra bytes of a segment in which `pictures` begin, behind `begun` tiles of an earlier file.

  A name stands for a file in the segments without images that follow.
  """
  entries: list[list[object]] = []
  stored: list[bytes] = []
  for picture in pictures:
    if isinstance(picture, str):
      entries.append([picture])
      continue
    entry, *parts = _entry(picture, tile_shape)
    entries.append([picture.name, *entry])
    stored += parts
  text = json.dumps([begun, entries], separators=(",", ":")).encode()
  return _LENGTH.pack(len(text)) + text + b"".join(stored)


def _entry(picture, tile_shape):
  """Return the entry of a file, without its name, and the bytes whose sizes it states."""
  crc = zlib.crc32(picture.content)
  if picture.pixels is None:
    return [len(picture.data), crc], picture.data
  height, width, _ = picture.pixels.shape
  numbers = [width, height, crc, count_tiles(height, width, tile_shape)]
  if picture.wrapper is not None:
    wrapper, place, layout = picture.wrapper
    return ["wrapper", *numbers, len(wrapper), place, layout], wrapper
  if picture.metadata:
    return ["metadata", *numbers, len(picture.metadata)], picture.metadata
  return (numbers,)


def read_pictures(
  reader: ArchiveReader, codec: Codec, names: Collection[str] | None = None
) -> Iterator[ImageFile | Lost]:
  """Yield the files of an archive in their order.

  Args:
    reader: of an archive of the kind "files".
    codec: its `Codec`.
    names: only these; None for all.

  Raises:
    ArchiveError: after the last file, if the archive is damaged or incomplete.
  """
  reader.check(codec)
  check_channels(codec.model.image_shape[2])
  waiting = _Waiting(names)
  try:
    yield from _read_segments(waiting, reader, codec)
  except ArchiveError:
    yield from waiting.end()
    raise
  yield from waiting.end()


def _parsed(result, codec):
  """Return the tiles of a decoded segment, how many of them are of an earlier segment's file, and its files."""
  if isinstance(result, SegmentError):
    raise result
  tiles, extra = result
  return tiles, *parse_list(extra, codec.model.image_shape, codec.dtype.itemsize)


def _read_segments(waiting, reader, codec):
  for segment, result in reader.decoded(codec):
    if segment.images:  # those behind the one before it have all been read
      waiting.give_up()
      yield from waiting.complete()
    try:
      tiles, begun, items = _parsed(result, codec)
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
    """Count files as lost that are only names; with a reason, also the one that lacks tiles."""
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
    """Yield all that is left when nothing more can come."""
    self.give_up("its last tiles are missing")
    yield from self.complete()


def _named_loss(name):
  return Lost(name, "its segment is damaged or missing")


class StoredFile:
  """A file of an entry, some of whose tiles have been read; some entries have no tiles."""

  def __init__(self, name: str, word: str, numbers: list[int], parts: list[bytes]) -> None:
    self.name, self._word, self._numbers, self._parts = name, word, numbers, parts
    self.missing = numbers[3] if word in _WITH_TILES else 0
    self._tiles: list[np.ndarray] = []

  def take(self, tiles: np.ndarray) -> np.ndarray:
    """Take the tiles that are missing; return those of the next file."""
    self._tiles.append(tiles[: self.missing])
    self.missing -= len(self._tiles[-1])
    return tiles[len(self._tiles[-1]) :]

  def finished(self) -> ImageFile | Lost:
    """Return the file, whose tiles have all been read, or why it is not what was stored.

    Raises:
      BudgetError (a ValueError): if its metadata would take too much.
    """
    try:
      file, crc, what = self._assembled()
      if zlib.crc32(file.content) != crc:
        raise ValueError(f"its {what} the wrong checksum")
      check_metadata(file.metadata)
      return file
    except BudgetError:
      raise
    except ValueError as error:
      return Lost(self.name, str(error))

  def _assembled(self):
    """Return the file, the checksum that it must have, and of what."""
    parts, numbers = self._parts, self._numbers
    if self._word == "verbatim":
      return ImageFile(self.name, data=parts[0]), numbers[1], "bytes have"
    width, height, crc, _, *more = numbers
    pixels = from_tiles(np.concatenate(self._tiles), height, width)
    if self._word == "wrapper":
      return ImageFile(self.name, data=join_wrapper(parts[0], more[1], more[2], pixels)), crc, "bytes have"
    if self._word == "metadata":
      return ImageFile(self.name, pixels, metadata=parts[0]), crc, "pixels or metadata have"
    return ImageFile(self.name, pixels), crc, "pixels have"


def parse_list(
  extra: bytes, tile_shape: tuple[int, int, int], itemsize: int = 1
) -> tuple[int, list[Lost | StoredFile | str]]:
  """Return the number of tiles of an earlier file, and the files that begin in a segment, or names as in its list.

  Args:
    extra: the extra bytes of the segment.
    tile_shape: of the model.
    itemsize: bytes of a pixel value of the model.

  Raises:
    SegmentError: if they cannot be read.
    BudgetError (a ValueError): if what they describe would take too much.
  """
  try:
    if not extra:  # of a segment without images, which ends an archive without files
      return 0, []
    (length,) = _LENGTH.unpack_from(extra)
    if length > _MAX_LIST:
      raise ValueError("it is too long")
    (begun, entries), position = gate.parse_json(extra[4 : 4 + length].decode()), 4 + length
    if not isinstance(begun, int) or begun < 0:
      raise ValueError("its number of tiles is invalid")
    claim("items", len(entries), "the list of files of a segment")
    result: list[Lost | StoredFile | str] = []
    for name, *numbers in entries:
      if not isinstance(name, str):
        raise ValueError("an entry is invalid")
      word, numbers = _word_and_numbers(numbers, tile_shape, itemsize, name)
      sizes = [numbers[i] for i in _NUMBERS[word][1]]
      parts = [extra[position + sum(sizes[:i]) : position + sum(sizes[: i + 1])] for i in range(len(sizes))]
      position += sum(sizes)
      if (found := sum(map(len, parts))) == sum(sizes):
        result.append(name if word == "name" else StoredFile(name, word, numbers, parts))
      elif word in _WITH_TILES:
        raise ValueError("it is cut off")
      else:
        result.append(Lost(name, f"it should have {sum(sizes):,} bytes, of which {found:,} are there"))
    return begun, result
  except BudgetError:
    raise
  except (ValueError, TypeError, struct.error) as error:
    raise SegmentError(f"its list of files cannot be read: {error}") from None


def _word_and_numbers(fields, tile_shape, itemsize, name):
  """Return what kind of entry it is, and its numbers; raise a `ValueError` if it is none. Claim what it takes."""
  word = {0: "name", 2: "verbatim"}.get(len(fields), "tiles")
  if fields and isinstance(fields[0], str):
    word, *fields = fields
  if not all(isinstance(n, int) and n >= 0 for n in fields) or len(fields) != _NUMBERS.get(word, (-1,))[0]:
    raise ValueError("an entry is invalid")
  if word in _WITH_TILES:
    _check_pixels(name, fields, tile_shape, itemsize)
  return word, fields


def _check_pixels(name, numbers, tile_shape, itemsize):
  """Raise a `ValueError` for numbers that no picture has; claim its memory."""
  width, height, _, tiles, *_ = numbers
  values = width * height * tile_shape[2]
  if tiles != count_tiles(height, width, tile_shape) or not 0 < values <= _MAX_DECODED:
    raise ValueError("an entry is invalid")
  claim("memory", _COPIES * itemsize * values, f"{name!r} in the archive")
