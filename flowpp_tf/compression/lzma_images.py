"""Code images without a model: differences to neighbouring pixels, compressed by LZMA.

This codes images that do not fit the model, and the first images of a segment, whose bits the codec borrows. The
encoder takes the predictor that gives the fewest bytes: zero, left, above, or left + above - above left. Sums modulo
256 invert each of them; of 16 bits those modulo 65,536, whose low bytes come first, and then the high ones.
"""

import lzma

import numpy as np

_AXES = ((), (2,), (1,), (1, 2))
_DICTIONARY_BITS = 16, 24  # of its size; that of 24 takes an encoder 15 ms before the first byte


class LzmaImagesError(ValueError):
  """Raised for bytes that are not LZMA images of the given shape."""


def encode_lzma_images(images: np.ndarray) -> bytes:
  """Return uint8 or uint16 images `[N, H, W, C]` as bytes."""
  encoded = []
  for index, axes in enumerate(_AXES):
    residuals = images
    for axis in axes:
      first = np.take(residuals, [0], axis=axis)
      residuals = np.concatenate([first, np.diff(residuals, axis=axis)], axis=axis)  # which wraps around
    encoded.append(bytes([index]) + pack(_to_planes(residuals)))
  return min(encoded, key=len)


def _to_planes(values):
  """Return the bytes of integers: all low ones, then all high ones."""
  flat = values.reshape(-1)
  return b"".join((flat >> 8 * i).astype(np.uint8).tobytes() for i in range(flat.itemsize))


def decode_lzma_images(data: bytes, shape: tuple[int, ...], dtype: np.dtype | type = np.uint8) -> np.ndarray:
  """Return the images of a shape and dtype.

  Raises:
    LzmaImagesError: if the bytes are damaged.
  """
  if not data or data[0] >= len(_AXES):
    raise LzmaImagesError("LZMA images of an unknown kind")
  itemsize, count = np.dtype(dtype).itemsize, int(np.prod(shape))
  planes = np.frombuffer(unpack(data[1:], itemsize * count), np.uint8).reshape(itemsize, count)
  flat = planes[0].astype(dtype)
  for i in range(1, itemsize):
    flat |= planes[i].astype(dtype) << 8 * i
  images = flat.reshape(shape)
  for axis in _AXES[data[0]]:
    images = np.cumsum(images, axis=axis, dtype=dtype)
  return images


def pack(data: bytes) -> bytes:
  """Return bytes compressed by LZMA."""
  least, most = _DICTIONARY_BITS
  return lzma.compress(data, lzma.FORMAT_RAW, filters=_filters(min(max(least, len(data).bit_length()), most)))


def _filters(bits):
  return [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << bits}]


def unpack(data: bytes, size: int) -> bytes:
  """Return the `size` bytes that `pack` was given.

  Raises:
    LzmaImagesError: if they are more, fewer, or damaged.
  """
  decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_filters(_DICTIONARY_BITS[1]))
  try:
    result = decoder.decompress(data, size + 1)
  except (lzma.LZMAError, EOFError) as error:
    raise LzmaImagesError(f"compressed bytes are damaged: {error}") from None
  if len(result) != size:
    kind = "more" if len(result) > size else "fewer"
    raise LzmaImagesError(f"compressed bytes hold {kind} than the {size} expected ones")
  return result
