"""The list of files in a segment, and what is stored of each.

The extra bytes of a segment (segment.py) list in JSON the files that begin in it: `[tiles, entries]`, with the number
of tiles at its beginning that belong to a file of an earlier segment, and an entry for each file, one of

    name                                                   of a file in the segments without images that follow
    name, size, CRC-32 of its bytes
    name, width, height, CRC-32 of its pixels, number of its tiles
    name, "metadata", width, height, CRC-32 of pixels and metadata, tiles, size of the metadata
    name, "wrapper", width, height, CRC-32 of the file, tiles, size of the wrapper, place, layout  (metadata.py)

The bytes whose sizes the entries state follow, in their order. The tiles of a file may go on in the following segments.
Files without tiles lie in segments without images, so that damage to one of these loses few files; a segment with
images has their names in its list, for their order.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import json
import struct
import zlib

import numpy as np

from flowpp_tf.compression.files.metadata import check_metadata, join_wrapper
from flowpp_tf.compression.segment import SegmentError, pixel_bytes
from flowpp_tf.io import gate
from flowpp_tf.io.budget import BudgetError, claim
from flowpp_tf.tiles.cutting import count_tiles, from_tiles

_MAX_DECODED = 1 << 30  # pixel values of a file that is decoded
_COPIES = 4  # of the pixels of a file, while its tiles are put together and written
_MAX_LIST = 1 << 24  # bytes of a list that is decoded
_LENGTH = struct.Struct("<I")
_WITH_TILES = ("tiles", "metadata", "wrapper")
# How many numbers an entry has, by its word, and which of them are sizes of bytes behind the list.
_NUMBERS = {"name": (0, []), "verbatim": (2, [0]), "tiles": (4, []), "metadata": (5, [4]), "wrapper": (7, [4])}


@dataclasses.dataclass(frozen=True)
class ImageFile:
  """A file: its pixels, uint8 or uint16 `[H, W, C]`, with its metadata, or its bytes.

  Attributes:
    name: path below its folder, with `/`.
    pixels: None for a file of which the archive gives the bytes back.
    data: bytes of the file, None if its pixels come back.
    reason: why it is stored verbatim.
    metadata: what comes back with the pixels, chunks of PNG (metadata.py).
    wrapper: the bytes around its pixels, the place and the layout of these, which make its bytes (metadata.py).
    fallback: what is stored if its tiles take more bytes.
  """

  name: str
  pixels: np.ndarray | None = None
  data: bytes | None = None
  reason: str = ""
  metadata: bytes = b""
  wrapper: tuple[bytes, int, int] | None = None
  fallback: ImageFile | None = None

  @property
  def content(self) -> bytes:
    """Return the bytes that an archive must give back: those of the file, or of its pixels and metadata."""
    if self.data is not None:
      return self.data
    assert self.pixels is not None
    return bytes(pixel_bytes(self.pixels)) + self.metadata

  @property
  def size(self) -> int:
    """Return about how many bytes an archive stores of it besides its tiles."""
    packed = len(zlib.compress(self.metadata)) if self.metadata else 0
    return packed + len(self.wrapper[0] if self.wrapper else self.data or b"")


@dataclasses.dataclass(frozen=True)
class Lost:
  """A file that cannot be decoded, and why; the name is empty if it is not known."""

  name: str
  reason: str


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
  """Return the entry of a file, without its name, and the bytes of which it says the sizes."""
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


class StoredFile:
  """A file of an entry, of which some tiles have been read; of some entries there are none to read."""

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
