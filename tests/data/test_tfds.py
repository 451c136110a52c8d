"""TensorFlow Datasets' own code on small sets that the tests prepare, and the published files."""

import socket
import tarfile
import urllib.error
import urllib.request
import zipfile

from absl import logging
import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

import convert_imagenet
import flowpp_tf as fpp
from flowpp_tf import data
from flowpp_tf.data import cache
from flowpp_tf.programs import demo
from support.hostile_files import tar
from support.programs import call
from support.refusing import refuses
from support.tfds_builders import OfSplits, named, prepared

SIZES = {"train": 120, "test": 20, "validation": 20}


def pixels(split, i, shape):
  return np.random.RandomState(1000 * list(SIZES).index(split) + i).randint(0, 256, shape).astype(np.uint8)


def everything(split, shape=(32, 32, 3)):
  return {pixels(split, i, shape).tobytes() for i in range(SIZES[split])}


class Cifar10(OfSplits, skip_registration=True):
  """A set of random images; the others have other shapes and splits."""

  VERSION = tfds.core.Version("3.0.2")
  SHAPE = (32, 32, 3)
  SPLITS = ("train", "test")
  FEATURES = {"label": tfds.features.ClassLabel(num_classes=2)}

  def _generate_examples(self, split):
    for i in range(SIZES[split]):
      yield i, {"image": pixels(split, i, self.SHAPE), **{name: 0 for name in self.FEATURES}}


class CelebA(Cifar10, skip_registration=True):
  SHAPE = (218, 178, 3)
  SPLITS = ("train", "validation", "test")

  def _generate_examples(self, split):
    for i in range(3):
      yield i, {"image": pixels(split, i, self.SHAPE), "label": 0}


class HomeMade(Cifar10, skip_registration=True):
  """Nobody else has this one, and its images are of many sizes."""

  VERSION = tfds.core.Version("1.0.0")
  SHAPE = (None, None, 3)
  SPLITS = ("train",)

  def _generate_examples(self, split):
    for i in range(30):
      yield i, {"image": pixels(split, i, (16 + i % 2, 20, 3)), "label": 0}


class Deep(Cifar10, skip_registration=True):
  """Images of 16 bits, the upper 8 of which are those of the others."""

  VERSION = tfds.core.Version("1.0.0")
  SPLITS = ("train",)
  FEATURES = {"image": tfds.features.Image(shape=(32, 32, 3), dtype=np.uint16), **Cifar10.FEATURES}

  def _generate_examples(self, split):
    for i in range(30):
      yield i, {"image": 256 * pixels(split, i, self.SHAPE).astype(np.uint16) + 77, "label": 0}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """A `--data_dir` with all of them."""
  halves = ("train", "validation")
  return prepared(
    tmp_path_factory.mktemp("tensorflow_datasets"),
    Cifar10,
    named("Mnist", Cifar10, SHAPE=(28, 28, 1)),
    CelebA,
    named("CelebAHq", Cifar10, "2.0.0", "64", SHAPE=(64, 64, 3), SPLITS=("train",), FEATURES={}),
    named("DownsampledImagenet", Cifar10, "2.0.0", "32x32", SPLITS=halves, FEATURES={}),
    named("ImagenetResized", Cifar10, "0.1.0", "32x32", SPLITS=halves),
    HomeMade,
    Deep,
  )


def contents(images):
  return {np.asarray(image).tobytes() for image in images}


def test_cifar10_has_its_test_split_and_a_fiftieth_of_train_for_validation(data_dir):
  dataset = data.load_dataset("cifar10", data_dir)
  assert [len(dataset.split(s)) for s in data.SPLITS] == [118, 2, 20]
  assert contents(dataset.test) == everything("test")
  assert contents(dataset.train) | contents(dataset.validation) == everything("train")
  assert dataset.fingerprint()["version"] == "cifar10/3.0.2"
  assert "validation is the last 2 images" in dataset.notes[0]
  # The same images as TensorFlow Datasets' own slice of its train.
  own = Cifar10(data_dir=data_dir).as_dataset(split="train[118:]")
  np.testing.assert_array_equal(dataset.validation, [e["image"] for e in tfds.as_numpy(own)])


@pytest.mark.parametrize(
  "name, version",
  [("imagenet32_old", "downsampled_imagenet/32x32/2.0.0"), ("imagenet32_new", "imagenet_resized/32x32/0.1.0")],
)
def test_both_imagenets_are_tested_on_the_published_validation(data_dir, name, version):
  dataset = data.load_dataset(name, data_dir)
  assert contents(dataset.test) == everything("validation")
  assert contents(dataset.train) | contents(dataset.validation) == everything("train")
  fingerprint = dataset.fingerprint()
  assert (fingerprint["name"], fingerprint["version"]) == (name, version)
  assert dataset.notes[0] == "test is the published validation"


def test_celeb_a_is_cropped_and_resized_to_the_model(data_dir):
  dataset = data.load_dataset("celeb_a", data_dir, image_shape=(64, 64, 3))
  assert [dataset.split(s).shape for s in data.SPLITS] == 3 * [(3, 64, 64, 3)]
  cropped = [Image.fromarray(pixels("test", i, (218, 178, 3))[35:183, 15:163]) for i in range(3)]
  assert contents(dataset.test) == contents(image.resize((64, 64), Image.Resampling.LANCZOS) for image in cropped)
  assert data.load_dataset("celeb_a", data_dir, image_shape=(128, 128, 3)).image_shape == (128, 128, 3)


def test_a_set_without_test_or_validation_gets_them_from_train(data_dir):
  dataset = data.load_dataset("celeb_a_hq", data_dir, image_shape=(64, 64, 3))
  assert [len(dataset.split(s)) for s in data.SPLITS] == [106, 2, 12]
  assert contents(np.concatenate([dataset.split(s) for s in data.SPLITS])) == everything("train", (64, 64, 3))


def test_any_set_with_images_is_fitted_to_the_model(data_dir):
  dataset = data.load_dataset("tfds:home_made", data_dir, image_shape=(8, 8, 1))
  assert dataset.image_shape == (8, 8, 1) and len(dataset.train) == 26
  own, any_set = (data.load_dataset(name, data_dir).fingerprint() for name in ("mnist", "tfds:mnist"))
  assert own["sha256"] == any_set["sha256"]


def test_images_of_16_bits_are_cut_and_say_so(data_dir):
  dataset = data.load_dataset("tfds:deep", data_dir)
  whole = contents(np.concatenate([dataset.split(s) for s in data.SPLITS]))
  assert whole == {pixels("train", i, (32, 32, 3)).tobytes() for i in range(30)}
  assert dataset.notes[0] == "of 16 bits, of which the upper 8 are read"


def test_large_sets_are_decoded_once(data_dir, tmp_path, monkeypatch, cache_on_disk):
  cache_on_disk()
  first = data.load_dataset("cifar10", data_dir, cache_dir=tmp_path)
  assert isinstance(first.train, np.memmap) and isinstance(first.validation, np.memmap)
  monkeypatch.setattr(cache, "_write", None)
  again = data.load_dataset("cifar10", data_dir, cache_dir=tmp_path, bits=5)
  np.testing.assert_array_equal(again.test, np.asarray(first.test) // 8)
  assert again.fingerprint()["sha256"] != first.fingerprint()["sha256"]


def test_a_set_that_was_prepared_in_older_versions_is_read_in_the_newest_of_them(tmp_path):
  prepared(tmp_path, *(named("Cifar10", Cifar10, version) for version in ("2.0.10", "3.0.1")))
  assert data.load_dataset("cifar10", tmp_path).fingerprint()["version"] == "cifar10/3.0.1"
  assert data.load_dataset("tfds:cifar10:2.0.10", tmp_path).fingerprint()["version"] == "cifar10/2.0.10"


def test_a_damaged_set_is_named(tmp_path):
  (path,) = prepared(tmp_path, Cifar10).rglob("*test.tfrecord*")
  path.write_bytes(path.read_bytes()[:-100])
  refuses("test in .*/cifar10/3.0.2 cannot be read: ", data.load_dataset, "cifar10", tmp_path)


@pytest.mark.parametrize(
  "name, options, message",
  [
    ("cifar100", {}, r"looked for .*/cifar100/.*; prepare it by: tfds build cifar100 --data_dir="),
    ("celeb_a_hq", dict(image_shape=(128, 128, 3)), "tfds build celeb_a_hq/128 .*--manual_dir=FOLDER"),
    ("celeb_a_hq", dict(image_shape=(32, 32, 3)), "is available at 64x64x3 and 128x128x3"),
    (
      "imagenet64_old",
      {},
      "looked for .*/downsampled_imagenet/64x64/.*as --data_dir a folder with train_64x64.npy and valid",
    ),
    ("tfds:home_made", {}, "`image_shape` must say to which shape the images of home_made"),
    ("tfds:no_such_set", {}, "TensorFlow Datasets has no 'no_such_set'"),
    ("tfds:imdb_reviews", {}, "has no image feature; it has text, label"),
    ("tfds:", {}, "must have the form tfds:NAME"),
    ("cifar10", dict(splits_file="a.txt"), "`splits_file` and `max_bad_files` are for folders"),
  ],
)
def test_what_is_not_there_is_told_with_the_command_that_prepares_it(data_dir, name, options, message):
  with pytest.raises(data.InputError, match=message):
    data.load_dataset(name, data_dir, **options)


PUBLISHED = {
  split: np.stack([pixels(split, i, (32, 32, 3)) for i in range(count)])
  for split, count in (("train", 30), ("validation", 10))
}


def publish(folder, form, arrays=PUBLISHED, size=32):
  """Files as they were published, of one form."""
  for split, array in arrays.items():
    stem = f"{'valid' if split == 'validation' else split}_{size}x{size}"
    if form == ".npy":
      np.save(folder / f"{stem}.npy", array)
    elif form == ".npz":
      np.savez_compressed(folder / f"{stem}.npz", array)
    else:
      images = folder / ("" if form == "" else "images") / stem
      images.mkdir(parents=True)
      for i, image in enumerate(array):
        Image.fromarray(image).save(images / f"{i:05d}.png")
      names = sorted(images.iterdir(), reverse=True)  # an archive may have any order
      if form == ".zip":
        with zipfile.ZipFile(folder / f"{stem}.zip", "w") as archive:
          for name in names:
            archive.write(name, f"{stem}/{name.name}")
      elif form:
        with tarfile.open(folder / f"{stem}{form}", "w" if form == ".tar" else "w:gz") as archive:
          for name in names:
            archive.add(name, f"{stem}/{name.name}")


ARCHIVES = [".npz", ".tar", ".tar.gz", ".tgz", ".zip"]


@pytest.mark.parametrize("form", [".npy", "", *ARCHIVES])
def test_the_published_files_of_the_old_imagenet_are_the_same_in_each_form(tmp_path, form):
  publish(tmp_path, form)
  if form != ".npy":
    for stem in ("train_32x32", "valid_32x32"):
      with pytest.raises(data.InputError, match=f"{stem}{form}' must be converted by `python tools/convert"):
        data.load_dataset("imagenet32_old", tmp_path)
      convert_imagenet.convert(tmp_path / f"{stem}{form}")
  dataset = data.load_dataset("imagenet32_old", tmp_path)
  np.testing.assert_array_equal(dataset.test, PUBLISHED["validation"])
  np.testing.assert_array_equal(np.concatenate([dataset.train, dataset.validation]), PUBLISHED["train"])
  assert len(dataset.validation) == 1
  assert dataset.fingerprint()["version"] == "train_32x32.npy and valid_32x32.npy"


def load_or_convert(folder, form, size=32):
  if form != ".npy":
    convert_imagenet.convert(folder / f"train_{size}x{size}{form}")
  else:
    data.load_dataset(f"imagenet{size}_old", folder)


@pytest.mark.parametrize("form", [".npy", ".npz", ".tar", ""])
def test_published_files_of_another_size_are_refused(tmp_path, form):
  publish(tmp_path, form, size=64)
  refuses("train_64x64.*(must hold a uint8 array|must have 64x64 pixels)", load_or_convert, tmp_path, form, 64)


@pytest.mark.parametrize("form", [".npy", *ARCHIVES])
def test_published_files_that_are_cut_off_or_damaged_are_named(tmp_path, form):
  publish(tmp_path, form)
  path = tmp_path / f"train_32x32{form}"
  for content, message in ((path.read_bytes()[: path.stat().st_size // 2], ""), (b"damaged", " cannot be read")):
    path.write_bytes(content)
    refuses(f"train_32x32{form}'{message}", load_or_convert, tmp_path, form)
    assert form == ".npy" or not (tmp_path / "train_32x32.npy").exists()


def test_a_file_under_another_name_is_not_converted(tmp_path):
  message = "images.tar' must have a name such as train_32x32, or that with one of .npz"
  refuses(message, convert_imagenet.convert, tmp_path / "images.tar")


def test_an_array_that_is_there_is_not_replaced_by_a_conversion(tmp_path):
  publish(tmp_path, ".tar")
  target = tmp_path / "train_32x32.npy"
  target.write_bytes(b"another")
  with pytest.raises(data.InputError, match="train_32x32.npy' is there already; remove it to convert train_32x32.tar"):
    convert_imagenet.convert(tmp_path / "train_32x32.tar")
  assert target.read_bytes() == b"another"


def test_the_new_imagenet_under_the_name_of_the_old_one_is_refused(tmp_path):
  # Told apart by the number of validation images: 49,999 and 50,000.
  for name, count in (("train", 3), ("valid", 50_000)):
    np.lib.format.open_memmap(tmp_path / f"{name}_32x32.npy", "w+", np.uint8, (count, 32, 32, 3))
  with pytest.raises(data.InputError, match="'imagenet32_old': 50,000 validation images are those of imagenet32_new"):
    data.load_dataset("imagenet32_old", tmp_path)


def test_the_archives_of_cifar_10_are_in_the_order_of_tensorflow_datasets(data_dir, tmp_path):
  content = lambda split, i: bytes(1) + pixels(split, i, (32, 32, 3)).transpose(2, 0, 1).tobytes()
  files = {f"data_batch_{i + 1}.bin": ("train", range(24 * i, 24 * i + 24)) for i in range(5)}
  files["test_batch.bin"] = "test", range(20)
  members = [
    (tarfile.TarInfo(f"cifar-10-batches-bin/{file}"), b"".join(content(split, i) for i in rows))
    for file, (split, rows) in files.items()
  ]
  tar(tmp_path / "cifar-10-binary.tar.gz", *members, mode="w:gz")
  ours, theirs = data.load_dataset("cifar10", tmp_path), data.load_dataset("cifar10", data_dir)
  for split in data.SPLITS:
    np.testing.assert_array_equal(ours.split(split), theirs.split(split))
  assert ours.fingerprint()["sha256"] == theirs.fingerprint()["sha256"]
  assert ours.fingerprint()["version"] == "cifar-10-binary.tar.gz"


# --- Downloads ------------------------------------------------------------------------------------


class Downloaded(Cifar10, skip_registration=True):
  """The set whose download the tests stand in for."""

  name = "cifar10"
  url_infos = {
    "https://example.org/cifar.tar.gz": tfds.download.checksums.UrlInfo(tfds.core.utils.Size(170_052_171), "", "")
  }
  problem = None

  def _split_generators(self, dl_manager):
    EVENTS.append("download")
    print("a line of TensorFlow Datasets")
    if self.problem:
      raise self.problem
    return super()._split_generators(dl_manager)


EVENTS = []


@pytest.fixture
def internet(monkeypatch):
  """A function that says what asking a host and downloading raise, None for nothing."""
  EVENTS.clear()
  monkeypatch.setattr(tfds, "builder", lambda name, data_dir, version: Downloaded(data_dir=data_dir))
  monkeypatch.setattr(logging, "warning", lambda text, *values: EVENTS.append(text % values))

  def internet(asked=None, downloaded=None):
    def urlopen(request, timeout=None):
      EVENTS.append(f"{request.get_method()} {request.full_url}")
      assert timeout is not None  # else it could wait for ever
      if asked:
        raise asked
      return open("/dev/null", "rb")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(Downloaded, "problem", downloaded)

  internet()
  return internet


UNREACHED = urllib.error.URLError(socket.gaierror(-2, "Name or service not known"))
LINE = "TensorFlow Datasets downloads cifar10: 162 MiB from example.org to {}/cifar10/3.0.2; --nodownload refuses"


def test_what_is_missing_is_downloaded_after_a_line_that_says_so(internet, tmp_path, capsys):
  dataset = data.load_dataset("cifar10", tmp_path, download=True)
  assert contents(dataset.test) == everything("test")
  assert EVENTS == [LINE.format(tmp_path), "HEAD https://example.org/cifar.tar.gz", "download"]
  assert capsys.readouterr().out == ""  # which programs have for results
  assert data.load_dataset("cifar10", tmp_path).fingerprint() == dataset.fingerprint() and len(EVENTS) == 3


def test_a_host_that_refuses_to_be_asked_is_there(internet, tmp_path):
  internet(urllib.error.HTTPError("https://example.org", 405, "Method Not Allowed", {}, None))
  assert len(data.load_dataset("cifar10", tmp_path, download=True).test) == 20


@pytest.mark.parametrize(
  "asked, downloaded, reason",
  [
    (UNREACHED, None, "example.org cannot be reached: Name or service not known"),
    (TimeoutError("timed out"), None, "example.org cannot be reached: timed out"),
    (None, ConnectionError("the connection broke"), "the connection broke"),
    (None, OSError(28, "No space left on device"), "No space left on device"),
    (None, AssertionError("the checksum differs"), "the checksum differs"),
  ],
)
def test_a_download_that_fails_names_the_other_ways_in_three_lines(internet, tmp_path, asked, downloaded, reason):
  internet(asked, downloaded)
  with pytest.raises(data.InputError) as caught:
    data.load_dataset("cifar10", tmp_path, download=True)
  first, prepare, archives = caught.value.lines
  assert first == f"data set 'cifar10' cannot be downloaded: {reason}"
  assert f"tfds build cifar10 --data_dir={tmp_path}" in prepare
  for way in ("cifar-10-binary.tar.gz", "cifar-10-python.tar.gz", "~/.keras/datasets"):
    assert way in archives
  assert ("download" in EVENTS) == (asked is None)
  assert not (tmp_path / "cifar10" / "3.0.2").exists()


def test_nothing_is_downloaded_unless_it_is_said(internet, tmp_path):
  with pytest.raises(data.InputError, match="is not prepared.*\n.*without --nodownload.*`download=True`\n.*keras"):
    data.load_dataset("cifar10", tmp_path)
  assert not EVENTS


def test_the_old_imagenet_and_sets_that_are_downloaded_by_hand_are_not_tried(monkeypatch, tmp_path):
  monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("a host was asked"))
  for name, message in (("imagenet64_old", "no longer be downloaded"), ("celeb_a_hq", "--manual_dir=FOLDER")):
    refuses(message, data.load_dataset, name, tmp_path, image_shape=(64, 64, 3), download=True)


def test_a_program_prints_the_three_lines_and_ends_with_2(internet, tmp_path):
  internet(UNREACHED)
  train = ["train", "--config=cifar10", f"--data_dir={tmp_path}"]
  result = call(*train, cwd=tmp_path)
  assert result.code == 2 and EVENTS == [LINE.format(tmp_path), "HEAD https://example.org/cifar.tar.gz"]
  *_, first, prepare, archives = result.error.splitlines()
  assert first.endswith(
    "error: data set 'cifar10' cannot be downloaded: example.org cannot be reached: Name or service not known"
  )
  assert prepare.startswith("  prepare it") and archives.startswith("  or give as --data_dir")
  EVENTS.clear()
  result = call(*train, "--nodownload", cwd=tmp_path)
  assert result.code == 2 and "without --nodownload" in result.error and not EVENTS


def test_the_page_downloads_nothing(internet, tmp_path):
  config = fpp.get_config("cifar10")
  assert demo._dataset({"dataset": "cifar10", "data_dir": str(tmp_path)}, config) is None
  assert not EVENTS


@pytest.mark.parametrize("name", ["{x}", "{0}", "a{b"])
def test_braces_of_a_name_are_not_replaced(name):
  refuses("TensorFlow Datasets has no", data.load_dataset, f"tfds:{name}", image_shape=(8, 8, 3))
