"""Image files in an archive.

8-bit grey or RGB pixels, as the model has them, are coded as tiles. Every other file is kept byte for byte: other modes
and depths, transparency, animations, and files that are not images. So are JPEG and lossy WebP, since their pixels take
more bytes than the files.

The extra bytes of a segment (segment.py) say in JSON which files begin in it: `[tiles, entries]`, with the number of
tiles at its beginning that belong to a file of an earlier segment, and for each file

    name, width, height, CRC-32 of its pixels, number of its tiles;  or  name, size, CRC-32 of its bytes

The bytes of the files that are kept follow. The tiles of a file may go on in the following segments.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import itertools
import json
import os
import pathlib
import re
import struct
import zlib

import numpy as np

from flowpp_tf.compression.archive import SEGMENT_IMAGES, ArchiveError, ArchiveReader, ArchiveWriter
from flowpp_tf.compression.segment import SegmentError, decode_segment, max_images
from flowpp_tf.compression.tiered_codec import TieredCodec
from flowpp_tf.compression.tiles import count_tiles, from_tiles, to_tiles
from flowpp_tf.core.errors import InputError
from flowpp_tf.io.gate import read_bytes
from flowpp_tf.io.image_file import FORMATS, ImageFileError, open_image

_MODES = {1: "L", 3: "RGB"}
_PPM_OF_8_BITS = re.compile(rb"P[56](\s+|#[^\n]*\n)+\d+(\s+|#[^\n]*\n)+\d+(\s+|#[^\n]*\n)+255\s")
MAX_KEPT_FILE = 1 << 27  # bytes of a file that is kept
_MAX_CODED = 1 << 28  # pixel values of a file that is coded; larger ones are kept
_MAX_DECODED = 1 << 30  # pixel values of a file that is decoded
_MAX_KEPT, _MAX_ENTRIES = 1 << 26, 1 << 20  # bytes in a segment before the next one begins
_MAX_LIST = 1 << 24  # bytes of a list that is decoded
_MAX_FILE = 1 << 31  # bytes of a file that is read
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
  if channels not in _MODES:
    raise InputError(f"image files are coded by models of 1 or 3 channels, got {channels}")


def read_picture(folder: pathlib.Path, name: str, channels: int, lossy_pixels: bool = False) -> ImageFile:
  """Read a file.

  Args:
    folder: where it is.
    name: its path below the folder.
    channels: of the model.
    lossy_pixels: whether the pixels of JPEG and lossy WebP files are coded too.

  Raises:
    OSError: if it cannot be read.
  """
  data = read_bytes(folder / name, _MAX_FILE)
  try:
    with open_image(data, name, _FORMATS, _MAX_CODED) as image:
      reason = _why_kept(image, data, channels, lossy_pixels)
      if not reason:
        return ImageFile(name, np.asarray(image).reshape(image.height, image.width, channels).copy())
  except ImageFileError:
    reason = "no image"
  return ImageFile(name, data=data, reason=reason)


def _why_kept(image, data, channels, lossy_pixels):
  """Return why the pixels of a file are not coded, or ""; Pillow reads some files of more than 8 bits with 8."""
  eight_bits = {
    "PNG": lambda: data[24] == 8,
    "WEBP": lambda: True,
    "JPEG": lambda: True,
    "BMP": lambda: data[28] in (8, 24),
    "PPM": lambda: _PPM_OF_8_BITS.match(data),
    "TIFF": lambda: set(image.tag_v2[258]) == {8},
  }
  if image.width * image.height * channels > _MAX_CODED:
    return "too large"
  if image.mode != _MODES[channels]:
    return "another mode"
  if "transparency" in image.info:
    return "transparency"
  if getattr(image, "n_frames", 1) > 1:
    return "several frames"
  if image.format not in eight_bits or not eight_bits[image.format]():
    return "another depth or format"
  if not lossy_pixels and (image.format == "JPEG" or (image.format == "WEBP" and data[12:16] != b"VP8L")):
    return "lossy"
  return ""


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

  def write():
    nonlocal tiles, begun
    text = json.dumps([begun, entries], separators=(",", ":")).encode()
    writer.write_segment(tiles[:size], _LENGTH.pack(len(text)) + text + b"".join(kept))
    tiles = tiles[size:]
    begun = len(tiles)
    entries.clear()
    kept.clear()

  for picture in pictures:
    crc = zlib.crc32(picture.content)
    if picture.pixels is None:
      entries.append([picture.name, len(picture.content), crc])
      kept.append(picture.content)
    else:
      height, width, _ = picture.pixels.shape
      new = to_tiles(picture.pixels, tile_shape)
      entries.append([picture.name, width, height, crc, len(new)])
      tiles = np.concatenate([tiles, new])
    while (
      len(tiles) >= size
      or sum(map(len, kept)) > _MAX_KEPT
      or sum(len(entry[0]) + 60 for entry in entries) > _MAX_ENTRIES
    ):
      write()
  if entries or len(tiles):
    write()
  writer.close()


@dataclasses.dataclass(frozen=True)
class Lost:
  """A file that cannot be decoded, and why; the name is empty if it is not known."""

  name: str
  reason: str


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
  reader.check(coder)
  shape = coder.model.image_shape
  check_channels(shape[2])
  queue: collections.deque[ImageFile | Lost | _Open] = collections.deque()  # in order; the first may lack tiles
  for segment in reader.segments():
    try:
      if segment.data is None:
        raise SegmentError("a segment has the wrong checksum")
      tiles, extra = decode_segment(coder.codec, segment.data)
      begun, items = _parse(extra, shape)
    except SegmentError as error:
      yield from (Lost(item.name, str(error)) for item in queue)
      queue.clear()
      yield Lost("", str(error))
      continue
    if not queue:
      tiles = tiles[begun:]  # of a file whose beginning is lost
    queue += items
    while queue:
      item = queue[0]
      if isinstance(item, _Open):
        tiles = item.take(tiles)
        if item.missing:
          break
        item = item.finished()
      queue.popleft()
      if names is None or item.name in names:
        yield item
  yield from (Lost(item.name, "its last tiles are missing") for item in queue)


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
    (length,) = _LENGTH.unpack_from(extra)
    if length > _MAX_LIST:
      raise ValueError("it is too long")
    (begun, entries), position = json.loads(extra[4 : 4 + length]), 4 + length
    result: list[ImageFile | Lost | _Open] = []
    for name, *numbers in entries:
      if not isinstance(name, str) or not all(isinstance(n, int) and n >= 0 for n in (begun, *numbers)):
        raise ValueError("an entry is invalid")
      if len(numbers) == 2:
        data = extra[position : position + numbers[0]]
        position += numbers[0]
        result.append(
          ImageFile(name, data=data)
          if zlib.crc32(data) == numbers[1]
          else Lost(name, "its bytes have the wrong checksum")
        )
      else:
        width, height, _, tiles = numbers
        if not 0 < width * height * tile_shape[2] <= _MAX_DECODED or tiles != count_tiles(height, width, tile_shape):
          raise ValueError("an entry is invalid")
        result.append(_Open(name, *numbers))
    return begun, result
  except (ValueError, TypeError, struct.error, RecursionError) as error:
    raise SegmentError(f"its list of files cannot be read: {error}") from None


def output_path(folder: pathlib.Path, name: str, pixels: bool) -> pathlib.Path:
  """Return where to write a file of an archive: a new path below `folder`.

  Args:
    folder: the output folder.
    name: of the file, as in the archive.
    pixels: whether it is written as PNG: then `.png` is appended to other names.

  Raises:
    ArchiveError (a ValueError): if the name leads out of the folder.
  """
  path = pathlib.PurePosixPath(name)
  on_windows = os.name == "nt" and any(character in name for character in "\\:")
  if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in name or on_windows:
    raise ArchiveError("its name leads out of the folder")
  if pixels and path.suffix.lower() != ".png":
    path = path.with_name(f"{path.name}.png")
  numbered = (path.with_name(f"{path.stem}.{i}{path.suffix}") for i in itertools.count(1))
  return next(folder / p for p in itertools.chain([path], numbered) if not os.path.lexists(folder / p))
