"""Data sets of TensorFlow Datasets, read from where they have been prepared; nothing is downloaded."""

import numpy as np

from flowpp_tf.data.dataset import ImageDataset
from flowpp_tf.errors import InputError


def cifar10(data_dir=None):
  """CIFAR-10: 49,000 / 1,000 / 10,000; the last 1,000 training images are for validation."""
  return _load("cifar10", data_dir, train="train[:49000]", validation="train[49000:]", test="test")


def _load(name, data_dir, **splits):
  import tensorflow_datasets as tfds  # here, since it takes long to import

  builder = tfds.builder(name, data_dir=data_dir)
  if not builder.data_path.exists():
    where = f" --data_dir={data_dir}" if data_dir else ""
    raise InputError(f"data set {name!r} is not prepared: looked for {builder.data_path}; prepare it "
                     f"by: tfds build {name}{where}")
  images = {split: np.stack([example["image"] for example in tfds.as_numpy(
      builder.as_dataset(split=spec))]) for split, spec in splits.items()}
  return ImageDataset(name, levels=256, **images)
