"""Features of images for the Fréchet distance: the last convolution of a small classifier, averaged over positions.

The FID takes such features from Inception (Heusel et al. 2017), which was trained on larger images in colour, and is
not part of this package. Here a small network is trained in a minute or two on the training images of the data set
itself. So a distance compares samples of models of one data set, and is not the FID.

The network learns the classes of the data set. Without labels it learns by how many quarter turns an image was rotated
(Gidaris et al. 2018), for which it needs the shapes in the image and not only its colours. Images that are not square
are upright or upside down.
"""

import dataclasses
import math

import keras
import numpy as np
import tensorflow as tf

from flowpp_tf.core.checks import INT32_MAX, check_arguments, check_count, check_pixels, pixel_dtype
from flowpp_tf.core.errors import InputError
from flowpp_tf.data import ImageDataset, evaluation_batches, training_batches
from flowpp_tf.data.source import Images, as_images

_FILTERS = (32, 64, 64)
_SMALL = 16  # pixels; the first convolution does not downsample images that are smaller
_BATCH = 128
_MOST_STEPS = 1_000
_MOST_EPOCHS = 30
_LEARNING_RATE = 2e-3


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureNetwork:
  """A small classifier whose features serve to compare samples with images.

  Attributes:
    network: maps images `[N, H, W, C]` in 0 .. levels - 1 to features `[N, 64]` and logits `[N, classes]`.
    dataset: the data set. The network tells its classes apart, or rotations if it has no classes.

  Examples:
    >>> from flowpp_tf.data import load_dataset
    >>> from flowpp_tf.evaluation import FeatureNetwork
    >>> digits = load_dataset("digits", labels=True)
    >>> network = FeatureNetwork.train(digits, steps=2)
    >>> features, predicted = network(digits.test)
    >>> features.shape, predicted.shape
    ((180, 64), (180,))
  """

  network: keras.Model
  dataset: ImageDataset

  @classmethod
  @check_arguments
  def train(cls, dataset: ImageDataset, seed: int = 0, steps: int | None = None) -> "FeatureNetwork":
    """Train a network on the training images of a data set, with its labels if it has them.

    Args:
      dataset: the data set.
      seed: seed of the initial weights and of the order of the images.
      steps: training steps; None for 30 epochs, and at most 1,000 steps of 128 images.

    Examples:
      >>> from flowpp_tf.data import load_dataset
      >>> from flowpp_tf.evaluation import FeatureNetwork
      >>> FeatureNetwork.train(load_dataset("digits"), steps=1).network.output_shape[1]
      (None, 4)
    """
    check_count("seed", seed, 0, INT32_MAX)
    if steps is None:
      steps = min(_MOST_STEPS, _MOST_EPOCHS * math.ceil(len(dataset.train) / _BATCH))
    check_count("steps", steps)
    if dataset.levels is None:
      raise InputError("features are of integer images, and those of the data set are real-valued")
    network = _network(dataset, seed)
    classifier = keras.Model(network.input, network.output[1])
    rate = keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, steps)
    classifier.compile(
      keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False
    )
    labels = None if dataset.labels is None else dataset.labels["train"]
    if dataset.classes:
      batches = training_batches(dataset.train, _BATCH, seed, labels=labels)
      batches = batches.map(lambda batch: (batch["image"], batch["label"]))
    else:
      batch_size = _BATCH // _count_turns(dataset.image_shape)
      batches = training_batches(dataset.train, batch_size, seed, labels=labels).map(_rotate)
    classifier.fit(batches.take(steps), shuffle=False, verbose=0)  # the batches are shuffled already
    return cls(network, dataset)

  @check_arguments
  def __call__(self, images: Images, batch_size: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Return features, float64 `[N, 64]`, and the most likely class (or rotation) of each image, integers `[N]`.

    Args:
      images: integers `[N, H, W, C]`, anything that NumPy can index.
      batch_size: batch size.

    Raises:
      InputError (a ValueError): if the images are not of the data set's shape and levels.
    """
    features, logits = [], []
    for batch in evaluation_batches(as_images("images", images, self.dataset.image_shape), batch_size):
      check_pixels(batch.numpy(), self.dataset.levels)
      batch_features, batch_logits = self.network(tf.cast(batch, self.network.input.dtype), training=False)
      features.append(batch_features)
      logits.append(batch_logits)
    return np.concatenate(features).astype(np.float64), np.concatenate(logits).argmax(axis=1)

  @check_arguments
  def accuracy(self, split: str) -> float:
    """Return the accuracy of the network on a split of its data set."""
    images = self.dataset.split(split)
    if self.dataset.classes:
      return float(np.mean(self(images)[1] == self.dataset.labels_of(split)))
    correct = []
    for batch in evaluation_batches(images, 500):
      rotated, turns = _rotate(batch)
      logits = self.network(rotated, training=False)[1]
      correct.append(np.argmax(logits, axis=1) == turns)
    return float(np.mean(np.concatenate(correct)))


def _network(dataset, seed):
  """Build the network; its initial weights depend only on the seed."""
  levels = dataset.levels
  shape = dataset.image_shape
  inputs = keras.Input(shape, dtype=pixel_dtype(levels).name)
  h = keras.layers.Rescaling(2 / (levels - 1), -1.0)(inputs)
  for i, filters in enumerate(_FILTERS):
    keeps_size = i == 0 and min(shape[:2]) < _SMALL
    h = keras.layers.Conv2D(
      filters,
      3,
      strides=1 if keeps_size else 2,
      padding="same",
      activation="relu",
      kernel_initializer=keras.initializers.HeNormal(seed=seed + i),
    )(h)
  features = keras.layers.GlobalAveragePooling2D()(h)
  classes = len(dataset.classes) or _count_turns(shape)
  initializer = keras.initializers.GlorotUniform(seed=seed)
  logits = keras.layers.Dense(classes, kernel_initializer=initializer)(features)
  return keras.Model(inputs, [features, logits])


def _count_turns(shape):
  """Return the number of rotations that keep the shape of an image."""
  return 4 if shape[0] == shape[1] else 2


def _rotate(batch):
  """Return a batch in all of its rotations, `[turns B, H, W, C]`, and the index of each rotation, `[turns B]`."""
  count = _count_turns(batch.shape[1:])
  rotated = [tf.image.rot90(batch, 4 // count * turn) for turn in range(count)]
  turns = tf.repeat(tf.range(count), tf.shape(batch)[0])
  return tf.concat(rotated, axis=0), turns
