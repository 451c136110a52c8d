"""Code images without a model: differences to neighbouring pixels, compressed by LZMA.

This codes images that do not fit the model, and the first images of a segment, whose bits the coder borrows. The
encoder takes the predictor that gives the fewest bytes: zero, left, above, or left + above - above left. Sums modulo
256 invert each of them.
"""

import lzma

import numpy as np

_AXES = ((), (2,), (1,), (1, 2))
_CHUNK = 1 << 20  # bytes that are decoded at a time
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


def decode_plain(data: bytes, shape: tuple[int, ...], out: np.ndarray | None = None) -> np.ndarray:
  """Return the images of a shape, in the array `out` if it is given: more memory is not taken.

  Raises:
    PlainError: if the bytes are damaged.
  """
  if not data or data[0] >= len(_AXES):
    raise PlainError("plain images of an unknown kind")
  images = np.empty(shape, np.uint8) if out is None else out
  unpack_into(images.reshape(-1), data[1:])
  at_a_time = max(_CHUNK // max(int(np.prod(shape[1:])), 1), 1)
  for start in range(0, len(images) if _AXES[data[0]] else 0, at_a_time):
    part = images[start : start + at_a_time]
    for axis in _AXES[data[0]]:
      np.cumsum(part, axis=axis, dtype=np.uint8, out=part)
  return images


def pack(data: bytes) -> bytes:
  """Return bytes compressed by LZMA."""
  return lzma.compress(data, lzma.FORMAT_RAW, filters=_FILTERS)


def unpack(data: bytes, size: int) -> bytes:
  """Return the `size` bytes that `pack` was given; errors as for `unpack_into`."""
  result = np.empty(size, np.uint8)
  unpack_into(result, data)
  return result.tobytes()


def unpack_into(result: np.ndarray, data: bytes) -> None:
  """Fill a flat array, uint8, with the bytes that `pack` was given.

  Raises:
    PlainError: if they are more, fewer, or damaged.
  """
  decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS)
  count, size = 0, len(result)
  try:
    while count <= size and data and not decoder.eof:
      part = decoder.decompress(data if not count else b"", min(_CHUNK, size - count + 1))
      if not part:
        break
      result[count : count + len(part)] = np.frombuffer(part, np.uint8)[: size - count]
      count += len(part)
  except (lzma.LZMAError, EOFError) as error:
    raise PlainError(f"compressed bytes are damaged: {error}") from None
  if count != size:
    raise PlainError(f"compressed bytes hold {'more' if count > size else 'fewer'} than the {size} expected ones")
