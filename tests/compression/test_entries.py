"""What an archive stores of a file besides tiles: metadata, wrappers, or the file if that is smaller."""

import io
import json
import struct
import zlib

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin, TiffTags
import pytest

from flowpp_tf.compression import archive
from flowpp_tf.compression.files import folder as output_folder
from flowpp_tf.compression.files import pictures, reading
from flowpp_tf.io.budget import Budget, BudgetError, use
from support import archives
from support.archives import small_codec

pytestmark = pytest.mark.needs("constriction")
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (9, 14)).astype(np.uint8)
RGB = RNG.integers(0, 256, (9, 14, 3)).astype(np.uint8)
PROFILE = bytes(range(200))


def encoded(kind, pixels=GREY, **options):
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, format=kind, **options)
  return file.getvalue()


def exif(**tags):
  result = Image.Exif()
  for tag, value in tags.items():
    result[{"orientation": 274, "maker": 271}[tag]] = value
  return result


def stored(folder, names, **options):
  """The archive of files, with one segment."""
  file = io.BytesIO()
  writer = archive.ArchiveWriter(file, small_codec(), "files")
  fallen_back = pictures.write_pictures(
    writer, (reading.read_picture(folder, name, 1, **options) for name in names), (4, 4, 1)
  )
  return file.getvalue(), fallen_back


def read(data):
  return list(pictures.read_pictures(archive.ArchiveReader(io.BytesIO(data)), small_codec()))


def written(tmp_path, data, **options):
  """The file that comes back of the bytes of one."""
  (tmp_path / "a").write_bytes(data)
  (back,) = read(stored(tmp_path, ["a"], **options)[0])
  return bytes(output_folder._content(back))


def chunks(png):
  place, found = 8, []
  while place < len(png):
    size, kind = struct.unpack_from(">I4s", png, place)
    assert struct.unpack_from(">I", png, place + 8 + size)[0] == zlib.crc32(png[place + 4 : place + 8 + size])
    found.append((kind, png[place + 8 : place + 8 + size]))
    place += 12 + size
  return found


# --- Metadata -----------------------------------------------------------------------------------


def test_all_chunks_of_a_png_come_back_in_their_order_and_the_pixels_too(tmp_path):
  text = PngImagePlugin.PngInfo()
  text.add_text("Title", "cell 7")
  text.add_itxt("Comment", "größer", zip=True)
  data = encoded("PNG", icc_profile=PROFILE, exif=exif(orientation=6, maker="x"), dpi=(300, 200), pnginfo=text)
  data = data[:-12] + struct.pack(">I4s7sI", 7, b"tIME", bytes(7), zlib.crc32(b"tIME" + bytes(7))) + data[-12:]
  back = written(tmp_path, data)
  others = lambda png: [chunk for chunk in chunks(png) if chunk[0] != b"IDAT"]
  assert others(back) == others(data) and {b"iCCP", b"eXIf", b"pHYs", b"tEXt", b"iTXt", b"tIME"} <= set(
    dict(others(back))
  )
  kinds = [kind for kind, _ in chunks(back)]
  assert kinds.index(b"tIME") > kinds.index(b"IDAT") > kinds.index(b"pHYs")
  np.testing.assert_array_equal(Image.open(io.BytesIO(back)), GREY)


@pytest.mark.parametrize("kind, options", [("WEBP", {"lossless": True}), ("TIFF", {}), ("BMP", {}), ("PPM", {})])
def test_metadata_of_other_formats_come_back_as_chunks(tmp_path, kind, options):
  """Pillow reads them from the PNG file as it reads them from the first one."""
  grey = kind != "WEBP"
  of = {"WEBP": dict(icc_profile=PROFILE, exif=exif(maker="x"), xmp=b"<x/>"), "TIFF": dict(icc_profile=PROFILE),
        "BMP": {}, "PPM": {}}[kind]  # fmt: skip
  if kind in ("TIFF", "BMP"):
    of["dpi"] = (300, 200)
  data = encoded(kind, GREY if grey else RGB, **options, **of)
  if kind == "PPM":
    data = data.replace(b"P5\n", b"P5\n# of a microscope\n")
  (tmp_path / "a").write_bytes(data)
  picture = reading.read_picture(tmp_path, "a", 1 if grey else 3)
  back = Image.open(io.BytesIO(reading.with_metadata(encoded("PNG", np.squeeze(picture.pixels)), picture.metadata)))
  back.load()
  assert back.info.get("icc_profile") == of.get("icc_profile")
  if "exif" in of:
    assert back.getexif()[271] == "x" and back.info["xmp"] == b"<x/>"
  if "dpi" in of:
    assert np.allclose(back.info["dpi"], of["dpi"], atol=0.02)
  if kind == "PPM":
    assert back.info["Comment"] == "of a microscope"


def test_tags_of_a_tiff_come_back_as_exif_with_their_types(tmp_path):
  tags = {270: "a cell", 305: "a program", 65000: (1, 2, 3), 65001: b"\0\1\2", 33550: (1.5, 2.5, 0.0)}
  data = encoded("TIFF", tiffinfo=tags)
  original = Image.open(io.BytesIO(data)).tag_v2
  found = Image.open(io.BytesIO(written(tmp_path, data))).getexif()
  assert {tag: found[tag] for tag in tags} == {tag: original[tag] for tag in tags}
  assert not {256, 257, 258, 259, 273, 279} & set(found)


@pytest.mark.parametrize(
  "tag, kind, value, count",
  [
    (270, 2, "5 µm".encode(), None),  # text that is not ASCII
    (280, 3, 5, 1),  # the smallest and the largest value
    (281, 3, 200, 1),
    (700, 1, b"<x/>", 4),
    (34675, 4, 1 << 31, 1),  # a profile that is a number: no 2 GiB of zeros
    (34675, 7, PROFILE, 200),
  ],
)
def test_tags_of_any_type_come_back(tmp_path, tag, kind, value, count):
  file = io.BytesIO()
  tiff = pytest.importorskip("tifffile")
  tiff.imwrite(file, GREY, metadata=None, extratags=[(tag, kind, count, value, True)])
  before, after = Image.open(file), Image.open(io.BytesIO(written(tmp_path, file.getvalue())))
  assert after.format == "PNG"
  if name := {700: "xmp", 34675: "icc_profile"}.get(tag if isinstance(value, bytes) else 0):
    assert after.info[name] == value
  else:
    assert np.array_equal(np.ravel(after.getexif()[tag]), np.ravel(before.tag_v2[tag]))


PIXELS_LIKE_A_COMMENT = b"#no comment\n".ljust(40, b"x")
PPM_HEADERS = {
  "after the size": (b"P5\n%d %d\n# late\n255\n", [b"late"]),
  "none, and pixels that look like one": (b"P5 %d %d 255\n", []),
  "several": (b"P5 # one\n#two\n%d\n%d # 255\n 255 ", [b"one", b"two", b"255"]),
}


@pytest.mark.parametrize("case", PPM_HEADERS)
@pytest.mark.parametrize("width", [8, 255])
def test_comments_of_ppm_are_those_of_its_header(tmp_path, case, width):
  header, comments = PPM_HEADERS[case]
  (tmp_path / "a").write_bytes(header % (width, 5) + PIXELS_LIKE_A_COMMENT.ljust(5 * width, b"x"))
  picture = reading.read_picture(tmp_path, "a", 1)
  assert picture.reason == ""
  expected = [struct.pack(">I4s", 8 + len(text), b"tEXt") + b"Comment\0" + text for text in comments]
  assert picture.metadata == b"".join(expected)


def test_a_jpeg_file_gives_all_that_it_says_or_is_kept(tmp_path):
  segment = lambda kind, content: b"\xff" + kind + struct.pack(">H", len(content) + 2) + content
  jpeg = encoded("JPEG", RGB, icc_profile=PROFILE, exif=exif(maker="x"), dpi=(300, 200))
  comments = segment(b"\xfe", b"one") + segment(b"\xfe", b"two")
  (tmp_path / "a").write_bytes(jpeg[:2] + comments + jpeg[2:])
  picture = reading.read_picture(tmp_path, "a", 3, lossy_pixels=True)
  back = reading.with_metadata(encoded("PNG", picture.pixels), picture.metadata)
  texts = [content for kind, content in chunks(back) if kind == b"tEXt"]
  assert texts == [b"Comment\0one", b"Comment\0two"] and {b"iCCP", b"eXIf", b"pHYs"} <= set(dict(chunks(back)))
  for kind, content in ((b"\xed", b"Photoshop 3.0\0of IPTC"), (b"\xe1", b"http://ns.adobe.com/xmp/extension/\0")):
    (tmp_path / "a").write_bytes(jpeg[:2] + segment(kind, content) + jpeg[2:])
    assert reading.read_picture(tmp_path, "a", 3, lossy_pixels=True).reason == "metadata"


def test_metadata_that_would_not_come_back_keep_the_file(tmp_path):
  (tmp_path / "a").write_bytes(encoded("TIFF", tiffinfo={34665: {36867: "2020:01:01 00:00:00"}}))
  assert reading.read_picture(tmp_path, "a", 1).reason == "EXIF"
  folder = TiffImagePlugin.ImageFileDirectory_v2()
  folder.tagtype[65000], folder[65000] = TiffTags.IFD, 8  # by its type
  for tags in (folder, {400: 8}):
    (tmp_path / "a").write_bytes(encoded("TIFF", tiffinfo=tags))
    assert reading.read_picture(tmp_path, "a", 1).reason == "EXIF"
  chunk = struct.pack(">I", 3) + b"PLTE" + bytes(3) + struct.pack(">I", zlib.crc32(b"PLTE" + bytes(3)))
  data = encoded("PNG", RGB)
  (tmp_path / "a").write_bytes(data[:33] + chunk + data[33:])
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
  data = list_archive(
    [["a", "metadata", 4, 4, crc, 1, len(bad)], ["b", 2, zlib.crc32(b"hi")]], bad + b"hi", pixels[None]
  )
  first, second = read(data)
  assert isinstance(first, pictures.Lost) and "metadata" in first.reason and second.data == b"hi"


def test_many_chunks_claim_their_number():
  many = struct.pack(">I4s", 0, b"tEXt") * 30
  with use(Budget(items=20)), pytest.raises(BudgetError, match="the metadata of a file has 21 items"):
    reading.check_metadata(many)


def list_archive(entries, content=b"", tiles=None, begun=0):
  """An archive of files with one segment, whose list of files is given."""
  text = json.dumps([begun, entries]).encode()
  file = io.BytesIO()
  writer = archive.ArchiveWriter(file, small_codec(), "files")
  tiles = np.zeros((0, 4, 4, 1), np.uint8) if tiles is None else tiles
  list(writer.write_segments([archive.SegmentContent(tiles, struct.pack("<I", len(text)) + text + content)]))
  writer.close()
  return file.getvalue()


BAD_ENTRIES = [
  ["a", "metadata", 4, 4, 0, 1],
  ["a", "metadata", 4, 4, 0, 1, 0, 0],
  ["a", "metadata", 4, 4, 0, 2, 0],
  ["a", "metadata", 4, 4, 0, 1, 10**15],
  ["a", "wrapper", 4, 4, 0, 1, 5, 0, 0],
  ["a", "zip", 4, 4],
  ["a", []],
  ["a", "verbatim", "1", 1],
  ["a", "metadata", -4, -4, 0, 1, 0],
]


@pytest.mark.parametrize("entry", BAD_ENTRIES)
def test_invalid_entries_are_refused_in_one_line(entry):
  (lost,) = read(list_archive([entry]))
  assert isinstance(lost, pictures.Lost) and "list of files cannot be read" in lost.reason and "\n" not in lost.reason


@pytest.mark.parametrize("begun", ["1", -1, 0.5, None, [0]])
@pytest.mark.parametrize("entries", [[], [["a", 0, 0]]], ids=["no file", "a file"])
def test_a_number_of_earlier_tiles_that_is_none_is_refused_in_one_line(begun, entries):
  (lost,) = read(list_archive(entries, begun=begun))
  assert isinstance(lost, pictures.Lost) and "list of files cannot be read" in lost.reason


def test_a_wrapper_of_a_stranger_does_not_fit():
  pixels = archives.example_images()[:1]
  for place, layout in ((9, 0), (0, 8), (10**9, 0)):
    (lost,) = read(list_archive([["a", "wrapper", 4, 4, 0, 1, 5, place, layout]], b"hello", pixels))
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
  back = read(stored(tmp_path, files, keep_bytes=True)[0])
  assert {item.name: item.data for item in back} == files


# --- The smaller one ----------------------------------------------------------------------------


def test_no_archive_is_larger_than_its_files_by_more_than_its_headers(tmp_path):
  """The tiny model has learned nothing of these; each file is stored as the smaller of two."""
  files = {"flat": np.full((64, 64), 7), "noise": RNG.integers(0, 256, (64, 64)), "tiny": GREY[:3, :3]}
  bits = lambda pixels: 9 * pixels.size  # of an untrained model
  empty = len(list_archive([]))
  for names in (["flat"], ["noise"], ["tiny"], ["tiny", "flat"], list(files)):
    for name in names:
      (tmp_path / name).write_bytes(encoded("PNG", files[name].astype(np.uint8)))
    data, fallen_back = stored(tmp_path, names, bits=bits)
    total = sum((tmp_path / name).stat().st_size for name in names)
    assert len(data) <= total + empty + 80 * len(names), (names, len(data), total)
    assert set(fallen_back) <= set(names)
    for item in read(data):
      expected = reading.read_picture(tmp_path, item.name, 1)
      assert item.content in (expected.content, (tmp_path / item.name).read_bytes())


def test_the_files_that_are_stored_as_their_fallbacks_are_named():
  """They are smaller as bytes than by the model."""
  noise = RNG.integers(0, 256, (64, 64, 1)).astype(np.uint8)
  files = [pictures.ImageFile(name, noise, fallback=pictures.ImageFile(name, data=b"hi")) for name in ("a", "b")]
  file = io.BytesIO()
  writer = archive.ArchiveWriter(file, small_codec(), "files")
  assert pictures.write_pictures(writer, files, (4, 4, 1)) == ["a", "b"]
  assert [item.content for item in read(file.getvalue())] == [b"hi", b"hi"]
