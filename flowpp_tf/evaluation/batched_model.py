"""Apply a model to any number of images, one batch at a time, on all devices; memory holds one batch.

Devices are the replicas of the model's strategy, and the lanes of a CPU.

Random numbers are drawn for all images at once from one seed, and then split into batches. So the results equal those
from `FlowPlusPlus.sample` and `encode` for that seed, regardless of the batch size. The only exception: a device may
round differently for another batch size, which can move a value on the edge of a level.
"""

from collections.abc import Callable, Iterator, Sequence
import functools
import math
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
import tqdm

from flowpp_tf.core.checks import as_tensor, check_all_finite, check_arguments, check_count, check_shape
from flowpp_tf.core.context import NOISE, as_seed, fold_in
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.finite import check_finite, not_finite
from flowpp_tf.core.lanes import concat_shards, in_eager_lanes, lane_count
from flowpp_tf.data.source import Images
from flowpp_tf.devices import Workers
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
    labels: for a model with classes, the default label of all images; None for no label.
    guidance: guidance of samples, as in `FlowPlusPlus.sample`.

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
    check_count("batch_size", batch_size, high=2**63 - 1)
    self.model = model
    self.batch_size = batch_size
    if labels is not None:
      model.check_conditioning(1, labels)
    self._label = -1 if labels is None else labels

    def encode(images, noise, labels=None):
      return model.encode(images, noise, 0, labels)

    def decode(z, labels=None):
      return model.decode(z, labels, guidance=guidance)

    dtype = tf.as_dtype(model.variable_dtype)
    image_spec = model.config.image_shape, model.image_dtype
    label_specs = [((), tf.int32)] if model.config.num_classes else []
    self._encode = DistributedFunction(model, encode, [image_spec, (model.noise_shape, dtype), *label_specs])
    latent_spec = model.coupling_flow.latent_shape, dtype
    self._decode = DistributedFunction(model, decode, [latent_spec, *label_specs])

  def sample(self, n: int, temperature: float = 1.0, seed: Seed = None, labels: TensorLike | None = None) -> np.ndarray:
    """Return images `[n, H, W, C]`; arguments, dtype and errors as in `FlowPlusPlus.sample`."""
    return self.decode(self.model.sample_latents(n, temperature, seed), labels)

  def encode(
    self, images: TensorLike, noise: TensorLike | None = None, seed: Seed = None, labels: TensorLike | None = None
  ) -> np.ndarray:
    """Return latents `[N, *latent_shape]`; as in `FlowPlusPlus.encode`, with noise `[N, H, W, C]`."""
    images = tf.cast(self.model.check_images(images), self.model.image_dtype)
    seed = as_seed(seed)
    if noise is None:
      noise = self.model.sample_noise([len(images)], fold_in(seed, NOISE))
    draws = self._checked("noise", noise, [len(images), *self.model.noise_shape])
    self.model.dequantizer.check_noise(draws)  # the model's graph cannot check values
    return self._apply(self._encode, images, draws, *self._conditioning(len(images), labels))

  def decode(self, z: TensorLike, labels: TensorLike | None = None) -> np.ndarray:
    """Return images `[N, H, W, C]` of latents `[N, *latent_shape]`."""
    z = self._checked("z", z, [None, *self.model.coupling_flow.latent_shape])
    if not len(z):
      raise InputError(f"`z` must hold at least one latent, got shape {z.shape}")
    return self._apply(self._decode, z, *self._conditioning(len(z), labels))

  def _checked(self, name, value, shape):
    """Return noise or latents as a tensor of a shape; raise if they do not fit."""
    tensor = as_tensor(name, value, self.model.variable_dtype)
    check_shape(name, tensor.shape, shape)
    check_all_finite(name, tensor)
    return tensor

  def _conditioning(self, count, labels):
    """Return the checked labels of `count` images as a list, empty for a model without conditioning."""
    if labels is None and self.model.config.num_classes:
      labels = self._label
    return list(self.model.check_conditioning(count, labels).values())

  def _apply(self, function, *arrays):
    count = len(arrays[0])
    results = []
    for rows in batches(count, self.batch_size):
      results.append(function(*(array[rows] for array in arrays), single=count <= self.batch_size))
    return np.concatenate(results)


def input_specs(model: FlowPlusPlus) -> list[tuple[Any, tf.DType]]:
  """Return the specs of a `DistributedFunction` of images, noise, and the conditioning of the images."""
  image_spec = model.config.image_shape, model.image_dtype
  noise_spec = model.noise_shape, tf.as_dtype(model.variable_dtype)
  conditioning_specs = [(spec.shape[1:], spec.dtype) for spec in model.conditioning_specs.values()]
  return [image_spec, noise_spec, *conditioning_specs]


def apply_to_draws(
  function: "DistributedFunction", noise: tf.Tensor, images: Images, conditioning: Sequence[tf.Tensor], batch_size: int
) -> np.ndarray:
  """Apply a function of images, noise and conditioning to draws of the noise that all images share.

  Args:
    function: function of `images [B, ...]`, `noise [B, ...]` and the conditioning.
    noise: K draws, `[K, ...]`.
    images: `[N, ...]`; converted to tensors one batch at a time, because a memory map may exceed the memory.
    conditioning: arrays `[N, ...]` that the images are given.
    batch_size: batch size.

  Returns:
    float64 `[K, N, ...]`.
  """
  check_count("batch_size", batch_size, high=2**63 - 1)
  results = []
  for start in range(0, len(images), batch_size):
    rows = slice(start, start + batch_size)
    batch = tf.cast(function.model.check_images(images[rows]), function.model.image_dtype)
    batch_conditioning = [values[rows] for values in conditioning]
    repeated = (tf.repeat(draw[tf.newaxis], len(batch), axis=0) for draw in noise)
    results.append([function(batch, draw, *batch_conditioning) for draw in repeated])
  return np.concatenate(results, axis=1).astype(np.float64)


def batches(count: int, size: int) -> Iterator[slice]:
  """Yield slices that split `count` images into batches of `size`; the last one can be smaller.

  On a terminal, more than one batch shows a progress bar.
  """
  hidden = None if count > size else True  # None hides the bar unless stderr is a terminal
  with tqdm.tqdm(total=count, unit="image", disable=hidden) as bar:
    for start in range(0, count, size):
      stop = min(start + size, count)
      yield slice(start, stop)
      bar.update(stop - start)


class DistributedFunction:
  """Split each batch over all devices and apply a function, which is traced once for any batch size.

  A first call with `single=True` runs eagerly, which takes less time than tracing.

  A batch is padded with copies of its last example, so that all devices get the same number; their results are dropped.
  With several workers each worker makes the same calls and gets all results. If one of them ends, the others raise
  a `WorkerLost`.

  Args:
    model: `FlowPlusPlus`, built in the scope of the `tf.distribute.Strategy` whose devices are to be used.
    function: function of tensors `[B, ...]` with one result `[B, ...]`. The result of an example must depend only on
      that example, and random numbers must be arguments.
    specs: shape without the batch, and dtype, of each argument.
  """

  def __init__(
    self, model: FlowPlusPlus, function: Callable[..., tf.Tensor], specs: Sequence[tuple[Any, tf.DType]]
  ) -> None:
    strategy = model.distribute_strategy
    replicas = strategy.num_replicas_in_sync

    def on_replica(*tensors):
      replica = tf.distribute.get_replica_context()
      size = tf.shape(tensors[0])[0] // replicas
      first = size * tf.cast(replica.replica_id_in_sync_group, tf.int32)
      result = concat_shards(function, *(t[first : first + size] for t in tensors))
      dtype = tf.int32 if result.dtype.is_integer else result.dtype  # all_gather lacks the other integers
      return tf.cast(replica.all_gather(tf.cast(result, dtype), axis=0), result.dtype)

    def on_all(*tensors):
      if replicas == 1:
        return concat_shards(function, *tensors)
      return strategy.experimental_local_results(strategy.run(on_replica, args=tensors))[0]

    self.model = model
    self._function = function
    self._run_eagerly = functools.partial(in_eager_lanes, function, filters=model.config.filters)
    self._workers = Workers(strategy)
    self._shards = replicas * lane_count()
    self._unused = True
    signature = [tf.TensorSpec([None, *shape], dtype) for shape, dtype in specs]
    self._run = tf.function(on_all, autograph=False, input_signature=signature)

  def __call__(self, *arrays: Any, single: bool = False) -> np.ndarray:
    """Return the results `[B, ...]` for `arrays [B, ...]`; raise an `InputError` if they are not finite.

    Args:
      *arrays: arrays of the shapes and dtypes in `specs`.
      single: whether no other calls are expected.
    """
    count = len(arrays[0])
    missing = math.ceil(count / self._shards) * self._shards - count
    if missing:
      indices = [*range(count), *[count - 1] * missing]
      arrays = tuple(tf.gather(array, indices) for array in arrays)
    eager = single and self._unused and self._shards == lane_count()
    self._unused = False

    def evaluate_again():
      return self._function(*map(tf.convert_to_tensor, arrays))

    try:
      with self._workers.guard():
        if eager:
          results = self._run_eagerly(*map(tf.convert_to_tensor, arrays))
        else:
          results = self._run(*arrays)
        results = results.numpy()[:count]
    except tf.errors.InvalidArgumentError as error:  # the images were not finite before they became integers
      raise InputError(not_finite("the images of the model", evaluate_again)) from error
    if results.dtype.kind == "f":
      check_finite("the results of the model", results, evaluate_again)
    return results
