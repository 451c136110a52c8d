"""What an archive stores of a file besides tiles: metadata, wrappers, or the file if that is smaller."""

import io
import struct
from unittest import mock
import zlib

import numpy as np
from PIL import Image, PngImagePlugin
import pytest

from flowpp_tf import compression
from flowpp_tf.compression.files import folder as output_folder
from flowpp_tf.compression.files import pictures, reading
from flowpp_tf.io.budget import Budget, BudgetError, use
from flowpp_tf.io.image_file import TooLargeError
from support import archives
from support.archives import files_archive, pack_files, small_codec, unpack_files
from support.files import encoded as encoded_file
from support.files import exif, png_chunk, png_chunks

pytestmark = pytest.mark.needs("constriction")
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (9, 14)).astype(np.uint8)
RGB = RNG.integers(0, 256, (9, 14, 3)).astype(np.uint8)
PROFILE = bytes(range(200))


def encoded(kind, pixels=GREY, **options):
  return encoded_file(kind, pixels, **options)


def stored(folder, names, **options):
  """The archive of files, with one segment."""
  return pack_files(reading.read_picture(folder, name, 1, **options) for name in names)


def read(data):
  return list(unpack_files(data))


def written(tmp_path, data, **options):
  """The file that comes back of the bytes of one."""
  (tmp_path / "a").write_bytes(data)
  (back,) = read(stored(tmp_path, ["a"], **options))
  return bytes(output_folder._content(back))


@pytest.mark.parametrize("levels", [256, 65536])
def test_too_little_memory_to_decode_a_file_does_not_make_it_another_kind_of_file(tmp_path, monkeypatch, levels):
  """It would be stored verbatim in silence, or, where `--test` reads it again, differ from what was stored."""
  (tmp_path / "a.png").write_bytes(encoded("PNG"))
  monkeypatch.setattr(Image, "open", mock.Mock(side_effect=MemoryError))
  with pytest.raises(TooLargeError, match="'a.png' cannot be read"):
    reading.read_picture(tmp_path, "a.png", 1, levels=levels)


# --- Metadata -----------------------------------------------------------------------------------


def test_all_chunks_of_a_png_come_back_in_their_order_and_the_pixels_too(tmp_path):
  text = PngImagePlugin.PngInfo()
  text.add_text("Title", "cell 7")
  text.add_itxt("Comment", "größer", zip=True)
  data = encoded("PNG", icc_profile=PROFILE, exif=exif(orientation=6, maker="x"), dpi=(300, 200), pnginfo=text)
  data = data[:-12] + png_chunk(b"tIME", bytes(7)) + data[-12:]
  back = written(tmp_path, data)
  others = lambda png: [chunk for chunk in png_chunks(png) if chunk[0] != b"IDAT"]
  assert others(back) == others(data) and {b"iCCP", b"eXIf", b"pHYs", b"tEXt", b"iTXt", b"tIME"} <= set(
    dict(others(back))
  )
  kinds = [kind for kind, _ in png_chunks(back)]
  assert kinds.index(b"tIME") > kinds.index(b"IDAT") > kinds.index(b"pHYs")
  np.testing.assert_array_equal(Image.open(io.BytesIO(back)), GREY)


def test_metadata_of_webp_come_back_as_chunks(tmp_path):
  """Pillow reads them from the PNG file as it reads them from the first one."""
  data = encoded("WEBP", RGB, lossless=True, icc_profile=PROFILE, exif=exif(maker="x"), xmp=b"<x/>")
  (tmp_path / "a").write_bytes(data)
  picture = reading.read_picture(tmp_path, "a", 3)
  back = Image.open(io.BytesIO(reading.with_metadata(encoded("PNG", picture.pixels), picture.metadata)))
  back.load()
  assert back.info["icc_profile"] == PROFILE
  assert back.getexif()[271] == "x" and back.info["xmp"] == b"<x/>"


PLAIN_FILES = {
  "TIFF with tags": encoded("TIFF", tiffinfo={270: "a cell", 65000: (1, 2, 3), 65001: b"\0\1\2"}, icc_profile=PROFILE),
  "TIFF with EXIF": encoded("TIFF", tiffinfo={34665: {36867: "2020:01:01 00:00:00"}}),
  "BMP with a resolution": encoded("BMP", dpi=(300, 200)),
  "PGM with a comment": encoded("PPM").replace(b"P5\n", b"P5\n# of a microscope\n"),
}


@pytest.mark.parametrize("case", PLAIN_FILES)
def test_files_without_compression_are_coded_and_come_back_with_all_that_they_hold(tmp_path, case):
  assert written(tmp_path, PLAIN_FILES[case]) == PLAIN_FILES[case]
  picture = reading.read_picture(tmp_path, "a", 1)
  np.testing.assert_array_equal(picture.pixels[..., 0], GREY)


def test_a_jpeg_file_gives_all_that_it_says_or_is_kept(tmp_path):
  segment = lambda kind, content: b"\xff" + kind + struct.pack(">H", len(content) + 2) + content
  jpeg = encoded("JPEG", RGB, icc_profile=PROFILE, exif=exif(maker="x"), dpi=(300, 200))
  comments = segment(b"\xfe", b"one") + segment(b"\xfe", b"two")
  (tmp_path / "a").write_bytes(jpeg[:2] + comments + jpeg[2:])
  picture = reading.read_picture(tmp_path, "a", 3, lossy_pixels=True)
  back = reading.with_metadata(encoded("PNG", picture.pixels), picture.metadata)
  texts = [content for kind, content in png_chunks(back) if kind == b"tEXt"]
  assert texts == [b"Comment\0one", b"Comment\0two"] and {b"iCCP", b"eXIf", b"pHYs"} <= set(dict(png_chunks(back)))
  for kind, content in ((b"\xed", b"Photoshop 3.0\0of IPTC"), (b"\xe1", b"http://ns.adobe.com/xmp/extension/\0")):
    (tmp_path / "a").write_bytes(jpeg[:2] + segment(kind, content) + jpeg[2:])
    assert reading.read_picture(tmp_path, "a", 3, lossy_pixels=True).reason == "metadata"


def test_metadata_that_would_not_come_back_keep_the_file(tmp_path):
  data = encoded("PNG", RGB)
  (tmp_path / "a").write_bytes(data[:33] + png_chunk(b"PLTE", bytes(3)) + data[33:])
  assert reading.read_picture(tmp_path, "a", 3).reason == "metadata"


BAD_METADATA = {
  "a chunk of pixels": struct.pack(">I4s", 1, b"IDAT") + b"x",
  "another header": struct.pack(">I4s", 13, b"IHDR") + bytes(13),
  "transparency": struct.pack(">I4s", 2, b"tRNS") + bytes(2),
  "frames": struct.pack(">I4s", 8, b"acTL") + bytes(8),
  "an end": struct.pack(">I4s", 0, b"IEND"),
  "no name": struct.pack(">I4s", 0, b"a\0\n7"),
  "cut off": struct.pack(">I4s", 5, b"tEXt") + b"abc",
  "cut off in a head": b"\0\0\0",
  "endless": struct.pack(">I4s", 2**32 - 1, b"tEXt") + b"abc",
}


@pytest.mark.parametrize("case", BAD_METADATA)
def test_metadata_of_strangers_cannot_make_another_picture(case):
  bad, pixels = BAD_METADATA[case], archives.example_images()[0]
  crc = zlib.crc32(pixels.tobytes() + bad)
  data = files_archive(
    [["a", "metadata", 4, 4, crc, 1, len(bad)], ["b", 2, zlib.crc32(b"hi")]], bad + b"hi", pixels[None]
  )
  first, second = read(data)
  assert isinstance(first, pictures.Lost) and "metadata" in first.reason and second.data == b"hi"


def test_many_chunks_claim_their_number():
  many = struct.pack(">I4s", 0, b"tEXt") * 30
  with use(Budget(items=20)), pytest.raises(BudgetError, match="the metadata of a file has 21 items"):
    reading.check_metadata(many)


BAD_ENTRIES = [
  ["a", "metadata", 4, 4, 0, 1],
  ["a", "metadata", 4, 4, 0, 1, 0, 0],
  ["a", "metadata", 4, 4, 0, 2, 0],
  ["a", "zip"],
  ["a", "zip", 4],
  ["a", "zip", 4, 4],
  ["a", "tiles", 10**400, 4, 0, 1],
  ["a", []],
  ["a", "verbatim", "1", 1],
  ["a", "metadata", -4, -4, 0, 1, 0],
]


@pytest.mark.parametrize("entry", BAD_ENTRIES)
def test_invalid_entries_are_refused_in_one_line(entry):
  (lost,) = read(files_archive([entry]))
  assert isinstance(lost, pictures.Lost) and "list of files cannot be read" in lost.reason and "\n" not in lost.reason


@pytest.mark.parametrize("begun", ["1", -1, 0.5, None, [0]])
@pytest.mark.parametrize("entries", [[], [["a", 0, 0]]], ids=["no file", "a file"])
def test_a_number_of_earlier_tiles_that_is_none_is_refused_in_one_line(begun, entries):
  (lost,) = read(files_archive(entries, begun=begun))
  assert isinstance(lost, pictures.Lost) and "list of files cannot be read" in lost.reason


def test_a_wrapper_of_a_stranger_does_not_fit():
  pixels = archives.example_images()[:1]
  for place, layout in ((9, 0), (0, 8), (10**9, 0)):
    (lost,) = read(files_archive([["a", "wrapper", 4, 4, 0, 1, 5, place, layout]], b"hello", pixels))
    assert isinstance(lost, pictures.Lost) and lost.reason == "its wrapper is invalid"


# --- Byte for byte ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PPM", "BMP", "TIFF"])
@pytest.mark.parametrize("pixels", [GREY, RGB], ids=["grey", "rgb"])
def test_files_without_compression_come_back_byte_for_byte_from_their_pixels(kind, pixels):
  data, image = encoded(kind, pixels), pixels.reshape(9, 14, -1)
  rest, place, layout = reading.split_wrapper(data, image)
  assert len(rest) < len(data) - image.nbytes + 1 and reading.join_wrapper(rest, place, layout, image) == data


def test_keep_bytes_gives_every_file_back(tmp_path):
  files = {"a.bmp": encoded("BMP", dpi=(70, 70)), "b.png": encoded("PNG"), "c.pgm": encoded("PPM"), "d.txt": b"hello"}
  for name, data in files.items():
    (tmp_path / name).write_bytes(data)
  assert reading.read_picture(tmp_path, "a.bmp", 1, keep_bytes=True).pixels is not None
  back = read(stored(tmp_path, files, keep_bytes=True))
  assert {item.name: item.data for item in back} == files


# --- The smaller one ----------------------------------------------------------------------------


def test_no_archive_is_larger_than_its_files_by_more_than_its_headers(tmp_path):
  """The tiny model has learned nothing of these; each file is stored as the smaller of two."""
  files = {"flat": np.full((64, 64), 7), "noise": RNG.integers(0, 256, (64, 64)), "tiny": GREY[:3, :3]}
  bits = lambda pixels: 9 * pixels.size  # of an untrained model
  empty = len(files_archive([]))
  for names in (["flat"], ["noise"], ["tiny"], ["tiny", "flat"], list(files)):
    for name in names:
      (tmp_path / name).write_bytes(encoded("PNG", files[name].astype(np.uint8)))
    data = stored(tmp_path, names, bits=bits)
    total = sum((tmp_path / name).stat().st_size for name in names)
    assert len(data) <= total + empty + 80 * len(names), (names, len(data), total)
    for item in read(data):
      expected = reading.read_picture(tmp_path, item.name, 1)
      assert item.content in (expected.content, (tmp_path / item.name).read_bytes())


def test_files_that_are_smaller_as_bytes_than_by_the_model_are_stored_verbatim():
  noise = RNG.integers(0, 256, (64, 64, 1)).astype(np.uint8)
  files = [pictures.ImageFile(name, noise, fallback=pictures.ImageFile(name, data=b"hi")) for name in ("a", "b")]
  assert [item.content for item in read(pack_files(files))] == [b"hi", b"hi"]
  writer = compression.ArchiveWriter(io.BytesIO(), small_codec(), "files")
  assert pictures.write_pictures(writer, [*files, pictures.ImageFile("c", data=b"hi")], (4, 4, 1)) == ["a", "b"]
