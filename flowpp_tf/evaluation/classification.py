"""Classify images by likelihood: Bayes' rule for equally frequent classes.

p(y | x) = p(x | y) / sum_y' p(x | y')
"""

import dataclasses
import math

import numpy as np

from flowpp_tf.core.checks import as_array, check_arguments, check_labels
from flowpp_tf.core.errors import InputError, with_error
from flowpp_tf.data.source import as_images
from flowpp_tf.evaluation.likelihood import standard_error
from flowpp_tf.evaluation.scores import Scorer
from flowpp_tf.models import FlowPlusPlus
from flowpp_tf.types import Seed


@dataclasses.dataclass(frozen=True)
class Classification:
  """Accuracy of the most likely class, and the bits/dim that labels save.

  Attributes:
    images: number of images.
    num_samples: samples of the importance-weighted bound.
    correct: number of images whose most likely class is their label.
    given_label: bits/dim given the label.
    without_label: bits/dim without the label; None for a model trained without `label_dropout`.
    gain: `without_label` minus `given_label`; None as above.
    gain_error: standard error of the gain, over the images; None as above.

  Examples:
    >>> from flowpp_tf.evaluation import Classification
    >>> result = Classification(180, 1, correct=171, given_label=1.75, without_label=None, gain=None, gain_error=None)
    >>> result.accuracy
    0.95
  """

  images: int
  num_samples: int
  correct: int
  given_label: float
  without_label: float | None
  gain: float | None
  gain_error: float | None

  @property
  def accuracy(self) -> float:
    """Share of the images whose most likely class is their label."""
    return self.correct / self.images

  def __str__(self):
    error = math.sqrt(self.accuracy * (1 - self.accuracy) / self.images) if self.images > 1 else None
    text = (
      f"accuracy by likelihood {with_error(self.accuracy, error)} ({self.correct} of {self.images} images); "
      f"{self.given_label:.4f} bits/dim given the label ({self.num_samples} sample(s))"
    )
    if self.gain is None:
      return text
    gain = with_error(self.gain, self.gain_error, "+.4f")
    return f"{text}, {self.without_label:.4f} without it, {gain}, the same draws"


@check_arguments
def classify(
  model: FlowPlusPlus,
  images: np.ndarray,
  labels: np.ndarray,
  num_samples: int = 1,
  batch_size: int = 100,
  seed: Seed = 0,
) -> Classification:
  """Classify images by a model of images given a class.

  Args:
    model: `FlowPlusPlus` with classes.
    images: integers `[N, H, W, C]`.
    labels: their classes, integers `[N]`.
    num_samples: samples of the importance-weighted bound, the same draws for each class.
    batch_size: batch size.
    seed: seed of the draws.

  Raises:
    InputError (a ValueError): if the model has no classes, or the images do not fit it.

  Examples:
    >>> from flowpp_tf.data import load_dataset
    >>> from flowpp_tf.evaluation import classify
    >>> digits = load_dataset("digits", labels=True)
    >>> model = fpp.FlowPlusPlus.from_preset("digits_by_class")
    >>> classify(model, digits.test[:3], digits.labels["test"][:3]).images
    3
  """
  if not model.config.num_classes:
    raise InputError("`model` must be one of images given a class")
  images = np.asarray(as_images("images", images))
  labels = as_array("labels", labels, [len(images)])
  if labels.dtype.kind not in "iu":
    raise InputError(f"`labels` must be integers, got {labels.dtype}")
  check_labels(labels, 0, model.config.num_classes)
  bounds = Scorer(model, num_samples, seed).class_log_likelihoods(images, batch_size)
  class_bounds = bounds[:, : model.config.num_classes]
  given_label = model.to_bits_per_dim(class_bounds[np.arange(len(labels)), labels])
  without_label = gain = gain_error = None
  if model.config.label_dropout:
    unlabelled = model.to_bits_per_dim(bounds[:, -1])
    gains = unlabelled - given_label
    without_label = float(unlabelled.mean())
    gain = float(gains.mean())
    gain_error = standard_error(gains)
  correct = int(np.sum(class_bounds.argmax(axis=1) == labels))
  mean_given_label = float(given_label.mean())
  return Classification(len(labels), num_samples, correct, mean_given_label, without_label, gain, gain_error)
