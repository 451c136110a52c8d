"""Folders of image files: every odd image, splits, damaged files, the cache."""

import io
import json
import os

import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import data, evaluation
from flowpp_tf.data import images
from support.files import encoded, exif, spoiled
from support.refusing import refuses

RNG = np.random.RandomState(0)
GREY = RNG.randint(0, 256, [8, 8]).astype(np.uint8)
COLOUR = RNG.randint(0, 256, [8, 8, 3]).astype(np.uint8)
ALPHA = RNG.choice([0, 255], [8, 8]).astype(np.uint8)
ON_WHITE = np.where(ALPHA[..., None] == 255, COLOUR, 255)


def palette(transparency):
  """64 colours for 64 pixels, the first of them transparent if asked to."""
  image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8), "P")
  image.putpalette(COLOUR.tobytes() + bytes(192 * 3))
  return encoded("PNG", image, **({"transparency": 0} if transparency else {}))


FIRST_WHITE = COLOUR.copy()
FIRST_WHITE[0, 0] = 255
# Files, and the pixels that they must give, worked out from what was put in.
KINDS = {
  "colour": (encoded("PNG", COLOUR), COLOUR),
  "webp": (encoded("WEBP", COLOUR, lossless=True), COLOUR),
  "grey": (encoded("PNG", GREY), np.repeat(GREY[..., None], 3, axis=2)),
  "one bit": (encoded("PNG", GREY > 99), np.repeat((GREY[..., None] > 99) * 255, 3, axis=2)),
  "palette": (palette(False), COLOUR),
  "palette, transparent": (palette(True), FIRST_WHITE),
  "RGBA": (encoded("PNG", np.dstack([COLOUR, ALPHA])), ON_WHITE),
  "grey, alpha": (
    encoded("PNG", Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)])),
    np.repeat(np.where(ALPHA == 255, GREY, 255)[..., None], 3, axis=2),
  ),
  "16 bits, grey": (encoded("PNG", GREY.astype(np.uint16) * 256 + 255), np.repeat(GREY[..., None], 3, axis=2)),
  "16 bits, colour": (tf.io.encode_png(COLOUR.astype(np.uint16) * 256 + 255).numpy(), COLOUR),
  "turned by EXIF": (encoded("PNG", COLOUR, exif=exif(orientation=6)), np.rot90(COLOUR, -1)),
  "mirrored by EXIF": (encoded("PNG", COLOUR, exif=exif(orientation=2)), COLOUR[:, ::-1]),
}


@pytest.mark.parametrize("file, pixels", KINDS.values(), ids=KINDS)
def test_an_image_of_the_size_keeps_its_pixels_whatever_its_kind(file, pixels):
  image, enlarged = images.read_image(io.BytesIO(file), (8, 8, 3))
  np.testing.assert_array_equal(image, pixels)
  assert image.dtype == np.uint8 and not enlarged


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_upright_size_is_that_of_the_upright_pixels(orientation):
  file = encoded("PNG", COLOUR[:5], exif=exif(orientation=orientation))
  height, width, _ = images.read_photograph(io.BytesIO(file), 3).shape
  assert images.upright_size(io.BytesIO(file)) == (width, height)
  assert (height, width) == ((8, 5) if orientation > 4 else (5, 8))


@pytest.mark.parametrize(
  "pixels", [GREY / np.float32(255), GREY.astype(np.int32), GREY.astype(np.int32) * 999, GREY.astype(np.int32) - 128]
)
def test_values_without_a_black_and_a_white_are_refused(pixels):
  file = encoded("TIFF", pixels)
  with pytest.raises(ValueError, match="it holds (real numbers|integers that have a sign .*); expected values of 8 or"):
    images.read_image(io.BytesIO(file), (8, 8, 3))


def test_images_of_kinds_that_are_not_read_are_told(tmp_path):
  write(tmp_path, 6)
  Image.fromarray(COLOUR).save(tmp_path / "a" / "0.bmp")
  Image.fromarray(COLOUR).save(tmp_path / "a" / "1.TIF")
  (tmp_path / "readme.txt").write_text("")
  (note,) = load(tmp_path).notes
  assert note == "left out: 2 (.bmp, .tif), as the model reads .png, .jpg, .jpeg, .webp; convert them"


def test_frames_that_are_not_read_are_told(tmp_path):
  write(tmp_path, 6)
  film = dict(save_all=True, append_images=[Image.fromarray(255 - COLOUR)])
  Image.fromarray(COLOUR).save(tmp_path / "a" / "film.png", **film)
  Image.fromarray(COLOUR).save(tmp_path / "a" / "film.webp", lossless=True, **film)
  assert load(tmp_path).notes == ("of several frames, of which a model gets the first: 2",)
  crops = load(tmp_path, crops=True).notes
  assert "of several frames, of which a model gets the first: 2" in crops


def test_one_channel_is_grey_as_it_is_and_the_luma_of_colours():
  image, _ = images.read_image(io.BytesIO(KINDS["grey"][0]), (8, 8, 1))
  np.testing.assert_array_equal(image[..., 0], GREY)
  image, _ = images.read_image(io.BytesIO(KINDS["colour"][0]), (8, 8, 1))
  np.testing.assert_allclose(image[..., 0], COLOUR @ [0.299, 0.587, 0.114], atol=1)


def test_a_cmyk_jpeg_is_read():
  white = encoded("JPEG", Image.new("CMYK", (8, 8), (0, 0, 0, 0)))
  assert images.read_image(io.BytesIO(white), (8, 8, 3))[0].min() >= 254


@pytest.mark.parametrize("shape, middle", [((24, 8), np.s_[8:16, :]), ((8, 17), np.s_[:, 4:12])])
def test_the_middle_of_a_long_image_is_kept(shape, middle):
  long = RNG.randint(0, 256, [*shape, 3]).astype(np.uint8)
  image, _ = images.read_image(io.BytesIO(encoded("PNG", long)), (8, 8, 3))
  np.testing.assert_array_equal(image, long[middle])


def test_resizing_is_antialiased():
  # Lines of one pixel, black and white, are grey from afar; without antialiasing they are one of both.
  lines = np.zeros([64, 64], np.uint8)
  lines[:, ::2] = 255
  image, _ = images.read_image(io.BytesIO(encoded("PNG", lines)), (8, 8, 1))
  assert np.all(np.abs(image[:, 1:-1].astype(int) - 127) < 10)


def write(folder, count=40, shape=(8, 8, 3), seed=1):
  """Different images in nested folders, by name."""
  rng = np.random.RandomState(seed)
  pixels = {}
  for i in range(count):
    name = f"{'abc'[i % 3]}/deep/{i}.png"
    pixels[name] = rng.randint(0, 256, shape).astype(np.uint8)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[name]).save(folder / name)
  return pixels


def load(folder, **options):
  return data.load_dataset(f"folder:{folder}", **{"image_shape": (8, 8, 3), **options})


def contents(dataset):
  return {split: {image.tobytes() for image in dataset.split(split)} for split in data.SPLITS}


def test_every_image_is_in_one_split_and_stays_there_when_others_come(tmp_path):
  pixels = write(tmp_path, 100)
  (tmp_path / ".hidden.png").write_bytes(b"")
  (tmp_path / "notes.txt").write_text("no image")
  few = contents(load(tmp_path))
  assert set.union(*few.values()) == {image.tobytes() for image in pixels.values()}
  assert sum(map(len, few.values())) == 100
  assert all(2 <= len(few[split]) <= 10 for split in ("validation", "test"))
  write(tmp_path, 300)  # the same and 200 more
  many = contents(load(tmp_path))
  for split in data.SPLITS:
    assert few[split] < many[split]


def test_three_images_are_enough(tmp_path):
  write(tmp_path, 3)
  assert [len(load(tmp_path).split(split)) for split in data.SPLITS] == [1, 1, 1]


SPLIT_FILES = {
  "splits.txt": "train a/deep/0.png\nvalidation b/deep/1.png\n\ntest c/deep/2.png\n",
  "splits.csv": "split,path\ntrain,a/deep/0.png\nvalidation,b/deep/1.png\ntest,c/deep/2.png\n",
  "old.txt": "train a/deep/0.png\rvalidation b/deep/1.png\rtest c/deep/2.png\r",
  "splits.json": json.dumps({"train": ["a/deep/0.png"], "validation": ["b/deep/1.png"], "test": ["c/deep/2.png"]}),
}


@pytest.mark.parametrize("name", SPLIT_FILES)
def test_a_file_of_splits_is_followed(tmp_path, name):
  pixels = write(tmp_path, 4)
  (tmp_path / name).write_text(SPLIT_FILES[name])
  dataset = load(tmp_path, splits_file=tmp_path / name)
  for split, image in zip(data.SPLITS, ("a/deep/0.png", "b/deep/1.png", "c/deep/2.png")):
    np.testing.assert_array_equal(dataset.split(split), pixels[image][np.newaxis])
  assert "does not name them: 1" in dataset.notes[0]


@pytest.mark.parametrize(
  "text, message",
  [
    ("train a/deep/0.png\ndev b/deep/1.png", "splits.txt': unknown split 'dev'"),
    ("train a/deep/9.png", "splits.txt': 'a/deep/9.png' is not an image of the folder"),
    ("train a/deep/0.png\ntest a/deep/0.png", "splits.txt': 'a/deep/0.png' is .* named twice"),
    ("train a/deep/0.png\ntest c/deep/2.png", "names no image for 'validation'"),
    ("train", "splits.txt': '' is not an image of the folder"),
  ],
)
def test_a_bad_file_of_splits_names_what_is_wrong(tmp_path, text, message):
  write(tmp_path, 4)
  (tmp_path / "splits.txt").write_text(text)
  refuses(message, load, tmp_path, splits_file=tmp_path / "splits.txt")


def damage(folder, names=("a/deep/0.png", "b/deep/1.png")):
  whole = (folder / names[0]).read_bytes()
  (folder / names[0]).write_bytes(whole[: len(whole) // 2])  # cut off
  (folder / names[1]).write_bytes(b"not an image")


@pytest.mark.parametrize("in_memory", [True, False])
def test_damaged_files_are_listed_and_skipped_up_to_the_limit(tmp_path, cache_on_disk, in_memory):
  if not in_memory:
    cache_on_disk()
  pixels = write(tmp_path / "images", 60)
  damage(tmp_path / "images")
  options = {"cache_dir": tmp_path / "cache"}
  for limit in (0, 1):
    message = rf"2 image files .* more than --max_bad_files={limit}: .*a/deep/0.png \(.*b/deep/1.png \("
    refuses(message, load, tmp_path / "images", max_bad_files=limit, **options)
  assert not list(tmp_path.glob("cache/*"))  # nothing half-made stays
  for _ in range(2):  # the second time from the cache
    dataset = load(tmp_path / "images", max_bad_files=2, **options)
    whole = {image.tobytes() for name, image in pixels.items() if name not in ("a/deep/0.png", "b/deep/1.png")}
    assert set.union(*contents(dataset).values()) == whole
    assert "cannot be read: 2" in dataset.notes[0]
  refuses("more than --max_bad_files=1", load, tmp_path / "images", max_bad_files=1, **options)


def test_a_large_folder_is_decoded_once_and_anew_when_it_has_changed(tmp_path, cache_on_disk):
  cache_on_disk(1000)
  pixels = write(tmp_path / "images")
  first = load(tmp_path / "images", cache_dir=tmp_path / "cache")
  assert isinstance(first.train, np.memmap)
  with spoiled(tmp_path / "images"):  # nothing may be decoded again
    again = load(tmp_path / "images", cache_dir=tmp_path / "cache")
  assert contents(again) == contents(first)
  assert again.fingerprint() == first.fingerprint()
  name = next(iter(pixels))
  Image.fromarray(255 - pixels[name]).save(tmp_path / "images" / name)
  os.utime(tmp_path / "images" / name, ns=(1, 1))
  changed = contents(load(tmp_path / "images", cache_dir=tmp_path / "cache"))
  assert (255 - pixels[name]).tobytes() in set.union(*changed.values())
  for other in ((4, 4, 3), (8, 8, 1)):  # each in an entry of its own
    again = load(tmp_path / "images", image_shape=other, cache_dir=tmp_path / "cache")
    assert again.image_shape == other


def test_a_cache_that_cannot_be_written_or_read_says_so(tmp_path, cache_on_disk):
  cache_on_disk()
  write(tmp_path / "images")
  (tmp_path / "file").write_text("")
  with pytest.raises(data.InputError, match="of decoded images in --cache_dir=.* cannot be written: Not a dir"):
    load(tmp_path / "images", cache_dir=tmp_path / "file")
  load(tmp_path / "images", cache_dir=tmp_path / "cache")
  (path,) = tmp_path.glob("cache/*/train.npy")
  written = np.load(path)
  path.write_bytes(b"")
  refuses("cannot be read: .*delete it", load, tmp_path / "images", cache_dir=tmp_path / "cache")
  for other in (written.astype(np.float32), written[:, :, :1], written[:-1]):
    np.save(path, other)
    with pytest.raises(data.InputError, match="cannot be read: its arrays are not those .*delete it"):
      load(tmp_path / "images", cache_dir=tmp_path / "cache")


def test_a_folder_may_have_as_long_a_name_as_there_is(tmp_path, cache_on_disk):
  cache_on_disk()
  folder = tmp_path / ("雪" * 85)  # 255 bytes
  write(folder)
  expected = load(folder, cache_dir=tmp_path / "cache").fingerprint()
  assert load(folder, cache_dir=tmp_path / "cache").fingerprint() == expected


def test_enlarged_images_are_told(tmp_path):
  write(tmp_path, 6)
  (note,) = load(tmp_path, image_shape=(16, 16, 3)).notes
  assert "enlarged" in note and note.endswith(": 6")


def test_folders_that_cannot_be_a_data_set_say_why(tmp_path):
  for name, count in (("empty", 0), ("one", 1), ("two", 2)):
    (tmp_path / name).mkdir()
    write(tmp_path / name, count)
  for name, message in (
    ("nowhere", "is not there"),
    ("empty", "has no image: looked for .png"),
    ("one", "must have at least 3 images, one for each split, got 1"),
    ("two", "must have at least 3 images, one for each split, got 2"),
    ("one/a/deep/0.png", "is not a folder"),
  ):
    refuses(message, load, tmp_path / name)
  refuses("`image_shape` must be .* with 1 or 3 channels", load, tmp_path / "two", image_shape=(8, 8, 2))
  with pytest.raises(data.InputError, match="no.txt' cannot be read: No such file.*; expected lines such as"):
    load(tmp_path / "two", splits_file=tmp_path / "no.txt")


@pytest.mark.parametrize("levels", [256, 32, 8, 17, 3])
def test_a_picture_of_a_models_pixels_is_read_back_as_these(levels, tmp_path):
  config = fpp.FlowPlusPlusConfig(image_shape=(4, 64, 1), levels=levels)
  pixels = (np.arange(256) % levels).reshape(config.image_shape).astype(np.uint8)
  evaluation.image_grid(pixels[np.newaxis], levels).save(tmp_path / "picture.png")
  picture = Image.open(tmp_path / "picture.png")  # enlarged without smoothing
  picture.resize((64, 4), Image.Resampling.NEAREST).save(tmp_path / "picture.png")
  np.testing.assert_array_equal(images.read_for_model(tmp_path / "picture.png", config), pixels)
