"""Read an image file for an archive: its pixels and the rest of the file, or all of its bytes.

The pixels are coded as tiles if the model has their kind: 8-bit grey or RGB; for a model of more than 256 levels the
16-bit pixels of PNG, TIFF, .npy and FITS files. Every other file is stored verbatim: other modes and depths,
transparency, and files that are not images. JPEG and lossy WebP files are stored verbatim too, since their pixels take
more bytes than the files. So is every file that is smaller than its coded pixels.

The wrapper of a file is its bytes around the pixels. It restores the file byte for byte. PPM, BMP, TIFF without
compression, .npy and FITS have a wrapper: they hold their pixels in one piece, in one of a few orders. Compressed files
have no wrapper, as only the same version of the same program makes their bytes again. A compressed TIFF file is stored
verbatim. PNG, WebP and JPEG files are restored as PNG, with the same pixels and with their metadata, which are stored
as chunks of PNG:

    u32 bytes, 4 bytes kind, the bytes; one chunk after the other, as in a PNG file without its checksums

An empty chunk IDAT is where the pixels are. The chunks of a PNG file are its own. Of a WebP or JPEG file they are those
that Pillow writes: iCCP of its colour profile, eXIf, iTXt of its XMP, tEXt of a JPEG file's comments, pHYs of its
resolution in whole pixels per metre.

Pillow reads some files of more than 8 bits with 8, the first image of several, and stops at the end of an image. Such a
file is stored verbatim (another depth, further images, bytes behind the end), as is one that holds other metadata, such
as IPTC's in a JPEG file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import io
import os
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image, PngImagePlugin

from flowpp_tf.compression.lzma_images import pack
from flowpp_tf.compression.segment import pixel_bytes
from flowpp_tf.core.errors import InputError
from flowpp_tf.io.budget import claim
from flowpp_tf.io.deep_image import read_deep
from flowpp_tf.io.gate import read_bytes
from flowpp_tf.io.image_file import FORMATS, PNG, ImageFileError, TooLargeError, open_image, png_chunks

MAX_VERBATIM_FILE = 1 << 27  # bytes of a file that is stored verbatim
_LONGEST_NAME = 255  # bytes of a part of a path
_MAX_FILE = 1 << 31  # bytes of a file that is read
_FORMATS = (*FORMATS, "PPM")  # of what is decoded
LOSSY = "lossy"
SMALLER = "smaller so than coded by the model"
# Layouts of pixels in a file are sums of these flags.
# Orders of 8-bit pixels; padded rows have whole words of 4 bytes.
BLUE_FIRST = 1
BOTTOM_FIRST = 2
PADDED = 4
# Orders of 16-bit pixels; signed pixels are less by 32,768, as in FITS; planes hold one channel after the other.
BIG_ENDIAN = 8
SIGNED = 16
PLANES = 32
_LAYOUTS = {1: range(0, 8), 2: range(0, 64, 8)}  # by bytes of a value
MAX_CODED = 1 << 28  # pixel values of a file that is coded
_TOO_MANY = f"over {MAX_CODED:,} pixel values"
MAX_METADATA = 1 << 24  # bytes, of one file
_BEHIND = "bytes behind the image"
_OTHER = "another depth or format"
_HEAD = struct.Struct(">I4s")
_PIXELS = b"IDAT"
# Chunks that change the pixels or the number of images. Those whose names begin with a capital do so too.
_NOT_METADATA = {b"tRNS", b"acTL", b"fcTL", b"fdAT"}
_WEBP_CHUNKS = {b"ICCP", b"EXIF", b"XMP ", b"VP8X", b"VP8L", b"VP8 ", b"ALPH"}
# How the segments of a JPEG file begin whose content Pillow reads.
_JPEG_SEGMENTS = {
  "APP0": (b"JFIF\0",),
  "APP1": (b"Exif\0", b"http://ns.adobe.com/xap/1.0/\0"),
  "APP2": (b"ICC_PROFILE\0",),
  "APP14": (b"Adobe",),
}


@dataclasses.dataclass(frozen=True)
class ImageFile:
  """A file: its pixels, uint8 or uint16 `[H, W, C]`, with its metadata, or its bytes.

  Attributes:
    name: path below its folder, with `/`.
    pixels: None for a file whose bytes the archive gives back.
    data: bytes of the file, None if its pixels come back.
    reason: why it is stored verbatim.
    metadata: what comes back with the pixels, chunks of PNG.
    wrapper: the bytes around its pixels, the place and the layout of these, which make its bytes.
    fallback: what is stored if its tiles take more bytes.
  """

  name: str
  pixels: np.ndarray | None = None
  data: bytes | None = None
  reason: str = ""
  metadata: bytes = b""
  wrapper: tuple[bytes, int, int] | None = None
  fallback: ImageFile | None = None

  @property
  def content(self) -> bytes:
    """Return the bytes that an archive must give back: the file, or its pixels and metadata."""
    if self.data is not None:
      return self.data
    assert self.pixels is not None
    return bytes(pixel_bytes(self.pixels)) + self.metadata

  @property
  def size(self) -> int:
    """Return about how many bytes an archive stores of it in addition to its tiles."""
    if self.wrapper:
      return len(pack(self.wrapper[0]))
    return len(zlib.compress(self.metadata)) if self.metadata else len(self.data or b"")


def read_picture(
  folder: pathlib.Path,
  name: str,
  channels: int,
  lossy_pixels: bool = False,
  bits: Callable[[np.ndarray], float] | None = None,
  keep_bytes: bool = False,
  levels: int = 256,
) -> ImageFile:
  """Read a file, as it is to be stored.

  Args:
    folder: where it is.
    name: its path below the folder.
    channels: of the model.
    lossy_pixels: whether the pixels of JPEG and lossy WebP files are coded too, though they take more bytes.
    bits: returns about how many bits pixels `[H, W, C]` take, to store files verbatim that are smaller; None to code
      all.
    keep_bytes: whether the bytes of the file must come back, not only its pixels and metadata.
    levels: of the model.

  Raises:
    OSError: if it cannot be read.
    TooLargeError (an InputError): if there is too little memory for its pixels.
  """
  data = read_bytes(folder / name, _MAX_FILE)
  verbatim = ImageFile(name, data=data, reason=SMALLER)
  try:
    pixels, metadata, lossy = _read(data, name, channels, lossy_pixels, levels)
    picture = _with_pixels(data, name, pixels, metadata, keep_bytes)
  except TooLargeError:  # which says nothing of the file: with more memory it is an image
    raise
  except VerbatimError as error:
    return dataclasses.replace(verbatim, reason=str(error))
  except ImageFileError:
    return dataclasses.replace(verbatim, reason="no image that can be read")
  if lossy or bits is None or len(data) > MAX_VERBATIM_FILE:  # coded at any cost
    return picture
  room = (len(pack(data)) if len(data) >= pixels.nbytes else len(data)) - picture.size
  if room > 0 and bits(pixels) <= 8 * room:
    return dataclasses.replace(picture, fallback=verbatim)
  return verbatim


class VerbatimError(ImageFileError):
  """Raised for a file whose pixels and metadata are not all that it holds; its text is the reason."""


def _read(data, name, channels, lossy_pixels, levels):
  """Return pixels, metadata, and whether the file is lossy; metadata are None if the file must come back whole."""
  if levels > 256:
    pixels = _deep_pixels(data, name, channels)
    return pixels, _packed(_png(data, 16)) if data.startswith(PNG) else None, False
  with open_image(data, name, formats=_FORMATS, most_pixels=1 << 40) as image:  # not decoded yet
    if image.width * image.height * channels > MAX_CODED:
      raise VerbatimError(_TOO_MANY)
    if image.mode != {1: "L", 3: "RGB"}[channels]:
      raise VerbatimError("another mode")
    lossy = image.format == "JPEG" or (image.format == "WEBP" and b"VP8 " in _webp_chunks(data)[0])
    if lossy and not lossy_pixels:
      raise VerbatimError(LOSSY)
    pixels = np.array(image).reshape(image.height, image.width, channels)
    return pixels, _metadata(image, data), lossy


def _deep_pixels(data, name, channels):
  """Return the pixels of a file of 16 bits."""
  try:
    pixels = read_deep(data, channels, name, most_pixels=MAX_CODED)
  except TooLargeError:
    raise
  except InputError as error:
    reason = "a package that reads it is not installed"
    if isinstance(error, ImageFileError):
      reason = _OTHER
    raise VerbatimError(reason) from None
  if pixels.size > MAX_CODED:
    raise VerbatimError(_TOO_MANY)
  return pixels


def _with_pixels(data, name, pixels, metadata, keep_bytes):
  """Return a file whose pixels are coded."""
  if keep_bytes or metadata is None:
    wrapper = split_wrapper(data, pixels)
    if wrapper is None or len(wrapper[0]) > MAX_VERBATIM_FILE:
      raise VerbatimError("its pixels are compressed or in pieces")
    return ImageFile(name, pixels, data=data, wrapper=wrapper)
  base = os.path.basename(name)
  if not base.lower().endswith(".png") and len(os.fsencode(f"{base}.png")) > _LONGEST_NAME:
    raise VerbatimError("long name")
  return ImageFile(name, pixels, metadata=metadata)


def _metadata(image, data):
  """Return what a file holds besides its pixels, b"" if nothing, or None if chunks of PNG cannot hold it.

  Raises:
    VerbatimError: if something of it would not come back.
  """
  if image.format == "PNG":
    return _packed(_png(data, 8))
  if image.format == "WEBP":
    return _packed(_webp(image, data))
  return _packed(_jpeg(image, data)) if image.format == "JPEG" else None


def _packed(chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
  """Return chunks as they are stored."""
  packed = b"".join(_HEAD.pack(len(content), kind) + content for kind, content in chunks)
  if len(packed) > MAX_METADATA:
    raise VerbatimError("metadata")
  return packed.removesuffix(_HEAD.pack(0, _PIXELS))


def check_metadata(metadata: bytes) -> None:
  """Raise a `ValueError` unless these are chunks that a PNG file can have in addition to its pixels."""
  if len(metadata) > MAX_METADATA:
    raise ValueError(f"its metadata have more than {MAX_METADATA:,} bytes")
  for number, (kind, content) in enumerate(_chunks(metadata), 1):
    claim("items", number, "the metadata of a file")
    if not is_metadata(kind) and (kind, content) != (_PIXELS, b""):
      raise ValueError(f"its metadata have a chunk {kind!r}, which is not metadata")


def is_metadata(kind: bytes) -> bool:
  """Return whether a chunk of PNG named `kind` does not change the pixels' values."""
  return len(kind) == 4 and kind.isalpha() and kind[:1].islower() and kind not in _NOT_METADATA


def with_metadata(png: bytes, metadata: bytes) -> bytes:
  """Return a PNG file of pixels, as Pillow writes it, with metadata."""
  start = len(PNG) + 12 + 13  # behind IHDR
  end = len(png) - 12  # before IEND
  parts = [png[:start]]
  pixels = png[start:end]
  for kind, content in (*_chunks(metadata), (_PIXELS, b"")):
    if kind == _PIXELS:
      parts.append(pixels)
      pixels = b""  # they are written only once
    else:
      parts.append(_HEAD.pack(len(content), kind) + content + struct.pack(">I", zlib.crc32(kind + content)))
  return b"".join(parts) + png[end:]


def _chunks(metadata: bytes) -> Iterator[tuple[bytes, bytes]]:
  """Yield kind and content of each chunk; raise a `ValueError` if one is cut off."""
  file = io.BytesIO(metadata)
  while head := file.read(_HEAD.size):
    size = int.from_bytes(head[:4], "big")
    kind = head[4:]
    content = file.read(size)
    if len(head) < _HEAD.size or len(content) < size:
      raise ValueError("its metadata are cut off")
    yield kind, content


def _png(data, bits):
  """Yield the chunks of metadata of a PNG file, and an empty one where its pixels are."""
  if data[24] != bits:
    raise VerbatimError(_OTHER)
  _, *chunks, (_, _, end) = png_chunks(data)  # between IHDR and IEND
  if end + 4 < len(data):
    raise VerbatimError(_BEHIND)
  previous = b""
  for kind, begin, end in chunks:
    if kind == b"acTL":
      raise VerbatimError("several frames")
    if is_metadata(kind):
      yield kind, data[begin:end]
    elif kind != _PIXELS:
      raise VerbatimError("metadata")
    elif previous != _PIXELS:
      yield _PIXELS, b""
    previous = kind


def _webp(image, data):
  kinds, end = _webp_chunks(data)
  if not _WEBP_CHUNKS.issuperset(kinds):
    raise VerbatimError("metadata")
  if end < len(data):
    raise VerbatimError(_BEHIND)
  return _from_info(image)


def _webp_chunks(data):
  """Return the kinds of the chunks, and where the last one ends."""
  kinds = []
  place = 12
  end = 8 + int.from_bytes(data[4:8], "little")
  while place + 8 <= end:
    kinds.append(data[place : place + 4])
    size = int.from_bytes(data[place + 4 : place + 8], "little")
    place += 8 + size + size % 2
  return kinds, place


def _jpeg(image, data):
  if not data.endswith(b"\xff\xd9"):
    raise VerbatimError(_BEHIND)
  comments = []
  for kind, content in image.applist:
    if kind == "COM":
      comments.append(content.replace(b"\0", b""))
    elif not content.startswith(_JPEG_SEGMENTS.get(kind, ())):
      raise VerbatimError("metadata")
  return _from_info(image, comments)


def _from_info(image, comments=()):
  """Return the chunks of what Pillow found in a WebP or JPEG file, as it writes them to a PNG file."""
  found = image.info
  text = PngImagePlugin.PngInfo()
  for comment in comments:
    text.add_text("Comment", comment)
  if found.get("xmp"):
    text.add_itxt("XML:com.adobe.xmp", found["xmp"])
  written = {name: found[name] for name in ("icc_profile", "exif", "dpi") if found.get(name)}
  chunks = PngImagePlugin.getchunks(Image.new("L", (1, 1)), pnginfo=text, **written)
  return [(kind, content) for kind, content, _ in chunks if is_metadata(kind)]


def split_wrapper(data: bytes, pixels: np.ndarray) -> tuple[bytes, int, int] | None:
  """Return the bytes around the pixels, where the pixels were, and their layout; None if they are not in one piece.

  Args:
    data: the file.
    pixels: uint8 or uint16 `[H, W, C]`.
  """
  for layout in _LAYOUTS[pixels.itemsize]:
    block = _block(pixels, layout)
    place = data.find(block)
    if place >= 0:
      return data[:place] + data[place + len(block) :], place, layout
  return None


def join_wrapper(wrapper: bytes, place: int, layout: int, pixels: np.ndarray) -> bytes:
  """Return the file of `split_wrapper`; raise a `ValueError` for a place or layout that no wrapper has."""
  if place > len(wrapper) or layout not in _LAYOUTS[pixels.itemsize]:
    raise ValueError("its wrapper is invalid")
  return wrapper[:place] + _block(pixels, layout) + wrapper[place:]


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
    dtype = ">u2" if layout & BIG_ENDIAN else "<u2"
    rows = rows.astype(dtype)
  return rows.tobytes()
