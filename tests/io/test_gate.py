"""Files from outside: what is no regular file, claims too much or is damaged is one line, and takes little memory."""

import gzip
import random
import struct
import tarfile
import zipfile

import numpy as np
from PIL import Image
import pytest

import convert_imagenet
from flowpp_tf import data
from flowpp_tf.compression.files.reading import read_picture
from flowpp_tf.core.errors import InputError
from flowpp_tf.data import folder as folders
from flowpp_tf.data import images
from flowpp_tf.data.published import read_idx_images
from flowpp_tf.io import budget, files, gate, image_file
from flowpp_tf.io.budget import Budget
from flowpp_tf.models import FlowPlusPlusConfig, load_official_weights
from hardening.mutations import mutate_bytes
from support import hostile_files as hostile
from support.files import encoded
from support.refusing import refuses

GOOD = dict.fromkeys(data.SPLITS, np.zeros([3, 4, 4, 1], np.uint8))
NOISE = dict.fromkeys(data.SPLITS, np.random.RandomState(0).randint(0, 99, [99, 4, 4, 1]).astype(np.uint8))


@pytest.fixture
def strange(tmp_path):
  return hostile.not_regular(tmp_path)


@pytest.mark.parametrize(
  "name, message",
  [
    ("pipe", "it is a folder, a named pipe or a device; expected a regular file"),
    ("folder", "it is a folder, a named pipe or a device"),
    ("zero", "it is a folder, a named pipe or a device"),
    ("dangling", "No such file or directory"),
  ],
)
def test_what_is_no_regular_file_is_refused_before_it_is_opened(strange, name, message):
  path = strange[name]
  for read in (
    gate.read_bytes,
    gate.read_npz,
    lambda path: data.load_dataset(f"npz:{path}"),
    lambda path: images.open_image(path).__enter__(),
  ):
    with pytest.raises((OSError, InputError), match=message):
      read(path)


def test_files_that_are_too_long_or_have_other_bytes_than_they_say_are_refused(tmp_path):
  with pytest.raises(OSError, match="its size changed while it was read"):
    gate.read_bytes("/proc/stat", 1 << 20)  # it says that it has 0 bytes
  (tmp_path / "a").write_bytes(bytes(11))
  with pytest.raises(OSError, match="more than 10 bytes"):
    gate.read_bytes(tmp_path / "a", 10)
  assert len(gate.read_bytes(tmp_path / "a", 11)) == 11


def test_json_that_is_nested_too_deeply_is_a_value_error():
  with pytest.raises(ValueError, match="nested too deeply"):
    gate.parse_json("[" * 100_000)


def test_a_key_that_is_there_twice_is_a_value_error_instead_of_lost():
  with pytest.raises(ValueError, match="^'train' is there twice$"):
    gate.parse_json('{"splits": {"test": [1], "train": [2], "train": [3]}}')


@pytest.mark.parametrize(
  "write, message",
  [
    (lambda path: hostile.npz(path, **{**GOOD, "test": bytes(200 << 20)}), "would become 200 MiB"),
    (lambda path: hostile.npz(path, **{**GOOD, "test": hostile.npy_header((1 << 50,))}), "cannot be read: "),
    (lambda path: hostile.npz(path, **{**GOOD, "test": hostile.npy_header((3, 4, 4, 1)) + bytes(5)}), "cannot be read"),
    (lambda path: hostile.npz(path, encrypted=True, **GOOD), "encrypted"),
    (lambda path: hostile.npz(path, zipfile.ZIP_LZMA, **NOISE) or _spoil(path), "cannot be read"),
    (lambda path: hostile.npz(path, zipfile.ZIP_DEFLATED, **NOISE) or _spoil(path), "cannot be read"),
    (lambda path: hostile.npz(path, **{**GOOD, "test": np.array([{}])}), "Object arrays cannot be loaded"),
    (lambda path: path.write_bytes(b"PK\x05\x06" + bytes(18)), "has no array 'train' and no 'validation'"),
  ],
)
def test_hostile_npz_files_are_one_line(tmp_path, write, message):
  write(tmp_path / "a.npz")
  with pytest.raises(InputError, match=message) as error:
    data.load_dataset(f"npz:{tmp_path / 'a.npz'}")
  assert "a.npz" in str(error.value) and "\n" not in str(error.value)


def _spoil(path):
  content = bytearray(path.read_bytes())
  for place in range(len(content) // 9, len(content) // 3, 7):
    content[place] ^= 0xFF
  path.write_bytes(content)


def test_official_weights_of_a_device_or_a_bomb_are_one_line(tmp_path, strange, small_model):
  hostile.npz(tmp_path / "bomb.npz", a=bytes(200 << 20))
  for path in (strange["zero"], strange["pipe"], tmp_path / "bomb.npz"):
    refuses("cannot be read|bomb.npz': 199 KiB would become 200 MiB", load_official_weights, small_model, path)


@pytest.mark.parametrize(
  "content, message",
  [
    (
      hostile.png(13_000, 13_000, rows=10),
      "13000x13000 has 169,000,000 pixels; at most 67,108,864 are decoded|exceeds limit",
    ),
    (hostile.png(60_000, 60_000, rows=1), r"67,108,864 (pixels that )?are decoded \(--max_pixels"),
    (hostile.png(100, 100)[:-20], "a part has the wrong checksum, or is cut off"),
    (hostile.png(100, 100)[:-12], "it is cut off"),
    (hostile.png(100, 100)[:60] + b"?" + hostile.png(100, 100)[61:], "a part has the wrong checksum"),
    (b"GIF89a", "is not an image: expected one of|index out of range"),
  ],
)
def test_an_image_that_is_none_or_too_much_is_one_line(tmp_path, content, message):
  (tmp_path / "a.png").write_bytes(content)
  with pytest.raises(image_file.ImageFileError, match=message):
    images.read_image(tmp_path / "a.png", (4, 4, 3))


def test_all_that_is_no_image_in_a_folder_is_named_and_skipped(tmp_path):
  folder = tmp_path / "images"
  folder.mkdir()
  for i in range(40):
    Image.fromarray(np.full([4, 4, 3], i, np.uint8)).save(folder / f"{i}.png")
  strange = hostile.not_regular(folder)
  for name in ("pipe", "dangling", "zero"):
    strange[name].rename(folder / f"{name}.png")
  (folder / "drawing.png").write_bytes(hostile.EPS)
  with pytest.raises(InputError, match="4 image files cannot be read.*a named pipe or a device"):
    data.load_dataset(f"folder:{folder}", image_shape=(4, 4, 3))
  loaded = data.load_dataset(f"folder:{folder}", image_shape=(4, 4, 3), max_bad_files=4)
  assert sum(len(loaded.split(name)) for name in data.SPLITS) == 40
  with pytest.raises(InputError, match="pipe.png' cannot be read: it is a folder, a named pipe or a device"):
    folders.load_folder(folder, (4, 4, 3), splits_file=folder / "pipe.png")


BLACK = encoded("PNG", np.zeros([4, 4, 3], np.uint8))


@pytest.mark.parametrize(
  "content, message, reason",
  [
    (
      b"text",
      "'a.png' is not an image: expected one of PNG, JPEG, ",
      "it is not an image: expected one of PNG, JPEG, ",
    ),
    (hostile.EPS, "'a.png' is not an image: ", "it is not an image: "),  # Pillow would start Ghostscript
    (b"", "'a.png': it is empty", "it is empty"),
    (BLACK[:-20], "'a.png': it is damaged", "it is damaged"),
    (BLACK.replace(b"IDAT", b"IDAX"), "'a.png': it is damaged", "it is damaged"),
    (None, "'a.png' cannot be read: No such file", "No such file"),
  ],
)
@pytest.mark.parametrize(
  "read",
  [
    lambda path: images.read_image(path, (4, 4, 3), "a.png"),
    lambda path: images.read_for_model(path, FlowPlusPlusConfig(image_shape=(4, 4, 3)), "a.png"),
    lambda path: images.read_photograph(path, 3),
    lambda path: images.upright_size(path),
  ],
)
def test_every_reader_of_images_raises_one_error_with_name_and_reason(
  tmp_path, monkeypatch, read, content, message, reason
):
  monkeypatch.chdir(tmp_path)
  if content is not None:
    (tmp_path / "a.png").write_bytes(content)
  with pytest.raises(image_file.ImageFileError) as error:
    read("a.png")
  assert str(error.value).startswith(message) and error.value.reason.startswith(reason)


def test_a_damaged_file_is_archived_byte_for_byte(tmp_path):
  damaged = BLACK.replace(b"IDAT", b"IDAX")
  (tmp_path / "a.png").write_bytes(damaged)
  picture = read_picture(tmp_path, "a.png", 3)
  assert picture.pixels is None and picture.data == damaged and picture.reason == "no image that can be read"


def test_an_image_of_as_many_pixels_as_the_caller_takes_is_opened(monkeypatch):
  """Pillow refused grey pictures of 179 million pixels, which a codec takes, and warned of half as many."""
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
  with budget.use(Budget(pixels=100)), image_file.open_image(hostile.png(30, 30), most_pixels=900) as image:
    assert image.size == (30, 30)


def test_large_images_are_decoded_one_at_a_time():
  running, most = [], []

  def decode(side):
    with image_file.open_image(hostile.png(side, side)):
      running.append(side)
      most.append(running.count(40))
      running.remove(side)

  with budget.use(Budget(pixels=1600)):
    list(images.parallel_map(decode, [40, 10, 40, 14] * 50))
  assert len(most) == 200 and max(most) == 1


def _member(name, kind=tarfile.REGTYPE, link=""):
  info = tarfile.TarInfo(name)
  info.type, info.linkname = kind, link
  return info


@pytest.mark.parametrize(
  "member, content, message",
  [
    (_member("a.png", tarfile.SYMTYPE, "a.png"), b"", "a.png is no image: it is a folder, a link or a device"),
    (_member("a.png", tarfile.CHRTYPE), b"", "a folder, a link or a device"),
    (_member("a.png", tarfile.DIRTYPE), b"", "a folder, a link or a device"),
    (_member("a.png"), bytes(2 << 20), "a.png has 2,097,152 bytes; expected an image of at most 1,048,576"),
    (_member("a.png"), hostile.EPS, "a.png' is not an image: expected one of PNG"),
  ],
)
def test_members_of_a_tar_that_are_no_images_are_refused(tmp_path, member, content, message):
  path = tmp_path / "train_32x32.tar"
  hostile.tar(path, (member, content))
  refuses(message, convert_imagenet.convert, path)


def test_members_of_a_zip_are_refused_by_the_size_that_they_claim(tmp_path):
  path = tmp_path / "train_32x32.zip"
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("a.png", bytes(64 << 20))
  refuses("a.png has 67,108,864 bytes", convert_imagenet.convert, path)
  hostile.npz(tmp_path / "train_32x32.npz", data=hostile.npy_header((1 << 40, 32, 32, 3)))
  refuses("does not hold the 1,099,511,627,776 images", convert_imagenet.convert, tmp_path / "train_32x32.npz")


def test_an_idx_file_that_unpacks_to_more_than_it_may_is_refused_unread(tmp_path):
  path = tmp_path / "train-images-idx3-ubyte.gz"
  with gzip.open(path, "wb", 9) as file:
    file.write(struct.pack(">4B3I", 0, 0, 8, 3, 400_000, 28, 28))
  refuses("claims images of shape .400000, 28, 28.", read_idx_images, path)


def test_damaged_copies_are_the_data_or_one_line(tmp_path):
  """An error names the file; without one, the data have the shape that they were written with."""
  rng, count = random.Random(0), 60
  array = np.arange(48, dtype=np.uint8).reshape(3, 4, 4, 1)
  hostile.npz(tmp_path / "good.npz", **dict.fromkeys(data.SPLITS, array))
  good, bad = (tmp_path / "good.npz").read_bytes(), tmp_path / "bad.npz"
  refused = 0
  for _ in range(count):
    bad.write_bytes(mutate_bytes(good, rng))
    try:
      assert data.load_dataset(f"npz:{bad}").image_shape == (4, 4, 1)
    except InputError as error:
      assert "bad.npz" in str(error)
      refused += 1
  assert refused > count // 2


# --- What a header claims -------------------------------------------------------------------------


def test_a_file_of_holes_is_refused_before_it_is_read_or_hashed(tmp_path):
  with open(tmp_path / "holes", "wb") as file:
    file.truncate(1 << 40)
  for read in (files.file_sha256, gate.open_claimed, lambda path: gate.read_bytes(path, 1 << 50)):
    with pytest.raises(budget.BudgetError, match="holes' has 1,024 GiB; at most 4 GiB are read"):
      read(tmp_path / "holes")


def test_hashing_waits_for_no_pipe_and_reads_no_device(strange):
  for name in ("pipe", "zero"):
    with pytest.raises(OSError, match="expected a regular file"):
      files.file_sha256(strange[name])


def test_json_is_refused_by_the_memory_that_it_may_take():
  text = "[" + "{}," * 50_000 + "{}]"
  with budget.use(Budget(memory=1 << 20)), pytest.raises(budget.BudgetError, match="JSON of 146 KiB would take 3.43"):
    gate.parse_json(text)
  gate.parse_json(text)


def test_the_entries_of_a_zip_are_claimed_before_they_are_listed(tmp_path, monkeypatch):
  with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
    for i in range(2000):
      archive.writestr(f"{i}", b"")
  listed = []
  monkeypatch.setattr(zipfile, "ZipInfo", lambda *given: listed.append(given))
  with budget.use(Budget(items=1000)), pytest.raises(InputError, match="a.npz.* has .* items; at most 1,000 are read"):
    gate.read_npz(tmp_path / "a.npz")
  assert not listed


def test_arrays_are_claimed_before_they_are_read(tmp_path):
  hostile.npz(tmp_path / "a.npz", **NOISE)
  with budget.use(Budget(memory=1000)), pytest.raises(budget.BudgetError, match="a.npz' would take 5.02 KiB of memory"):
    gate.read_npz(tmp_path / "a.npz")
  hostile.npz(tmp_path / "b.npz", zipfile.ZIP_LZMA, **GOOD)  # its header says how much memory its decoder takes
  refuses("compressed by a method that NumPy does not write", gate.read_npz, tmp_path / "b.npz")


def test_maps_are_of_regular_files_that_have_what_they_claim(tmp_path, strange):
  path = tmp_path / "a.npy"
  path.write_bytes(hostile.npy_header((1 << 40,)))
  with pytest.raises(ValueError, match="claims an array of shape"):
    gate.map_npy(path)
  for shape, descr in (((1 << 70, 0), "<f4"), ((True,), "|u1"), ((1 << 32,), "|S0"), ((1 << 32,), "|V0")):
    path.write_bytes(hostile.npy_header(shape, descr) + bytes(64))
    with pytest.raises(ValueError, match="claims an array of shape"):
      gate.map_npy(path)
  with pytest.raises(OSError, match="named pipe"):
    gate.map_npy(strange["pipe"], "r+")
  np.save(path, GOOD["train"])
  np.testing.assert_array_equal(gate.map_npy(path), GOOD["train"])


def test_lines_of_a_file_of_splits_are_claimed(tmp_path):
  for i in range(4):
    Image.fromarray(np.full([4, 4, 3], i, np.uint8)).save(tmp_path / f"{i}.png")
  (tmp_path / "splits.txt").write_text("a\n" * 50_000)
  with budget.use(Budget(memory=1 << 20)), pytest.raises(InputError, match="splits.txt': a table of 50,001"):
    folders.load_folder(tmp_path, (4, 4, 3), splits_file=tmp_path / "splits.txt")
