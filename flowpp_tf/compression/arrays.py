"""Arrays of images in an archive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import math
from typing import BinaryIO

import numpy as np

from flowpp_tf.compression.archive import (
  SEGMENT_IMAGES,
  ArchiveError,
  ArchiveReader,
  ArchiveWriter,
  Progress,
  SegmentContent,
)
from flowpp_tf.compression.codec import Codec
from flowpp_tf.compression.segment import MAX_PIXELS, SegmentError, max_images
from flowpp_tf.core.checks import as_array, check_arguments, check_count, check_pixels

_MOST = 2**63 - 1


class LostImagesError(ArchiveError):
  """Raised for an archive of which some images cannot be decoded.

  Attributes:
    images: those that can, uint8 or uint16 `[N, H, W, C]`; the others are 0.
    lost: indices of the others in `images`; the message says their numbers in the archive.

  Examples:
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> data = fpp.compress(model, np.zeros([2, 8, 8, 1], np.uint8))
    >>> try:
    ...   images = fpp.decompress(model, data)
    ... except fpp.compression.LostImagesError as error:
    ...   images, lost = error.images, error.lost
  """

  def __init__(self, message: str, images: np.ndarray, lost: np.ndarray) -> None:
    super().__init__(message)
    self.images, self.lost = images, lost


@check_arguments
def compress_to(
  file: BinaryIO,
  codec: Codec,
  images: Sequence[np.ndarray] | np.ndarray,
  *,
  segment_images: int = SEGMENT_IMAGES,
  embed_model: bool = False,
  max_batch: int | None = None,
  progress: Progress = lambda count: None,
) -> None:
  """Write images as an archive of the kind "images"; arguments as for `compress`.

  Examples:
    >>> codec = fpp.compression.Codec(fpp.FlowPlusPlus.from_preset("digits"))
    >>> with open("zeros.fpp", "wb") as file:
    ...   fpp.compression.compress_to(file, codec, np.zeros([2, 8, 8, 1], np.uint8))
  """
  shape = codec.model.image_shape
  if not (isinstance(images, Sequence) or len(getattr(images, "shape", ()))):
    images = as_array("images", images, [None, *shape])

  def content(start, stop):
    part = as_array("images", images[start:stop], [None, *shape])
    check_pixels(part, codec.model.levels)
    return SegmentContent(np.ascontiguousarray(part, codec.dtype))

  content(0, 1)  # which may raise, before anything is written
  check_count("segment_images", segment_images, high=_MOST)
  segment_images = min(segment_images, max_images(shape))
  writer = ArchiveWriter(file, codec, "images", embed_model, max_batch, progress)
  starts = range(0, len(images), segment_images)
  for _ in writer.write_segments(content(start, start + segment_images) for start in starts):
    pass
  writer.close()


@dataclasses.dataclass(frozen=True)
class DecodedSegment:
  """The images of a segment.

  Attributes:
    images: uint8 or uint16 `[N, H, W, C]`; those that are lost are 0.
    known: bool `[N]`: whether each is right.
    problem: what is wrong, or "".
  """

  images: np.ndarray
  known: np.ndarray
  problem: str


@check_arguments
def read_images(reader: ArchiveReader, codec: Codec, numbers: Sequence[int] | None = None) -> Iterator[DecodedSegment]:
  """Yield the segments of an archive, decoded.

  Args:
    reader: of the archive.
    codec: its `Codec`.
    numbers: only the segments with these numbers; None for all.

  Raises:
    ArchiveError: before the first one, if the codec is another; after the last one, if the archive is incomplete.

  Examples:
    >>> import io
    >>> codec = fpp.compression.Codec(fpp.FlowPlusPlus.from_preset("digits"))
    >>> reader = fpp.compression.ArchiveReader(io.BytesIO(fpp.compress(codec, np.zeros([2, 8, 8, 1], np.uint8))))
    >>> [segment.images.shape for segment in fpp.compression.read_images(reader, codec)]
    [(2, 8, 8, 1)]
  """
  reader.check(codec)
  shape, lost = codec.model.image_shape, 0
  for segment, result in reader.decoded(codec, numbers):
    if not isinstance(result, SegmentError):
      yield DecodedSegment(result[0], np.ones(len(result[0]), bool), "")
      continue
    lost += segment.images
    if lost * math.prod(shape) > MAX_PIXELS:
      raise ArchiveError(f"{lost} images are lost, too many to go on: {result}")
    images, known = np.zeros((segment.images, *shape), codec.dtype), np.zeros(segment.images, bool)
    if result.images is not None and result.known is not None and len(result.images) == segment.images:
      images, known = result.images, result.known
      images[~known] = 0
    yield DecodedSegment(images, known, str(result))
