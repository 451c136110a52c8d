"""Files that nobody should have to read: what is no regular file, bombs, and damaged copies."""

import io
import os
import tarfile
import zipfile
import zlib

import numpy as np

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


def png(width, height, colour=2, depth=8, rows=None):
  """Return a PNG that claims a size; its pixels are zeros, `rows` of them."""

  def chunk(kind, data):
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

  channels = {0: 1, 2: 3, 6: 4}[colour]
  compress, content = zlib.compressobj(9), b""
  row = bytes(1 + width * channels * depth // 8)
  for _ in range(height if rows is None else rows):
    content += compress.compress(row)
  header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, colour, 0, 0, 0])
  return (
    b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content + compress.flush()) + chunk(b"IEND", b"")
  )


def npz(path, compression=zipfile.ZIP_DEFLATED, encrypted=False, **members):
  """Write a zip file of .npy files, given as arrays or as bytes."""
  with zipfile.ZipFile(path, "w", compression) as archive:
    for name, value in members.items():
      content = value
      if isinstance(value, np.ndarray):
        file = io.BytesIO()
        np.save(file, value)
        content = file.getvalue()
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
  file = io.BytesIO()
  np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
  return file.getvalue()


def tar(path, *members):
  """Write a tar file of pairs of `TarInfo` and content."""
  with tarfile.open(path, "w") as archive:
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


def damaged(content, rng):
  """Return a damaged copy of a file's content: bits flipped, cut off, a part repeated, replaced or left out."""
  data, kind = bytearray(content), rng.randrange(6)
  if not data:
    return b"\0"
  place = rng.randrange(len(data))
  length = rng.randrange(1, min(len(data), 64) + 1)
  if kind == 0:
    data[place] ^= 1 << rng.randrange(8)
  elif kind == 1:
    del data[place:]
  elif kind == 2:
    data[place : place + length] = rng.randbytes(length)
  elif kind == 3:
    data[place:place] = data[place : place + length]
  elif kind == 4:
    data[place : place + length] = bytes(len(data[place : place + length]))
  else:
    data[place : place + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"])
  return bytes(data)
