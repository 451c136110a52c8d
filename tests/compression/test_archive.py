"""Archives: everything comes back or an error says what is lost; files, damages, programs, stored archives."""

import collections
import dataclasses
import functools
import hashlib
import io
import json
import random
import re
import struct
import zlib

import numpy as np
from PIL import Image, PngImagePlugin
import pytest

import flowpp_tf as fpp
from flowpp_tf import compression
from flowpp_tf.compression import archive, segment
from flowpp_tf.compression.files import pictures, reading
from flowpp_tf.compression.files.folder import OutputFolder
from flowpp_tf.compression.lzma_images import decode_lzma_images, encode_lzma_images, pack, unpack
from flowpp_tf.data import load_dataset
from flowpp_tf.tiles.cutting import count_tiles, from_tiles, to_tiles
from hardening.mutations import mutate_bytes
from support import archives
from support import programs as program_calls
from support.archives import arrays_archive, grey_codec, grey_images, grey_model, pack_files, unpack_files
from support.files import flipped
from support.marks import slow
from support.models import GREY, small_images
from support.programs import REFERENCE
from support.refusing import refuses

pytestmark = pytest.mark.needs("constriction")

RNG = np.random.default_rng


@functools.cache
def data(count=70, segment_images=30):
  return arrays_archive(grey_codec(), grey_images(count), segment_images=segment_images)


# --- Parts --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_64_images_have_a_checksum():
  """So many are lost with one of them: the others before it and after it are known."""
  encoded = archives.encode_segment(grey_codec(), grey_images(200), largest=1)
  plain = struct.unpack_from("<9I", encoded)[1]
  fields = segment.Fields.from_bytes(flipped(encoded, len(encoded) // 3, 255), grey_codec())
  decoded = segment.decode_segment(grey_codec(), fields, [b""])
  assert decoded.problem == "pixels have the wrong checksum"
  np.testing.assert_array_equal(decoded.known, np.arange(200) >= plain + 64)
  np.testing.assert_array_equal(decoded.images[decoded.known], grey_images(200)[plain + 64 :])
  assert not decoded.images[~decoded.known].any() and decoded.extra == b""


# Whatever changes a number of the codec loses files such as digits.fpp.
def test_a_stored_archive_is_decoded():
  codec = compression.Codec(fpp.FlowPlusPlus.from_preset("digits"))
  decoded = fpp.decompress(codec, (REFERENCE / "digits.fpp").read_bytes())
  np.testing.assert_array_equal(decoded, load_dataset("digits").test)


@pytest.mark.slow
def test_a_segment_is_written_as_in_the_stored_archive():
  codec = compression.Codec(fpp.FlowPlusPlus.from_preset("digits"))
  stored, again = (REFERENCE / "digits.fpp").read_bytes(), fpp.compress(codec, load_dataset("digits").test)
  (stored,), (again,) = (archive.ArchiveReader(io.BytesIO(data)).segments() for data in (stored, again))
  assert again.data == stored.data


@pytest.mark.parametrize("dtype, levels", [(np.uint8, 256), (np.uint16, 1 << 16)])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 5, 7, 3), (2, 8, 8, 1), (0, 4, 4, 1)])
def test_plain_images_come_back(shape, dtype, levels):
  ramp = np.indices(shape).sum(axis=0) * 3 * levels // 256 % levels
  for array in (RNG(0).integers(0, levels, shape), np.zeros(shape), np.full(shape, levels - 1), ramp):
    array = array.astype(dtype)
    np.testing.assert_array_equal(decode_lzma_images(encode_lzma_images(array), shape, dtype), array)
    with pytest.raises(ValueError, match="hold fewer than"):
      decode_lzma_images(encode_lzma_images(array), (shape[0] + 1, *shape[1:]), dtype)


def test_plain_photographs_are_predicted_by_the_median():
  """Against the definition of JPEG-LS, value by value; in eight bits the encoder takes it."""
  for levels, dtype in ((1 << 8, np.uint8), (1 << 16, np.uint16)):
    images = (load_dataset("photos").test[100:101, :20, :30].astype(int) * 257 % levels).astype(dtype)
    differences = np.diff(images, axis=3, prepend=dtype(0)).astype(int)
    padded, residuals = np.pad(differences, ((0, 0), (1, 0), (1, 0), (0, 0))), differences.copy()
    for n, y, x, c in np.ndindex(images.shape):
      left, above, corner = padded[n, y + 1, x, c], padded[n, y, x + 1, c], padded[n, y, x, c]
      residuals[n, y, x, c] -= sorted((left, above, left + above - corner))[1]
    low, high = ((residuals % levels >> shift).astype(np.uint8).tobytes() for shift in (0, 8))
    stored = b"\4" + pack(low if levels == 256 else low + high)
    np.testing.assert_array_equal(decode_lzma_images(stored, images.shape, dtype), images)
    assert levels > 256 or encode_lzma_images(images) == stored


def test_plain_bytes_never_take_more_memory_than_they_should():
  bomb = encode_lzma_images(np.zeros((1, 2000, 2000, 1), np.uint8))
  assert len(bomb) < 1000
  for broken in (bomb, bomb[:50], b"", b"\x09", b"\x00abc"):
    with pytest.raises(ValueError, match="compressed bytes (are damaged|hold more)|LZMA images of an unknown kind"):
      decode_lzma_images(broken, (1, 4, 4, 1))
  with pytest.raises(ValueError, match="hold more than the 10 expected"):
    unpack(bomb[1:], 10)


@pytest.mark.parametrize("height, width", [(1, 1), (4, 4), (5, 9), (12, 3)])
def test_tiles_come_together_again(height, width):
  image = RNG(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
  tiles = to_tiles(image, (4, 6, 3))
  assert len(tiles) == count_tiles(height, width, (4, 6, 3))
  np.testing.assert_array_equal(from_tiles(tiles, height, width), image)


# --- Round trips --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 9, 70])
def test_images_come_back(count):
  compressed = fpp.compress(grey_codec(), grey_images(count))
  np.testing.assert_array_equal(fpp.decompress(grey_model(), compressed), grey_images(count))


def test_an_archive_with_its_model_needs_nothing_else():
  compressed = fpp.compress(grey_codec(), grey_images(5), embed_model=True)
  np.testing.assert_array_equal(fpp.decompress(None, compressed), grey_images(5))
  refuses("the archive does not hold its model", fpp.decompress, None, data())


def test_the_size_is_the_bound_and_a_constant():
  many = grey_images(1500)
  extra = len(fpp.compress(grey_codec(), many)) - grey_model().bits_per_dim(many, seed=0).numpy().mean() * many.size / 8
  # The header, the index, a table of batches, what the plain images at the beginning cost; then 1 % of sampling error.
  assert 0 < extra < 900 + 0.01 * many.size / 2


def test_segments_are_independent_of_each_other():
  reader = archive.ArchiveReader(io.BytesIO(data()))
  entries = reader.index()
  assert entries["images"].tolist() == [30, 30, 10]
  (part,) = reader.decoded(grey_codec(), [1])
  assert part.problem == "" and part.known.all()
  np.testing.assert_array_equal(part.images, grey_images(70)[30:60])


@pytest.mark.parametrize("start, stop", [(0, 1), (29, 31), (60, None), (5, 5), (0, 70), (65, 500)])
def test_some_images_are_decoded_without_the_others(start, stop, monkeypatch):
  decoded = []
  decode = archive.decode_segment
  monkeypatch.setattr(archive, "decode_segment", lambda *args: decoded.append(1) or decode(*args))
  np.testing.assert_array_equal(fpp.decompress(grey_codec(), data(), start, stop), grey_images(70)[start:stop])
  assert len(decoded) == {(0, 1): 1, (29, 31): 2, (60, None): 1, (5, 5): 0, (0, 70): 3, (65, 500): 1}[start, stop]


def test_batches_grow_with_the_stack():
  """The first batch is one image: its bits are paid by what must be stored anyway."""
  fields = struct.unpack_from("<9I", archives.encode_segment(grey_codec(), grey_images(600)))
  total, plain, batches = fields[:3]
  assert total == 600 and plain <= 12 and batches < 60


def test_what_is_not_an_image_of_the_model_is_refused():
  refuses(r"`images` must be of shape \[N, 4, 4, 1\]", fpp.compress, grey_codec(), np.zeros((3, 5, 4, 1), np.uint8))
  refuses("must lie in 0 .. 255", fpp.compress, grey_codec(), np.full((3, 4, 4, 1), 300))


# --- When noise leaves its range ----------------------------------------------------------------


class Stubborn:
  """A codec that refuses some pushes; it counts them from 1."""

  def __init__(self, refuses):
    self._codec, self._refuses, self.pushes = grey_codec(), refuses, []
    self.shape, self.levels, self.num_dims = self._codec.shape, self._codec.levels, self._codec.num_dims
    self.initial_bits, self.dtype = self._codec.initial_bits, self._codec.dtype
    self.pop, self.sees_neighbours = self._codec.pop, False
    self.pays_in_threads = lambda count: True

  def push(self, stack, batch):
    self.pushes.append(len(batch))
    if self._refuses(self, batch):
      raise segment.WindowError((batch == 77).reshape(len(batch), -1).any(axis=1))
    self._codec.push(stack, batch)


def table_of(encoded):
  """Images and salts of each batch."""
  (table_size,) = struct.unpack_from("<I", encoded, 28)
  table = unpack(encoded[36 : 36 + table_size], 3 * struct.unpack_from("<I", encoded, 8)[0])
  return np.frombuffer(table, [("images", "<u2"), ("salts", "u1")])


def test_another_draw_is_tried_with_salt():
  codec = Stubborn(lambda self, batch: len(self.pushes) in (3, 4))
  encoded = archives.encode_segment(codec, grey_images(40))
  assert table_of(encoded)["salts"].tolist()[:4] == [0, 0, 2, 0]
  np.testing.assert_array_equal(archives.decode_segment(grey_codec(), encoded)[0], grey_images(40))


def test_an_image_that_cannot_be_coded_is_plain():
  array = grey_images(40)
  array[[11, 25], 1, 2] = 77
  codec = Stubborn(lambda self, batch: (batch == 77).any())
  encoded = archives.encode_segment(codec, array, b"extra")
  assert struct.unpack_from("<9I", encoded)[3] == 2
  decoded, extra = archives.decode_segment(grey_codec(), encoded)
  np.testing.assert_array_equal(decoded, array)
  assert extra == b"extra"


@pytest.mark.parametrize("wrong", [1, 2, 100])
def test_a_batch_that_does_not_decode_is_not_committed(wrong):
  """Some checks of the third batch pushed find other pixels: more salt, then plain coding."""
  checks, pushed = collections.Counter(), {}  # batches are told apart by their pushes: checks overtake each other

  def note(codec, batch):
    pushed.setdefault(batch.astype(int).tobytes(), len(pushed))
    return False

  codec = Stubborn(note)
  pop = codec.pop

  def pop_wrongly(stack, count):
    decoded = pop(stack, count)
    key = decoded.astype(int).tobytes()
    checks[key] += 1
    return decoded + (pushed[key] == 2 and checks[key] <= wrong)

  codec.pop = pop_wrongly
  encoded = archives.encode_segment(codec, grey_images(40))
  _, plain, batches, late = struct.unpack_from("<4I", encoded)
  assert wrong == 100 or table_of(encoded)["salts"][2] == wrong
  assert (late == 0) == (wrong < 100) and plain + late + int(table_of(encoded)["images"].sum()) == 40
  np.testing.assert_array_equal(archives.decode_segment(grey_codec(), encoded)[0], grey_images(40))


def test_pixel_values_that_the_model_does_not_have_are_plain():
  seventeen = fpp.FlowPlusPlus(dataclasses.replace(GREY, levels=17))
  codec = compression.Codec(seventeen)
  array = small_images(60, seventeen.config)
  array[50, 0, 0] = 200
  np.testing.assert_array_equal(archives.decode_segment(codec, archives.encode_segment(codec, array))[0], array)


# --- Damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [30, slow(None)])
def test_no_damage_gives_a_wrong_image_without_an_error(request, count):
  rng, original = random.Random(0), grey_images(70)
  for _ in range(count or request.config.getoption("--damages")):
    compressed = mutate_bytes(data(), rng, data())
    if compressed == data():
      continue
    try:
      fpp.decompress(grey_codec(), compressed)
    except compression.LostImagesError as error:
      known = np.setdiff1d(np.arange(len(error.images)), error.lost)
      np.testing.assert_array_equal(error.images[known], original[known])
    except compression.ArchiveError:
      pass
    else:
      pytest.fail("damage was not found")


def with_payload(change):
  """The archive with a payload that `change` made, and checksums that fit it."""
  payload = change(segment.encode_fields(grey_codec(), grey_images(40)).to_bytes(struct.pack("<Q?", 0, True)))
  return archives.put_together(archives.apart(data())[0], [(40, payload)])


@pytest.mark.parametrize("field", range(9))
@pytest.mark.parametrize("value", [slow(0), slow(1), slow(2**16), 2**31 - 1, slow(2**32 - 1)])
def test_a_hostile_segment_takes_neither_time_nor_memory(field, value):
  compressed = with_payload(lambda data: data[: 4 * field] + struct.pack("<I", value) + data[4 * field + 4 :])
  try:
    result = fpp.decompress(grey_codec(), compressed)
  except compression.ArchiveError:
    return
  np.testing.assert_array_equal(result, grey_images(40))  # the field had this value


def test_bits_of_a_stack_that_no_encoder_wrote_end_in_an_error():
  compressed = with_payload(lambda payload: payload[:-400] + bytes(RNG(0).integers(0, 256, 400).astype(np.uint8)))
  with pytest.raises(compression.LostImagesError, match="40 of 40 images lost"):
    fpp.decompress(grey_codec(), compressed)


def test_what_is_lost_is_named_and_the_rest_is_there():
  position = int(archive.ArchiveReader(io.BytesIO(data())).index()["position"][1])
  compressed = flipped(data(), position + 100)
  with pytest.raises(compression.LostImagesError, match="wrong checksum; .*30 of 70 images lost") as error:
    fpp.decompress(grey_codec(), compressed)
  np.testing.assert_array_equal(error.value.lost, np.arange(30, 60))
  np.testing.assert_array_equal(error.value.images[60:], grey_images(70)[60:])
  with pytest.raises(compression.LostImagesError, match="20 of 25 images lost") as error:
    fpp.decompress(grey_codec(), compressed, start=-30, stop=65)
  np.testing.assert_array_equal(error.value.lost, np.arange(20))
  np.testing.assert_array_equal(error.value.images[20:], grey_images(70)[60:65])
  end = int(archive.ArchiveReader(io.BytesIO(data())).index()["position"][2])
  for truncated in (data()[:end], data()[: end + 9]):  # whole segments are decoded, whose places are not known
    with pytest.raises(compression.LostImagesError, match="truncated.*; 0 of 60 images lost") as error:
      fpp.decompress(grey_codec(), truncated)
    np.testing.assert_array_equal(error.value.images, grey_images(70)[:60])


def header_with(**fields):
  size, _ = struct.unpack_from("<II", data(), 8)
  text = json.dumps({**json.loads(data()[16 : 16 + size]), **fields}).encode()
  return data()[:8] + struct.pack("<II", len(text), zlib.crc32(text)) + text + data()[16 + size :]


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"version": 3}, "has version 3 of the format; this program reads versions 4 and 5"),
    ({"version": "4"}, "has version '4' of the format; this program reads versions 4 and 5"),
    ({"model": 32 * "0"}, "was made with another model"),
    ({"tier": "portable"}, "header is invalid"),
    ({"embedded": 10**12}, "truncated: it ends in its model"),
    ({"embedded": -1}, "header is invalid"),
    ({"image_shape": 5}, "header is invalid"),
    ({"more": 1}, "header is invalid"),
  ],
)
def test_an_archive_that_is_not_for_this_coder_is_refused(fields, message):
  with pytest.raises(compression.ArchiveError, match=message):
    fpp.decompress(grey_codec(), header_with(**fields))


def test_nested_json_is_refused():
  text = b"[" * 30000
  with pytest.raises(compression.ArchiveError, match="header cannot be read"):
    fpp.decompress(grey_codec(), data()[:8] + struct.pack("<II", len(text), zlib.crc32(text)) + text)


@pytest.mark.parametrize(
  "change",
  [
    {"image_shape": [4, 4]},
    {"image_shape": [2**20, 2**20, 1]},
    {"levels": "many"},
    {"flow": None},
    {"alpha": 0},
    {"augmenter": {"channels": 2**40, "flow": None, "context": None}},
    {"dequantizer": {"flow": {}, "context": {}}},
  ],
)
def test_a_model_without_meaning_is_refused(change):
  broken = dataclasses.replace(grey_codec().model, description={**grey_codec().model.description, **change})
  if change == {"alpha": 0}:  # which is another model
    assert compression.Codec(broken).model_hash != grey_codec().model_hash
    return
  refuses("the codec model is invalid|the codec is for images of up to", compression.Codec, broken)


def test_weights_that_an_archive_does_not_hold_are_refused():
  """With float64 the archive had the hash of the rounded model, in which its images do not decode."""
  weights = {name: value.astype(np.float64) * (1 + 1e-9) for name, value in grey_codec().model.weights.items()}
  with pytest.raises(fpp.InputError, match="the weights of the model must be float32, got float64 in flow/0/scale"):
    dataclasses.replace(grey_codec().model, weights=weights)


def test_what_is_no_archive_is_refused():
  for content in (b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(100), data()[:20]):
    with pytest.raises(compression.ArchiveError, match="not a flowpp_tf archive|truncated"):
      fpp.decompress(grey_codec(), content)


# --- Files --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
  """Files of several kinds."""
  rng, path = RNG(0), tmp_path / "files"
  (path / "below").mkdir(parents=True)
  grey = lambda *shape: Image.fromarray((rng.integers(0, 16, shape) + 90).astype(np.uint8))
  grey(9, 14).save(path / "a.png")
  grey(4, 4).save(path / "a.webp", lossless=True)
  grey(30, 30).save(path / "below" / "large.png")
  grey(5, 5).save(path / "photo.jpg")
  grey(5, 5, 3).save(path / "colour.png")
  grey(6, 6).convert("P").save(path / "palette.png")
  (path / "broken.png").write_bytes(b"hello")
  return path


NAMES = ["a.png", "a.webp", "below/large.png", "broken.png", "colour.png", "palette.png", "photo.jpg"]


def archive_of(folder, names=NAMES, segment_images=16):
  files = (reading.read_picture(folder, name, 1) for name in names)
  return pack_files(files, grey_codec(), segment_images=segment_images)


def test_all_files_come_back(folder):
  back = list(unpack_files(archive_of(folder), grey_codec()))
  assert sorted(item.name for item in back) == NAMES
  for item in back:
    if item.name in ("a.png", "below/large.png"):
      np.testing.assert_array_equal(item.pixels[..., 0], np.asarray(Image.open(folder / item.name)))
    else:
      assert item.data == (folder / item.name).read_bytes()
  some = unpack_files(archive_of(folder), grey_codec(), ["below/large.png"])
  assert [item.name for item in some] == ["below/large.png"]


@pytest.mark.parametrize("names", [["photo.jpg", "broken.png"], ["a.png"], []])
def test_a_few_files_or_none_with_pixels_come_back(folder, names):
  back = list(unpack_files(archive_of(folder, names), grey_codec()))
  assert [item.content for item in back] == [reading.read_picture(folder, name, 1).content for name in names]


def test_files_of_a_damaged_segment_are_named(folder):
  compressed = archive_of(folder)
  entries = archive.ArchiveReader(io.BytesIO(compressed)).index()
  assert len(entries) == 7  # 76 tiles, and two of files without tiles
  back: list = []
  with pytest.raises(compression.ArchiveError, match="its hash is wrong"):
    for item in unpack_files(flipped(compressed, int(entries["position"][2]) + 50, 4), grey_codec()):
      back.append((type(item).__name__, item.name))
  # The large file has tiles in the segment; those behind it begin in later ones.
  found = ["a.png", "a.webp", *NAMES[3:]]
  assert sorted(back) == [*(("ImageFile", name) for name in found), ("Lost", ""), ("Lost", "below/large.png")]


def verbatim_archive():
  """An archive of 150 small files without tiles among eight images, and the files by name."""
  rng, files = RNG(0), {}
  for i in range(158):
    name = f"{i:03}"
    if i % 20:
      files[name] = pictures.ImageFile(name, data=rng.bytes(int(rng.integers(200, 10_000))), reason="no image")
    else:
      files[name] = pictures.ImageFile(name, rng.integers(90, 106, (5, 20, 1)).astype(np.uint8))
  return pack_files(files.values(), grey_codec(), segment_images=16), files


def files_lost(data, files):
  """How many files of an archive do not come back; those that do are right, and what is lost is said."""
  lost = {**files}
  said = False
  try:
    for item in unpack_files(data, grey_codec()):
      if isinstance(item, pictures.ImageFile):
        assert item.content == lost.pop(item.name).content
      else:
        assert not item.name or item.name in lost
        said = True
  except compression.ArchiveError:
    said = True
  assert said
  return len(lost)


@pytest.mark.parametrize("flips", [8, slow(200)])
def test_a_flipped_byte_loses_the_files_of_one_segment(flips):
  """Prints the table of docs/compression.md (`-s`)."""
  data, files = verbatim_archive()
  index, rows = archive.ArchiveReader(io.BytesIO(data)).index(), {}
  assert sorted(files) == sorted(item.name for item in unpack_files(data, grey_codec()))
  begin, end = int(index["position"][0]), struct.unpack_from("<Q", data, len(data) - 48)[0]
  for position in np.linspace(0, len(data) - 1, flips).astype(int).tolist():
    part = "index and end" if position >= end else "header"
    if begin <= position < end:
      segment_images = index["images"][np.searchsorted(index["position"], position, "right") - 1]
      part = "segments with images" if segment_images else "segments of files stored verbatim"
    rows.setdefault(part, []).append(files_lost(flipped(data, position, 1 << position % 8), files))
  for part, lost in rows.items():
    print(f"| {part} | {len(lost)} | {np.mean(lost):.2f} | {max(lost)} |")
  assert rows["header"] == [len(files)] and not any(rows["index and end"])
  ours = rows["segments of files stored verbatim"]
  assert max(rows.get("segments with images", [0])) <= 3 and max(ours) <= 8 and np.median(ours) == 1


def test_a_damaged_segment_of_files_leaves_the_image_around_it():
  """Its tiles lie in the segments before and behind."""
  noise = RNG(0).integers(90, 106, (16, 20, 1)).astype(np.uint8)
  files = [
    picture("a", data=RNG(0).bytes(9000)),
    pictures.ImageFile("b", noise),
    *(picture(c, data=RNG(1).bytes(9000)) for c in "cde"),
  ]
  written = pack_files(files, grey_codec(), segment_images=16)
  index = archive.ArchiveReader(io.BytesIO(written)).index()
  assert index["images"].tolist() == [16, 0, 4, 0, 0, 0]  # 20 tiles; `a` behind the first, the others behind the last
  for number, lost in {1: "a", 3: "c", 4: "d", 5: "e"}.items():
    compressed, found = flipped(written, int(index["position"][number]) + 200), []
    with pytest.raises(compression.ArchiveError, match="its hash is wrong"):
      for item in unpack_files(compressed, grey_codec()):
        found.append((item.name, isinstance(item, pictures.ImageFile)))
    assert sorted(each for each in found if each[0]) == [(name, name != lost) for name in "abcde"], number


def picture(name, pixels=False, data=b"hello"):
  return pictures.ImageFile(name, np.zeros((2, 2, 1), np.uint8)) if pixels else pictures.ImageFile(name, data=data)


def test_no_file_leaves_the_folder_and_none_covers_another(tmp_path):
  files = (("a.png", True), ("a.jpg", True), ("b/c.webp", False), ("a.png", False), ("d: 1.png", True))
  with OutputFolder(tmp_path / "out").writing() as output:
    paths = [output.write(picture(name, pixels)) for name, pixels in files]
    assert paths == ["a.png", "a.jpg.png", "b/c.webp", "a.1.png", "d: 1.png"]
    for name in ("/etc/passwd", "../x", "a/../../x", "", "a\0b"):
      with pytest.raises(compression.ArchiveError, match="leads out of the folder"):
        output.write(picture(name, False))
  assert all((tmp_path / "out" / path).is_file() for path in paths)


# --- Programs -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run's directory whose model is `grey_model()`, as a preset."""
  path = tmp_path_factory.mktemp("compression")
  grey_model().save_to_preset(path / "tiny")
  return path


WITHOUT_TENSORFLOW = [  # bin/decompress, for `elsewhere`
  "-c",
  "import sys; sys.argv[0] = 'decompress'\n"
  "sys.modules.update({name: None for name in ('tensorflow', 'keras', 'tensorflow_probability')})\n"
  f"sys.path.insert(0, {str(program_calls.ROOT)!r})\n"
  "from flowpp_tf.programs.command import run_command; run_command('decompress')",
]


def call(cwd, program, *arguments, start=program_calls.call, **environment):
  """What a program writes."""
  result = start(program, *arguments, cwd=cwd, **environment).ok()
  return result.out + result.error


elsewhere = functools.partial(call, start=program_calls.run, TF_CPP_MIN_LOG_LEVEL="3")  # in a process of its own


@pytest.fixture
def sheet(folder):
  """The files, and a sheet of a hundred digits as `sheet.bmp`."""
  digits = load_dataset("digits").test[:100, ..., 0]
  picture = Image.fromarray(digits.reshape(10, 10, 8, 8).swapaxes(1, 2).reshape(80, 80))
  picture.save(folder / "sheet.bmp", dpi=(70, 70))
  return np.asarray(picture)


@pytest.mark.slow
def test_files_by_the_programs(run, folder, sheet):
  preset = "--preset=digits"
  text = elsewhere(run, "compress", preset, f"--images={folder}", "--output=files.fpp", "--test", "--verbose")
  assert "wrote files.fpp: 8 files" in text and "decoded and compared" in text
  small = "smaller so than coded by the model: 2"
  reasons = f"another mode: 3, lossy: 1, no image that can be read: 1, {small}"
  assert f"7 of 8 files are stored verbatim ({reasons})" in text
  assert "the model codes the pixels of lossless grey files; JPEG and lossy WebP files do not get smaller" in text
  assert "stored verbatim: photo.jpg (lossy)" in text and text.count("stored verbatim: ") == 7
  assert "tiles of 8x8x1, 17 levels" in call(run, "decompress", "files.fpp", "--list")
  elsewhere(run, "decompress", "files.fpp", preset, "--output=back")
  names = sorted(str(p.relative_to(run / "back")) for p in (run / "back").rglob("*") if p.is_file())
  assert {name.removesuffix(".png") for name in names} == {n.removesuffix(".png") for n in [*NAMES, "sheet.bmp"]}
  with Image.open(run / "back/sheet.bmp") as back:
    np.testing.assert_array_equal(back, sheet)
    assert np.allclose(back.info["dpi"], 70, atol=0.02)
  np.testing.assert_array_equal(Image.open(run / "back/below/large.png"), Image.open(folder / "below/large.png"))
  again = program_calls.refusal("decompress", "files.fpp", preset, "--output=back", cwd=run)
  assert "exists and is not empty" in again
  whole = (run / "files.fpp").read_bytes()
  (run / "damaged.fpp").write_bytes(flipped(whole, len(whole) // 2))
  result = program_calls.call("decompress", "damaged.fpp", preset, "--output=nothing", cwd=run)
  assert result.code == 2 and "wrong checksum" in result.error and "Traceback" not in result.error


@pytest.mark.slow
@pytest.mark.usefixtures("sheet")
def test_bytes_are_kept_by_the_programs(run, folder):
  options = ["--preset=digits", f"--images={folder}", "--test", "--embed_model"]
  call(run, "compress", *options, "--output=bytes.fpp", "--keep_bytes")
  assert "100 images or tiles" in call(run, "decompress", "bytes.fpp", "--list")
  elsewhere(run, WITHOUT_TENSORFLOW, "bytes.fpp", "--output=bytes")
  for name in [*NAMES, "sheet.bmp"]:
    assert (run / "bytes" / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.slow
def test_arrays_are_decoded_elsewhere(run):
  """Another process, one thread, oneDNN off."""
  np.savez(run / "arrays.npz", train=grey_images(40), validation=grey_images(9), test=grey_images(60, seed=1))
  text = call(run, "compress", "--preset=tiny", "--dataset=npz:arrays.npz", "--output=arrays.fpp")
  assert "60 images" in text and "bits/dim" in text
  # By the model that the first archive of a run leaves beside its weights, then by the weights.
  one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
  elsewhere(run, WITHOUT_TENSORFLOW, "arrays.fpp", "--preset=tiny", "--output=arrays0.npy", **one_thread)
  for stored in run.rglob("codec_model.*.npz"):
    stored.unlink()
  elsewhere(run, "decompress", "arrays.fpp", "--preset=tiny", "--output=arrays1.npy", TF_ENABLE_ONEDNN_OPTS="0")
  for name in ("arrays0.npy", "arrays1.npy"):
    np.testing.assert_array_equal(np.load(run / name), grey_images(60, seed=1))


@pytest.mark.parametrize(
  "program, arguments, message",
  [
    ("compress", ["--preset=tiny", "--output=tiny", "--images=nowhere"], "exists already"),
    (
      "compress",
      ["--preset=tiny", "--output=x.fpp", "--images=.", "--keep_bytes", "--lossy_pixels"],
      "`keep_bytes` must be left out with --lossy_pixels",
    ),
    ("compress", ["--preset=tiny", "--output=x.fpp", "--images="], "`images` is empty"),
    ("compress", ["--preset=tiny", "--output=x.fpp", "--keep_bytes"], "`keep_bytes` must be left out without --images"),
    ("compress", ["--preset=tiny", "--estimate", "--embed_model"], "`embed_model` must be left out with --estimate"),
    ("decompress", ["x.fpp", "--output=x", "--files="], "`files` is empty"),
    ("decompress", ["nowhere.fpp", "--output=x"], "cannot be read"),
  ],
)
def test_bad_input_is_one_line(run, program, arguments, message):
  assert message in program_calls.refusal(program, *arguments, cwd=run)


@pytest.mark.slow
@pytest.mark.docs
def test_the_page_runs(capsys):
  program_calls.run_page("docs/compression.md")
  size, same = capsys.readouterr().out.split()
  assert same == "True" and 3000 < int(size) < 3500


def test_an_estimate_is_close(run):
  np.savez(run / "arrays.npz", train=grey_images(40), validation=grey_images(9), test=grey_images(400, seed=1))
  text = program_calls.call("compress", "--preset=tiny", "--dataset=npz:arrays.npz", "--estimate", cwd=run).out
  assert "estimate: " in text and "bits/dim, measured on 400 of 400" in text
  folder, text = run / "described", PngImagePlugin.PngInfo()
  folder.mkdir()
  text.add_text("Notes", np.random.RandomState(0).bytes(3000).hex())  # in 3,000 bytes, whatever packs it
  Image.fromarray(grey_images(1)[0, ..., 0]).save(folder / "a.png", pnginfo=text)
  (folder / "b.txt").write_bytes(bytes(range(200)))
  text = program_calls.call("compress", "--preset=tiny", f"--images={folder}", "--estimate", cwd=run).out
  (stored,) = re.findall(r"for 16 bytes of pixels and ([0-9.]+) KiB of verbatim files, wrappers and metadata", text)
  assert 3.2 < float(stored) < 3.8 and "nan" not in text


def test_an_estimate_counts_files_that_are_stored_verbatim_as_they_will_be(run):
  folder = run / "verbatim"
  folder.mkdir()
  (folder / "a.txt").write_bytes(b"the same line\n" * 10_000)
  (folder / "b.bin").write_bytes(np.random.RandomState(0).bytes(5000))
  Image.fromarray(np.full([4, 4], 200, np.uint8)).save(folder / "c.bmp")  # values that the model does not have
  result = program_calls.call("compress", "--preset=tiny", f"--images={folder}", "--estimate", "--verbose", cwd=run)
  (stored,) = re.findall(r"and ([0-9.]+) KiB of verbatim files, wrappers and metadata", result.ok().out)
  assert 4.9 < float(stored) < 5.8  # of 141 KiB
  reasons = "2 of 3 files are stored verbatim (no image that can be read: 2)"
  assert reasons in result.error and "stored verbatim: a.txt (no image that can be read)" in result.error


EXPECTED = json.loads((archives.FOLDER / "expected.json").read_text())


def test_the_folder_is_complete():
  assert {path.name for path in archives.FOLDER.glob("*.fpp")} == {*EXPECTED}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_stored_archive_decodes_to_the_same_bits(name):
  images = fpp.decompress(None, (archives.FOLDER / name).read_bytes())
  assert {"shape": list(images.shape), "sha256": hashlib.sha256(images.tobytes()).hexdigest()} == EXPECTED[name]
