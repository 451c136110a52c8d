"""Why the bytes of an image file are kept: its pixels do not say all that is in it.

Pillow reads some files of more than 8 bits with 8, the first image of several, and stops at the end of an image. What
would be lost then (another depth, further images, what lies behind the end) is a reason. Profiles, EXIF, texts and
resolution are none where they can be stored beside the pixels (metadata.py).
"""

from __future__ import annotations

from collections.abc import Callable
import os
import re
import struct

from PIL import Image

from flowpp_tf.io.image_file import png_chunks

MAX_CODED = 1 << 28  # pixel values of a file that is coded; larger ones are kept
_MODES = {(1, 8): ("L",), (3, 8): ("RGB",), (1, 16): ("I;16", "I;16B"), (3, 16): ("RGB",)}  # by channels and bits
PPM_OF_8_BITS = re.compile(rb"P[56](?:\s|#[^\n]*\n)+\d+(?:\s|#[^\n]*\n)+\d+(?:\s|#[^\n]*\n)+255\s")
_BEHIND = "bytes behind the image"
_PROFILE = "colour profile"
LONGEST_NAME = 255  # bytes of a part of a path
_ORIENTATION = 274
_WEBP_CHUNKS = {b"ICCP", b"EXIF", b"XMP ", b"VP8X", b"VP8L", b"VP8 ", b"ALPH"}
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TIFF_PADDING = 16  # bytes for each part of the file


def why_kept(image: Image.Image, data: bytes, name: str, channels: int, lossy_pixels: bool, bits: int = 8) -> str:
  """Return why the pixels of a file are not coded, or "".

  Args:
    image: the file as Pillow opened it.
    data: its bytes.
    name: its path below the folder.
    channels: of the model.
    lossy_pixels: whether the pixels of JPEG and lossy WebP files are coded too.
    bits: of a value, 8, or 16 for a model of more than 256 levels.
  """
  if image.width * image.height * channels > MAX_CODED:
    return "too large"
  if image.mode not in _MODES[channels, bits]:
    return "another mode"
  if "transparency" in image.info:
    return "transparency"
  if getattr(image, "n_frames", 1) > 1:
    return "several frames"
  look = _LOOKS.get(image.format or "")
  if look is None or (bits == 16 and image.format not in _DEEP):
    return "another depth or format"
  if not lossy_pixels and is_lossy(image, data):
    return "lossy"
  base = os.path.basename(name)
  if not base.lower().endswith(".png") and len(os.fsencode(f"{base}.png")) > LONGEST_NAME:
    return "long name"
  return look(image, data, bits) if image.format in _DEEP else look(image, data)


def is_lossy(image: Image.Image, data: bytes) -> bool:
  """Return whether the pixels of a file take more bytes than the file: of JPEG and lossy WebP."""
  return image.format == "JPEG" or (image.format == "WEBP" and b"VP8 " in _webp_chunks(data)[0])


def _png(image, data, bits):
  if data[24] != bits:
    return "another depth or format"
  for kind, _, end in png_chunks(data):
    if kind == b"acTL":
      return "several frames"
    if kind == b"IEND":
      return _BEHIND if end + 4 != len(data) else ""
  return "no image"


def _webp(image, data):
  kinds, end = _webp_chunks(data)
  if not _WEBP_CHUNKS.issuperset(kinds):
    return "metadata"
  return _BEHIND if end < len(data) else ""


def _webp_chunks(data):
  """Return the kinds of the chunks, and where the last one ends."""
  kinds, place, end = [], 12, 8 + int.from_bytes(data[4:8], "little")
  while place + 8 <= end:
    kinds.append(data[place : place + 4])
    size = int.from_bytes(data[place + 4 : place + 8], "little")
    place += 8 + size + size % 2
  return kinds, place


def _jpeg(image, data):
  return "" if data.endswith(b"\xff\xd9") else _BEHIND


def _bmp(image, data):
  offset, header = struct.unpack_from("<II", data, 10)
  bits = data[28] if header > 12 else data[24]
  if bits not in (8, 24):
    return "another depth or format"
  if header >= 108 and data[70:74] not in (b"BGRs", b" niW"):  # sRGB, and that of Windows
    return _PROFILE
  colours = 4 << bits if bits == 8 else 0
  rows = (image.width * bits + 31) // 32 * 4 * image.height
  return _BEHIND if offset > 14 + header + colours or len(data) > offset + rows + 3 else ""


def _ppm(image, data):
  header = PPM_OF_8_BITS.match(data)
  if header is None:
    return "another depth or format"
  size = image.width * image.height * len(image.getbands())
  return _BEHIND if len(data) != header.end() + size else ""


def _tiff(image, data, bits):
  tags = image.tag_v2
  # Pillow drops channels without a meaning, and reads signed numbers of 8 bits as if they had no sign.
  if set(tags.get(258, (1,))) != {bits} or tags.get(277, 1) != len(image.getbands()) or set(tags.get(339, (1,))) != {1}:
    return "another depth or format"
  if tags.get(_ORIENTATION, 1) != 1:  # Pillow would turn the pixels
    return "EXIF"
  parts = [8, 6, *(12 + _tiff_bytes(tags, tag) for tag in tags)]
  for tag in (279, 325):  # bytes of strips and of tiles
    parts += tags.get(tag, ())
  return _BEHIND if len(data) > sum(parts) + _TIFF_PADDING * len(parts) else ""


def _tiff_bytes(tags, tag):
  value = tags[tag]
  count = len(value) if isinstance(value, (str, bytes, tuple)) else 1
  return (count + 1) * _TIFF_SIZES.get(tags.tagtype.get(tag, 12), 8)


_DEEP = ("PNG", "TIFF")  # which have 16 bits too
_LOOKS: dict[str, Callable[..., str]] = {
  "PNG": _png,
  "WEBP": _webp,
  "JPEG": _jpeg,
  "BMP": _bmp,
  "PPM": _ppm,
  "TIFF": _tiff,
}
