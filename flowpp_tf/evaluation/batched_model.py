"""A model's functions on any number of images, one batch at a time: memory is that of a batch.

Random numbers are drawn for all images at once from one seed, and then split into batches. So the results are those of
`FlowPlusPlus.sample` and `encode` for that seed, regardless of the batch size. The only exception: a device may round
differently for another batch size, which can move a value on the edge of a level.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import tensorflow as tf
import tqdm

from flowpp_tf.core.checks import as_tensor, check_all_finite, check_arguments, check_shape, check_uniform_noise
from flowpp_tf.core.context import NOISE, as_seed, fold_in
from flowpp_tf.core.errors import InputError
from flowpp_tf.evaluation.distributed_function import DistributedFunction
from flowpp_tf.models import FlowPlusPlus
from flowpp_tf.types import Seed, TensorLike


class LatentModel(Protocol):
  """Maps images `[N, H, W, C]` to latents `[N, *latent_shape]` and back, as `BatchedModel` does."""

  def encode(self, images: np.ndarray, *, seed: Seed = None) -> np.ndarray: ...
  def decode(self, z: np.ndarray) -> np.ndarray: ...


class BatchedModel:
  """`sample`, `encode` and `decode` of a model in batches, on all devices; see `DistributedFunction`.

  Args:
    model: `FlowPlusPlus`, without a condition.
    batch_size: batch size.
    labels: of a model with classes, the label of all images that are not given another; None leaves it out.
    guidance: of samples, as in `FlowPlusPlus.sample`.

  Raises:
    InputError (a ValueError): if `batch_size` is not positive.

  Examples:
    >>> from flowpp_tf.evaluation import BatchedModel
    >>> batched = BatchedModel(fpp.FlowPlusPlus.from_preset("digits"), batch_size=2)
    >>> batched.sample(3, seed=0).shape
    (3, 8, 8, 1)
  """

  @check_arguments
  def __init__(
    self, model: FlowPlusPlus, batch_size: int = 100, labels: int | None = None, guidance: float = 0.0
  ) -> None:
    if batch_size < 1:
      raise InputError(f"`batch_size` must be at least 1, got {batch_size}")
    self.model = model
    self.batch_size = batch_size
    shape, latent_shape = model.config.image_shape, model.coupling_flow.latent_shape
    dtype = tf.as_dtype(model.variable_dtype)
    if labels is not None:
      model.check_conditioning(1, labels)
    self._label = -1 if labels is None else labels
    more = [((), tf.int32)] if model.config.num_classes else []
    self._encode = DistributedFunction(
      model,
      lambda images, noise, labels=None: model.encode(images, noise, 0, labels),
      [(shape, model.image_dtype), (model.noise_shape, dtype), *more],
    )
    self._decode = DistributedFunction(
      model, lambda z, labels=None: model.decode(z, labels, guidance=guidance), [(latent_shape, dtype), *more]
    )

  def sample(self, n: int, temperature: float = 1.0, seed: Seed = None, labels: TensorLike | None = None) -> np.ndarray:
    """Return images `[n, H, W, C]`; arguments, dtype and errors as in `FlowPlusPlus.sample`."""
    return self.decode(self.model.sample_latents(n, temperature, seed), labels)

  def encode(
    self, images: TensorLike, noise: TensorLike | None = None, seed: Seed = None, labels: TensorLike | None = None
  ) -> np.ndarray:
    """Return latents `[N, *latent_shape]`; as in `FlowPlusPlus.encode`, with noise `[N, H, W, C]`."""
    images, seed = tf.cast(self.model.check_images(images), self.model.image_dtype), as_seed(seed)
    if noise is None:
      noise = self.model.sample_noise([len(images)], fold_in(seed, NOISE))
    draws = self._checked("noise", noise, [len(images), *self.model.noise_shape])
    if self.model.config.dequantization == "uniform":  # which the model's graph cannot see
      check_uniform_noise("noise", draws[..., : self.model.config.image_shape[2]])
    return self._apply(self._encode, images, draws, *self._given(len(images), labels))

  def decode(self, z: TensorLike, labels: TensorLike | None = None) -> np.ndarray:
    """Return images `[N, H, W, C]` of latents `[N, *latent_shape]`."""
    z = self._checked("z", z, [None, *self.model.coupling_flow.latent_shape])
    if not len(z):
      raise InputError(f"`z` must hold at least one latent, got shape {z.shape}")
    return self._apply(self._decode, z, *self._given(len(z), labels))

  def _checked(self, name, value, shape):
    """Noise or latents as a tensor of a shape."""
    tensor = as_tensor(name, value, self.model.variable_dtype)
    check_shape(name, tensor.shape, shape)
    check_all_finite(name, tensor)
    return tensor

  def _given(self, count, labels):
    """The labels of `count` images, checked, or nothing for a model without."""
    if labels is None and self.model.config.num_classes:
      labels = self._label
    return list(self.model.check_conditioning(count, labels).values())

  def _apply(self, function, *arrays):
    single = len(arrays[0]) <= self.batch_size
    return np.concatenate(
      [function(*(array[part] for array in arrays), single=single) for part in batches(len(arrays[0]), self.batch_size)]
    )


def batches(count: int, size: int) -> Iterator[slice]:
  """Yield slices that split `count` images into batches of `size`; the last one can be smaller.

  On a terminal, more than one batch shows a progress bar.
  """
  with tqdm.tqdm(total=count, unit="image", disable=None if count > size else True) as bar:
    for start in range(0, count, size):
      stop = min(start + size, count)
      yield slice(start, stop)
      bar.update(stop - start)
