"""What an image file says besides its pixels, as chunks of PNG: what is coded as pixels comes back with it.

    u32 bytes, 4 bytes kind, the bytes; one chunk after the other, as in a PNG file without its checksums

An empty chunk IDAT is where the pixels are. The chunks of a PNG file are its own. Of other formats they are made:

    iCCP        colour profile of TIFF, WebP and JPEG
    eXIf        EXIF of WebP and JPEG; the tags of a TIFF file that do not say how its pixels lie in the file
    iTXt, tEXt  XMP; comments of PPM and JPEG
    pHYs        resolution of TIFF, BMP and JPEG, in whole pixels per metre

A JPEG file that says something else, such as IPTC's, is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import io
import re
import struct
from typing import Any
import zlib

from PIL import Image, TiffImagePlugin

from flowpp_tf.compression.files.verbatim import PPM_OF_8_BITS
from flowpp_tf.io.budget import claim
from flowpp_tf.io.image_file import PNG, png_chunks

MAX_METADATA = 1 << 24  # bytes, of one file
_HEAD = struct.Struct(">I4s")
_HEADER, _PIXELS, _END = b"IHDR", b"IDAT", b"IEND"
# Chunks that change the pixels or the number of images. Those whose names begin with a capital do so too.
_NOT_METADATA = {b"tRNS", b"acTL", b"fcTL", b"fdAT"}
_TIFF_OF_PIXELS = {254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 274, 277, 278, 279, 284, 317, 322, 323, 324, 325,
                   338, 339}  # fmt: skip
_TIFF_PROFILE, _TIFF_XMP = 34675, 700
_TIFF_HEAD = b"II*\0\x08\0\0\0"
# Folders of tags, by number and by type: what lies in them has places in the file.
_TIFF_FOLDERS, _TIFF_FOLDER_TYPES = {330, 400, 34665, 34853, 40965}, {13, 18}
_XMP = b"XML:com.adobe.xmp\0\0\0\0\0"
_PPM_COMMENT = re.compile(rb"#([^\n]*)\n")
# How those segments of a JPEG file begin of which Pillow reads what they say.
_JPEG_SEGMENTS = {
  "APP0": (b"JFIF\0",),
  "APP1": (b"Exif\0", b"http://ns.adobe.com/xap/1.0/\0"),
  "APP2": (b"ICC_PROFILE\0",),
  "APP14": (b"Adobe",),
}


class MetadataError(Exception):
  """Raised for metadata that would not come back; its text is a reason to keep the file as it is."""


def read_metadata(image: Image.Image, data: bytes) -> bytes:
  """Return what a file says besides its pixels, b"" if nothing.

  Args:
    image: the file as Pillow opened it.
    data: its bytes.

  Raises:
    MetadataError: if something would not come back.
  """
  chunks = _OF_FORMAT[image.format or ""](image, data)
  before = b"".join(_HEAD.pack(len(content), kind) + content for kind, content in chunks)
  pixels = _HEAD.pack(0, _PIXELS)
  result = before.removesuffix(pixels) if before.endswith(pixels) else before
  if len(result) > MAX_METADATA:
    raise MetadataError("metadata")
  return result


def check_metadata(metadata: bytes) -> None:
  """Raise a `ValueError` unless these are chunks that a PNG file can have besides those of its pixels."""
  if len(metadata) > MAX_METADATA:
    raise ValueError(f"its metadata have more than {MAX_METADATA:,} bytes")
  pixels = 0
  for kind, content in _chunks(metadata):
    claim("items", pixels := pixels + 1, "the metadata of a file")
    if kind == _PIXELS and not content:
      continue
    if not is_metadata(kind):
      raise ValueError(f"its metadata have a chunk {kind!r}, which is none of metadata")


def is_metadata(kind: bytes) -> bool:
  """Return whether a chunk of PNG, of the name `kind`, says nothing of the pixels' values."""
  return len(kind) == 4 and kind.isalpha() and kind[:1].islower() and kind not in _NOT_METADATA


def with_metadata(png: bytes, metadata: bytes) -> bytes:
  """Return a PNG file of pixels, as Pillow writes it, with metadata."""
  before, after = list[bytes](), list[bytes]()
  part = before
  for kind, content in _chunks(metadata):
    if kind == _PIXELS:
      part = after
    else:
      part.append(_HEAD.pack(len(content), kind) + content + struct.pack(">I", zlib.crc32(kind + content)))
  start = len(PNG) + 12 + 13  # behind IHDR
  end = len(png) - 12  # before IEND
  return b"".join([png[:start], *before, png[start:end], *after, png[end:]])


def _chunks(metadata: bytes) -> Iterator[tuple[bytes, bytes]]:
  """Yield kind and content of each chunk; raise a `ValueError` if one is cut off."""
  place = 0
  while place < len(metadata):
    if place + _HEAD.size > len(metadata):
      raise ValueError("its metadata are cut off")
    size, kind = _HEAD.unpack_from(metadata, place)
    place += _HEAD.size
    if size > len(metadata) - place:
      raise ValueError("its metadata are cut off")
    yield kind, metadata[place : place + size]
    place += size


def _png(image, data):
  found = False
  for kind, begin, end in png_chunks(data):
    if kind == _PIXELS:
      if not found:
        yield _PIXELS, b""
      found = True
    elif is_metadata(kind):
      yield kind, data[begin:end]
    elif kind not in (_HEADER, _END):
      raise MetadataError("metadata")


def _from_info(image, data):
  """Yield the chunks of what Pillow found in a WebP, BMP or JPEG file."""
  info = image.info
  yield from _profile(info.get("icc_profile"))
  if exif := info.get("exif"):
    yield b"eXIf", exif.removeprefix(b"Exif\0\0")
  yield from _xmp(info.get("xmp"))
  yield from _resolution(info.get("dpi"))


def _jpeg(image, data):
  for kind, content in image.applist:
    if kind == "COM":
      yield _comment(content)
    elif not content.startswith(_JPEG_SEGMENTS.get(kind, ())):
      raise MetadataError("metadata")
  yield from _from_info(image, data)


def _ppm(image, data):
  header = PPM_OF_8_BITS.match(data)
  for comment in _PPM_COMMENT.findall(header[0] if header else b""):
    yield _comment(comment.strip())


def _comment(text):
  return b"tEXt", b"Comment\0" + text.replace(b"\0", b"")


def _tiff(image, data):
  tags = image.tag_v2
  if _TIFF_FOLDERS & set(tags) or any(tags.tagtype.get(tag) in _TIFF_FOLDER_TYPES for tag in tags):
    raise MetadataError("EXIF")
  others = set(tags) - _TIFF_OF_PIXELS
  for tag, chunks in ((_TIFF_PROFILE, _profile), (_TIFF_XMP, _xmp)):
    if (content := tags.get(tag)) and isinstance(content, bytes):  # of another type it is a tag like others
      yield from chunks(content)
      others.remove(tag)
  if others:
    yield b"eXIf", _written_tags(tags, others)
    yield from _resolution(image.info.get("dpi"))


def _written_tags(tags, chosen):
  """Return some tags of a TIFF file as EXIF; raise a `MetadataError` if a reader would find others in it."""
  written = TiffImagePlugin.ImageFileDirectory_v2(_TIFF_HEAD)
  for tag in chosen:
    values, written.tagtype[tag] = tags[tag], tags.tagtype[tag]
    # Pillow reads any text as Latin-1, but writes text as ASCII.
    written[tag] = tuple(map(_latin, values)) if isinstance(values, tuple) else _latin(values)
  content = _TIFF_HEAD + written.tobytes(len(_TIFF_HEAD))
  found, file = TiffImagePlugin.ImageFileDirectory_v2(_TIFF_HEAD), io.BytesIO(content)
  file.seek(len(_TIFF_HEAD))
  found.load(file)
  same = lambda tag: found[tag] == tags[tag] and found.tagtype[tag] == tags.tagtype[tag]
  if set(found) != chosen or not all(map(same, chosen)):
    raise MetadataError("metadata")
  return content


def _latin(value):
  return value.encode("latin-1") if isinstance(value, str) else value


def _profile(profile: bytes | None) -> Iterator[tuple[bytes, bytes]]:
  if profile:
    yield b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile, 9)


def _xmp(text: bytes | None) -> Iterator[tuple[bytes, bytes]]:
  if text:
    yield b"iTXt", _XMP + text


def _resolution(dpi: Any) -> Iterator[tuple[bytes, bytes]]:
  """Yield the chunk of dots per inch in both directions, if they are numbers that it can hold."""
  try:
    across, down = (round(float(value) / 0.0254) for value in dpi)
  except (TypeError, ValueError, ZeroDivisionError, OverflowError):
    return
  if 0 < across < 1 << 31 and 0 < down < 1 << 31:
    yield b"pHYs", struct.pack(">IIB", across, down, 1)


_OF_FORMAT: dict[str, Callable[[Image.Image, bytes], Iterator[tuple[bytes, bytes]]]] = {
  "PNG": _png,
  "WEBP": _from_info,
  "JPEG": _jpeg,
  "BMP": _from_info,
  "PPM": _ppm,
  "TIFF": _tiff,
}
