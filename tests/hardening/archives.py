"""Archives for the fuzzer, and their checksums made right after a mutation: then only more than these can notice it."""

import functools
import hashlib
import zlib

import numpy as np

from flowpp_tf.compression import archive
from flowpp_tf.compression.files import pictures as picture_files
from support.archives import arrays_archive, grey_codec, grey_images, pack_files

IMAGES = 24


@functools.cache
def truth():
  return grey_images(IMAGES)


def of_arrays(embed_model=False, segment_images=8):
  """Return an archive of `truth()`."""
  return arrays_archive(grey_codec(), truth(), segment_images=segment_images, embed_model=embed_model)


FILES = {"a.png": (5, 7), "folder/b.png": (4, 4), "text.txt": None, "c.ppm": (9, 3)}


@functools.cache
def pictures():
  """Files by name: those with pixels, and one that is kept."""
  rng = np.random.default_rng(0)
  return tuple(
    picture_files.ImageFile(name, data=b"kept" * 40, reason="no image")
    if size is None
    else picture_files.ImageFile(name, rng.integers(100, 116, (*size, 1)).astype(np.uint8))
    for name, size in FILES.items()
  )


def of_files():
  """Return an archive of `pictures()`."""
  return pack_files(pictures(), grey_codec(), segment_images=6)


def sign(data):
  """Return an archive whose header, segments, index and end have right checksums, as far as they can be found.

  Pixels keep the digests that they were written with: who changes those as well has written another archive.
  """
  data = bytearray(data)
  _sign_header(data)
  place = data.find(archive._SEGMENT_MARK)
  while place >= 0 and place + archive._SEGMENT.size <= len(data):
    *fields, _ = archive._SEGMENT.unpack_from(data, place)
    start, size = place + archive._SEGMENT.size, fields[-1]
    if start + size > len(data):
      break
    payload = bytes(data[start : start + size])
    archive._SEGMENT.pack_into(data, place, *fields, archive._segment_crc(fields, payload))
    place = data.find(archive._SEGMENT_MARK, start + size)
  _sign_end(data)
  return bytes(data)


def _sign_header(data):
  begin = len(archive._MAGIC)
  if len(data) < begin + archive._HEAD.size:
    return
  size, _ = archive._HEAD.unpack_from(data, begin)
  text = bytes(data[begin + archive._HEAD.size :][:size])
  archive._HEAD.pack_into(data, begin, size, zlib.crc32(text))


def _sign_end(data):
  place = data.rfind(archive._INDEX_MARK)
  footer = len(data) - archive._FOOTER.size
  if not 0 <= place <= footer - archive._INDEX.size:
    return
  mark, count, _ = archive._INDEX.unpack_from(data, place)
  archive._INDEX.pack_into(data, place, mark, count, zlib.crc32(bytes(data[place + archive._INDEX.size : footer])))
  start, _, end = archive._FOOTER.unpack_from(data, footer)
  archive._FOOTER.pack_into(data, footer, start, hashlib.sha256(bytes(data[:footer])).digest(), end)
