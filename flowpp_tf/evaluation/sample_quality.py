"""Figures of samples: Fréchet distance of features, nearest training images, class balance.

A likelihood does not say how samples look. The Fréchet distance (Heusel et al. 2017) is that between two normal
distributions with the means and covariances of the features of samples and of images that were not trained on. Its
estimate is too large by about 1/N: compare figures of as many samples only, and with what as many training images have,
which is what a perfect sampler gets. The network has seen these, so that theirs can be a little larger than a perfect
sampler's.

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
    frechet_distance: of their features to those of the split.
    standard_error: of `frechet_distance`, over the images; a jackknife of ten groups.
    neighbour_distance: to the closest training image, of at most 60,000 that are evenly spread; root mean square over
      pixels, in levels; median.
    closest: the same, the lowest hundredth.
    class_shares: share of each class among the images, by the network; empty if the data have no labels.
    imbalance: half the sum of the differences of these shares to those of the split, 0 if they are equal, at most 1;
      None without labels.

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
    features: `FeatureNetwork` of the data set on whose training images the model was trained.
    split: whose images samples should look like.

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
    self._features, self._images = features, features.dataset.split(split)
    self._train = compared_images(features.dataset.train)
    self._of_split, predicted = features(self._images)
    self.class_shares = self._shares(predicted)

  @check_arguments
  def __call__(self, images: Images) -> SampleQuality:
    """Return the figures of samples.

    Args:
      images: integers `[N, H, W, C]`, at least 20; TensorFlow's too.

    Raises:
      InputError (a ValueError): if they are too few, or not of the shape of the data set's.
    """
    images = np.asarray(as_images("images", images, tuple(self._images.shape[1:])))
    return self._quality(images, images)

  @check_arguments
  def real(self, n: int) -> SampleQuality:
    """Return the figures of real images: what those of `n` samples are compared with.

    They are of `n` training images, or of as many as there are, whose number is `images`; nearest training images are
    of the first `n` images of the split.
    """
    check_count("n", n, FEWEST_SAMPLES)
    train = self._train[typical_indices(len(self._train), n)]
    return self._quality(np.asarray(train), np.asarray(self._images[:n]))

  def _shares(self, predicted):
    classes = len(self._features.dataset.classes)
    return tuple(map(float, np.bincount(predicted, minlength=classes) / len(predicted))) if classes else ()

  def _quality(self, images, compared):
    """The figures of images, with nearest training images of the images `compared`."""
    if len(images) < FEWEST_SAMPLES:
      raise InputError(f"`images` must be at least {FEWEST_SAMPLES}, got {len(images)}")
    features, predicted = self._features(images)
    shares = self._shares(predicted)
    _, distances = nearest_neighbours(compared, self._train, 1)
    distances = distances[:, 0] / math.sqrt(math.prod(images.shape[1:]))
    return SampleQuality(
      len(features),
      *frechet_with_error(features, self._of_split),
      float(np.median(distances)),
      float(np.quantile(distances, 0.01)),
      shares,
      sum(abs(a - b) for a, b in zip(shares, self.class_shares)) / 2 if shares else None,
    )


def draw_samples(batched: BatchedModel, dataset: ImageDataset, n: int, temperature: float, seed: Seed) -> np.ndarray:
  """Return samples `[n, H, W, C]`; a model with classes gets the labels of training images, in their order.

  Fewer samples get labels that are evenly spread: those of folders are sorted, and the first ones of one class.
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
  mean, other_mean = features.mean(axis=0), other.mean(axis=0)
  covariance, other_covariance = np.cov(features, rowvar=False), np.cov(other, rowvar=False)
  # tr((C1 C2)^(1/2)) by the symmetric C1^(1/2) C2 C1^(1/2), which has the same eigenvalues: few images have a singular
  # covariance, of which a general square root is inexact or complex.
  values, vectors = np.linalg.eigh(covariance)
  root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
  cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ other_covariance @ root), 0)).sum()
  distance = np.sum((mean - other_mean) ** 2) + np.trace(covariance) + np.trace(other_covariance) - 2 * cross
  return float(max(distance, 0))


def frechet_with_error(features: np.ndarray, other: np.ndarray) -> tuple[float, float]:
  """Return `frechet_distance`, and its standard error over the rows of `features`."""
  return frechet_distance(features, other), _standard_error(lambda rows: frechet_distance(rows, other), features)


def _standard_error(statistic, rows):
  """The standard error of a statistic of rows, by leaving out each of some groups of them (jackknife)."""
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
    Indices `[N, K]`, closest first and the lower index first of equal ones, and L2 distances `[N, K]` in levels.
    Divided by sqrt(H W C), the distances are root mean squares.

  Raises:
    InputError (a ValueError): if `neighbours` is not in 1 .. M, the shapes do not fit, or a value is none of a pixel.

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
  indices, squares = np.empty([len(rows), 0], np.int64), np.empty([len(rows), 0])
  for part in batches(len(training_images), max(1, _CHUNK_BYTES // (8 * rows.shape[1]))):
    others = _rows("training_images", training_images[part])
    new = norms[:, np.newaxis] - 2 * (rows @ others.T) + np.einsum("ij,ij->i", others, others)
    squares = np.concatenate([squares, new], axis=1)
    indices = np.concatenate([indices, np.broadcast_to(np.arange(part.start, part.stop), new.shape)], axis=1)
    if neighbours == 1:  # the first of equal ones too, in a small part of the time
      nearest = np.argmin(squares, axis=1, keepdims=True)
    else:
      nearest = np.argsort(squares, axis=1, kind="stable")[:, :neighbours]
    indices = np.take_along_axis(indices, nearest, axis=1)
    squares = np.take_along_axis(squares, nearest, axis=1)
  return indices, np.sqrt(squares)


def _rows(name, images):
  """Return images as float64 `[N, H W C]`; the squares of larger integers than pixel values would be rounded."""
  images = np.asarray(images)
  check_pixels(images, MOST_LEVELS, name)
  return images.astype(np.float64).reshape(len(images), -1)


def compared_images(training_images: Images) -> Images:
  """Return the training images among which nearest ones are looked for: all, or 60,000 of more, evenly spread."""
  if len(training_images) <= _MOST_COMPARED:
    return training_images
  return np.asarray(training_images[typical_indices(len(training_images), _MOST_COMPARED)])
