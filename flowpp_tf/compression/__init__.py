"""Lossless compression of images with a Flow++ model, in NumPy: the same bits on every machine, without TensorFlow."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from flowpp_tf.compression.archive import SEGMENT_IMAGES, ArchiveError, ArchiveReader, ArchiveWriter
from flowpp_tf.compression.arrays import LostImagesError, compress_to, read_images
from flowpp_tf.compression.codec import Codec
from flowpp_tf.compression.description import CodecModel
from flowpp_tf.core.checks import check_arguments
from flowpp_tf.io import budget

if TYPE_CHECKING:
  from flowpp_tf.models import FlowPlusPlus


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
  numbers, wanted, first = None, slice(None), 0
  if start or stop is not None:
    numbers, wanted, first = _segments_with(reader.index()["images"], start, stop)
  parts, problems, size = [], [], 0
  try:
    for part in read_images(reader, codec, numbers):
      parts.append(part)
      size += part.images.nbytes
      budget.claim("memory", 2 * size, "the images of the archive")
      problems += [part.problem] if part.problem else []
  except ArchiveError as error:
    if not parts:
      raise
    problems.append(str(error))
  images = np.concatenate([part.images for part in parts] or [np.zeros((0, *codec.model.image_shape), codec.dtype)])[
    wanted
  ]
  known = np.concatenate([part.known for part in parts] or [np.zeros(0, bool)])[wanted]
  if problems and (numbers is None or not known.all()):
    lost = np.flatnonzero(~known)
    raise LostImagesError(f"{'; '.join(problems[:3])}; {_ranges(first + lost)} of {len(images)} found", images, lost)
  return images


def _segments_with(counts, start, stop):
  """Return the indices of the segments that hold images start .. stop - 1, their slice in these, and the first."""
  ends = np.cumsum(counts, dtype=np.int64)
  begins = ends - counts
  start, stop, _ = slice(start, stop).indices(int(ends[-1]) if len(ends) else 0)
  numbers = np.flatnonzero((begins < stop) & (start < ends) & (start < stop)).tolist()
  skipped = int(begins[numbers[0]]) if numbers else 0
  return numbers, slice(start - skipped, max(stop, start) - skipped), start


@check_arguments
def codec_for(reader: ArchiveReader, model: FlowPlusPlus | CodecModel | Codec | None) -> Codec:
  """Return the codec for an archive: that of the given model, or of the one in the archive.

  Examples:
    >>> import io
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> data = fpp.compress(model, np.zeros([2, 8, 8, 1], np.uint8), embed_model=True)
    >>> fpp.compression.codec_for(fpp.compression.ArchiveReader(io.BytesIO(data)), model=None).model.image_shape
    (8, 8, 1)
  """
  if isinstance(model, Codec):
    return model
  if model is None and reader.model is not None:
    return Codec(reader.model, reader.header.embedded)
  if model is None:
    raise ArchiveError(f"the archive does not hold its model; give the one whose hash is {reader.header.model[:12]}...")
  return Codec(model)


def _ranges(indices):
  """Return numbers of images in an archive as text: "images 3-7, 9 lost"."""
  if not len(indices):
    return "no image lost"
  breaks = np.flatnonzero(np.diff(indices) > 1)
  starts, ends = indices[np.r_[0, breaks + 1]], indices[np.r_[breaks, len(indices) - 1]]
  parts = [str(a) if a == b else f"{a}-{b}" for a, b in zip(starts[:10], ends[:10])]
  return f"images {', '.join(parts)}{', ...' if len(starts) > 10 else ''} lost"
