"""The bytes of a file around its pixels, if its pixels lie in it as they are: so its bytes come back from its pixels.

PPM, BMP, TIFF without compression, .npy and FITS hold the pixels in one piece, in one of a few orders. The rest of the
file, its wrapper, is stored, and the file is put together again, byte for byte. Compressed files are made by one
version of one program, which nobody has in ten years: they have no wrapper.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLUE_FIRST, BOTTOM_FIRST, PADDED = 1, 2, 4  # of 8 bits; rows of whole 4 bytes
BIG_ENDIAN, SIGNED, PLANES = 8, 16, 32  # of 16 bits; less 32,768, as FITS has them; one channel after the other
_OF_ITEMSIZE = {1: (BLUE_FIRST, BOTTOM_FIRST, PADDED), 2: (BIG_ENDIAN, SIGNED, PLANES)}
_OF_COLOUR = BLUE_FIRST | PLANES


def split_wrapper(data: bytes, pixels: np.ndarray) -> tuple[bytes, int, int] | None:
  """Return the bytes around the pixels, where the pixels were, and their layout; None if they are not in one piece.

  Args:
    data: the file.
    pixels: uint8 or uint16 `[H, W, C]`.
  """
  if len(data) < pixels.nbytes:
    return None
  for layout in _layouts(pixels):
    block = _block(pixels, layout)
    place = data.find(block)
    if place >= 0:
      return data[:place] + data[place + len(block) :], place, layout
  return None


def join_wrapper(wrapper: bytes, place: int, layout: int, pixels: np.ndarray) -> bytes:
  """Return the file of `split_wrapper`; raise a `ValueError` for a place or layout that no wrapper has."""
  if place > len(wrapper) or layout not in _layouts(pixels):
    raise ValueError("its wrapper is invalid")
  return wrapper[:place] + _block(pixels, layout) + wrapper[place:]


def _layouts(pixels) -> Iterator[int]:
  """Yield the layouts that such pixels can have."""
  layouts = [0]
  for flag in _OF_ITEMSIZE[pixels.itemsize]:
    layouts += [layout | flag for layout in layouts]
  return (layout for layout in layouts if pixels.shape[2] > 1 or not layout & _OF_COLOUR)


def _block(pixels, layout):
  """Return the bytes of pixels in a layout."""
  if layout & BLUE_FIRST:
    pixels = pixels[..., ::-1]
  if layout & BOTTOM_FIRST:
    pixels = pixels[::-1]
  if layout & PLANES:
    pixels = np.moveaxis(pixels, -1, 0)
  if layout & SIGNED:
    pixels = pixels ^ np.uint16(1 << 15)
  rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
  if layout & PADDED:
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
  if rows.itemsize == 2:
    rows = rows.astype(">u2" if layout & BIG_ENDIAN else "<u2")
  return rows.tobytes()
