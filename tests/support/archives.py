"""Archives to attack: taken apart, changed, and put together with all outer checksums right."""

import functools
import hashlib
import io
import json
import pathlib
import struct
import zlib

import numpy as np

import flowpp_tf as fpp
from flowpp_tf import compression
from flowpp_tf.compression import archive, segment

FOLDER = pathlib.Path(__file__).parents[1] / "data" / "archives"
MARK = b"FLOWPP\n\x93"


@functools.cache
def small_codec():
  """The codec of a tiny model for grey images of 4x4, without TensorFlow."""
  return compression.Codec(archive.ArchiveReader(io.BytesIO(example("uniform"))).model)


def example(name):
  return (FOLDER / f"{name}.fpp").read_bytes()


def example_images():
  """30 images of the tiny model."""
  return fpp.decompress(small_codec(), example("uniform"))


def images_archive(segment_images=10):
  """An archive of the 30 images."""
  file = io.BytesIO()
  compression.compress_to(file, small_codec(), example_images(), segment_images=segment_images)
  return file.getvalue()


def written(write, kind="images", embed_model=False):
  """The archive that `write(writer)` writes, of the tiny model."""
  file = io.BytesIO()
  writer = archive.ArchiveWriter(file, small_codec(), kind, embed_model)
  write(writer)
  writer.close()
  return file.getvalue()


def encode_segment(codec, images, extra=b"", largest=None):
  """The bytes of a segment in no place."""
  return segment.encode_fields(codec, images, extra, largest).to_bytes()


def decode_segment(codec, data):
  """The images and the extra bytes of a segment in no place."""
  return segment.decode_segment(codec, segment.Fields.from_bytes(data, codec), [b""])


def apart(data):
  """The beginning of an archive, and its segments: number of images and bytes."""
  reader = archive.ArchiveReader(io.BytesIO(data))
  found = [(part.images, part.data) for part in reader.segments()]
  return data[: int(reader.index()["position"][0])], found


def put_together(beginning, segments, index=None, firsts=None):
  """An archive of segments, with the numbers of the first images and all checksums that fit.

  Args:
    beginning: of an archive.
    segments: number of images and bytes of each; bytes instead are written as they are.
    index: which of the segments the index has; all if None. Entries may be pairs of a segment and a number of images.
    firsts: numbers of the first images; those that fit if None.
  """
  data, entries, first = beginning, [], 0
  for number, part in enumerate(segments):
    if isinstance(part, bytes):
      data += part
      continue
    images, payload = part
    entries.append((len(data), images))
    head = struct.pack("<4sQIQ", b"SEGM", first if firsts is None else firsts[number], images, len(payload))
    data += head + struct.pack("<I", zlib.crc32(payload, zlib.crc32(head))) + payload
    first += images
  if index is not None:
    entries = [entries[i] if isinstance(i, int) else (entries[i[0]][0], i[1]) for i in index]
  start, table = len(data), b"".join(struct.pack("<QI", *entry) for entry in entries)
  data += struct.pack("<4sII", b"INDX", len(entries), zlib.crc32(table)) + table
  return data + struct.pack("<Q", start) + hashlib.sha256(data).digest() + MARK


def files_archive(entries, content=b"", tiles=None):
  """An archive of files with one segment, whose list of files is given."""
  text = json.dumps([0, entries]).encode()
  extra = struct.pack("<I", len(text)) + text + content
  tiles = np.zeros((0, 4, 4, 1), np.uint8) if tiles is None else tiles
  content = archive.SegmentContent(tiles, extra)
  return written(lambda writer: list(writer.write_segments([content])), kind="files")
