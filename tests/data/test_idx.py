"""The IDX files of MNIST and Fashion-MNIST: images, and the labels beside them."""

import gzip
import struct

import numpy as np
import pytest

from flowpp_tf import data
from flowpp_tf.data.published import read_idx_images, read_idx_labels
from support.refusing import refuses

LABELS = np.random.RandomState(0).randint(0, 10, 60).astype(np.uint8)
IMAGES = np.random.RandomState(0).randint(0, 256, [60, 4, 6]).astype(np.uint8)
IMAGES[:, 0, 0] = LABELS  # so that a label beside the wrong image is seen


def encoded(array, header=None):
  header = header or (0, 0, 8, array.ndim)
  return struct.pack(f">4B{array.ndim}I", *header, *array.shape) + array.tobytes()


def write_files(folder, suffix=""):
  write = gzip.compress if suffix else bytes
  for stem, count in (("train", 60), ("t10k", 7)):
    (folder / f"{stem}-images-idx3-ubyte{suffix}").write_bytes(write(encoded(IMAGES[:count])))
    (folder / f"{stem}-labels-idx1-ubyte{suffix}").write_bytes(write(encoded(LABELS[:count])))


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("name, last", [("mnist", "9"), ("fashion_mnist", "Ankle boot")])
def test_the_published_files_are_the_data_set(tmp_path, name, last, suffix):
  write_files(tmp_path, suffix)
  dataset = data.load_dataset(name, tmp_path, labels=True)
  np.testing.assert_array_equal(dataset.train[..., 0], IMAGES[:-1])
  np.testing.assert_array_equal(dataset.validation[..., 0], IMAGES[-1:])
  np.testing.assert_array_equal(dataset.test[..., 0], IMAGES[:7])
  assert dataset.num_classes == 10 and dataset.classes[9] == last
  for split in data.SPLITS:
    np.testing.assert_array_equal(dataset.labels_of(split), dataset.split(split)[:, 0, 0, 0])


def test_files_without_labels_are_a_data_set_without_labels(tmp_path):
  write_files(tmp_path)
  (tmp_path / "t10k-labels-idx1-ubyte").unlink()
  assert data.load_dataset("mnist", tmp_path).labels is None
  with pytest.raises(data.InputError, match="t10k-images-idx3-ubyte' has no labels: looked for t10k-labels-idx1-ubyte"):
    data.load_dataset("mnist", tmp_path, labels=True)


def damaged(array, what):
  """Contents of files that are not those of the array, and what is said of each."""
  rank, other, claims = array.ndim, 4 - array.ndim, f"claims {what} of shape "
  size = f"{array.size - 1:,}", f"{array.size + 1:,}"
  return [
    (b"", f"it begins with nothing; expected an IDX file of {what}"),
    (
      encoded(array, (0, 0, 8, other)),
      f"it begins with 00 00 08 0{other}; expected .* begins with the bytes 00 00 08 0{rank}",
    ),
    (encoded(array)[:-1], rf"{claims}\({', '.join(map(str, array.shape))},?\), and has {size[0]} bytes"),
    (encoded(array) + b"x", rf"{claims}\({', '.join(map(str, array.shape))},?\), and has {size[1]} bytes"),
    (
      struct.pack(f">4B{rank}I", 0, 0, 8, rank, *rank * [2**32 - 1]),
      rf"{claims}\({', '.join(rank * ['4294967295'])},?\), and has 0 bytes",
    ),
    (struct.pack(f">4B{rank}I", 0, 0, 8, rank, *rank * [0]), rf"{claims}\({', '.join(rank * ['0'])},?\), and has 0"),
  ]


READERS = {"images": (IMAGES, read_idx_images), "labels": (LABELS, lambda path: read_idx_labels(path, 60))}


@pytest.mark.parametrize("what, case", [(what, case) for what in READERS for case in range(6)])
def test_damaged_files_are_refused_in_one_line(tmp_path, what, case):
  array, read = READERS[what]
  content, message = damaged(array, what)[case]
  for suffix, write in ((".gz", gzip.compress), ("", bytes)):
    path = tmp_path / f"train-{what}-idx{array.ndim}-ubyte{suffix}"
    path.write_bytes(write(content))
    refuses(message, read, tmp_path / f"train-images-idx3-ubyte{suffix if what == 'images' else ''}")
  path = tmp_path / "y.gz"
  path.write_bytes(gzip.compress(content)[:-9] if content else b"no gzip")
  refuses("cannot be read|IDX|claims", read_idx_images, path)


def test_labels_must_be_one_of_each_image_and_classes(tmp_path):
  write_files(tmp_path)
  (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(encoded(np.full(7, 10, np.uint8)))
  refuses("`labels` of test must lie in 0 .. 9", data.load_dataset, "mnist", tmp_path, labels=True)
  (tmp_path / "train-labels-idx1-ubyte").write_bytes(encoded(LABELS[:-1]))
  with pytest.raises(data.InputError, match="59 labels; expected one for each of the 60 images"):
    read_idx_labels(tmp_path / "train-images-idx3-ubyte", 60)


def test_missing_files_are_named_with_the_command_that_prepares_them(tmp_path):
  with pytest.raises(ValueError, match="train-images-idx3-ubyte.gz and t10k.*apt-get install dataset-fashion-mnist"):
    data.load_dataset("fashion_mnist", tmp_path)
