"""Image files in an archive.

The pixels of a file that the model can hold, grey or RGB of 8 bits, are coded as tiles. Every other file is kept as it
is, byte for byte: other modes, transparency, animations, and what is no image; JPEG and lossy WebP too, since their
pixels take more bytes than the files.

The extra bytes of a segment (segment.py) are a list of the files that begin in it, in JSON, each of

    name, width, height, CRC-32 of its pixels, number of its tiles;  or  name, size, CRC-32 of its bytes

with the bytes of the files that are kept behind it. The tiles of a file may go on in the following segments.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import itertools
import json
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image

from flowpp_tf.compression.archive import SEGMENT_IMAGES, ArchiveError, ArchiveReader, ArchiveWriter, Coder
from flowpp_tf.compression.segment import SegmentError, decode_segment
from flowpp_tf.compression.tiles import count_tiles, from_tiles, to_tiles

_MODES = {1: "L", 3: "RGB"}
_LOSSLESS_FORMATS = ("PNG", "BMP", "PPM", "TIFF", "GIF", "TGA")
_MAX_KEPT = 1 << 26  # bytes of kept files in a segment, before the next one begins
MAX_KEPT_FILE = 1 << 27
_LENGTH = struct.Struct("<I")


@dataclasses.dataclass(frozen=True)
class Picture:
  """A file: its pixels, uint8 `[H, W, C]`, or its bytes.

  Attributes:
    name: path below its folder, with `/`.
    pixels: None for a file that is kept as it is.
    data: bytes of the file, None if it has pixels.
    reason: why it is kept as it is.
  """
  name: str
  pixels: np.ndarray | None = None
  data: bytes | None = None
  reason: str = ""

  @property
  def content(self) -> bytes:
    """Return what is to come back: the pixels or the bytes."""
    return self.data if self.pixels is None else self.pixels.tobytes()  # type: ignore[return-value]


def read_picture(folder: pathlib.Path, name: str, channels: int, lossy_pixels: bool = False) -> Picture:
  """Read a file.

  Args:
    folder: where it is.
    name: its path below the folder.
    channels: of the model.
    lossy_pixels: whether the pixels of JPEG and lossy WebP files are coded too.

  Raises:
    OSError: if it cannot be read.
  """
  data = (folder / name).read_bytes()
  try:
    with Image.open(folder / name) as image:
      reason = ("another mode" if image.mode != _MODES.get(channels) else
                "transparency" if "transparency" in image.info else
                "several frames" if getattr(image, "n_frames", 1) > 1 else
                "lossy" if not lossy_pixels and _is_lossy(image.format, data) else "")
      if not reason:
        return Picture(name, np.asarray(image).reshape(image.height, image.width, channels).copy())
  except Exception:  # pylint: disable=broad-except  # Pillow raises many for files that are not images
    reason = "no image"
  return Picture(name, data=data, reason=reason)


def _is_lossy(image_format, data):
  return data[12:16] != b"VP8L" if image_format == "WEBP" else image_format not in _LOSSLESS_FORMATS


def write_pictures(writer: ArchiveWriter, pictures: Iterable[Picture], tile_shape: tuple[int, int, int],
                   segment_images: int = SEGMENT_IMAGES) -> None:
  """Write files to an archive of the kind "files", and close it."""
  entries: list[list] = []
  kept: list[bytes] = []
  waiting: list[np.ndarray] = []
  count = 0

  def flush():
    nonlocal entries, kept, waiting, count
    tiles = np.concatenate(waiting) if waiting else np.zeros((0, *tile_shape), np.uint8)
    text = json.dumps(entries, separators=(",", ":")).encode()
    writer.write_segment(tiles[:segment_images], _LENGTH.pack(len(text)) + text + b"".join(kept))
    entries, kept, waiting = [], [], [tiles[segment_images:]]
    count = len(waiting[0])

  for picture in pictures:
    crc = zlib.crc32(picture.content)
    if picture.pixels is None:
      entries.append([picture.name, len(picture.content), crc])
      kept.append(picture.content)
    else:
      height, width, _ = picture.pixels.shape
      tiles = to_tiles(picture.pixels, tile_shape)
      entries.append([picture.name, width, height, crc, len(tiles)])
      waiting.append(tiles)
      count += len(tiles)
    while count >= segment_images or sum(map(len, kept)) > _MAX_KEPT:
      flush()
  if entries or count:
    flush()
  writer.close()


@dataclasses.dataclass(frozen=True)
class Lost:
  """A file that cannot be decoded, and why; without a name for files that are not known."""
  name: str
  reason: str


def read_pictures(reader: ArchiveReader, coder: Coder, names: Sequence[str] | None = None) -> Iterator[Picture | Lost]:
  """Yield the files of an archive in their order.

  Args:
    reader: of an archive of the kind "files".
    coder: its `Coder`.
    names: only these; None for all.

  Raises:
    ArchiveError: after the last file, if the archive is damaged or incomplete.
  """
  reader.check(coder)
  shape = coder.model.image_shape
  queue: collections.deque[Picture | Lost | _Open] = collections.deque()  # in order; the first may lack tiles
  for _, payload in reader.segments():
    try:
      if payload is None:
        raise SegmentError("a segment has the wrong checksum")
      tiles, extra = decode_segment(coder.codec, payload)
      queue += _parse(extra, shape)
    except SegmentError as error:
      yield from (Lost(item.name, str(error)) for item in queue)
      queue.clear()
      yield Lost("", str(error))
      continue
    while queue:
      item = queue[0]
      if isinstance(item, _Open):
        taken, tiles = tiles[:item.missing], tiles[item.missing:]
        item.add(taken)
        if item.missing:
          break
        item = item.finished()
      queue.popleft()
      if names is None or item.name in names:
        yield item
    if len(tiles):
      yield Lost("", "the rest of a file whose beginning is lost")
  yield from (Lost(item.name, "its last tiles are missing") for item in queue)


class _Open:
  """A file some of whose tiles have been read."""

  def __init__(self, name, width, height, crc, tiles):
    self.name, self._size, self._crc, self.missing = name, (height, width), crc, tiles
    self._tiles = []

  def add(self, tiles):
    self._tiles.append(tiles)
    self.missing -= len(tiles)

  def finished(self):
    pixels = from_tiles(np.concatenate(self._tiles), *self._size)
    if zlib.crc32(pixels.tobytes()) != self._crc:
      return Lost(self.name, "its pixels have the wrong checksum")
    return Picture(self.name, pixels)


def _parse(extra, tile_shape):
  """Files that begin in a segment: `_Open`, `Picture` or `Lost`."""
  try:
    (length,) = _LENGTH.unpack_from(extra)
    entries, position = json.loads(extra[4:4 + length]), 4 + length
    result: list[Picture | Lost | _Open] = []
    for entry in entries:
      name, *numbers = entry
      if not isinstance(name, str) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError("an entry has no meaning")
      if len(numbers) == 2:
        data = extra[position:position + numbers[0]]
        position += numbers[0]
        result.append(Picture(name, data=data) if zlib.crc32(data) == numbers[1] else
                      Lost(name, "its bytes have the wrong checksum"))
      else:
        width, height, _, tiles = numbers
        if not width or not height or tiles != count_tiles(height, width, tile_shape):
          raise ValueError("an entry has no meaning")
        result.append(_Open(name, *numbers))
    return result
  except (ValueError, TypeError, struct.error) as error:
    raise SegmentError(f"its list of files cannot be read: {error}") from None


class OutputNames:
  """Where files go below the output folder: pixels as PNG, under names that differ."""

  def __init__(self) -> None:
    self._taken: set[str] = set()

  def add(self, name: str, pixels: bool) -> str:
    """Return the path of a file.

    Args:
      name: its name in the archive.
      pixels: whether it is written as PNG.

    Raises:
      ArchiveError: if the name leads out of the folder.
    """
    path = pathlib.PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in name or "\\" in name or ":" in name:
      raise ArchiveError(f"the archive holds a file {name!r}, whose name leads out of the folder")
    suffix = ".png" if pixels else ""
    wanted = str(path.with_suffix(".png")) if pixels else str(path)
    numbered = (f"{path}{f'.{i}' if i else ''}{suffix}" for i in itertools.count())
    result = next(candidate for candidate in itertools.chain([wanted], numbered) if candidate not in self._taken)
    self._taken.add(result)
    return result
