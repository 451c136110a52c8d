"""A segment of an archive: some thousand images on one stack, which is decoded as a whole.

    u32 images, u32 LZMA images at the beginning, u32 batches, u32 LZMA images that were left out
    u32 size of the initial content, u32 size of the extra bytes before packing, u32 packed size of them
    u32 size of the packed batches, u32 size of the LZMA images that were left out
    [u32 runs of the layout]
    packed: batches, u16 images, u8 salts, each; [the layout (tiles/neighbours.py)]
    CRC-32 of the pixels of each run of batches, u32; a run ends when it has 64 images
    indices of the LZMA images that were left out, u32 each
    32 bytes: SHA-256 of two parts: the SHA-256 of all pixels and extra bytes, and the segment's place
    LZMA images that were left out (lzma_images.py)
    words of the stack, u32 each

Numbers are little-endian, and what is packed is compressed by LZMA. Only models whose tiles see their neighbours have
the parts in brackets.

Bits-back coding begins with some bits on the stack, about 26 per dimension of the first batch. The initial content is
these bits, which must be stored anyway: the extra bytes, and the first images, as LZMA images. The first batch is one
image. Batches grow with the stack, whose bits the next batch borrows. "First" means the order in which images are
pushed: their own order, or the layout's.

An image that the codec leaves out (batches.py), or that has pixel values which the model has not, is stored as an LZMA
image.
"""

from __future__ import annotations

from collections.abc import Collection
import dataclasses
import hashlib
import io
import struct
import zlib

import numpy as np

from flowpp_tf.compression.batches import (
  SPARE_BITS,
  Salt,
  batch_step,
  initial_bits,
  largest_batch,
  max_batch,
  push_batches,
)
from flowpp_tf.compression.codec import Codec
from flowpp_tf.compression.lzma_images import decode_lzma_images, encode_lzma_images, pack, unpack
from flowpp_tf.compression.stack import EmptyStackError, Stack, WindowError
from flowpp_tf.compression.steps import Sequence
from flowpp_tf.core.errors import InputError
from flowpp_tf.io.budget import BudgetError, claim
from flowpp_tf.tiles.neighbours import RUN, TileLayout

MAX_IMAGES = 1 << 16
MAX_PIXELS = 1 << 28  # values of all images
_MAX_EXTRA = 1 << 28
# Bytes of memory that a segment takes, for each image and each byte of it, and each extra byte; a test measures them.
_BYTES_OF_LZMA = 20 << 20  # its dictionary
_COPIES_OF_IMAGES = 7  # where they belong, and as LZMA images their bytes, planes, and before and after a sum
_BYTES_OF_TABLES = 350
_COPIES_OF_EXTRA = 3.1
_COPIES_OF_DATA = 3  # the segment, its fields, the stack
_COPIES_TO_PACK = 12  # of an encoder's LZMA
_MOST_TO_PACK = 192 << 20  # bytes, of an encoder's LZMA
_RUN_IMAGES = 64
_HEAD = struct.Struct("<9I")
_DAMAGE = (ValueError, LookupError, TypeError, ArithmeticError, struct.error)  # what decoding damaged bytes raises
LEAST_BYTES = _HEAD.size + 32  # of a segment
_RUNS = struct.Struct("<I")
_BATCH = np.dtype([("images", "<u2"), ("salts", "u1")])


class SegmentError(Exception):
  """Raised for a segment that cannot be decoded."""


@dataclasses.dataclass(frozen=True)
class DecodedSegment:
  """What came out of a segment.

  Attributes:
    images: uint8 or uint16 `[N, H, W, C]`; those that are lost are 0.
    known: bool `[N]`: whether each was decoded and has the right checksum.
    extra: the extra bytes; empty if they are lost.
    problem: what is wrong, or "".
  """

  images: np.ndarray
  known: np.ndarray
  extra: bytes
  problem: str


@dataclasses.dataclass(frozen=True)
class Fields:
  """The fields of a segment, in the order above.

  Attributes:
    count: number of images.
    initial: number of LZMA images at the beginning.
    content_size: bytes of the initial content.
    extra_size: extra bytes before packing.
    packed_size: packed extra bytes.
    batches: number of images and salts of each batch, of dtype `_BATCH`.
    checks: CRC-32 of the pixels of each run of batches.
    left_out: indices of the LZMA images that were left out.
    digest: SHA-256 of pixels and extra bytes; read from an archive it is bound to the segment's place.
    left_out_images: LZMA images that were left out.
    words: words of the stack, uint32.
    layout: where the tiles lie; None unless the model's tiles see their neighbours.
  """

  count: int
  initial: int
  content_size: int
  extra_size: int
  packed_size: int
  batches: np.ndarray
  checks: np.ndarray
  left_out: np.ndarray
  digest: bytes
  left_out_images: bytes
  words: np.ndarray
  layout: TileLayout | None = None

  def to_bytes(self, place: bytes = b"") -> bytes:
    """Return the segment, bound to its place in an archive."""
    runs = self.layout.runs.tobytes() if self.layout else b""
    table = pack(self.batches.tobytes() + runs)
    sizes = self.content_size, self.extra_size, self.packed_size, len(table), len(self.left_out_images)
    head = _HEAD.pack(self.count, self.initial, len(self.batches), len(self.left_out), *sizes)
    if self.layout:
      head += _RUNS.pack(len(self.layout.runs))
    checks, left_out, words = (array.astype("<u4").tobytes() for array in (self.checks, self.left_out, self.words))
    bound = hashlib.sha256(self.digest + place).digest()
    return b"".join([head, table, checks, left_out, bound, self.left_out_images, words])

  @classmethod
  def from_bytes(cls, data: bytes, codec: Codec) -> Fields:
    """Return the fields of `to_bytes`, whose `digest` is the one that is bound to a place.

    Raises:
      SegmentError: for other bytes.
      BudgetError (a ValueError): if decoding them would take too much memory.
    """
    try:
      return cls._parse(io.BytesIO(data), codec)
    except BudgetError:
      raise
    except _DAMAGE as error:
      raise SegmentError(str(error)) from None

  @classmethod
  def _parse(cls, file, codec):
    head = _HEAD.unpack(file.read(_HEAD.size))
    count, initial, num_batches, num_left_out, *sizes = head
    content_size, extra_size, packed_size, table_size, left_out_size = sizes
    num_coded = count - initial - num_left_out
    if count > max_images(codec.shape) or extra_size > _MAX_EXTRA or num_coded < 0 or num_batches > count:
      raise ValueError("its header is invalid")
    claim("memory", _memory(codec, count, extra_size), "a segment of the archive")
    num_runs = _RUNS.unpack(file.read(_RUNS.size))[0] if codec.sees_neighbours else 0
    if num_runs > count:
      raise ValueError("its layout is invalid")
    size = num_batches * _BATCH.itemsize
    table = unpack(file.read(table_size), size + num_runs * RUN.itemsize)
    batches = np.frombuffer(table[:size], _BATCH)
    runs = np.frombuffer(table[size:], RUN)
    layout = None
    if codec.sees_neighbours:
      if int(runs["count"].sum(dtype=np.int64)) != count:
        raise ValueError("its layout is invalid")
      layout = TileLayout(codec.shape, runs, codec.tile_step)
    checks = np.frombuffer(file.read(4 * len(_runs(batches))), "<u4")
    left_out = np.frombuffer(file.read(4 * num_left_out), "<u4")
    digest = file.read(32)
    left_out_images = file.read(left_out_size)
    words = np.frombuffer(file.read(), "<u4")
    if (
      int(batches["images"].sum()) != num_coded
      or len(np.unique(left_out)) != num_left_out
      or np.any(left_out >= count)
      or np.isin(_order(layout, count)[:initial], left_out).any()
      or np.any(batches["images"] == 0)
      or np.any(batches["images"] > max_batch(codec))
    ):
      raise ValueError("its tables are invalid")
    fields = cls(
      count=count,
      initial=initial,
      content_size=content_size,
      extra_size=extra_size,
      packed_size=packed_size,
      batches=batches,
      checks=checks,
      left_out=left_out,
      digest=digest,
      left_out_images=left_out_images,
      words=words,
      layout=layout,
    )
    claim("memory", fields.batch_memory(codec), "a batch of the archive")
    return fields

  def batch_memory(self, codec: Codec) -> int:
    """Return about how many bytes of memory the largest batch takes."""
    return codec.memory.batch(int(self.batches["images"].max(initial=0)))

  def memory(self, codec: Codec) -> int:
    """Return about how many bytes of memory `decode_segment` takes, with what comes out."""
    size = 4 * len(self.words) + len(self.left_out_images)
    segment = _memory(codec, self.count, self.extra_size)
    return _COPIES_OF_DATA * size + segment + self.batch_memory(codec)


def encode_fields(
  codec: Codec, images: np.ndarray, extra: bytes = b"", largest: int | None = None, layout: TileLayout | None = None
) -> Fields:
  """Return a segment, whose `to_bytes` are what is stored.

  Args:
    codec: `Codec` of the model.
    images: uint8 or, of more than 256 levels, uint16 `[N, H, W, C]`, N at most `MAX_IMAGES`.
    extra: further bytes to store.
    largest: the largest batch; None for one that is fast.
    layout: where the images lie, if the model's tiles see their neighbours; None if each is a picture of its own.
  """
  if len(images) > max_images(codec.shape) or len(extra) > _MAX_EXTRA:
    raise InputError(f"a segment of {len(images)} images and {len(extra)} bytes is too large")
  if codec.sees_neighbours and layout is None:
    layout = TileLayout.from_single_tiles(codec.shape, len(images))
  order = _order(layout, len(images))
  packed_extra = pack(extra) if extra else b""
  initial, content = _initial_content(codec, images, order, layout, packed_extra)
  words = np.frombuffer(content + bytes(-len(content) % 4), "<u4")
  stack = Stack(words, sealed=True)
  rest = order[initial:]
  fits = images.max(axis=(1, 2, 3), initial=0) < codec.levels
  fitting = rest[fits[rest]]
  others = rest[~fits[rest]]
  stack, table, failed = push_batches(codec, stack, images, fitting.tolist(), largest, layout)
  batches = np.array(table, _BATCH)
  left_out = np.array(sorted([*failed, *others]), np.int64)
  coded = _coded(order, initial, left_out)
  checksums = []
  for first, last in _runs(batches):
    run = images[coded[first:last]]
    checksums.append(zlib.crc32(pixel_bytes(run)))

  left_out_images = b""
  if len(left_out):
    left_out_images = encode_lzma_images(images[left_out])
  return Fields(
    count=len(images),
    initial=initial,
    content_size=len(content),
    extra_size=len(extra),
    packed_size=len(packed_extra),
    batches=batches,
    checks=np.array(checksums, np.uint32),
    left_out=left_out,
    digest=_digest(images, extra),
    left_out_images=left_out_images,
    words=stack.words() if table else words,
    layout=layout,
  )


def decode_segment(codec: Codec, fields: Fields, places: Collection[bytes]) -> DecodedSegment:
  """Decode a segment, which may be damaged, or encoded by other networks.

  Args:
    codec: `Codec` of the model.
    fields: of the segment.
    places: to one of these it must be bound.
  """
  images = np.zeros((fields.count, *codec.shape), codec.dtype)
  known = np.zeros(fields.count, bool)
  try:
    if len(fields.left_out):
      shape = len(fields.left_out), *codec.shape
      images[fields.left_out] = decode_lzma_images(fields.left_out_images, shape, codec.dtype)
      known[fields.left_out] = True
    content = _pop_batches(codec, fields, images, known) if len(fields.batches) else fields.words
    extra = _decode_content(content, fields, images, places)
    return DecodedSegment(images, np.ones_like(known), extra, "")
  except _DAMAGE as error:
    images[~known] = 0
    return DecodedSegment(images, known, b"", str(error))


def encoding_memory(codec: Codec, count: int, extra_size: int, largest: int | None = None) -> int:
  """Return about how many bytes of memory `encode_fields` takes: a batch is checked beside the next one."""
  batches = 2 * codec.memory.batch(min(count, largest_batch(codec, largest)))
  return _memory(codec, count, extra_size) + batches + min(_COPIES_TO_PACK * extra_size, _MOST_TO_PACK)


def _memory(codec, count, extra_size):
  """Return the bytes of memory that a segment takes, without the bytes of a batch."""
  image = _COPIES_OF_IMAGES * codec.dtype.itemsize * int(np.prod(codec.shape)) + _BYTES_OF_TABLES
  return _BYTES_OF_LZMA + count * image + int(_COPIES_OF_EXTRA * extra_size)


def _pop_batches(codec, fields, images, known):
  """Set the images of the batches, from the last to the first, and return the initial content of the stack."""
  stack = Stack(fields.words, sealed=False)
  coded = _coded(_order(fields.layout, fields.count), fields.initial, fields.left_out)
  runs = list(zip(_runs(fields.batches), fields.checks, strict=True))
  start = len(coded)
  for count, salts in fields.batches[::-1].tolist():
    start -= count
    batch = coded[start : start + count]
    try:
      step = Sequence([Salt(salts), batch_step(codec, images, batch, fields.layout)])
      images[batch] = step.pop(stack, count)
    except (EmptyStackError, WindowError) as error:
      raise ValueError(f"the networks of this machine do not decode it ({error})") from None
    (first, last), check = runs[-1]
    if start == first:
      run = coded[first:last]
      if zlib.crc32(pixel_bytes(images[run])) != check:
        raise ValueError("pixels have the wrong checksum")
      known[run] = True
      runs.pop()
  try:
    return stack.initial_words()
  except (AssertionError, ValueError):
    raise ValueError("the initial content is damaged") from None


def _initial_content(codec, images, order, layout, packed_extra):
  """Return how many LZMA images are at the beginning, and the bytes of the extra and of them."""
  # Enough for the largest image, as small ones before it add few bits.
  if layout and len(images):
    bits = initial_bits(codec, int(np.argmax(np.prod(layout.sizes, axis=-1))), layout)
  else:
    bits = initial_bits(codec, 0, None)
  needed = (bits + SPARE_BITS) // 8
  initial = 0
  content = packed_extra
  per_image = float(np.prod(codec.shape)) * codec.dtype.itemsize
  while initial < len(images) and len(content) < needed:
    more = int((needed - len(content)) / per_image)
    initial = min(len(images), initial + max(1, more))
    content = packed_extra + encode_lzma_images(images[order[:initial]])
    per_image = (len(content) - len(packed_extra)) / initial  # larger sets take fewer
  return initial, content


def _decode_content(content, fields, images, places):
  """Set the LZMA images at the beginning, and return the extra bytes."""
  stored = content.astype("<u4").tobytes()[: fields.content_size]
  extra = unpack(stored[: fields.packed_size], fields.extra_size) if fields.extra_size else b""
  initial = _order(fields.layout, fields.count)[: fields.initial]
  if len(initial):
    shape = len(initial), *images.shape[1:]
    images[initial] = decode_lzma_images(stored[fields.packed_size :], shape, images.dtype)
  digest = _digest(images, extra)
  if fields.digest not in [hashlib.sha256(digest + place).digest() for place in places]:
    raise ValueError("pixels have the wrong checksum, or it is in the place of another segment")
  return extra


def max_images(shape: tuple[int, int, int]) -> int:
  """Return how many images of a shape a segment holds at most."""
  return min(MAX_IMAGES, max(MAX_PIXELS // int(np.prod(shape)), 1))


def _order(layout, count):
  return layout.order if layout else np.arange(count)


def _coded(order, initial, left_out):
  """Return the indices of the images in the batches, in the order in which they are pushed."""
  rest = order[initial:]
  return rest[~np.isin(rest, left_out)]


def _runs(batches):
  """Return the first and the last image, exclusive, of each run of batches."""
  ends = np.cumsum(batches["images"], dtype=np.int64).tolist()
  runs = []
  first = 0
  for last in ends:
    if last - first >= _RUN_IMAGES or last == ends[-1]:
      runs.append((first, last))
      first = last
  return runs


def pixel_bytes(images: np.ndarray) -> memoryview:
  """Return the bytes of pixels, little-endian."""
  return np.ascontiguousarray(images, images.dtype.newbyteorder("<")).reshape(-1).data


def _digest(images, extra):
  digest = hashlib.sha256(pixel_bytes(images))
  digest.update(extra)
  return digest.digest()
