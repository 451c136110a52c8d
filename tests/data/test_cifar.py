"""The published files of CIFAR-10 and CIFAR-100, in each form that people have."""

import gzip
import hashlib
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest

from flowpp_tf import data
from flowpp_tf.data import published
from support.hostile_files import tar
from support.refusing import refuses

COUNTS = {"train": 40, "test": 20}
IMAGES = {
  split: np.random.RandomState(count).randint(0, 256, [count, 32, 32, 3]).astype(np.uint8)
  for split, count in COUNTS.items()
}
LABELS = {split: images[:, 0, 0, 0] % 10 for split, images in IMAGES.items()}  # so that each image says its own


def python2(value):
  """A value as Python 2's cPickle writes it, in protocol 2, without its beginning and end."""
  if isinstance(value, dict):
    return b"}(" + b"".join(python2(key) + python2(item) for key, item in value.items()) + b"u"
  if isinstance(value, list):
    return b"](" + b"".join(map(python2, value)) + b"e"
  if isinstance(value, int):
    return b"K" + bytes([value]) if 0 <= value < 256 else b"J" + struct.pack("<i", value)
  if isinstance(value, bytes):
    return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<I", len(value)) + value
  made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R"
  kind = python2(value.dtype.str[1:].encode())
  dtype = b"cnumpy\ndtype\n" + kind + b"K\0K\1\x87R(K\3U\1|NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\0tb"
  shape = b"(" + b"".join(map(python2, value.shape)) + b"t"
  return made + b"(K\1" + shape + dtype + b"\x89" + python2(value.tobytes()) + b"tb"


def pickled(value):
  return b"\x80\2" + python2(value) + b"."


def rows(images):
  return images.transpose(0, 3, 1, 2).reshape(len(images), 3072)


def batch(split, part=slice(None), key=b"labels"):
  labels = LABELS[split][part].tolist()
  return {
    b"batch_label": b"a batch",
    key: labels,
    b"data": rows(IMAGES[split][part]),
    b"filenames": [b"%d.png" % i for i in labels],
  }


def records(split, part=slice(None), coarse=False):
  labels = LABELS[split][part, np.newaxis]
  columns = [np.full_like(labels, 7), labels] if coarse else [labels]
  return np.concatenate([*columns, rows(IMAGES[split][part])], axis=1).tobytes()


PARTS = [slice(8 * i, 8 * i + 8) for i in range(5)]
CONTENTS = {  # by the folder in the archive
  "cifar-10-batches-bin": {
    **{f"data_batch_{i + 1}.bin": records("train", part) for i, part in enumerate(PARTS)},
    "test_batch.bin": records("test"),
    "batches.meta.txt": b"airplane\n",
  },
  "cifar-10-batches-py": {
    **{f"data_batch_{i + 1}": pickled(batch("train", part)) for i, part in enumerate(PARTS)},
    "test_batch": pickled(batch("test")),
    "batches.meta": b"(dp1\nS'num_vis'\np2\nI3072\ns.",
  },
  "cifar-100-binary": {"train.bin": records("train", coarse=True), "test.bin": records("test", coarse=True)},
  "cifar-100-python": {
    split: pickled({**batch(split, key=b"fine_labels"), b"coarse_labels": COUNTS[split] * [7]}) for split in COUNTS
  },
}
ARCHIVES = {
  "cifar-10-binary.tar.gz": "cifar-10-batches-bin",
  "cifar-10-python.tar.gz": "cifar-10-batches-py",
  "cifar-100-binary.tar.gz": "cifar-100-binary",
  "cifar-100-python.tar.gz": "cifar-100-python",
}


def unpack(folder, name, contents=None):
  (folder / name).mkdir(parents=True)
  for file, content in (contents or CONTENTS[name]).items():
    (folder / name / file).write_bytes(content)
  return folder


def pack(folder, archive, contents=None):
  name = ARCHIVES[archive]
  members = ((tarfile.TarInfo(f"{name}/{file}"), data) for file, data in (contents or CONTENTS[name]).items())
  tar(folder / archive, *members, mode="w:gz")
  return folder


SOURCES = [
  *((archive, lambda folder, a=archive: pack(folder, a)) for archive in ARCHIVES),
  *((f"{archive} itself", lambda folder, a=archive: pack(folder, a) / a) for archive in ARCHIVES),
  *((name, lambda folder, n=name: unpack(folder, n)) for name in CONTENTS),  # an older Keras has such folders, too
  *((f"{name} itself", lambda folder, n=name: unpack(folder, n) / n) for name in CONTENTS),
  ("cifar-10 of Keras", lambda folder: unpack(folder / "cifar-10-batches-py-target", "cifar-10-batches-py").parent),
  ("cifar-100 of Keras", lambda folder: unpack(folder / "cifar-100-python-target", "cifar-100-python").parent),
]


@pytest.fixture(autouse=True)
def own_checksums(monkeypatch):
  """Let the pickles of these tests be the published ones."""
  for form in ("cifar-10-batches-py", "cifar-100-python"):
    for file, content in CONTENTS[form].items():
      monkeypatch.setitem(published._PICKLE_CHECKSUMS, file, hashlib.md5(content).hexdigest())


@pytest.mark.parametrize("source, make", SOURCES, ids=[source for source, _ in SOURCES])
def test_each_source_has_the_same_images_and_labels(tmp_path, source, make):
  name = "cifar100" if "100" in source else "cifar10"
  dataset = data.load_dataset(name, make(tmp_path), labels=True)
  assert [len(dataset.split(split)) for split in data.SPLITS] == [39, 1, 20]
  whole = np.concatenate([dataset.train, dataset.validation])
  assert {image.tobytes() for image in whole} == {image.tobytes() for image in IMAGES["train"]}
  for split in data.SPLITS:
    np.testing.assert_array_equal(dataset.labels_of(split), dataset.split(split)[:, 0, 0, 0] % 10)
  assert dataset.num_classes == (100 if name == "cifar100" else 10) and [*dataset.classes] == sorted(dataset.classes)
  first = unpack(tmp_path / "first", "cifar-100-binary" if name == "cifar100" else "cifar-10-batches-bin")
  _, images, _ = published.read_published(name, first, labels=True)
  np.testing.assert_array_equal(whole, images["train"])
  np.testing.assert_array_equal(dataset.test, images["test"])


def test_the_pickles_of_these_tests_are_those_of_numpy():
  # NumPy's own reader agrees, so that the tests do not only read what they have written.
  found = pickle.loads(pickled(batch("test")), encoding="bytes")
  np.testing.assert_array_equal(found[b"data"], rows(IMAGES["test"]))
  assert found[b"labels"] == LABELS["test"].tolist()


def test_the_binary_form_is_read_if_both_exist(tmp_path):
  for archive in ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"):
    pack(tmp_path, archive)
  assert data.load_dataset("cifar10", tmp_path).fingerprint()["version"] == "cifar-10-binary.tar.gz"


@pytest.mark.parametrize(
  "content",
  [
    b"cos\nsystem\n(U\x0ctouch calledtR.",
    CONTENTS["cifar-10-batches-py"]["test_batch"][:-100],
    CONTENTS["cifar-10-batches-py"]["data_batch_1"],
    b"",
  ],
)
def test_a_pickle_that_is_not_the_published_one_is_one_line_and_calls_nothing(tmp_path, monkeypatch, content):
  monkeypatch.chdir(tmp_path)
  unpack(tmp_path, "cifar-10-batches-py", {**CONTENTS["cifar-10-batches-py"], "test_batch": content})
  with pytest.raises(data.InputError, match="test_batch.* its MD5 is .*, which the published file has") as caught:
    data.load_dataset("cifar10", tmp_path)
  assert len(caught.value.lines) == 1
  assert os.listdir(tmp_path) == ["cifar-10-batches-py"]


@pytest.mark.parametrize(
  "file, content, message",
  [
    ("data_batch_2.bin", records("train")[:-1], "which are not records of 3,073"),
    ("test_batch.bin", b"", "has 0 bytes, which are not records"),
    ("test_batch.bin", b"\x0a" + records("test")[1:], "`labels` of test must lie in 0 .. 9"),
  ],
)
def test_damaged_records_are_named(tmp_path, file, content, message):
  unpack(tmp_path, "cifar-10-batches-bin", {**CONTENTS["cifar-10-batches-bin"], file: content})
  with pytest.raises(data.InputError) as caught:
    data.load_dataset("cifar10", tmp_path, labels=True)
  assert message in str(caught.value)


def test_a_folder_without_one_of_its_files_is_named(tmp_path):
  unpack(tmp_path, "cifar-10-batches-bin")
  (tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin").unlink()
  refuses("data_batch_3.bin' cannot be read: No such file", data.load_dataset, "cifar10", tmp_path)
  os.mkfifo(tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin")
  message = "data_batch_3.bin' cannot be read: it is a folder, a named pipe or a device"
  refuses(message, data.load_dataset, "cifar10", tmp_path)


def test_damaged_archives_are_named(tmp_path, monkeypatch):
  archive = "cifar-10-binary.tar.gz"
  whole = (pack(tmp_path, archive) / archive).read_bytes()

  def refused(content, message):
    (tmp_path / archive).write_bytes(content)
    refuses(message, data.load_dataset, "cifar10", tmp_path)

  refused(whole[: len(whole) // 2], f"{archive}' cannot be read: ")
  refused(b"no archive", f"{archive}' cannot be read: ")
  refused(gzip.compress(b"no archive"), f"{archive}' cannot be read: ")
  pack(tmp_path, archive, {"test_batch.bin": b""})
  refused((tmp_path / archive).read_bytes(), "has no data_batch_1.bin and no data_batch_2.bin and ")
  with tarfile.open(tmp_path / archive, "w:gz") as links:  # out of the archive
    for file in CONTENTS["cifar-10-batches-bin"]:
      info = tarfile.TarInfo(f"cifar-10-batches-bin/{file}")
      info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
      links.addfile(info)
  refused((tmp_path / archive).read_bytes(), "has no data_batch_1.bin")
  monkeypatch.setattr(published, "_MOST", 1 << 16)
  refused(gzip.compress(bytes(1 << 20)), f"{archive}' holds more than 64 KiB")
