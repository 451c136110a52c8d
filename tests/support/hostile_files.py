"""Files that nobody should have to read: no regular files, and bombs; and what memory a call takes."""

import io
import os
import tarfile
import tracemalloc
import zipfile
import zlib

import numpy as np

from support.files import png_chunk, written

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


def png(width, height, colour=2, depth=8, rows=None):
  """Return a PNG that claims a size; its pixels are zeros, `rows` of them."""

  channels = {0: 1, 2: 3, 6: 4}[colour]
  compress, content = zlib.compressobj(9), b""
  row = bytes(1 + width * channels * depth // 8)
  for _ in range(height if rows is None else rows):
    content += compress.compress(row)
  header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, colour, 0, 0, 0])
  return (
    b"\x89PNG\r\n\x1a\n"
    + png_chunk(b"IHDR", header)
    + png_chunk(b"IDAT", content + compress.flush())
    + png_chunk(b"IEND", b"")
  )


def npz(path, compression=zipfile.ZIP_DEFLATED, encrypted=False, **members):
  """Write a zip file of .npy files, given as arrays or as bytes."""
  with zipfile.ZipFile(path, "w", compression) as archive:
    for name, value in members.items():
      content = value if isinstance(value, bytes) else written(lambda file: np.save(file, value))  # noqa: B023
      archive.writestr(f"{name}.npy", content)
  if encrypted:  # the bit that says so, in each header
    data = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
      place = data.find(magic)
      while place >= 0:
        data[place + offset] |= 1
        place = data.find(magic, place + 4)
    path.write_bytes(data)


def npy_header(shape, descr="|u1"):
  """Return the beginning of an .npy file that claims an array."""
  header = {"descr": descr, "fortran_order": False, "shape": shape}
  return written(lambda file: np.lib.format.write_array_header_1_0(file, header))


def tar(path, *members, mode="w"):
  """Write a tar file of pairs of `TarInfo` and content."""
  with tarfile.open(path, mode) as archive:
    for info, content in members:
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))


def not_regular(folder):
  """Return paths of what is no regular file, by name: a named pipe, a device, a folder, a link to nothing."""
  os.mkfifo(folder / "pipe")
  (folder / "folder").mkdir()
  (folder / "dangling").symlink_to("nowhere")
  (folder / "zero").symlink_to("/dev/zero")
  return {name: folder / name for name in ("pipe", "folder", "dangling", "zero")}


def peak_of(function):
  """Return the bytes that Python and NumPy hold at most during a call."""
  tracemalloc.start()
  try:
    function()
    return tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
