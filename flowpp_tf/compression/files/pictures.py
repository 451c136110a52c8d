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
images has their names in its list, so that those that are lost have names.
"""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterable, Iterator, Sequence
import dataclasses
import io
import json
import zlib

import numpy as np

from flowpp_tf.compression.archive import SEGMENT_IMAGES, ArchiveError, ArchiveReader, ArchiveWriter, SegmentContent
from flowpp_tf.compression.codec import Codec
from flowpp_tf.compression.files.reading import MAX_CODED, ImageFile, check_metadata, join_wrapper
from flowpp_tf.compression.segment import DecodedSegment, SegmentError, max_images
from flowpp_tf.core.errors import InputError
from flowpp_tf.io import gate
from flowpp_tf.io.budget import BudgetError, claim
from flowpp_tf.tiles.cutting import count_tiles, from_tiles, to_tiles

# The most bytes and files in a segment and the segments behind it, before the next segment begins.
_MAX_STORED = 1 << 26
_MAX_FILES = 1 << 13
_MAX_SHARED = 1 << 13  # bytes of files without tiles that share a segment, whose headers are 2 % of that
_ENTRY_BYTES = 80  # of a file in a list, without its name
_COPIES = 4  # of the pixels of a file, while its tiles are put together and written
_OF_PIXELS = "width", "height", "crc", "tiles"
# The numbers of an entry, by its word; size counts the bytes behind the list.
_NUMBERS = {
  "name": (),
  "verbatim": ("size", "crc"),
  "tiles": _OF_PIXELS,
  "metadata": (*_OF_PIXELS, "size"),
  "wrapper": (*_OF_PIXELS, "size", "place", "layout"),
}


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
  segments of their own; only files of few bytes share one.

  Returns:
    The names of the files whose fallbacks were written.
  """
  pending = _Pending(tile_shape, writer.dtype, min(segment_images, max_images(tile_shape)))
  are_fallbacks = writer.write_segments(_contents(pictures, pending))
  writer.close()
  return [name for names, replaced in zip(pending.coded, are_fallbacks, strict=True) if replaced for name in names]


def _contents(pictures, pending):
  """Yield the contents of segments."""
  for picture in pictures:
    yield from pending.add(picture)
  if pending.files or len(pending.tiles):
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
    coded: names of the files with tiles of each segment that was taken.
  """

  def __init__(self, tile_shape: tuple[int, int, int], dtype: np.dtype, size: int) -> None:
    self._tile_shape = tile_shape
    self._size = size
    self.tiles = np.zeros((0, *tile_shape), dtype)
    self.begun = 0
    self.runs: list[tuple[int, int, int, int]] = []
    self.files: list[ImageFile] = []
    self._stored = 0  # bytes of these files without their tiles
    self.coded: list[list[str]] = []

  def add(self, picture: ImageFile) -> Iterator[SegmentContent]:
    """Add a file; yield the contents of the segments that are full then."""
    self.files.append(picture)
    stored = picture.data or b""
    if picture.wrapper:
      stored, *_ = picture.wrapper
    self._stored += len(picture.metadata) + len(stored)
    if picture.pixels is not None:
      new = to_tiles(picture.pixels, self._tile_shape)
      self.tiles = np.concatenate([self.tiles, new])
      self.runs.append((*picture.pixels.shape[:2], 0, len(new)))
    while len(self.tiles) >= self._size or self._stored > _MAX_STORED or len(self.files) >= _MAX_FILES:
      yield self.take()

  def take(self) -> SegmentContent:
    """Return the content of a segment: the files, and as many tiles as it holds; keep the others."""
    files = self.files
    self.coded.append([picture.name for picture in files if picture.pixels is not None])
    fallback = [picture.fallback or picture for picture in files]
    whole = 0 < len(self.tiles) <= self._size and not self.begun
    if not whole or any(picture.pixels is not None for picture in fallback):
      fallback = []
    behind = self._without_tiles([picture for picture in files if picture.pixels is None])
    if len(self.tiles):
      listed = [picture.name if picture.pixels is None else picture for picture in files]
      behind.insert(0, list_of_files(self._tile_shape, self.begun, listed))
    tiles = self.tiles[: self._size]
    self.tiles = self.tiles[self._size :]
    self.begun = len(self.tiles)
    runs = self.runs
    self.runs = []
    if self.begun:  # these tiles are of the last picture
      height, width, first, count = runs[-1]
      taken = count - self.begun
      runs[-1] = (height, width, first, taken)
      self.runs = [(height, width, first + taken, self.begun)]
    self.files = []
    self._stored = 0
    return SegmentContent(tiles, behind[0], self._without_tiles(fallback), runs, behind[1:])

  def _without_tiles(self, pictures):
    """Return the extra bytes of segments of files without tiles: only small files share one."""
    groups = list[list[ImageFile]]()
    size = _MAX_SHARED
    for picture in pictures:
      own = picture.size + len(picture.name) + _ENTRY_BYTES
      if size + own > _MAX_SHARED:
        groups.append([])
        size = 0
      groups[-1].append(picture)
      size += own
    return [list_of_files(self._tile_shape, 0, group) for group in groups]


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
    entry, behind = _entry(picture, tile_shape)
    entries.append([picture.name, *entry])
    stored.append(behind)
  text = json.dumps([begun, entries], separators=(",", ":")).encode()
  return len(text).to_bytes(4, "little") + text + b"".join(stored)


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
  return numbers, b""


def read_pictures(
  reader: ArchiveReader, codec: Codec, names: Collection[str] | None = None
) -> Iterator[ImageFile | Lost]:
  """Yield the files of an archive.

  Args:
    reader: of an archive of the kind "files".
    codec: its `Codec`.
    names: only these; None for all.

  Raises:
    ArchiveError: after the last file, if the archive is damaged or incomplete.
  """
  check_channels(codec.model.image_shape[2])
  wanted = None if names is None else set(names)
  for item in _read_all(reader, codec):
    if wanted is None or not item.name or item.name in wanted:
      yield item


def _read_all(reader, codec):
  unfinished = _Unfinished(codec)
  try:
    for segment in reader.decoded(codec):
      try:
        yield from unfinished.complete(segment)
      except SegmentError as error:
        if len(segment.images):
          yield from unfinished.give_up(str(error))
        yield Lost("", str(error))
  except ArchiveError:
    yield from unfinished.end()
    raise
  yield from unfinished.end()


class _Unfinished:
  """What the segments say of files that are not complete yet.

  Attributes:
    files: those that lack tiles, which the next segments with images have.
    names: how often a file of a name is to come in a segment without images.
  """

  def __init__(self, codec: Codec) -> None:
    self._shape = codec.model.image_shape
    self._itemsize = codec.dtype.itemsize
    self.files: list[StoredFile] = []
    self.names = collections.Counter[str]()

  def complete(self, segment: DecodedSegment) -> Iterator[ImageFile | Lost]:
    """Yield the files that a segment makes complete.

    Raises:
      SegmentError: if it is damaged, its list cannot be read, or it is not the one that follows.
    """
    if segment.problem:
      raise SegmentError(segment.problem)
    tiles = segment.images
    begun, items = parse_list(segment.extra, self._shape, self._itemsize)
    if len(tiles) and not self.files:
      tiles = tiles[begun:]  # those before are of a file whose beginning is lost
    elif len(tiles) and begun != sum(file.missing for file in self.files):
      raise SegmentError("a segment goes on with another file than the one before it")
    files = self.files
    self.files = []
    for item in (*files, *items):
      if isinstance(item, str):
        self.names[item] += 1
        continue
      tiles = item.take(tiles)
      if item.missing:
        self.files.append(item)
      else:
        self.names[item.name] -= 1
        yield item.restored()
    if len(tiles):
      yield Lost("", "a segment has tiles that belong to no file")

  def give_up(self, reason: str) -> Iterator[Lost]:
    """Yield the files that lack tiles."""
    files = self.files
    self.files = []
    for file in files:
      yield Lost(file.name, reason)

  def end(self) -> Iterator[Lost]:
    """Yield the files that are still not complete when nothing more can come."""
    yield from self.give_up("its last tiles are missing")
    for name in self.names.elements():
      yield Lost(name, "its segment is damaged or missing")


@dataclasses.dataclass
class StoredFile:
  """A file as its entry describes it.

  Attributes:
    name: of the file.
    word: the kind of entry.
    numbers: of the entry, by name.
    stored: the bytes behind the list.
    missing: how many of its tiles are still to come, 0 if it is stored verbatim.
    tiles: the others.
  """

  name: str
  word: str
  numbers: dict[str, int]
  stored: bytes
  missing: int
  tiles: list[np.ndarray] = dataclasses.field(default_factory=list)

  def take(self, tiles: np.ndarray) -> np.ndarray:
    """Take the missing tiles; return the tiles of the next file."""
    taken, others = tiles[: self.missing], tiles[self.missing :]
    self.tiles.append(taken)
    self.missing -= len(taken)
    return others

  def restored(self) -> ImageFile | Lost:
    """Return the file, whose tiles have all been read, or why it is not what was stored.

    Raises:
      BudgetError (a ValueError): if its metadata would take too much.
    """
    try:
      file = self._assembled()
      if zlib.crc32(file.content) != self.numbers["crc"]:
        raise ValueError("it has the wrong checksum")
      check_metadata(file.metadata)
      return file
    except BudgetError:
      raise
    except ValueError as error:
      return Lost(self.name, str(error))

  def _assembled(self):
    size, found = self.numbers.get("size", 0), len(self.stored)
    if found < size:
      raise ValueError(f"it should have {size:,} bytes, of which {found:,} are there")
    if self.word == "verbatim":
      return ImageFile(self.name, data=self.stored)
    pixels = from_tiles(np.concatenate(self.tiles), self.numbers["height"], self.numbers["width"])
    if self.word == "wrapper":
      data = join_wrapper(self.stored, self.numbers["place"], self.numbers["layout"], pixels)
      return ImageFile(self.name, data=data)
    return ImageFile(self.name, pixels, metadata=self.stored)


def parse_list(extra: bytes, tile_shape: tuple[int, int, int], itemsize: int = 1) -> tuple[int, list[StoredFile | str]]:
  """Return the number of tiles of an earlier file, and the files that begin in a segment, or names as in its list.

  Args:
    extra: the extra bytes of the segment.
    tile_shape: of the model.
    itemsize: bytes of a pixel value of the model.

  Raises:
    SegmentError: if they cannot be read.
    BudgetError (a ValueError): if what they describe would take too much.
  """
  if not extra:  # of a segment without images, which ends an archive without files
    return 0, []
  try:
    file = io.BytesIO(extra)
    length = int.from_bytes(file.read(4), "little")
    begun, entries = gate.parse_json(file.read(length).decode())
    if not isinstance(begun, int) or begun < 0:
      raise ValueError("its number of tiles is invalid")
    claim("items", len(entries), "the list of files of a segment")
    result: list[StoredFile | str] = []
    for name, *fields in entries:
      word, numbers = _word_and_numbers(name, fields, tile_shape, itemsize)
      stored = file.read(numbers.get("size", 0))
      missing = numbers.get("tiles", 0)
      if word == "name":
        result.append(name)
      else:
        result.append(StoredFile(name, word, numbers, stored, missing))
    return begun, result
  except BudgetError:
    raise
  except (ValueError, TypeError) as error:
    raise SegmentError(f"its list of files cannot be read: {error}") from None


def _word_and_numbers(name, fields, tile_shape, itemsize):
  """Return the kind of an entry, and its numbers by name; raise a `ValueError` if it has none. Claim what it takes."""
  word = {0: "name", 2: "verbatim"}.get(len(fields), "tiles")
  if fields and isinstance(fields[0], str):
    word, *fields = fields
  names = _NUMBERS.get(word, ())
  are_numbers = len(fields) == len(names) and all(isinstance(n, int) and n >= 0 for n in fields)
  if not are_numbers or not isinstance(name, str) or word not in _NUMBERS:
    raise ValueError("an entry is invalid")
  numbers = dict(zip(names, fields))
  if "tiles" in numbers:
    height, width = numbers["height"], numbers["width"]
    values = height * width * tile_shape[2]
    if not 0 < values <= MAX_CODED or numbers["tiles"] != count_tiles(height, width, tile_shape):
      raise ValueError("an entry is invalid")
    claim("memory", _COPIES * itemsize * values, f"{name!r} in the archive")
  return word, numbers
