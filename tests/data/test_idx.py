"""The IDX files of MNIST and Fashion-MNIST."""

import gzip
import struct

import numpy as np
import pytest

from flowpp_tf import data
from flowpp_tf.data.published import read_idx_images

IMAGES = np.random.RandomState(0).randint(0, 256, [60, 4, 6]).astype(np.uint8)


def encoded(images, header=(0, 8, 3)):
  return struct.pack(">HBBIII", *header, *images.shape) + images.tobytes()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_published_files_are_the_data_set(tmp_path, name, suffix):
  write = gzip.compress if suffix else bytes
  (tmp_path / f"train-images-idx3-ubyte{suffix}").write_bytes(write(encoded(IMAGES)))
  (tmp_path / f"t10k-images-idx3-ubyte{suffix}").write_bytes(write(encoded(IMAGES[:7])))
  dataset = data.load_dataset(name, tmp_path)
  np.testing.assert_array_equal(dataset.train[..., 0], IMAGES[:-1])
  np.testing.assert_array_equal(dataset.validation[..., 0], IMAGES[-1:])
  np.testing.assert_array_equal(dataset.test[..., 0], IMAGES[:7])


@pytest.mark.parametrize(
  "content, message",
  [
    (b"", "it begins with nothing; expected an IDX file of images"),
    (encoded(IMAGES, (0, 8, 1)), "it begins with 00 00 08 01; expected .* begins with the bytes 00 00 08 03"),
    (encoded(IMAGES)[:-1], r"claims images of shape \(60, 4, 6\), and has 1,439 bytes"),
    (encoded(IMAGES) + b"x", r"claims images of shape \(60, 4, 6\), and has 1,441 bytes"),
    (
      struct.pack(">HBBIII", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1),
      r"claims images of shape \(4294967295, 4294967295, 4294967295\), and has 0 bytes",
    ),
    (struct.pack(">HBBIII", 0, 8, 3, 0, 28, 28), r"claims images of shape \(0, 28, 28\), and has 0 bytes"),
  ],
)
def test_damaged_files_are_refused_in_one_line(tmp_path, content, message):
  for path, write in ((tmp_path / "x", bytes), (tmp_path / "x.gz", gzip.compress)):
    path.write_bytes(write(content))
    with pytest.raises(ValueError, match=message):
      read_idx_images(path)
  (tmp_path / "y.gz").write_bytes(gzip.compress(content)[:-9] if content else b"no gzip")
  with pytest.raises(ValueError, match="cannot be read|IDX|claims"):
    read_idx_images(tmp_path / "y.gz")


def test_missing_files_are_named_with_the_command_that_prepares_them(tmp_path):
  with pytest.raises(ValueError, match="train-images-idx3-ubyte.gz and t10k.*apt-get install dataset-fashion-mnist"):
    data.load_dataset("fashion_mnist", tmp_path)
