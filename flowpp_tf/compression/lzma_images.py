"""Code images without a model: differences to neighbouring pixels, compressed by LZMA.

This codes images that do not fit the model, and the first images of a segment, whose bits the codec borrows. The
encoder takes the predictor that gives the fewest bytes: zero, left, above, or left + above - above left. Sums modulo
256 invert each of them; of 16 bits those modulo 65,536, whose low bytes come first, and then the high ones.
"""

import lzma

import numpy as np

_AXES = ((), (2,), (1,), (1, 2))
_DICTIONARY_BITS = 16, 24  # of its size; that of 24 takes an encoder 15 ms before the first byte


def encode_lzma_images(images: np.ndarray) -> bytes:
  """Return uint8 or uint16 images `[N, H, W, C]` as bytes."""
  encoded = []
  for index, axes in enumerate(_AXES):
    residuals = images
    for axis in axes:
      residuals = np.diff(residuals, axis=axis, prepend=images.dtype.type(0))  # which wraps around
    values = np.ascontiguousarray(residuals, residuals.dtype.newbyteorder("<"))
    planes = values.reshape(-1, 1).view(np.uint8).T  # all low bytes, then all high ones
    encoded.append(bytes([index]) + pack(planes.tobytes()))
  return min(encoded, key=len)


def decode_lzma_images(data: bytes, shape: tuple[int, ...], dtype: np.dtype | type = np.uint8) -> np.ndarray:
  """Return the images of a shape and dtype.

  Raises:
    ValueError: if the bytes are damaged.
  """
  if not data or data[0] >= len(_AXES):
    raise ValueError("LZMA images of an unknown kind")
  little_endian = np.dtype(dtype).newbyteorder("<")
  itemsize, count = little_endian.itemsize, int(np.prod(shape))
  unpacked = unpack(data[1:], itemsize * count)
  planes = np.frombuffer(unpacked, np.uint8).reshape(itemsize, count)
  images = np.ascontiguousarray(planes.T).view(little_endian).astype(dtype).reshape(shape)
  for axis in _AXES[data[0]]:
    images = np.cumsum(images, axis=axis, dtype=dtype)
  return images


def pack(data: bytes) -> bytes:
  """Return bytes compressed by LZMA."""
  least, most = _DICTIONARY_BITS
  bits = min(max(least, len(data).bit_length()), most)
  return lzma.compress(data, lzma.FORMAT_RAW, filters=_filters(bits))


def _filters(bits):
  return [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << bits}]


def unpack(data: bytes, size: int) -> bytes:
  """Return the `size` bytes that `pack` was given.

  Raises:
    ValueError: if they are more, fewer, or damaged.
  """
  decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_filters(_DICTIONARY_BITS[1]))
  try:
    result = decoder.decompress(data, size + 1)
  except (lzma.LZMAError, EOFError) as error:
    raise ValueError(f"compressed bytes are damaged: {error}") from None
  if len(result) != size:
    kind = "more" if len(result) > size else "fewer"
    raise ValueError(f"compressed bytes hold {kind} than the {size} expected ones")
  return result
