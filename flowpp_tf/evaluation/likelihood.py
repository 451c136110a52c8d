"""Bits/dim of a set of images: the single-sample and the importance-weighted bound. Section 3.1, 4."""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from flowpp_tf.data import evaluation_batches
from flowpp_tf.errors import InputError
from flowpp_tf.layers import fold_in
from flowpp_tf.models.seeds import as_seed


@dataclasses.dataclass(frozen=True)
class BitsPerDim:
  """Bits/dim over a set of images, with the standard errors of the mean over images."""
  images: int
  num_samples: int
  importance_weighted: float       # bound with `num_samples` draws
  importance_weighted_error: float
  single_sample: float             # bound with one draw, averaged over the `num_samples` there are
  single_sample_error: float

  def __str__(self):
    text = f"{self.single_sample:.4f} +- {self.single_sample_error:.4f} (single-sample bound)"
    if self.num_samples > 1:
      text = (f"{self.importance_weighted:.4f} +- {self.importance_weighted_error:.4f} "
              f"(importance-weighted bound, {self.num_samples} samples), {text}")
    return f"{text} bits/dim over {self.images} images"


def evaluate_bits_per_dim(model, images, num_samples=1, batch_size=100, seed=0):
  """Measures the bounds on all of a set of images.

  Args:
    model: `FlowPlusPlus`.
    images: integers, `[N, H, W, C]`.
    num_samples: draws of the dequantization noise an image.
    batch_size: images at once; the result does not depend on it but for the draws.
    seed: integer.

  Returns:
    `BitsPerDim`.

  Raises:
    InputError (a ValueError): if a count is not positive, or the images do not fit the model.
  """
  for name, value in (("num_samples", num_samples), ("batch_size", batch_size),
                      ("number of images", len(images))):
    if value < 1:
      raise InputError(f"`{name}` must be at least 1, got {value}")
  images = model.check_images(images).numpy()
  seed = as_seed(seed)

  @tf.function(autograph=False, input_signature=[  # traced once, whatever the size of a batch
      tf.TensorSpec([None, *model.config.image_shape], images.dtype), tf.TensorSpec([2], tf.int32)])
  def bound(batch, seed):
    return model.log_prob_bound(batch, seed=seed)

  single, weighted = [], []
  for i, batch in enumerate(evaluation_batches(images, batch_size)):
    bounds = np.stack([bound(batch, fold_in(fold_in(seed, i), k)).numpy()
                       for k in range(num_samples)]).astype(np.float64)
    single.append(bounds.mean(axis=0))
    weighted.append(importance_weighted(bounds))
  means_and_errors = [
      f(model.to_bits_per_dim(np.concatenate(parts)))
      for parts in (weighted, single)
      for f in (np.mean, lambda b: b.std(ddof=1) / math.sqrt(len(b)) if len(b) > 1 else math.nan)]
  return BitsPerDim(len(images), num_samples, *map(float, means_and_errors))


def importance_weighted(bounds):
  """The importance-weighted bound, `[N]` nats, of single-sample ones `[num_samples, N]`; equation 7."""
  return np.logaddexp.reduce(bounds, axis=0) - math.log(len(bounds))
