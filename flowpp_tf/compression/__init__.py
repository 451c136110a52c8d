"""Lossless compression of images with a Flow++ model, in NumPy: the same bits on every machine, without TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import io
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from flowpp_tf.compression.archive import SEGMENT_IMAGES, ArchiveError, ArchiveReader, ArchiveWriter, SegmentContent
from flowpp_tf.compression.codec import Codec
from flowpp_tf.compression.description import CodecModel
from flowpp_tf.compression.segment import max_images
from flowpp_tf.core.checks import as_array, check_arguments, check_count, check_pixels
from flowpp_tf.io import budget

if TYPE_CHECKING:
  from flowpp_tf.models import FlowPlusPlus

__all__ = [
  "SEGMENT_IMAGES",
  "ArchiveError",
  "ArchiveReader",
  "ArchiveWriter",
  "Codec",
  "CodecModel",
  "LostImagesError",
  "codec_for",
  "compress",
  "compress_to",
  "decompress",
]


class LostImagesError(ArchiveError):
  """Raised if some images of an archive cannot be decoded.

  Attributes:
    images: those that can, uint8 or uint16 `[N, H, W, C]`; the others are 0.
    lost: indices of the others in `images`.

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
    self.images = images
    self.lost = lost


@check_arguments
def compress(model: FlowPlusPlus | CodecModel | Codec, images: np.ndarray, *, embed_model: bool = False) -> bytes:
  """Return integer images as an archive whose size is about the model's bound.

  Args:
    model: `FlowPlusPlus`, `CodecModel` or `Codec`.
    images: integers in 0 .. levels - 1, `[N, H, W, C]`.
    embed_model: whether the archive holds the model, so that nothing else is needed to decode it.

  Returns:
    The archive. Each batch in it has been decoded once, to the same pixels.

  Raises:
    InputError (a ValueError): for images that do not fit the model, or without constriction.

  Examples:
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> images = np.zeros([2, 8, 8, 1], np.uint8)
    >>> data = fpp.compress(model, images)
    >>> bool((fpp.decompress(model, data) == images).all())
    True
  """
  file = io.BytesIO()
  codec = model if isinstance(model, Codec) else Codec(model)
  compress_to(file, codec, images, embed_model=embed_model)
  return file.getvalue()


@check_arguments
def decompress(
  model: FlowPlusPlus | CodecModel | Codec | None, data: bytes, start: int = 0, stop: int | None = None
) -> np.ndarray:
  """Return the images of `compress`, `[N, H, W, C]`: uint8, of more than 256 levels uint16.

  Args:
    model: as for `compress`; None for an archive that holds its model.
    data: the archive.
    start: the first image to return; only the segments that hold the wanted images are decoded.
    stop: the end of the images to return, exclusive; None for all that follow.

  Raises:
    ArchiveError (a ValueError): if the archive is damaged, or of another model or version. If only some images
      are lost, it is a `LostImagesError`, which has the others.

  Examples:
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> data = fpp.compress(model, np.zeros([2, 8, 8, 1], np.uint8))
    >>> fpp.decompress(model, data, start=1).shape
    (1, 8, 8, 1)
  """
  reader = ArchiveReader(io.BytesIO(data))
  if reader.header.kind != "images":
    raise ArchiveError("the archive holds files; bin/decompress writes them to a folder")
  codec = codec_for(reader, model)
  numbers = None
  wanted = slice(None)
  if start or stop is not None:
    numbers, wanted = _segments_with(reader.index()["images"], start, stop)
  parts = []
  problems = []
  size = 0
  try:
    for part in reader.decoded(codec, numbers):
      parts.append(part)
      size += part.images.nbytes
      budget.claim("memory", 2 * size, "the images of the archive")
      problems += [part.problem] if part.problem else []
  except ArchiveError as error:
    if not parts:
      raise
    problems.append(str(error))
  nothing = np.zeros((0, *codec.model.image_shape), codec.dtype)
  images = np.concatenate([nothing, *(part.images for part in parts)])[wanted]
  known = np.concatenate([np.zeros(0, bool), *(part.known for part in parts)])[wanted]
  if problems and (numbers is None or not known.all()):
    lost = np.flatnonzero(~known)
    raise LostImagesError(f"{'; '.join(problems[:3])}; {len(lost)} of {len(images)} images lost", images, lost)
  return images


def _segments_with(counts, start, stop):
  """Return the indices of the segments that hold images start .. stop - 1, and their slice in these."""
  ends = np.cumsum(counts, dtype=np.int64)
  begins = ends - counts
  total = int(counts.sum())
  start, stop, _ = slice(start, stop).indices(total)
  numbers = np.flatnonzero((begins < stop) & (start < ends) & (start < stop)).tolist()
  skipped = int(begins[numbers[0]]) if numbers else 0
  return numbers, slice(start - skipped, max(stop, start) - skipped)


@check_arguments
def compress_to(
  file: BinaryIO,
  codec: Codec,
  images: Sequence[np.ndarray] | np.ndarray,
  *,
  segment_images: int = SEGMENT_IMAGES,
  embed_model: bool = False,
  max_batch: int | None = None,
  progress: Callable[[int], None] = lambda count: None,
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

  def content(start, count):
    part = as_array("images", images[start : start + count], [None, *shape])
    check_pixels(part, codec.model.levels)
    return SegmentContent(np.ascontiguousarray(part, codec.dtype))

  content(0, 1)  # which may raise, before anything is written
  check_count("segment_images", segment_images, high=2**63 - 1)
  segment_images = min(segment_images, max_images(shape))
  writer = ArchiveWriter(file, codec, "images", embed_model, max_batch)
  starts = range(0, len(images), segment_images)
  writer.write_segments((content(start, segment_images) for start in starts), progress)
  writer.close()


@check_arguments
def codec_for(reader: ArchiveReader, model: FlowPlusPlus | CodecModel | Codec | None) -> Codec:
  """Return the codec for an archive, from the given model or from the model in the archive.

  Examples:
    >>> import io
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> data = fpp.compress(model, np.zeros([2, 8, 8, 1], np.uint8), embed_model=True)
    >>> fpp.compression.codec_for(fpp.compression.ArchiveReader(io.BytesIO(data)), model=None).model.image_shape
    (8, 8, 1)
  """
  if isinstance(model, Codec):
    return model
  model = reader.model if model is None else model
  if model is None:
    raise ArchiveError(f"the archive does not hold its model; give the one whose hash is {reader.header.model[:12]}...")
  return Codec(model)
