"""Code images without a model: differences to neighbouring pixels, compressed by LZMA.

This codes images that do not fit the model, and the first images of a segment, whose bits the coder borrows. The
encoder takes the predictor that gives the fewest bytes: zero, left, above, or left + above - above left. Sums modulo
256 invert each of them.
"""

import lzma

import numpy as np

_AXES = ((), (2,), (1,), (1, 2))
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 24}]


class PlainError(ValueError):
  """Raised for bytes that are not plain images of the given shape."""


def encode_plain(images: np.ndarray) -> bytes:
  """Return uint8 images `[N, H, W, C]` as bytes."""
  encoded = []
  for index, axes in enumerate(_AXES):
    residuals = images
    for axis in axes:
      first = np.take(residuals, [0], axis=axis)
      residuals = np.concatenate([first, np.diff(residuals, axis=axis)], axis=axis)  # uint8 wraps around
    encoded.append(bytes([index]) + pack(residuals.tobytes()))
  return min(encoded, key=len)


def decode_plain(data: bytes, shape: tuple[int, int, int, int]) -> np.ndarray:
  """Return the images of a shape.

  Raises:
    PlainError: if the bytes are damaged.
  """
  if not data or data[0] >= len(_AXES):
    raise PlainError("plain images of an unknown kind")
  residuals = unpack(data[1:], int(np.prod(shape, dtype=np.int64)))
  images = np.frombuffer(residuals, np.uint8).reshape(shape)
  for axis in _AXES[data[0]]:
    images = np.cumsum(images, axis=axis, dtype=np.uint8)
  return images


def pack(data: bytes) -> bytes:
  """Return bytes compressed by LZMA."""
  return lzma.compress(data, lzma.FORMAT_RAW, filters=_FILTERS)


def unpack(data: bytes, size: int) -> bytes:
  """Return the `size` bytes that `pack` was given.

  Raises:
    PlainError: if they are more, fewer, or damaged; no more than `size` bytes are ever held.
  """
  decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS)
  try:
    result = decoder.decompress(data, size + 1) if data else b""
  except (lzma.LZMAError, EOFError) as error:
    raise PlainError(f"compressed bytes are damaged: {error}") from None
  if len(result) != size:
    raise PlainError(f"compressed bytes hold {'more' if len(result) > size else 'fewer'} than the {size} expected ones")
  return result
