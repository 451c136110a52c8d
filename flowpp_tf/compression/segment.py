"""A segment of an archive: some thousand images on one stack, which is decoded as a whole.

    u32 images, u32 plain images at the beginning, u32 batches, u32 late plain images
    u32 size of the initial content, u32 size of the extra bytes before packing, u32 packed size of them
    u32 size of the packed batches, u32 size of the late plain images
    batches, packed: u16 images, u8 salts, each
    CRC-32 of the pixels of each run of batches, u32; a run ends when it has 64 images
    indices of the late plain images, u32 each
    32 bytes: SHA-256 of all pixels and extra bytes
    late plain images (plain.py)
    words of the stack, u32 each

(little-endian; packed is LZMA). Bits-back coding needs bits to begin with, some 26 per dimension of the first batch.
They are what has to be stored anyway, the initial content: the extra bytes, and the first images in plain. The first
batch is one image; batches grow with the stack, whose bits the next one borrows.

An image that the coder leaves out (batches.py), or that has pixel values which the model has not, is coded plainly.
"""

from __future__ import annotations

from collections.abc import Callable
import hashlib
import struct
import zlib

import numpy as np

from flowpp_tf.compression.batches import SPARE_BITS, max_batch, pop_salts, push_batches
from flowpp_tf.compression.bits_back_coder import INITIAL_BITS, BitsBackCoder
from flowpp_tf.compression.plain import PlainError, decode_plain, encode_plain, pack, unpack
from flowpp_tf.compression.stack import EmptyStackError, Stack, WindowError

MAX_IMAGES = 1 << 16
# What a decoder takes, so that a hostile segment cannot make it take all memory.
_MAX_EXTRA = 1 << 28
MAX_PIXELS = 1 << 28
_RUN_IMAGES = 64
_HEAD = struct.Struct("<9I")
_BATCH = np.dtype([("images", "<u2"), ("salts", "u1")])


class SegmentError(Exception):
  """Raised for a segment that cannot be decoded.

  Attributes:
    images: uint8 images that were decoded and have the right checksum, and whether each is there.
    known: bool for each image.
  """

  def __init__(self, message: str, images: np.ndarray | None = None, known: np.ndarray | None = None) -> None:
    super().__init__(message)
    self.images, self.known = images, known


def encode_segment(
  codec: BitsBackCoder,
  images: np.ndarray,
  extra: bytes = b"",
  largest: int | None = None,
  progress: Callable[[int], None] = lambda count: None,
) -> bytes:
  """Return a segment.

  Args:
    codec: `BitsBackCoder` of the model.
    images: uint8 `[N, H, W, C]`, N at most `MAX_IMAGES`.
    extra: further bytes to store.
    largest: the largest batch; None for one that is fast.
    progress: called with the number of images that have been coded.
  """
  if len(images) > max_images(codec.shape) or len(extra) > _MAX_EXTRA:
    raise ValueError(f"a segment of {len(images)} images and {len(extra)} bytes is too large")
  packed_extra = pack(extra) if extra else b""
  plain, content = _initial_content(codec, images, packed_extra)
  words = np.frombuffer(content + bytes(-len(content) % 4), "<u4")
  stack = Stack(words, sealed=True)
  progress(plain)
  fits = images.max(axis=(1, 2, 3), initial=0) < codec.levels
  batches, late = push_batches(
    codec, stack, images, [i for i in range(plain, len(images)) if fits[i]], largest, progress
  )
  late = sorted([*late, *(i for i in range(plain, len(images)) if not fits[i])])
  late_images = encode_plain(images[late]) if late else b""
  table = np.array(batches, _BATCH)
  packed_table = pack(table.tobytes())
  coded = images[np.setdiff1d(np.arange(plain, len(images)), late)]
  checks = [zlib.crc32(coded[first:last].tobytes()) for first, last in _runs(table["images"])]
  head = _HEAD.pack(
    len(images),
    plain,
    len(batches),
    len(late),
    len(content),
    len(extra),
    len(packed_extra),
    len(packed_table),
    len(late_images),
  )
  words = stack.words() if batches else words
  return b"".join(
    [
      head,
      packed_table,
      np.array(checks, "<u4").tobytes(),
      np.array(late, "<u4").tobytes(),
      _digest(images, extra),
      late_images,
      words.astype("<u4").tobytes(),
    ]
  )


def _runs(sizes):
  """First and last image, exclusive, of each run of batches of the given sizes."""
  runs, first, last = [], 0, 0
  for size in sizes.tolist():
    last += size
    if last - first >= _RUN_IMAGES:
      runs.append((first, last))
      first = last
  return runs + ([(first, last)] if last > first else [])


def _initial_content(codec, images, packed_extra):
  """How many images are plain at the beginning, and the bytes of the extra and of them."""
  needed = (INITIAL_BITS * codec.num_dims + SPARE_BITS) // 8
  plain, content, per_image = 0, packed_extra, float(np.prod(codec.shape))
  while plain < len(images) and len(content) < needed:
    plain = min(len(images), plain + max(1, int((needed - len(content)) / per_image)))
    content = packed_extra + encode_plain(images[:plain])
    per_image = (len(content) - len(packed_extra)) / plain  # small sets take more per image: the estimate is no more
  return plain, content


def max_images(shape: tuple[int, int, int]) -> int:
  """Return how many images of a shape a segment holds at most."""
  return min(MAX_IMAGES, max(MAX_PIXELS // int(np.prod(shape)), 1))


def decode_segment(codec: BitsBackCoder, data: bytes) -> tuple[np.ndarray, bytes]:
  """Return the uint8 images and the extra bytes of a segment.

  Raises:
    SegmentError: if it is damaged, or was encoded by other networks; it has the images that are known to be right.
  """
  try:
    return _decode(codec, data)
  except (
    PlainError,
    EmptyStackError,
    WindowError,
    struct.error,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
  ) as error:
    raise SegmentError(str(error)) from None


def _decode(codec, data):
  fields = _HEAD.unpack_from(data)
  count, plain, num_batches, num_late, content_size, extra_size, packed_size, table_size, late_size = fields
  if count > max_images(codec.shape) or extra_size > _MAX_EXTRA or plain + num_late > count or num_batches > count:
    raise SegmentError("its header has no meaning")
  position = _HEAD.size + table_size
  batches = np.frombuffer(unpack(data[_HEAD.size : position], num_batches * _BATCH.itemsize), _BATCH)
  runs = _runs(batches["images"])
  checks = np.frombuffer(data, "<u4", len(runs), position)
  position += 4 * len(runs)
  late = np.frombuffer(data, "<u4", num_late, position).astype(np.int64)
  position += 4 * num_late
  digest, late_images = data[position : position + 32], data[position + 32 : position + 32 + late_size]
  position += 32 + late_size
  words = np.frombuffer(data[position:], "<u4").astype(np.uint32)
  coded = np.setdiff1d(np.arange(plain, count), late)
  if (
    int(batches["images"].sum()) != len(coded)
    or len(np.unique(late)) != num_late
    or np.any((late < plain) | (late >= count))
    or content_size > 4 * len(words) + 8
    or (batches["images"] == 0).any()
    or (batches["images"] > max_batch(codec)).any()
  ):
    raise SegmentError("its tables have no meaning")

  images, known = np.zeros((count, *codec.shape), np.uint8), np.zeros(count, bool)
  if num_late:
    images[late] = decode_plain(late_images, (num_late, *codec.shape))
    known[late] = True
  content = words
  if num_batches:
    stack, end = Stack(words, sealed=False), len(coded)
    pending = list(zip(runs, checks))
    for batch in batches[::-1]:
      start = end - int(batch["images"])
      try:
        images[coded[start:end]] = codec.pop(stack, end - start)
        pop_salts(stack, int(batch["salts"]))
      except (EmptyStackError, WindowError) as error:
        raise SegmentError(f"the networks of this machine do not decode it ({error})", images, known) from None
      end = start
      (first, last), check = pending[-1]
      if start == first:
        run = coded[first:last]
        if zlib.crc32(images[run].tobytes()) != int(check):
          raise SegmentError("pixels have the wrong checksum", images, known)
        known[run] = True
        pending.pop()
    try:
      content = stack.initial_words()
    except (AssertionError, ValueError):
      raise SegmentError("the initial content is damaged", images, known) from None
  stored = content.astype("<u4").tobytes()[:content_size]
  try:
    extra = unpack(stored[:packed_size], extra_size) if extra_size else b""
    if plain:
      images[:plain] = decode_plain(stored[packed_size:], (plain, *codec.shape))
  except PlainError as error:
    raise SegmentError(f"the initial content is damaged: {error}", images, known) from None
  if _digest(images, extra) != digest:
    raise SegmentError("pixels have the wrong checksum", images, known)
  return images, extra


def _digest(images, extra):
  digest = hashlib.sha256(np.ascontiguousarray(images, np.uint8).tobytes())
  digest.update(extra)
  return digest.digest()
