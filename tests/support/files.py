"""Contents of files, and files that tests change behind a program's back."""

import contextlib
import io
import os
import pathlib
import stat
import struct
import zlib

import numpy as np
from PIL import Image
import pytest


@contextlib.contextmanager
def spoiled(folder):
  """Context in which the files below a folder hold zeros, and have the sizes and times that they had before."""
  before = {path: (path.read_bytes(), path.stat()) for path in pathlib.Path(folder).rglob("*") if path.is_file()}

  def write(content_of):
    for path, (content, status) in before.items():
      path.write_bytes(content_of(content))
      os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

  write(lambda content: bytes(len(content)))
  try:
    yield
  finally:
    write(lambda content: content)


def contents(folder):
  """Return the content of each file below a folder, by its path from there; links are left out."""
  folder = pathlib.Path(folder)
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if stat.S_ISREG(path.lstat().st_mode)
  }


def flipped(data, place, bits=1):
  """Return data with other bits of the byte at a place."""
  changed = bytearray(data)
  changed[place] ^= bits
  return bytes(changed)


def written(write):
  """Return what `write(file)` writes to a file."""
  file = io.BytesIO()
  write(file)
  return file.getvalue()


def encoded(kind, pixels, **options):
  """Return the image file of pixels, or of an image of Pillow."""
  image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
  return written(lambda file: image.save(file, format=kind, **options))


def tiff(pixels, **options):
  """Return the TIFF file of an array `[H, W, C]`."""
  imwrite, planes = pytest.importorskip("tifffile").imwrite, pixels[..., 0] if pixels.shape[-1] == 1 else pixels
  options = {"photometric": "rgb" if pixels.shape[-1] == 3 else "minisblack", **options}
  return written(lambda file: imwrite(file, planes, **options))


def npy(pixels):
  """Return the .npy file of an array."""
  return written(lambda file: np.save(file, pixels))


def fits(pixels, compressed=False):
  """Return the FITS file of an array `[H, W, C]`."""
  module = pytest.importorskip("astropy.io.fits")
  planes = pixels[..., 0] if pixels.shape[-1] == 1 else np.moveaxis(pixels, -1, 0)
  part = module.CompImageHDU(planes) if compressed else module.PrimaryHDU(planes)
  part.header["EXPTIME"] = 30.0
  return written(module.HDUList([module.PrimaryHDU(), part] if compressed else [part]).writeto)


def exif(**tags):
  """Return EXIF data with an orientation or a maker."""
  result = Image.Exif()
  for tag, value in tags.items():
    result[{"orientation": 274, "maker": 271}[tag]] = value
  return result


def png_chunk(kind, content):
  """Return a chunk of a PNG file."""
  return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def png_chunks(png):
  """Return kind and content of each chunk of a PNG file, whose checksums must be right."""
  place, found = 8, []
  while place < len(png):
    size, kind = struct.unpack_from(">I4s", png, place)
    found.append((kind, png[place + 8 : place + 8 + size]))
    assert png[place : place + 12 + size] == png_chunk(*found[-1])
    place += 12 + size
  return found
