"""Class labels: from every source, beside their images in every batch, part of the fingerprint."""

import contextlib
import dataclasses
import json
import types

import numpy as np
from PIL import Image
import pytest
import sklearn.datasets
import tensorflow as tf
import tensorflow_datasets as tfds

from flowpp_tf import data
from flowpp_tf.data import ReducedBits, cache
from flowpp_tf.data import tfds as tfds_sets
from support.files import spoiled
from support.models import TINY, small_config
from support.refusing import refuses
from support.tfds_builders import OfSplits, named, prepared

CLASSES = ("ant", "bee", "cat")


def marked(labels, shape=(4, 4, 1)):
  """Images whose every pixel is their label, so that a label beside the wrong image is seen."""
  return np.broadcast_to(np.reshape(labels, (-1, 1, 1, 1)), (len(labels), *shape)).astype(np.uint8)


def small_set(count=30, **changes):
  labels = {split: np.random.RandomState(i).randint(0, 3, [count]) for i, split in enumerate(data.SPLITS)}
  fields = {"labels": labels, "classes": CLASSES, **{split: marked(labels[split]) for split in data.SPLITS}}
  return data.ImageDataset("small", **{"levels": 256, **fields, **changes})


def assert_labels_are_of_their_images(dataset, of_image=lambda image: image[0, 0, 0]):
  for split in data.SPLITS:
    labels = dataset.labels_of(split)
    assert labels.dtype == np.int32 and labels.shape == (len(dataset.split(split)),)
    assert [of_image(image) for image in dataset.split(split)[:]] == labels.tolist()


# The data set.


def test_a_data_set_has_labels_only_if_they_are_wanted():
  # Data sets without classes, and programs that do not want them, must not notice.
  plain, labelled = data.load_dataset("digits"), data.load_dataset("digits", labels=True)
  assert (plain.labels, plain.classes, plain.num_classes, plain.labels_of("train")) == (None, (), 0, None)
  assert labelled.classes == tuple("0123456789") and labelled.num_classes == 10
  np.testing.assert_array_equal(plain.train, labelled.train)


def test_digits_have_the_labels_of_scikit_learn():
  source = sklearn.datasets.load_digits()
  target = {image.astype(np.uint8).tobytes(): label for image, label in zip(source.images, source.target)}
  assert len(target) == len(source.images)  # or a label could be that of another image
  assert_labels_are_of_their_images(data.load_dataset("digits", labels=True), lambda image: target[image.tobytes()])


def test_labels_stay_when_bits_are_reduced():
  dataset = small_set()
  reduced = dataset.reduce_bits(5)
  assert reduced.classes == CLASSES
  for split in data.SPLITS:
    np.testing.assert_array_equal(reduced.labels_of(split), dataset.labels_of(split))


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"labels": None}, "`labels` and `classes` must be given together"),
    ({"classes": ()}, "`labels` and `classes` must be given together"),
    ({"train": np.zeros([29, 4, 4, 1], np.uint8)}, r"`labels` of train .* the 29 images, got int64 of shape \(30,"),
    ({"labels": {"train": np.zeros(30, int)}}, "`labels` of validation must hold one integer for each of the 30"),
    ({"labels": dict.fromkeys(data.SPLITS, np.zeros(30))}, "got float64 of shape"),
    ({"labels": dict.fromkeys(data.SPLITS, np.zeros([30, 1], int))}, r"got int64 of shape \(30, 1\)"),
    ({"labels": dict.fromkeys(data.SPLITS, np.full(30, -1))}, r"must lie in 0 .. 2 \(3 classes\), got values from -1"),
    ({"labels": dict.fromkeys(data.SPLITS, np.full(30, 2**32))}, "got values from 4294967296"),  # 0 as int32
  ],
)
def test_labels_that_do_not_fit_are_refused(changes, message):
  refuses(message, small_set, **changes)


def test_a_models_classes_must_be_those_of_the_data():
  config = small_config(TINY, image_shape=(4, 4, 1), levels=256)
  small_set().check(config)
  small_set(labels=None, classes=()).check(config)
  config = dataclasses.replace(config, num_classes=3)
  small_set().check(config)
  refuses("'small' has no labels, .* config has num_classes 3", small_set(labels=None, classes=()).check, config)
  config = dataclasses.replace(config, num_classes=10)
  refuses("'small' has 3 classes; the model's config has num_classes 10", small_set().check, config)


def test_a_prepared_set_that_claims_many_classes_is_refused_before_they_have_names():
  """A `features.json` of a few bytes would make a list of 10^8 texts."""
  label = tfds.features.ClassLabel(num_classes=10**8)
  builder = types.SimpleNamespace(info=types.SimpleNamespace(features={"label": label}, full_name="stranger/1.0.0"))
  refuses("stranger/1.0.0 has no labels: .* of at most 65,536 classes", tfds_sets._read_labels, builder)


# The fingerprint.


def test_a_fingerprint_without_labels_is_that_of_earlier_versions():
  # Runs record it, and cannot be resumed if it changes.
  assert json.dumps(data.load_dataset("digits").fingerprint()) == (
    '{"name": "digits", "version": "", "splits": {"train": 1527, "validation": 90, "test": 180}, "levels": 17, '
    '"image_shape": [8, 8, 1], "sha256": "48a2c83b36aae8064a44aae184c00b9355f6c6fa6ad209e593f5ea0f7b92f7ec", '
    '"digest": "48a2c83b36aa"}'
  )


def test_a_fingerprint_covers_every_label_of_every_split():
  base = small_set(count=300)
  plain = dataclasses.replace(base, labels=None, classes=())
  digests = {base.fingerprint()["sha256"], plain.fingerprint()["sha256"]}
  for split in data.SPLITS:
    labels = base.labels_of(split).copy()
    labels[150] = (labels[150] + 1) % 3  # not near an end
    digests.add(dataclasses.replace(base, labels={**base.labels, split: labels}).fingerprint()["sha256"])
  assert len(digests) == 5
  fingerprint = base.fingerprint()
  assert json.loads(json.dumps(fingerprint)) == fingerprint and fingerprint["classes"] == list(CLASSES)
  assert {k: v for k, v in fingerprint.items() if k not in ("classes", "sha256", "digest")}.items() <= (
    plain.fingerprint().items()
  )


def test_a_description_says_how_many_classes_there_are():
  dataset = small_set()
  assert "256 levels, 3 classes (data " in data.describe(dataset.fingerprint())
  assert "classes" not in data.describe(dataclasses.replace(dataset, labels=None, classes=()).fingerprint())


# Sources.


def write_images(folder, classes=("10", "9", "cat"), count=60):
  """Images in nested folders by class, each pixel the class's number in sorted order."""
  for i in range(count):
    path = folder / classes[i % len(classes)] / "deep" / f"{i}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full([4, 4], i % len(classes), np.uint8)).save(path)


def load_folder(folder, **options):
  return data.load_dataset(f"folder:{folder}", image_shape=(4, 4, 1), **{"labels": True, **options})


def test_classes_of_a_folder_are_its_first_subfolders(tmp_path):
  write_images(tmp_path)
  dataset = load_folder(tmp_path)
  assert dataset.classes == ("10", "9", "cat")
  assert_labels_are_of_their_images(dataset)


@pytest.mark.parametrize("in_memory", [True, False])
def test_labels_of_a_folder_follow_splits_files_bad_files_and_the_cache(tmp_path, cache_on_disk, in_memory):
  if not in_memory:
    cache_on_disk()
  write_images(tmp_path / "images", classes=("a", "b", "c"))
  names = [f"{'abc'[i % 3]}/deep/{i}.png" for i in range(60)]
  for i in (0, 7, 30, 59):  # first, last, and in the middle of splits
    (tmp_path / "images" / names[i]).write_bytes(b"not an image")
  Image.new("L", (4, 4)).save(tmp_path / "images" / "left_out.png")  # has no class, and the splits do not name it
  (tmp_path / "splits.txt").write_text(
    "".join(f"{split} {name}\n" for i, name in enumerate(names) for split in [data.SPLITS[max(0, i % 5 - 2)]])
  )
  options = {"splits_file": tmp_path / "splits.txt", "max_bad_files": 4, "cache_dir": tmp_path / "cache"}
  without = load_folder(tmp_path / "images", labels=False, **options)
  with contextlib.nullcontext() if in_memory else spoiled(tmp_path / "images"):  # a cache must serve both
    dataset = load_folder(tmp_path / "images", **options)
  assert sum(map(len, dataset.labels.values())) == 56 and dataset.classes == ("a", "b", "c")
  assert_labels_are_of_their_images(dataset)
  np.testing.assert_array_equal(without.train, dataset.train)


def test_an_image_outside_the_folders_of_the_classes_is_refused_if_labels_are_wanted(tmp_path):
  write_images(tmp_path)
  Image.new("L", (4, 4)).save(tmp_path / "top.png")
  load_folder(tmp_path, labels=False)
  refuses("image 'top.png' must be in a subfolder named after its class", load_folder, tmp_path)


NPZ = {
  **{split: marked([0, 2, 1, 2]) for split in data.SPLITS},
  **{f"{split}_labels": np.asarray([0, 2, 1, 2]) for split in data.SPLITS},
}


def test_an_npz_has_arrays_of_labels(tmp_path):
  np.savez(tmp_path / "a.npz", **{**NPZ, "test": marked([4]), "test_labels": np.asarray([4], np.uint8)})
  dataset = data.load_dataset(f"npz:{tmp_path / 'a.npz'}", labels=True)
  assert dataset.classes == ("0", "1", "2", "3", "4")  # up to the largest of any split
  assert_labels_are_of_their_images(dataset)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"test_labels": None}, "has no array 'test_labels'; it has 'train', "),
    ({"test_labels": np.zeros(4)}, "`labels` of test in .*a.npz' must hold one integer .*, got float64"),
    ({"test_labels": np.zeros(3, int)}, "`labels` of test .* must hold one integer for each of the 4 images"),
    ({"test_labels": np.zeros(0, int)}, "`labels` of test .* must hold one integer for each of the 4 images"),
    ({"test_labels": np.full(4, -1)}, "`labels` of test must lie in 0 .. 2"),
    ({"test_labels": np.full(4, 70_000)}, "labels must be less than 65,536, got 70,000"),
    ({"test_labels": np.full(4, 2**62)}, "`labels` of test .* must be integers of 32 bits"),
    ({f"{split}_labels": np.full(4, -1) for split in data.SPLITS}, "`labels` of train must lie in 0 .. 0"),
    ({"test": NPZ["test"][:0], "test_labels": np.zeros(0, int)}, "a.npz': `test` must hold at least one image"),
    ({"test": np.uint8(1)}, "a.npz': `test` must be of shape"),
  ],
)
def test_wrong_labels_in_an_npz_are_named(tmp_path, changes, message):
  np.savez(tmp_path / "a.npz", **{name: array for name, array in {**NPZ, **changes}.items() if array is not None})
  refuses(message, data.load_dataset, f"npz:{tmp_path / 'a.npz'}", labels=True)


class _Labelled(OfSplits, skip_registration=True):
  """A set of marked images; subclasses say which of its features has the mark."""

  VERSION = tfds.core.Version("1.0.0")
  SHAPE = (4, 4, 1)
  MARK = "label"
  FEATURES = {"label": tfds.features.ClassLabel(names=CLASSES)}
  SPLITS = {"train": 120, "test": 20}
  UNLABELLED = "none"  # split with the label -1

  def _generate_examples(self, split):
    for i, mark in enumerate(np.random.RandomState(0).randint(0, 3, [self.SPLITS[split]])):
      others = dict.fromkeys(self.FEATURES, 0)
      label = -1 if split == self.UNLABELLED else mark
      yield i, {"image": marked([mark])[0], **others, self.MARK: label}


CIFAR10 = named("Cifar10", _Labelled, "3.0.2")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  label = tfds.features.ClassLabel
  species, two = label(names=CLASSES), label(num_classes=2)
  cifar100 = {"coarse_label": two, "label": label(num_classes=3)}
  return prepared(
    tmp_path_factory.mktemp("tensorflow_datasets"),
    CIFAR10,
    named("Cifar100", _Labelled, "3.0.2", FEATURES=cifar100),
    named("ImagenetResized", _Labelled, "0.1.0", "32x32", SPLITS={"train": 120, "validation": 20}),
    named(
      "OnlyClasses", _Labelled, MARK="species", FEATURES={"species": species, "label": np.int64}, SPLITS={"train": 120}
    ),
    named("TwoClasses", _Labelled, MARK="species", FEATURES={"species": species, "colour": two}),
    named("NoClasses", _Labelled, MARK="size", FEATURES={"size": np.int64}),
    named("UnlabelledTest", _Labelled, UNLABELLED="test"),
  )


@pytest.mark.parametrize(
  "name, classes",
  [
    ("cifar10", CLASSES),
    ("tfds:cifar10", CLASSES),
    ("cifar100", ("0", "1", "2")),
    ("imagenet32_new", CLASSES),
    ("tfds:only_classes", CLASSES),
  ],
)
def test_sets_of_tensorflow_datasets_have_the_labels_of_their_feature(data_dir, name, classes, monkeypatch):
  monkeypatch.setattr("flowpp_tf.data.tfds._LABELS_PER_READ", 50)  # three reads, the last one smaller
  dataset = data.load_dataset(name, data_dir, labels=True)
  assert dataset.classes == classes
  assert_labels_are_of_their_images(dataset)


def test_cached_sets_of_tensorflow_datasets_have_labels(data_dir, tmp_path, monkeypatch, cache_on_disk):
  cache_on_disk()
  data.load_dataset("cifar10", data_dir, cache_dir=tmp_path)
  monkeypatch.setattr(cache, "_write", None)  # nothing may be decoded again
  assert_labels_are_of_their_images(data.load_dataset("cifar10", data_dir, cache_dir=tmp_path, labels=True))


@pytest.mark.parametrize(
  "name, message",
  [
    ("tfds:no_classes", "no_classes/1.0.0 has no labels: .*; it has (image, size|size, image)"),
    (
      "tfds:two_classes",
      "two_classes/1.0.0 has no labels: it must have one .*, or one named 'label'.*(colour.*species|species.*colour)",
    ),
    ("tfds:unlabelled_test", r"`labels` of test must lie in 0 .. 2 \(3 classes\), got values from -1 to -1"),
  ],
)
def test_sets_of_tensorflow_datasets_without_labels_say_so(data_dir, name, message):
  refuses(message, data.load_dataset, name, data_dir, labels=True)


def test_damaged_labels_of_tensorflow_datasets_are_named(tmp_path):
  (path,) = prepared(tmp_path, CIFAR10).rglob("*test.tfrecord*")
  path.write_bytes(path.read_bytes()[:-100])
  refuses("test in .*/cifar10/3.0.2 cannot be read: ", data.load_dataset, "cifar10", tmp_path, labels=True)


def test_sources_without_labels_say_so(tmp_path):
  for name in ("train", "valid"):
    np.save(tmp_path / f"{name}_32x32.npy", np.zeros([5, 32, 32, 3], np.uint8))
  for name, options, message in (
    ("photos", {}, "data set 'photos' has no labels"),
    ("photos", {"crops": True}, "data set 'photos' has no labels for crops"),
    ("folder:a", {"crops": True, "image_shape": (4, 4, 1)}, "data set 'folder:a' has no labels for crops"),
    ("imagenet32_old", {"data_dir": tmp_path}, "data set 'imagenet32_old' has no labels in its published files"),
  ):
    refuses(message, data.load_dataset, name, labels=True, **options)


# Batches.


LABELS = np.random.RandomState(0).permutation(50)
IMAGES = np.stack([LABELS, 100 + LABELS], axis=1).astype(np.uint8).reshape(50, 1, 2, 1)  # the lower value is the label


def batches(count=25, start_step=0, **options):
  options = {"labels": LABELS, "flip": True, **options}
  return list(data.training_batches(IMAGES, 8, 7, start_step, **options).take(count).as_numpy_iterator())


def test_each_image_has_its_label_in_every_epoch():
  plain, labelled = batches(labels=None), batches()  # four epochs
  for without, batch in zip(plain, labelled, strict=True):
    np.testing.assert_array_equal(batch["image"], without)  # labels do not change the images
    np.testing.assert_array_equal(batch["image"].min(axis=(1, 2, 3)), batch["label"])
  epochs = np.reshape([batch["label"] for batch in labelled], (4, 50))
  np.testing.assert_array_equal(np.sort(epochs), 4 * [np.arange(50)])


def test_labels_follow_a_resumed_run_and_its_workers():
  whole = [batch["label"] for batch in batches()]
  np.testing.assert_array_equal([batch["label"] for batch in batches(count=5, start_step=20)], whole[20:])
  parts = [[batch["label"] for batch in batches(num_shards=2, shard=i)] for i in range(2)]
  np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_batches_with_labels_have_static_shapes():
  # XLA compiles a training step once for them.
  assert data.training_batches(IMAGES, 8, 0, labels=LABELS).element_spec == {
    "image": tf.TensorSpec([8, 1, 2, 1], tf.uint8),
    "label": tf.TensorSpec([8], tf.int32),
  }
  assert data.evaluation_batches(IMAGES, 8, LABELS).element_spec == {
    "image": tf.TensorSpec([None, 1, 2, 1], tf.uint8),
    "label": tf.TensorSpec([None], tf.int32),
  }


def test_evaluation_batches_have_all_labels_in_order():
  seen = list(data.evaluation_batches(IMAGES, 16, LABELS).as_numpy_iterator())
  assert [len(batch["label"]) for batch in seen] == [16, 16, 16, 2]
  np.testing.assert_array_equal(np.concatenate([batch["image"] for batch in seen]), IMAGES)
  np.testing.assert_array_equal(np.concatenate([batch["label"] for batch in seen]), LABELS)


@pytest.mark.parametrize("labels", [None, LABELS])
def test_weighted_batches_pad_images_and_labels_alike(labels):
  padded, weights, again = list(
    data.weighted_batches(data.evaluation_batches(IMAGES, 16, labels), 4).as_numpy_iterator()
  )[-1]
  parts = {"image": padded} if labels is None else padded
  np.testing.assert_array_equal(weights, [1, 1, 0, 0])
  np.testing.assert_array_equal(again, weights)
  np.testing.assert_array_equal(parts["image"], IMAGES[[48, 49, 49, 49]])
  if labels is not None:
    np.testing.assert_array_equal(parts["label"], LABELS[[48, 49, 49, 49]])


def test_labels_of_other_images_are_refused():
  crops = data.RandomCrops(np.zeros([64, 1], np.uint8), [(8, 8)], (4, 4, 1))
  for call in (
    lambda images, labels: data.training_batches(images, 4, 0, labels=labels),
    lambda images, labels: data.evaluation_batches(images, 4, labels),
  ):
    refuses(r"one integer for each of the 50 images, got int64 of shape \(49,\)", call, IMAGES, LABELS[:-1])
    for images_of_crops in (crops, ReducedBits(crops, 5)):
      refuses("`labels` must be None for photographs", call, images_of_crops, np.zeros(4, int))
