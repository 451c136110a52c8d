"""The archive: a header, segments of images, an index, and a hash of all. docs/archive_format.md has it byte by byte.

    8 bytes magic, u32 size and u32 CRC-32 of the header, the header (JSON), the model if it is embedded
    segments: "SEGM", u64 first image, u32 images, u64 size, u32 CRC-32 of these fields and what follows (segment.py)
      there is one or more, each bound to its place: u64 images and segments without images before it,
      u8 whether it is the last
    index: "INDX", u32 segments, u32 CRC-32, then u64 position and u32 images of each
    u64 position of the index, 32 bytes SHA-256 of all before, 8 bytes magic

An archive is written and read segment by segment, as many at a time as there are cores and as the budget has memory
for, at least one. Any segment can be decoded separately.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import dataclasses
import hashlib
import json
import math
import struct
from typing import Any, BinaryIO
import zlib

import numpy as np

from flowpp_tf.compression.batches import segment_pays_in_threads
from flowpp_tf.compression.codec import MAX_DIMS, Codec
from flowpp_tf.compression.description import CodecModel
from flowpp_tf.compression.segment import (
  LEAST_BYTES,
  DecodedSegment,
  Fields,
  SegmentError,
  decode_segment,
  encode_fields,
  encoding_memory,
  max_images,
)
from flowpp_tf.compression.threads import map_ahead
from flowpp_tf.core.checks import as_array, check_arguments, check_count
from flowpp_tf.core.errors import InputError
from flowpp_tf.io.budget import claim, claim_output
from flowpp_tf.tiles.neighbours import TileLayout
from flowpp_tf.version import __version__

VERSION = 5  # of the format
_READS = 4, VERSION  # 4 had no median among its LZMA images
SEGMENT_IMAGES = 4096
_MAGIC = b"\x93FLOWPP\n"
_END = b"FLOWPP\n\x93"
_MAX_HEADER = 1 << 16
_KINDS = ("images", "files")
_HEAD = struct.Struct("<II")
_SEGMENT = struct.Struct("<4sQIQI")
_SEGMENT_MARK = b"SEGM"
_INDEX = struct.Struct("<4sII")
_INDEX_MARK = b"INDX"
_ENTRY = np.dtype([("position", "<u8"), ("images", "<u4")])
_PLACE = struct.Struct("<Q?")
_FOOTER = struct.Struct("<Q32s8s")


class ArchiveError(InputError):
  """Raised for an archive that is damaged, incomplete, or of another model or version.

  Examples:
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> try:
    ...   fpp.decompress(model, b"no archive")
    ... except fpp.compression.ArchiveError:
    ...   print("refused")
    refused
  """


@dataclasses.dataclass(frozen=True)
class Header:
  """The header of an archive.

  Attributes:
    kind: "images": arrays of the model's shape; "files": image files, cut into tiles.
    model: first 128 bits of the SHA-256 of the model.
    image_shape: of the model.
    levels: of the model.
    embedded: size in bytes of the model that follows the header.
    version: version of the format.
    made_by: the program and its version.
  """

  kind: str
  model: str
  image_shape: tuple[int, int, int]
  levels: int
  embedded: int = 0
  version: int = VERSION
  made_by: str = f"flowpp_tf {__version__}"


@dataclasses.dataclass(frozen=True)
class SegmentContent:
  """What is written as a segment, and as those without images that belong to it.

  Attributes:
    images: `[N, H, W, C]`, at most `max_images`; uint8 or, of more than 256 levels, uint16.
    extra: further bytes.
    fallback: bytes to write as segments without images, each as one, in place of all others if that is smaller; empty
      for no alternative.
    runs: for a model whose tiles see their neighbours, `(height, width, first, count)` of each run of tiles, as
      tiles/neighbours.py says; empty if each is a picture of its own.
    behind: bytes to write as further segments without images, each as one.

  Examples:
    >>> content = fpp.compression.archive.SegmentContent(np.zeros([2, 8, 8, 1], np.uint8), b"more bytes")
  """

  images: np.ndarray
  extra: bytes = b""
  fallback: Sequence[bytes] = ()
  runs: Sequence[tuple[int, int, int, int]] = ()
  behind: Sequence[bytes] = ()


class ArchiveWriter:
  """Writes an archive.

  Args:
    file: to write to, in binary mode; it need not be seekable.
    codec: `Codec`.
    kind: see `Header`.
    embed_model: whether the archive holds the model, so that nothing else is needed to decode it.
    max_batch: the largest batch size of the networks; None for one that is fast.

  Examples:
    >>> import io
    >>> codec = fpp.compression.Codec(fpp.FlowPlusPlus.from_preset("digits"))
    >>> file = io.BytesIO()
    >>> writer = fpp.compression.ArchiveWriter(file, codec)
    >>> content = fpp.compression.archive.SegmentContent(np.zeros([2, 8, 8, 1], np.uint8))
    >>> writer.write_segments([content])
    [False]
    >>> writer.close()
    >>> fpp.decompress(codec, file.getvalue()).shape
    (2, 8, 8, 1)
  """

  @check_arguments
  def __init__(
    self, file: BinaryIO, codec: Codec, kind: str = "images", embed_model: bool = False, max_batch: int | None = None
  ) -> None:
    if kind not in _KINDS:
      raise InputError(f"`kind` must be one of {', '.join(_KINDS)}, got {kind!r}")
    if max_batch is not None:
      check_count("max_batch", max_batch, high=2**63 - 1)
    self._file = file
    self._codec = codec
    self._max_batch = max_batch
    self._digest = hashlib.sha256()
    self._entries: list[tuple[int, int]] = []  # position and number of images of each segment
    self._position = 0
    self._images = 0
    self._place = 0
    self._held: Fields | None = None  # the newest segment; whether it is the last one is not known yet
    model = codec.model.to_bytes() if embed_model else b""
    header = Header(kind, codec.model_hash, codec.shape, codec.levels, len(model))
    text = json.dumps(dataclasses.asdict(header), separators=(",", ":")).encode()
    self._write(_MAGIC + _HEAD.pack(len(text), zlib.crc32(text)) + text + model)

  @property
  def dtype(self) -> np.dtype:
    """Dtype of the images: uint8, of more than 256 levels uint16."""
    return self._codec.dtype

  @check_arguments
  def write_segments(
    self, contents: Iterable[SegmentContent], progress: Callable[[int], None] = lambda count: None
  ) -> list[bool]:
    """Write segments, several at a time; return for each whether `fallback` was written.

    Args:
      contents: contents of the segments.
      progress: function that is called with the number of images of each segment that was written.

    Raises:
      InputError (a ValueError): for images of another shape or dtype.
    """

    def memory(content):
      size = sum(map(len, (content.extra, *content.fallback, *content.behind)))
      return encoding_memory(self._codec, len(content.images), size, self._max_batch)

    def pays(content):
      return segment_pays_in_threads(self._codec, len(content.images))

    are_fallbacks = []
    for count, segments, is_fallback in map_ahead(self._encode, contents, memory, pays):
      for segment in segments:
        if self._held is not None:
          self._write_segment(self._held, is_last=False)
        self._held = segment
      are_fallbacks.append(is_fallback)
      progress(count)
    return are_fallbacks

  def _encode(self, content):
    """Return the number of images of a segment, its parts, and whether these are the fallback."""
    codec = self._codec
    images = as_array("images", content.images, [None, *codec.shape])
    if images.dtype != codec.dtype:
      raise InputError(f"`images` must be {codec.dtype}, got {images.dtype}")
    layout = None
    if content.runs and codec.sees_neighbours:
      layout = TileLayout.from_runs(codec.shape, content.runs, codec.tile_step)

    def without_images(extras):
      return [encode_fields(codec, images[:0], extra) for extra in extras]

    with_images = encode_fields(codec, images, content.extra, self._max_batch, layout)
    segments = [with_images, *without_images(content.behind)]
    fallback = without_images(content.fallback)
    if fallback and _size_of(fallback) < _size_of(segments):
      return len(images), fallback, True
    return len(images), segments, False

  def _write_segment(self, segment, is_last):
    count = segment.count
    payload = segment.to_bytes(_PLACE.pack(self._place, is_last))
    self._entries.append((self._position, count))
    fields = _SEGMENT_MARK, self._images, count, len(payload)
    self._write(_SEGMENT.pack(*fields, _segment_crc(fields, payload)) + payload)
    self._images += count
    self._place += max(count, 1)

  def close(self) -> None:
    """Write the last segment, the index and the footer; the file stays open."""
    if self._held is None:  # so that all segments cannot be cut off
      nothing = np.zeros((0, *self._codec.shape), self._codec.dtype)
      self._held = encode_fields(self._codec, nothing)
    self._write_segment(self._held, is_last=True)
    self._write_end()

  def _write_end(self):
    start = self._position
    entries = np.array(self._entries, _ENTRY).tobytes()
    self._write(_INDEX.pack(_INDEX_MARK, len(self._entries), zlib.crc32(entries)) + entries)
    self._file.write(_FOOTER.pack(start, self._digest.digest(), _END))

  def _write(self, data):
    self._file.write(data)
    self._digest.update(data)
    self._position += len(data)


@dataclasses.dataclass(frozen=True)
class Segment:
  """A segment of an archive.

  Attributes:
    first: index of its first image in the archive.
    images: number of its images.
    data: its bytes (segment.py), None if they are damaged.
    places: to one of these it must be bound.
  """

  first: int
  images: int
  data: bytes | None
  places: tuple[bytes, ...] = ()


class ArchiveReader:
  """Reads an archive.

  Args:
    file: to read from, in binary mode and seekable.

  Attributes:
    header: `Header`.
    model: the embedded `CodecModel`, or None.

  Raises:
    ArchiveError (a ValueError): if it is not an archive, or has an unknown version. Later damage is found when it is
      read.

  Examples:
    >>> import io
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> data = fpp.compress(model, np.zeros([2, 8, 8, 1], np.uint8))
    >>> fpp.compression.ArchiveReader(io.BytesIO(data)).header.levels
    17
  """

  @check_arguments
  def __init__(self, file: BinaryIO) -> None:
    self._file = file
    self._output = 0  # bytes that have come out
    self.size = file.seek(0, 2)
    file.seek(0)
    magic = self._read(len(_MAGIC), "its beginning")
    if magic != _MAGIC:
      raise ArchiveError("this is not a flowpp_tf archive: it begins with other bytes")
    size, crc = _HEAD.unpack(self._read(_HEAD.size, "its header"))
    if size > _MAX_HEADER:
      raise ArchiveError("the archive's header is damaged")
    text = self._read(size, "its header")
    if zlib.crc32(text) != crc:
      raise ArchiveError("the archive's header is damaged: it has the wrong checksum")
    self.header = _parse_header(text)
    self._first = file.tell() + self.header.embedded
    if self._first > self.size:
      raise ArchiveError("the archive is truncated: it ends in its model")
    self.model = None
    if self.header.embedded:
      claim("memory", 4 * self.header.embedded, "the archive's model")
      model = CodecModel.from_bytes(self._read(self.header.embedded, "its model"), "the archive's model")
      self.model = dataclasses.replace(model, embedded=self.header.embedded)
      if self.model.sha256()[:32] != self.header.model:
        raise ArchiveError("the archive's model is damaged: it has the wrong hash")

  @check_arguments
  def check(self, codec: Codec) -> None:
    """Raise an `ArchiveError` unless `codec` has the archive's model."""
    if codec.model_hash != self.header.model:
      raise ArchiveError(
        f"the archive was made with another model: its hash is {self.header.model[:12]}..., "
        f"that of this one {codec.model_hash[:12]}..."
      )

  @check_arguments
  def segments(self, numbers: Sequence[int] | None = None) -> Iterator[Segment]:
    """Yield the segments; damaged ones have no bytes.

    Args:
      numbers: indices of the segments to yield; None for all.

    Raises:
      ArchiveError: after the last segment that is found, if the archive is incomplete or damaged elsewhere.
    """
    self._output = 0
    try:
      entries = self.index()
    except ArchiveError:  # without an index, each segment is found by the end of the one before
      if numbers is None:
        yield from self._segments_in_order()
      raise
    end = self.size - _FOOTER.size - entries.nbytes - _INDEX.size
    counts = entries["images"].astype(np.uint64)
    ends = np.append(entries["position"], np.uint64(end))
    firsts = _sums_before(counts)
    places = _sums_before(np.maximum(counts, 1))
    for number in numbers or ():
      check_count("numbers", number, 0, len(entries) - 1)
    wanted = numbers
    if wanted is None:
      wanted = range(len(entries))
    for number in wanted:
      position, images = entries[number].tolist()
      first = int(firsts[number])
      segment = self._segment_at(position)
      expected = first, images, ends[number + 1]
      if segment is None or (segment.first, segment.images, self._file.tell()) != expected:
        segment = Segment(first, images, None)
      place = _PLACE.pack(int(places[number]), number == len(entries) - 1)
      yield dataclasses.replace(segment, places=(place,))
    if numbers is None:
      self._check_hash()

  def _segments_in_order(self):
    position = self._first
    first = 0
    place = 0
    while True:
      segment = self._segment_at(position)
      if segment is None or segment.data is None or segment.first != first:
        return
      places = _PLACE.pack(place, False), _PLACE.pack(place, True)
      yield dataclasses.replace(segment, places=places)
      position += _SEGMENT.size + len(segment.data)
      first += segment.images
      place += max(segment.images, 1)

  def _segment_at(self, position):
    """Return the segment at a position, without its bytes if they are damaged, or None."""
    self._file.seek(position)
    head = self._file.read(_SEGMENT.size)
    if len(head) < _SEGMENT.size:
      return None
    *fields, crc = mark, first, images, size, _ = _SEGMENT.unpack(head)
    if mark != _SEGMENT_MARK or images > max_images(self.header.image_shape) or size > self.size - self._file.tell():
      return None
    claim("memory", size, "a segment of the archive")
    data = self._file.read(size)
    return Segment(first, images, data if _segment_crc(fields, data) == crc else None)

  @check_arguments
  def decoded(self, codec: Codec, numbers: Sequence[int] | None = None) -> Iterator[DecodedSegment]:
    """Decode several segments at a time and yield them; a damaged segment says what is wrong.

    Arguments and further errors are as for `segments`.

    Raises:
      ArchiveError (a ValueError): before the first segment, if the codec is another.
      BudgetError (a ValueError): if this archive would become too large.

    Examples:
      >>> import io
      >>> codec = fpp.compression.Codec(fpp.FlowPlusPlus.from_preset("digits"))
      >>> reader = fpp.compression.ArchiveReader(io.BytesIO(fpp.compress(codec, np.zeros([2, 8, 8, 1], np.uint8))))
      >>> [segment.images.shape for segment in reader.decoded(codec)]
      [(2, 8, 8, 1)]
    """
    self.check(codec)

    def opened():
      for segment in self.segments(numbers):
        yield segment, self._opened(segment, codec)

    def decode(item):
      segment, fields = item
      if isinstance(fields, Fields):
        return decode_segment(codec, fields, segment.places)
      images = np.zeros((segment.images, *codec.shape), codec.dtype)
      return DecodedSegment(images, np.zeros(len(images), bool), b"", fields)

    def memory(item):
      _, fields = item
      return fields.memory(codec) if isinstance(fields, Fields) else 0

    def pays(item):
      segment, _ = item
      return segment_pays_in_threads(codec, segment.images)

    yield from map_ahead(decode, opened(), memory, pays)

  def _opened(self, segment, codec):
    """Return the fields of a segment, or what is wrong with it; claim what comes out, zeros for lost images too."""
    self._output += segment.images * math.prod(codec.shape) * codec.dtype.itemsize
    try:
      if segment.data is None:
        raise SegmentError("a segment is not where the index says, or has the wrong checksum")
      fields: Any = Fields.from_bytes(segment.data, codec)
      if fields.count != segment.images:
        raise SegmentError("a segment holds another number of images than it says")
      self._output += fields.extra_size
    except SegmentError as error:
      fields = str(error)
    claim_output(self._output, self.size, "the archive")
    return fields

  def index(self) -> np.ndarray:
    """Return the position and the number of images of each segment.

    Raises:
      ArchiveError: if the archive is incomplete or its index is damaged.
    """
    self._file.seek(max(self.size - _FOOTER.size, 0))
    start, _, end = _FOOTER.unpack(self._read(_FOOTER.size, "its end"))
    if end != _END or not self._first <= start <= self.size - _FOOTER.size - _INDEX.size:
      raise ArchiveError("the archive is truncated or its end is damaged")
    self._file.seek(start)
    mark, count, crc = _INDEX.unpack(self._read(_INDEX.size, "its index"))
    if mark != _INDEX_MARK or start + _INDEX.size + count * _ENTRY.itemsize + _FOOTER.size != self.size:
      raise ArchiveError("the archive's index is damaged")
    claim("items", count, "the archive's index")
    least = _SEGMENT.size + LEAST_BYTES  # bytes of a segment
    if not 0 < count * least <= start - self._first:  # before a million entries are read
      raise ArchiveError("the archive's index does not agree with its segments")
    data = self._read(count * _ENTRY.itemsize, "its index")
    entries = np.frombuffer(data, _ENTRY)
    places = np.append(entries["position"], np.uint64(start))
    sizes = np.diff(places.astype(np.float64))  # which no u64 holds below 0
    if (
      zlib.crc32(data) != crc
      or entries["position"][0] != self._first
      or np.any(sizes < least)
      or np.any(entries["images"] > max_images(self.header.image_shape))
    ):
      raise ArchiveError("the archive's index is damaged, or does not agree with its segments")
    return entries

  def _check_hash(self):
    """Raise an `ArchiveError` unless the hash of the archive is right, which covers what the checksums do not."""
    digest = hashlib.sha256()
    end = self.size - _FOOTER.size
    self._file.seek(0)
    for start in range(0, end, 1 << 20):
      digest.update(self._read(min(end - start, 1 << 20), "its end"))
    if _FOOTER.unpack(self._read(_FOOTER.size, "its end"))[1] != digest.digest():
      raise ArchiveError("the archive is damaged: its hash is wrong")

  def _read(self, size, where):
    data = self._file.read(size)
    if len(data) != size:
      raise ArchiveError(f"the archive is truncated: it ends in {where}")
    return data


def _size_of(segments):
  """Return the bytes of segments."""
  return sum(len(segment.to_bytes()) for segment in segments)


def _sums_before(sizes):
  """Return for each size the sum of the sizes before it."""
  return np.cumsum(sizes) - sizes


def _segment_crc(fields, data):
  return zlib.crc32(data, zlib.crc32(_SEGMENT.pack(*fields, 0)[:-4]))


def _parse_header(text):
  try:
    fields = json.loads(text)
    version = fields["version"]
  except (ValueError, KeyError, TypeError, RecursionError):
    raise ArchiveError("the archive's header cannot be read") from None
  if version not in _READS:
    reads = " and ".join(map(str, _READS))
    raise ArchiveError(f"the archive has version {version!r} of the format; this program reads versions {reads}")
  with contextlib.suppress(TypeError):
    header = Header(**fields)
    if (
      header.kind in _KINDS
      and all(isinstance(n, int) and n >= 0 for n in (header.embedded, header.levels))
      and all(isinstance(text, str) for text in (header.model, header.made_by))
      and len(header.image_shape) == 3
      and all(isinstance(n, int) and 0 < n <= MAX_DIMS for n in header.image_shape)
    ):
      return header
  raise ArchiveError("the archive's header is invalid")
