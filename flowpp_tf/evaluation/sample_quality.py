"""Measure the quality of samples: Fréchet distance of features, nearest training images, class balance.

A likelihood does not show how samples look. The Fréchet distance (Heusel et al. 2017) compares the features of samples
with the features of images that were not trained on. It is the distance of two normal distributions with their means
and covariances. Its estimate is too large by an amount of order 1/N, so compare only results of equal numbers of
samples. The reference is the distance of as many training images, which a perfect sampler would reach. The network was
trained on these images, so their distance can be a little larger than the distance of a perfect sampler.

A model that copies has samples that are closer to the training images than test images are.
"""

import dataclasses
import math

import numpy as np

from flowpp_tf.core.checks import MOST_LEVELS, check_arguments, check_count, check_pixels
from flowpp_tf.core.errors import InputError
from flowpp_tf.data import ImageDataset
from flowpp_tf.data.source import Images, as_images
from flowpp_tf.evaluation.batched_model import BatchedModel, batches
from flowpp_tf.evaluation.calibration import typical_indices
from flowpp_tf.evaluation.features import FeatureNetwork
from flowpp_tf.types import Seed

_GROUPS = 10  # of the jackknife
FEWEST_SAMPLES = 2 * _GROUPS


@dataclasses.dataclass(frozen=True)
class SampleQuality:
  """Figures of a set of images.

  Attributes:
    images: number of images.
    frechet_distance: Fréchet distance between their features and the features of the split.
    standard_error: standard error of `frechet_distance`, over the images; a jackknife of ten groups.
    neighbour_distance: median distance to the closest training image, among at most 60,000 that are evenly spread; root
      mean square over pixels, in levels.
    closest: the first percentile of these distances.
    class_shares: share of each class among the images, by the network; empty if the data have no labels.
    imbalance: total variation distance between these shares and the shares of the split, from 0 to 1; None without
      labels.

  Examples:
    >>> from flowpp_tf.evaluation import SampleQuality
    >>> quality = SampleQuality(2_000, 27.0, 0.4, 20.1, 8.3, class_shares=(0.4, 0.6), imbalance=0.1)
    >>> quality.frechet_distance
    27.0
  """

  images: int
  frechet_distance: float
  standard_error: float
  neighbour_distance: float
  closest: float
  class_shares: tuple[float, ...] = ()
  imbalance: float | None = None


class SampleEvaluator:
  """Measures samples of a model against the images of a split.

  Args:
    features: `FeatureNetwork` of the data set that the model was trained on.
    split: split with the images that samples should look like.

  Attributes:
    class_shares: share of each class among the images of the split, by the network; empty without labels.

  Examples:
    >>> from flowpp_tf.data import load_dataset
    >>> from flowpp_tf.evaluation import FeatureNetwork, SampleEvaluator
    >>> digits = load_dataset("digits", labels=True)
    >>> evaluator = SampleEvaluator(FeatureNetwork.train(digits, steps=2))
    >>> quality = evaluator(fpp.FlowPlusPlus.from_preset("digits").sample(20, seed=0))
    >>> quality.images, len(quality.class_shares), evaluator.real(20).images
    (20, 10, 20)
  """

  @check_arguments
  def __init__(self, features: FeatureNetwork, split: str = "test") -> None:
    self._features = features
    self._images = features.dataset.split(split)
    self._train = compared_images(features.dataset.train)
    self._split_features, predicted = features(self._images)
    self.class_shares = self._shares(predicted)

  @check_arguments
  def __call__(self, images: Images) -> SampleQuality:
    """Return the figures of samples.

    Args:
      images: integers `[N, H, W, C]`, at least 20; a NumPy array or a tensor.

    Raises:
      InputError (a ValueError): if there are too few images, or their shape is not the data set's.
    """
    images = np.asarray(as_images("images", images, tuple(self._images.shape[1:])))
    return self._quality(images, images)

  @check_arguments
  def real(self, n: int) -> SampleQuality:
    """Return the figures of real images, as the reference for `n` samples.

    They are measured on `n` training images, or on all if the data set has fewer; `images` is their number. Nearest
    training images are searched for the first `n` images of the split.
    """
    check_count("n", n, FEWEST_SAMPLES)
    train = self._train[typical_indices(len(self._train), n)]
    return self._quality(np.asarray(train), np.asarray(self._images[:n]))

  def _shares(self, predicted):
    classes = len(self._features.dataset.classes)
    if not classes:
      return ()
    shares = np.bincount(predicted, minlength=classes) / len(predicted)
    return tuple(map(float, shares))

  def _quality(self, images, compared):
    """Return the figures of images, except that nearest training images are searched for the images `compared`."""
    if len(images) < FEWEST_SAMPLES:
      raise InputError(f"`images` must be at least {FEWEST_SAMPLES}, got {len(images)}")
    features, predicted = self._features(images)
    shares = self._shares(predicted)
    _, distances = nearest_neighbours(compared, self._train, 1)
    distances = distances[:, 0] / math.sqrt(math.prod(images.shape[1:]))
    imbalance = sum(abs(a - b) for a, b in zip(shares, self.class_shares)) / 2 if shares else None
    return SampleQuality(
      len(features),
      *frechet_with_error(features, self._split_features),
      float(np.median(distances)),
      float(np.quantile(distances, 0.01)),
      shares,
      imbalance,
    )


def draw_samples(batched: BatchedModel, dataset: ImageDataset, n: int, temperature: float, seed: Seed) -> np.ndarray:
  """Return samples `[n, H, W, C]`; a model with classes gets the labels of training images, in their order.

  Fewer samples get labels that are evenly spread over the training images, because the images of folders are sorted
  by class.
  """
  labels = None
  if batched.model.config.num_classes and dataset.labels:
    labels = dataset.labels["train"]
    labels = np.resize(labels[typical_indices(len(labels), n)], n)
  return batched.sample(n, temperature, seed, labels)


def frechet_distance(features: np.ndarray, other: np.ndarray) -> float:
  """Return the squared Fréchet distance of two normal distributions with the moments of two sets of features.

  |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), for float64 `[N, D]` and `[M, D]`, N and M at least 2.
  """
  mean_distance = np.sum((features.mean(axis=0) - other.mean(axis=0)) ** 2)
  covariance = np.cov(features, rowvar=False)
  other_covariance = np.cov(other, rowvar=False)
  # tr((C1 C2)^(1/2)) by the symmetric C1^(1/2) C2 C1^(1/2), which has the same eigenvalues. The covariance of few
  # images is singular, and a general square root would be inexact or complex.
  values, vectors = np.linalg.eigh(covariance)
  root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
  cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ other_covariance @ root), 0)).sum()
  distance = mean_distance + np.trace(covariance) + np.trace(other_covariance) - 2 * cross
  return float(max(distance, 0))


def frechet_with_error(features: np.ndarray, other: np.ndarray) -> tuple[float, float]:
  """Return `frechet_distance`, and its standard error over the rows of `features`."""
  distance = frechet_distance(features, other)
  return distance, _standard_error(lambda rows: frechet_distance(rows, other), features)


def _standard_error(statistic, rows):
  """Return the standard error of a statistic of rows by a jackknife, which leaves out one group of rows at a time."""
  group = np.arange(len(rows)) % _GROUPS
  values = np.array([statistic(rows[group != left_out]) for left_out in range(_GROUPS)])
  return float(np.sqrt((_GROUPS - 1) * values.var()))


_CHUNK_BYTES = 2**26  # of float64
_MOST_COMPARED = 60_000


@check_arguments
def nearest_neighbours(images: np.ndarray, training_images: Images, neighbours: int) -> tuple[np.ndarray, np.ndarray]:
  """Return the closest training images, in float64, which is exact for integer pixel values.

  Args:
    images: integers, `[N, H, W, C]`.
    training_images: integers, `[M, H, W, C]`, anything that NumPy can index; read once, in chunks of some MiB.
    neighbours: K, the number of neighbours of each image.

  Returns:
    Indices `[N, K]`, by distance and then by index, and L2 distances `[N, K]` in levels. Divided by sqrt(H W C), the
    distances are root mean squares.

  Raises:
    InputError (a ValueError): if `neighbours` is not in 1 .. M, the shapes do not fit, or a value is not a pixel value.

  Examples:
    >>> from flowpp_tf.data import load_dataset
    >>> from flowpp_tf.evaluation import nearest_neighbours
    >>> digits = load_dataset("digits")
    >>> indices, distances = nearest_neighbours(digits.train[5:6], digits.train, neighbours=3)
    >>> int(indices[0, 0]), float(distances[0, 0])
    (5, 0.0)
  """
  training_images = as_images("training_images", training_images)
  images = np.asarray(as_images("images", images, tuple(training_images.shape[1:])))
  check_count("neighbours", neighbours, high=len(training_images))
  rows = _rows("images", images)
  norms = np.einsum("ij,ij->i", rows, rows)
  indices = np.empty([len(rows), 0], np.int64)
  squares = np.empty([len(rows), 0])
  for chunk in batches(len(training_images), max(1, _CHUNK_BYTES // (8 * rows.shape[1]))):
    others = _rows("training_images", training_images[chunk])
    new_squares = norms[:, np.newaxis] - 2 * (rows @ others.T) + np.einsum("ij,ij->i", others, others)
    new_indices = np.broadcast_to(np.arange(chunk.start, chunk.stop), new_squares.shape)
    squares = np.concatenate([squares, new_squares], axis=1)
    indices = np.concatenate([indices, new_indices], axis=1)
    if neighbours == 1:  # much faster than a sort, with the same result for equal distances
      nearest = np.argmin(squares, axis=1, keepdims=True)
    else:
      nearest = np.argsort(squares, axis=1, kind="stable")[:, :neighbours]
    indices = np.take_along_axis(indices, nearest, axis=1)
    squares = np.take_along_axis(squares, nearest, axis=1)
  return indices, np.sqrt(squares)


def _rows(name, images):
  """Return images as float64 `[N, H W C]`; raise unless they are pixel values, whose squares are exact in float64."""
  images = np.asarray(images)
  check_pixels(images, MOST_LEVELS, name)
  return images.astype(np.float64).reshape(len(images), -1)


def compared_images(training_images: Images) -> Images:
  """Return the training images among which nearest neighbours are searched: at most 60,000, evenly spread."""
  if len(training_images) <= _MOST_COMPARED:
    return training_images
  return np.asarray(training_images[typical_indices(len(training_images), _MOST_COMPARED)])
