"""Image files in an archive.

8-bit grey or RGB pixels, as the model has them, are coded as tiles. Every other file is kept byte for byte (kept.py):
other modes and depths, transparency, several images, profiles, and files that are not images. So are JPEG and lossy
WebP, since their pixels take more bytes than the files.

The extra bytes of a segment (segment.py) say in JSON which files begin in it: `[tiles, entries]`, with the number of
tiles at its beginning that belong to a file of an earlier segment, and for each file

    name, width, height, CRC-32 of its pixels, number of its tiles;  or  name, size, CRC-32 of its bytes

The bytes of the files that are kept follow. The tiles of a file may go on in the following segments.
"""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterable, Iterator, Sequence
import dataclasses
import json
import pathlib
import struct
import zlib

import numpy as np

from flowpp_tf.compression.archive import SEGMENT_IMAGES, ArchiveReader, ArchiveWriter
from flowpp_tf.compression.kept import MAX_CODED, why_kept
from flowpp_tf.compression.segment import SegmentError, max_images, tile_bits
from flowpp_tf.compression.tiered_codec import TieredCodec
from flowpp_tf.compression.tiles import count_tiles, from_tiles, to_tiles
from flowpp_tf.core.errors import InputError
from flowpp_tf.io.budget import BudgetError, claim
from flowpp_tf.io.gate import read_bytes
from flowpp_tf.io.image_file import FORMATS, ImageFileError, open_image

MAX_KEPT_FILE = 1 << 27  # bytes of a file that is kept
_MAX_DECODED = 1 << 30  # pixel values of a file that is decoded
_COPIES = 4  # of the pixels of a file, while its tiles are put together and written
_MAX_KEPT, _MAX_ENTRIES = 1 << 26, 1 << 20  # bytes in a segment before the next one begins
_MAX_LIST = 1 << 24  # bytes of a list that is decoded
_MAX_FILE = 1 << 31  # bytes of a file that is read
_LOOKED_AT = 4  # tiles of a file, coded to see how many bytes all take
_EASY = 2  # bits per dimension of a file; files with fewer are looked at even if that takes a part of the time
_FORMATS = (*FORMATS, "PPM")  # of what is decoded
_LENGTH = struct.Struct("<I")


@dataclasses.dataclass(frozen=True)
class ImageFile:
  """A file: its pixels, uint8 `[H, W, C]`, or its bytes.

  Attributes:
    name: path below its folder, with `/`.
    pixels: None for a file that is kept as it is.
    data: bytes of the file, None if it has pixels.
    reason: why its bytes are kept.
  """

  name: str
  pixels: np.ndarray | None = None
  data: bytes | None = None
  reason: str = ""

  @property
  def content(self) -> bytes:
    """Return the bytes that an archive must give back: those of the pixels, or of the file."""
    return self.data if self.pixels is None else self.pixels.tobytes()  # type: ignore[return-value]


def check_channels(channels: int) -> None:
  """Raise an `InputError` (a ValueError) unless image files can have this number of channels."""
  if channels not in (1, 3):
    raise InputError(f"image files are coded by models of 1 or 3 channels, got {channels}")


def read_picture(
  folder: pathlib.Path, name: str, channels: int, lossy_pixels: bool = False, coder: TieredCodec | None = None
) -> ImageFile:
  """Read a file.

  Args:
    folder: where it is.
    name: its path below the folder.
    channels: of the model.
    lossy_pixels: whether the pixels of JPEG and lossy WebP files are coded too, though they take more bytes.
    coder: to keep files whose pixels would take more bytes, as far as some tiles say.

  Raises:
    OSError: if it cannot be read.
  """
  data = read_bytes(folder / name, _MAX_FILE)
  try:
    with open_image(data, name, _FORMATS, MAX_CODED) as image:
      reason = why_kept(image, data, name, channels, lossy_pixels)
      if not reason:
        pixels = np.asarray(image).reshape(image.height, image.width, channels).copy()
        if coder is None or lossy_pixels or len(data) > MAX_KEPT_FILE or not takes_more(coder, pixels, len(data)):
          return ImageFile(name, pixels)
        reason = "smaller than its pixels coded"
  except ImageFileError:
    reason = "no image"
  return ImageFile(name, data=data, reason=reason)


def takes_more(coder: TieredCodec, pixels: np.ndarray, size: int) -> bool:
  """Return whether the pixels of a file would take more than its `size` bytes, as far as 4 tiles say.

  Small files are not looked at unless they have few bits per dimension, such as drawings: the tiles of other ones would
  take much of the time that coding them takes, and formats without a model compress them badly.
  """
  shape = coder.model.image_shape
  count = count_tiles(pixels.shape[0], pixels.shape[1], shape)
  if size >= pixels.nbytes or (count < 32 * _LOOKED_AT and 8 * size >= _EASY * pixels.nbytes):
    return False
  which = np.unique(np.linspace(0, count - 1, _LOOKED_AT).astype(int))
  bits = tile_bits(coder.codec, to_tiles(pixels, shape)[which])
  return bits / len(which) * count > 8 * size


def write_pictures(
  writer: ArchiveWriter,
  pictures: Iterable[ImageFile],
  tile_shape: tuple[int, int, int],
  segment_images: int = SEGMENT_IMAGES,
) -> None:
  """Write files to an archive of the kind "files", and close it."""
  size = min(segment_images, max_images(tile_shape))
  tiles, begun = np.zeros((0, *tile_shape), np.uint8), 0  # at first, `begun` tiles of an earlier segment's file
  entries: list[list] = []  # of the files that begin in this segment
  kept: list[bytes] = []
  kept_bytes = entry_bytes = segments = 0

  def write():
    nonlocal tiles, begun, kept_bytes, entry_bytes, segments
    text = json.dumps([begun, entries], separators=(",", ":")).encode()
    writer.write_segment(tiles[:size], _LENGTH.pack(len(text)) + text + b"".join(kept))
    tiles = tiles[size:]
    begun = len(tiles)
    entries.clear()
    kept.clear()
    kept_bytes, entry_bytes, segments = 0, 0, segments + 1

  for picture in pictures:
    crc = zlib.crc32(picture.content)
    if picture.pixels is None:
      entries.append([picture.name, len(picture.content), crc])
      kept.append(picture.content)
      kept_bytes += len(picture.content)
    else:
      height, width, _ = picture.pixels.shape
      new = to_tiles(picture.pixels, tile_shape)
      entries.append([picture.name, width, height, crc, len(new)])
      tiles = np.concatenate([tiles, new])
    entry_bytes += len(picture.name) + 60
    while len(tiles) >= size or kept_bytes > _MAX_KEPT or entry_bytes > _MAX_ENTRIES:
      write()
  if entries or len(tiles) or not segments:
    write()
  writer.close()


@dataclasses.dataclass(frozen=True)
class Lost:
  """A file that cannot be decoded, and why; the name is empty if it is not known."""

  name: str
  reason: str


@dataclasses.dataclass(frozen=True)
class Point:
  """A place in an archive of files, from which reading can begin: all files before it have been yielded.

  Attributes:
    segment: number of a segment.
    files: how many of the files that begin in it lie before.
  """

  segment: int = 0
  files: int = 0


def read_pictures(
  reader: ArchiveReader, coder: TieredCodec, names: Sequence[str] | None = None
) -> Iterator[ImageFile | Lost]:
  """Yield the files of an archive in their order.

  Args:
    reader: of an archive of the kind "files".
    coder: its `TieredCodec`.
    names: only these; None for all.

  Raises:
    ArchiveError: after the last file, if the archive is damaged or incomplete.
  """
  for item in read_from(reader, coder, names):
    if not isinstance(item, Point):
      yield item


def read_from(
  reader: ArchiveReader, coder: TieredCodec, names: Collection[str] | None = None, start: Point = Point()
) -> Iterator[ImageFile | Lost | Point]:
  """Yield what `read_pictures` does from a point on, and after each segment the point to which it came."""
  reader.check(coder)
  shape = coder.model.image_shape
  check_channels(shape[2])
  wanted = None if names is None else set(names)
  # In order; the first may lack tiles. Each with the point before it.
  queue: collections.deque[tuple[Point, ImageFile | Lost | _Open]] = collections.deque()
  for number, segment in enumerate(reader.segments(start=start.segment), start.segment):
    try:
      tiles, extra = reader.decode(segment, coder)
      begun, items = _parse(extra, shape)
      missing = queue[0][1].missing if queue and isinstance(queue[0][1], _Open) else begun
      if missing != begun:
        raise SegmentError("a segment goes on with another file than the one before it")
    except SegmentError as error:
      yield from (Lost(item.name, str(error)) for _, item in queue)
      queue.clear()
      yield Lost("", str(error))
      yield Point(number + 1)
      continue
    if not queue:
      tiles = tiles[begun:]  # of a file whose beginning is lost, or was yielded before
    queue += ((Point(number, index), item) for index, item in enumerate(items))
    while queue:
      point, item = queue[0]
      if isinstance(item, _Open):
        tiles = item.take(tiles)
        if item.missing:
          break
        item = item.finished()
      queue.popleft()
      before = (point.segment, point.files) < (start.segment, start.files)
      if not before and (wanted is None or item.name in wanted):
        yield item
    if len(tiles):
      yield Lost("", "a segment has tiles that belong to no file")
    yield queue[0][0] if queue else Point(number + 1)
  yield from (Lost(item.name, "its last tiles are missing") for _, item in queue)


class _Open:
  """A file of which some tiles have been read."""

  def __init__(self, name, width, height, crc, tiles):
    self.name, self._size, self._crc, self.missing = name, (height, width), crc, tiles
    self._tiles = []

  def take(self, tiles):
    """Take the tiles that are missing; return those of the next file."""
    self._tiles.append(tiles[: self.missing])
    self.missing -= len(self._tiles[-1])
    return tiles[len(self._tiles[-1]) :]

  def finished(self):
    pixels = from_tiles(np.concatenate(self._tiles), *self._size)
    if zlib.crc32(pixels.tobytes()) != self._crc:
      return Lost(self.name, "its pixels have the wrong checksum")
    return ImageFile(self.name, pixels)


def _parse(extra, tile_shape):
  """Return the number of tiles of an earlier file, and the files that begin in a segment."""
  try:
    if not extra:  # of a segment without images, which ends an archive without files
      return 0, []
    (length,) = _LENGTH.unpack_from(extra)
    if length > _MAX_LIST:
      raise ValueError("it is too long")
    (begun, entries), position = json.loads(extra[4 : 4 + length]), 4 + length
    claim("items", len(entries), "the list of files of a segment")
    result: list[ImageFile | Lost | _Open] = []
    for name, *numbers in entries:
      if not isinstance(name, str) or not all(isinstance(n, int) and n >= 0 for n in (begun, *numbers)):
        raise ValueError("an entry is invalid")
      if len(numbers) == 2:
        data = extra[position : position + numbers[0]]
        position += numbers[0]
        result.append(_kept_file(name, data, *numbers))
      else:
        width, height, _, tiles = numbers
        if not 0 < width * height * tile_shape[2] <= _MAX_DECODED or tiles != count_tiles(height, width, tile_shape):
          raise ValueError("an entry is invalid")
        claim("memory", _COPIES * width * height * tile_shape[2], f"{name!r} in the archive")
        result.append(_Open(name, *numbers))
    return begun, result
  except BudgetError:
    raise
  except (ValueError, TypeError, struct.error, RecursionError) as error:
    raise SegmentError(f"its list of files cannot be read: {error}") from None


def _kept_file(name, data, size, crc):
  if len(data) != size:
    return Lost(name, f"it should have {size:,} bytes, of which {len(data):,} are there")
  return ImageFile(name, data=data) if zlib.crc32(data) == crc else Lost(name, "its bytes have the wrong checksum")
