"""Image files in an archive.

8-bit grey or RGB pixels, as the model has them, are coded as tiles, of a model of more than 256 levels those of 16-bit
PNG, TIFF, .npy and FITS files. What a file says besides them comes back with them (metadata.py); .npy and FITS files
come back byte for byte (wrapper.py). Every other file is kept byte for byte (verbatim.py): other modes and depths,
transparency, several images, and files that are not images. So are JPEG and lossy WebP, since their pixels take more
bytes than the files, and every file that is smaller than its pixels coded. What a segment stores of each file is in
entries.py.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
import dataclasses
import pathlib

import numpy as np

from flowpp_tf.compression.archive import SEGMENT_IMAGES, ArchiveError, ArchiveReader, ArchiveWriter
from flowpp_tf.compression.files.entries import ImageFile, Lost, StoredFile, finished, list_of_files, parse_list
from flowpp_tf.compression.files.metadata import MetadataError, read_metadata
from flowpp_tf.compression.files.verbatim import MAX_CODED, is_lossy, why_kept
from flowpp_tf.compression.files.wrapper import split_frame
from flowpp_tf.compression.lzma_images import pack
from flowpp_tf.compression.segment import SegmentError, max_images
from flowpp_tf.compression.tiered_codec import TieredCodec
from flowpp_tf.core.errors import InputError
from flowpp_tf.io.deep_image import is_array, read_deep
from flowpp_tf.io.gate import read_bytes
from flowpp_tf.io.image_file import FORMATS, ImageFileError, open_image
from flowpp_tf.tiles.cutting import to_tiles

MAX_KEPT_FILE = 1 << 27  # bytes of a file that is kept
_MAX_KEPT, _MAX_ENTRIES = 1 << 26, 1 << 20  # bytes in a segment, and those behind it, before the next one begins
_MAX_SHARED = 1 << 13  # bytes of files without tiles that share a segment, whose headers are 2 % of that
_ENTRY_BYTES = 80  # of a file in a list, without its name
_MAX_FILE = 1 << 31  # bytes of a file that is read
_FORMATS = (*FORMATS, "PPM")  # of what is decoded
SMALLER = "smaller than its pixels coded"


def check_channels(channels: int) -> None:
  """Raise an `InputError` (a ValueError) unless image files can have this number of channels."""
  if channels not in (1, 3):
    raise InputError(f"image files are coded by models of 1 or 3 channels, got {channels}")


def read_picture(
  folder: pathlib.Path,
  name: str,
  channels: int,
  lossy_pixels: bool = False,
  bits: Callable[[np.ndarray, int], float] | None = None,
  keep_bytes: bool = False,
  levels: int = 256,
) -> ImageFile:
  """Read a file, as it is to be stored.

  Args:
    folder: where it is.
    name: its path below the folder.
    channels: of the model.
    lossy_pixels: whether the pixels of JPEG and lossy WebP files are coded too, though they take more bytes.
    bits: `PictureBits`, to keep files whose pixels would take more bytes; None to code all.
    keep_bytes: whether the bytes of the file must come back, not only its pixels and metadata.
    levels: of the model.

  Raises:
    OSError: if it cannot be read.
  """
  data = read_bytes(folder / name, _MAX_FILE)
  try:
    with open_image(data, name, _FORMATS, MAX_CODED) as image:
      reason, metadata = _look(image, data, name, channels, lossy_pixels, levels)
      shape, lossy = (image.height, image.width, channels), is_lossy(image, data)
      pixels = np.asarray(image).reshape(shape).copy() if not reason and levels <= 256 else None
  except ImageFileError:
    return _array_file(name, data, channels, levels, bits)
  if not reason and levels > 256:
    pixels, reason = _deep_pixels(name, data, channels)
  kept = ImageFile(name, data=data, reason=reason or SMALLER)
  if pixels is None:
    return kept
  frame = _frame(data, pixels) if keep_bytes else None
  if keep_bytes and frame is None:
    return dataclasses.replace(kept, reason="compressed, and its bytes are to come back")
  if frame is not None:
    ours = ImageFile(name, pixels, data=data, frame=frame)
  else:
    ours = ImageFile(name, pixels, metadata=metadata)
  return ours if lossy else _ours_or_kept(ours, kept, len(data), bits)


def _array_file(name, data, channels, levels, bits):
  """Return a file that Pillow does not open: of .npy and FITS the pixels, and the frame of what is around them."""
  kept = ImageFile(name, data=data, reason="no image")
  if levels <= 256 or not is_array(data):
    return kept
  pixels, reason = _deep_pixels(name, data, channels)
  frame = None if reason else _frame(data, pixels)
  if frame is None:
    return dataclasses.replace(kept, reason=reason or "compressed, or not in the order of its rows")
  return _ours_or_kept(ImageFile(name, pixels, data=data, frame=frame), kept, len(data), bits)


def _deep_pixels(name, data, channels):
  """Return the pixels of a file of 16 bits, and why it has none, or ""."""
  try:
    pixels = read_deep(data, channels, name, MAX_CODED)
  except ImageFileError:
    return None, "another depth or format"
  except InputError:
    return None, "a package that reads it is not installed"
  return (pixels, "") if pixels.size <= MAX_CODED else (None, "too large")


def _frame(data, pixels):
  """Return the frame of a file; None if it has none, or one that is larger than a file that can be kept."""
  frame = split_frame(data, pixels)
  return None if frame is None or len(frame[0]) > MAX_KEPT_FILE else frame


def _ours_or_kept(ours, kept, size, bits):
  """Return a file, of `size` bytes, as the smaller one of its pixels coded and what it is otherwise stored as."""
  if bits is None or size > MAX_KEPT_FILE:  # coded at any cost
    return ours
  room = (len(pack(kept.data)) if size >= ours.pixels.nbytes else size) - ours.size
  return dataclasses.replace(ours, instead=kept) if room > 0 and bits(ours.pixels, room) <= 8 * room else kept


def needs_entries(
  folder: pathlib.Path, name: str, channels: int, lossy_pixels: bool = False, levels: int = 256
) -> bool:
  """Return whether the pixels of a file would be stored with metadata or a frame, as archives of version 3 do.

  Arguments and errors are those of `read_picture`.
  """
  data = read_bytes(folder / name, _MAX_FILE)
  try:
    with open_image(data, name, _FORMATS, MAX_CODED) as image:
      return bool(_look(image, data, name, channels, lossy_pixels, levels)[1])
  except ImageFileError:
    return levels > 256 and is_array(data)


def _look(image, data, name, channels, lossy_pixels, levels):
  """Return why a file is kept, or "", and its metadata."""
  if reason := why_kept(image, data, name, channels, lossy_pixels, 8 if levels <= 256 else 16):
    return reason, b""
  try:
    return "", read_metadata(image, data)
  except MetadataError as error:
    return str(error), b""


def write_pictures(
  writer: ArchiveWriter,
  pictures: Iterable[ImageFile],
  tile_shape: tuple[int, int, int],
  segment_images: int = SEGMENT_IMAGES,
) -> list[str]:
  """Write files to an archive of the kind "files", and close it.

  A segment that holds its files whole, and would take more bytes than what they are stored as `instead`, such as one
  of few small files, is replaced by these. So an archive is larger than its files by no more than its headers. Files
  without tiles are in segments of their own; only those of few bytes share one.

  Returns:
    The names of the files whose bytes are kept `instead`.

  Raises:
    InputError (a ValueError): for files that need a later version than the writer has.
  """
  names: collections.deque[list[str]] = collections.deque()  # that a segment may hold `instead`, oldest segment first
  fallen: list[str] = []
  contents = _contents(pictures, tile_shape, min(segment_images, max_images(tile_shape)), writer, names)
  for is_instead in writer.write_segments(contents):
    of_segment = names.popleft()
    if is_instead:
      fallen += of_segment
  writer.close()
  return fallen


def _contents(pictures, tile_shape, size, writer, names):
  """Yield the arguments of `write_segment` for files; append the names that are kept in what it writes `instead`."""
  tiles, begun = np.zeros((0, *tile_shape), writer.dtype), 0  # at first, `begun` tiles of an earlier segment's file
  waiting: list[ImageFile] = []  # the files that begin in this segment
  runs: list[tuple[int, int, int, int]] = []  # of the tiles: height and width of their picture, the first, how many
  stored_bytes = entry_bytes = segments = 0

  def content():
    nonlocal tiles, begun, stored_bytes, entry_bytes, segments
    whole = not begun and len(tiles) <= size and any(picture.instead for picture in waiting)
    instead = [picture.instead or picture for picture in waiting] if whole else []
    if any(picture.has_tiles for picture in instead):
      instead = []
    behind = _without_tiles(writer.version, tile_shape, [picture for picture in waiting if not picture.has_tiles])
    written, runs[:] = _split_runs(runs, size)
    names.append([picture.name for picture in waiting if picture.instead])
    if len(tiles) or not behind:
      listed = [picture if picture.has_tiles else picture.name for picture in waiting]
      behind.insert(0, list_of_files(writer.version, tile_shape, begun, listed))
    found = tiles[:size], behind[0], _without_tiles(writer.version, tile_shape, instead), written, behind[1:]
    tiles = tiles[size:]
    begun = len(tiles)
    waiting.clear()
    stored_bytes, entry_bytes, segments = 0, 0, segments + 1
    return found

  for picture in pictures:
    waiting.append(picture)
    if picture.has_tiles and picture.pixels is not None:
      new = to_tiles(picture.pixels, tile_shape)
      tiles = np.concatenate([tiles, new])
      runs.append((*picture.pixels.shape[:2], 0, len(new)))
    stored_bytes += len(picture.metadata) + picture.size
    entry_bytes += len(picture.name) + _ENTRY_BYTES
    while len(tiles) >= size or stored_bytes > _MAX_KEPT or entry_bytes > _MAX_ENTRIES:
      yield content()
  if waiting or len(tiles) or not segments:
    yield content()


def _without_tiles(version, tile_shape, pictures):
  """Return the extra bytes of segments of files without tiles: one of more than a few bytes shares it with no other."""
  groups, size = list[list[ImageFile]](), _MAX_SHARED
  for picture in pictures:
    own = picture.size + len(picture.name) + _ENTRY_BYTES
    if size + own > _MAX_SHARED:
      groups.append([])
      size = 0
    groups[-1].append(picture)
    size += own
  return [list_of_files(version, tile_shape, 0, group) for group in groups]


def _split_runs(runs, size):
  """Return the runs of the first `size` tiles, and those of the others."""
  first, others, room = [], [], size
  for height, width, start, count in runs:
    taken = min(count, room)
    room -= taken
    first += [(height, width, start, taken)] if taken else []
    others += [(height, width, start + taken, count - taken)] if taken < count else []
  return first, others


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


def _parsed(result, reader, coder):
  """Return the tiles of a decoded segment, how many of them are of an earlier segment's file, and its files."""
  if isinstance(result, SegmentError):
    raise result
  tiles, extra = result
  return tiles, *parse_list(extra, coder.model.image_shape, reader.header.version, coder.codec.dtype.itemsize)


class _Waiting:
  """Files in their order, each with the point before it; some lack tiles, of some only the name is known so far."""

  def __init__(self, names: Collection[str] | None, start: Point) -> None:
    self._names, self._start = None if names is None else set(names), start
    self._queue: collections.deque[tuple[Point, Lost | StoredFile | str]] = collections.deque()
    self._end = start  # of the segments that have been read

  def __bool__(self) -> bool:
    return bool(self._queue)

  @property
  def missing(self) -> int:
    """The number of tiles that the first file lacks."""
    first = self._queue[0][1] if self._queue else None
    return first.missing if isinstance(first, StoredFile) else 0

  def add(self, point: Point, item: Lost | StoredFile | str) -> None:
    """Add a file, or the name of one that is in a segment without images behind this one."""
    self._queue.append((point, item))

  def add_named(self, point: Point, item: Lost | StoredFile) -> None:
    """Put a file in the place of its name, before which no name can come any more; without its name, at the end."""
    for index, (place, other) in enumerate(self._queue):
      if other == item.name:
        self._queue[index] = place, item
        return
      if isinstance(other, str):
        self._queue[index] = place, _named_loss(other)
    self.add(point, item)

  def take(self, tiles: np.ndarray) -> np.ndarray:
    """Give the files the tiles that they lack; return those that are left."""
    for _, item in self._queue:
      if isinstance(item, StoredFile) and item.missing:
        tiles = item.take(tiles)
    return tiles

  def give_up(self, reason: str = "") -> None:
    """Let the files of which only names are known be lost; for a reason also the one that lacks tiles."""
    for index, (point, item) in enumerate(self._queue):
      if isinstance(item, str):
        self._queue[index] = point, _named_loss(item)
      elif reason and isinstance(item, StoredFile) and item.missing:
        self._queue[index] = point, Lost(item.name, reason)

  def complete(self) -> Iterator[ImageFile | Lost]:
    """Remove files that lack nothing from the beginning; yield those that are wanted and were not yielded before."""
    while self._queue and not self.missing:
      point, item = self._queue[0]
      if isinstance(item, str):
        return
      self._queue.popleft()
      before = (point.segment, point.files) < (self._start.segment, self._start.files)
      if not before and (self._names is None or not item.name or item.name in self._names):
        yield item if isinstance(item, Lost) else finished(item)

  def point(self, segments: int) -> Point:
    """Return the point to which reading came when so many segments had been read."""
    self._end = Point(segments)
    return self._queue[0][0] if self._queue else self._end

  def end(self) -> Iterator[ImageFile | Lost | Point]:
    """Yield all that is left, of which nothing more can come."""
    self.give_up("its last tiles are missing")
    yield from self.complete()
    yield self._end


def _named_loss(name):
  return Lost(name, "its segment is damaged or missing")


def read_from(
  reader: ArchiveReader, coder: TieredCodec, names: Collection[str] | None = None, start: Point = Point()
) -> Iterator[ImageFile | Lost | Point]:
  """Yield what `read_pictures` does from a point on, and after each segment the point to which it came."""
  reader.check(coder)
  check_channels(coder.model.image_shape[2])
  waiting = _Waiting(names, start)
  try:
    yield from _read_segments(waiting, reader, coder, start.segment)
  except ArchiveError:
    yield from waiting.end()
    raise
  yield from waiting.end()


def _read_segments(waiting, reader, coder, first):
  for number, (segment, result) in enumerate(reader.decoded(coder, start=first), first):
    if segment.images:  # those behind the one before it have all been read
      waiting.give_up()
      yield from waiting.complete()
    try:
      tiles, begun, items = _parsed(result, reader, coder)
      if segment.images and waiting and waiting.missing != begun:
        raise SegmentError("a segment goes on with another file than the one before it")
    except SegmentError as error:
      if segment.images:
        waiting.give_up(str(error))
      tiles, begun, items = np.zeros(0), 0, []
      waiting.add(Point(number), Lost("", str(error)))
    if not waiting:
      tiles = tiles[begun:]  # of a file whose beginning is lost, or was yielded before
    for index, item in enumerate(items):
      add = waiting.add if segment.images or isinstance(item, str) else waiting.add_named
      add(Point(number, index), item)
    tiles = waiting.take(tiles) if segment.images else tiles
    yield from waiting.complete()
    if len(tiles):
      yield Lost("", "a segment has tiles that belong to no file")
    yield waiting.point(number + 1)
