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
from flowpp_tf.compression.files.pictures import read_pictures, write_pictures
from support import files
from support.models import GREY, perturb, small_images

FOLDER = pathlib.Path(__file__).parents[1] / "data" / "archives"
MARK = b"FLOWPP\n\x93"


@functools.cache
def small_codec():
  """The codec of a tiny model for grey images of 4x4, without TensorFlow."""
  return compression.Codec(archive.ArchiveReader(io.BytesIO(example("uniform"))).model)


def grey_images(count, seed=0):
  """Smooth random images for `GREY`, which plain coding makes smaller too."""
  return (small_images(count, GREY, seed) // 16 + 100).astype(np.uint8)


@functools.cache
def grey_model():
  """A model of such images."""
  model = fpp.FlowPlusPlus(GREY)
  model.initialize(grey_images(64))
  return perturb(model, 0.02)


@functools.cache
def grey_codec():
  return compression.Codec(grey_model())


def example(name):
  return (FOLDER / f"{name}.fpp").read_bytes()


def example_images():
  """30 images of the tiny model."""
  return fpp.decompress(small_codec(), example("uniform"))


def arrays_archive(codec, images, **options):
  """An archive of arrays."""
  return files.written(lambda file: compression.compress_to(file, codec, images, **options))


def pack_files(pictures, codec=None, shape=(4, 4, 1), embed_model=False, **options):
  """An archive of picture files."""
  new = lambda file: archive.ArchiveWriter(file, codec or small_codec(), "files", embed_model)
  return files.written(lambda file: write_pictures(new(file), pictures, shape, **options))


def unpack_files(data, codec=None, names=None):
  """What comes back of the picture files of an archive, one by one."""
  return read_pictures(archive.ArchiveReader(io.BytesIO(data)), codec or small_codec(), names)


def images_archive(segment_images=10):
  """An archive of the 30 images."""
  return arrays_archive(small_codec(), example_images(), segment_images=segment_images)


def written(write, kind="images", embed_model=False):
  """The archive that `write(writer)` writes, of the tiny model."""

  def write_all(file):
    writer = archive.ArchiveWriter(file, small_codec(), kind, embed_model)
    write(writer)
    writer.close()

  return files.written(write_all)


def encode_segment(codec, images, extra=b"", largest=None):
  """The bytes of a segment in no place."""
  return segment.encode_fields(codec, images, extra, largest).to_bytes()


def decode_segment(codec, data):
  """The images and the extra bytes of a segment in no place; raise a `SegmentError` if it is damaged."""
  decoded = segment.decode_segment(codec, segment.Fields.from_bytes(data, codec), [b""])
  if decoded.problem:
    raise segment.SegmentError(decoded.problem)
  return decoded.images, decoded.extra


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


def files_archive(entries, content=b"", tiles=None, begun=0):
  """An archive of files with one segment, whose list of files is given."""
  text = json.dumps([begun, entries]).encode()
  extra = struct.pack("<I", len(text)) + text + content
  tiles = np.zeros((0, 4, 4, 1), np.uint8) if tiles is None else tiles
  content = archive.SegmentContent(tiles, extra)
  return written(lambda writer: writer.write_segments([content]), kind="files")
