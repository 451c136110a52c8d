"""Code images without a model: differences to neighbouring pixels, compressed by LZMA.

This codes images that do not fit the model, and the first images of a segment, whose bits the codec borrows. The
encoder takes the predictor that gives the fewest bytes: zero, left, above, or left + above - above left. Sums modulo
256 invert each of them; of 16 bits those modulo 65,536, whose low bytes come first, and then the high ones.
"""

import lzma

import numpy as np

_AXES = ((), (2,), (1,), (1, 2))
_CHUNK = 1 << 20  # bytes that are decoded at a time
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
  images = np.empty(shape, dtype)
  if images.itemsize == 1:
    unpack_into(images.reshape(-1), data[1:])
  else:
    planes = np.empty((2, images.size), np.uint8)
    unpack_into(planes.reshape(-1), data[1:])
    flat = images.reshape(-1)
    flat[:] = planes[1]
    flat <<= 8
    flat |= planes[0]
  at_a_time = max(_CHUNK // max(int(np.prod(shape[1:])), 1), 1)
  for start in range(0, len(images) if _AXES[data[0]] else 0, at_a_time):
    part = images[start : start + at_a_time]
    for axis in _AXES[data[0]]:
      np.cumsum(part, axis=axis, dtype=part.dtype, out=part)
  return images


def pack(data: bytes) -> bytes:
  """Return bytes compressed by LZMA."""
  least, most = _DICTIONARY_BITS
  return lzma.compress(data, lzma.FORMAT_RAW, filters=_filters(min(max(least, len(data).bit_length()), most)))


def _filters(bits):
  return [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << bits}]


def unpack(data: bytes, size: int) -> bytes:
  """Return the `size` bytes that `pack` was given; errors as for `unpack_into`."""
  result = np.empty(size, np.uint8)
  unpack_into(result, data)
  return result.tobytes()


def unpack_into(result: np.ndarray, data: bytes) -> None:
  """Fill a flat array, uint8, with the bytes that `pack` was given.

  Raises:
    LzmaImagesError: if they are more, fewer, or damaged.
  """
  decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_filters(_DICTIONARY_BITS[1]))
  count, size = 0, len(result)
  try:
    while count <= size and data and not decoder.eof:
      part = decoder.decompress(data if not count else b"", min(_CHUNK, size - count + 1))
      if not part:
        break
      result[count : count + len(part)] = np.frombuffer(part, np.uint8)[: size - count]
      count += len(part)
  except (lzma.LZMAError, EOFError) as error:
    raise LzmaImagesError(f"compressed bytes are damaged: {error}") from None
  if count != size:
    raise LzmaImagesError(f"compressed bytes hold {'more' if count > size else 'fewer'} than the {size} expected ones")
