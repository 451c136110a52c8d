"""Features of images for the Fréchet distance: the last convolution of a small classifier, averaged over positions.

These are what the FID takes from Inception (Heusel et al. 2017), from a network that is trained here, in a minute or
two, on the training images of the data set itself: Inception is not part of this package, and was trained on larger
images in colour. So a distance compares samples of models of one data set, and is not an FID of Inception.

The network learns the classes of the data set. Without labels it learns by how many quarter turns an image was rotated
(Gidaris et al. 2018), which takes the shapes in it and not only its colours; images that are not square are upright or
upside down.
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
_SMALL = 16  # pixels; images of fewer are not made smaller by the first convolution
_BATCH, _MOST_STEPS, _MOST_EPOCHS = 128, 1_000, 30
_LEARNING_RATE = 2e-3


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureNetwork:
  """A small classifier whose features samples are compared by.

  Attributes:
    network: maps images `[N, H, W, C]` in 0 .. levels - 1 to features `[N, 64]` and logits `[N, classes]`.
    dataset: the data set, whose classes it tells apart; rotations, if the data set has none.

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
    batch_size = _BATCH if dataset.classes else _BATCH // _turns(dataset.image_shape)
    batches = training_batches(dataset.train, batch_size, seed, labels=labels)
    batches = batches.map(lambda batch: (batch["image"], batch["label"])) if dataset.classes else batches.map(_turned)
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
    images, parts = as_images("images", images, self.dataset.image_shape), []
    for batch in evaluation_batches(images, batch_size):
      check_pixels(batch.numpy(), self.dataset.levels)
      parts.append(self.network(tf.cast(batch, self.network.input.dtype), training=False))
    features, logits = (np.concatenate([part[i] for part in parts]) for i in range(2))
    return features.astype(np.float64), logits.argmax(axis=1)

  @check_arguments
  def accuracy(self, split: str) -> float:
    """Return how often the network is right on a split of its data set: how well it has learned what it was taught."""
    images = self.dataset.split(split)
    if self.dataset.classes:
      return float(np.mean(self(images)[1] == self.dataset.labels_of(split)))
    right = []
    for batch in evaluation_batches(images, 500):
      turned, turns = _turned(batch)
      right.append(np.argmax(self.network(turned, training=False)[1], axis=1) == turns)
    return float(np.mean(np.concatenate(right)))


def _network(dataset, seed):
  """The network before its training; its initial weights depend on nothing but the seed."""
  levels, shape = dataset.levels, dataset.image_shape
  inputs = keras.Input(shape, dtype=pixel_dtype(levels).name)
  h = keras.layers.Rescaling(2 / (levels - 1), -1.0)(inputs)
  for i, filters in enumerate(_FILTERS):
    h = keras.layers.Conv2D(
      filters,
      3,
      strides=1 if i == 0 and min(shape[:2]) < _SMALL else 2,
      padding="same",
      activation="relu",
      kernel_initializer=keras.initializers.HeNormal(seed=seed + i),
    )(h)
  features = keras.layers.GlobalAveragePooling2D()(h)
  logits = keras.layers.Dense(
    len(dataset.classes) or _turns(shape), kernel_initializer=keras.initializers.GlorotUniform(seed=seed)
  )(features)
  return keras.Model(inputs, [features, logits])


def _turns(shape):
  """How many rotations images of a shape can be told apart by."""
  return 4 if shape[0] == shape[1] else 2


def _turned(batch):
  """A batch in all its rotations, `[turns B, H, W, C]`, and by which each was rotated, `[turns B]`."""
  turns = _turns(batch.shape[1:])
  images = [tf.image.rot90(batch, 4 // turns * turn) for turn in range(turns)]
  return tf.concat(images, axis=0), tf.repeat(tf.range(turns), tf.shape(batch)[0])
