"""Lanes: equal parts of a batch, which the cores of a CPU process in parallel.

An evaluation is a chain of thousands of small operations. Two cores that share each operation spend much of the time
waking each other; with a lane per core, each core has its own chain. A lane is a call of one function, which is traced
once and reads the shared weights.
"""

from collections.abc import Callable, Sequence
import concurrent.futures
import dataclasses
import math
import threading
from typing import Any

import tensorflow as tf

from flowpp_tf.core.checks import INT32_MAX, check_count
from flowpp_tf.core.environment import has_accelerator, usable_cores
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.tensors import shape_of

_MOST_LANES = 8  # each keeps its own gradients until they are summed; further cores share the operations of a lane
# Least number of values in a layer's output for which eager lanes save time; with fewer, they wait for Python.
_LEAST_NUMBERS = 1 << 22
_count = 1
_thread = threading.local()  # its `lane` is the one of `in_eager_lanes` that it computes


def use_cpu_lanes(splits: int = 0, batch_size: int | None = None) -> int:
  """Split batches over the cores of this CPU from now on, and give TensorFlow the threads for it.

  Possible only before TensorFlow has used a device. With a GPU or a TPU, the CPU computes too little to be split.
  Without one, this also turns off TensorFlow's graph optimizer (Grappler): before the first step it takes longer than
  tracing, and evaluations are as fast without it.

  Args:
    splits: number of lanes; 1 for none; 0 for a lane per core, up to 8, but none with a GPU or TPU, and no change when
      it is too late.
    batch_size: size that the automatic number of lanes must divide. A batch that cannot be split among all cores has
      fewer lanes, whose operations the cores share.

  Returns:
    The number of lanes.

  Raises:
    InputError (a ValueError): for a negative number, a batch size below 1, or an explicit number when it is too late.
  """
  global _count
  automatic = splits == 0
  check_count("cpu_splits", splits, 0)
  if batch_size is not None:
    check_count("batch_size", batch_size, high=INT32_MAX)
  cores = len(usable_cores())
  if automatic and has_accelerator():
    splits = 1
  elif automatic:
    splits = _largest_divisor(batch_size, min(cores, _MOST_LANES))
  if splits > 1:
    try:
      tf.config.threading.set_intra_op_parallelism_threads(max(1, cores // splits))
      tf.config.threading.set_inter_op_parallelism_threads(splits)
    except RuntimeError:
      if automatic:
        return _count
      raise InputError("`cpu_splits` must be set before TensorFlow uses its devices") from None
  if not has_accelerator():
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
  _count = splits
  return splits


def lane_count(size: Any = None) -> int:
  """Return the number of lanes for a batch: the largest that divides its size, if the size is known."""
  return _largest_divisor(size, _count)


def _largest_divisor(size, most):
  """Return the largest number up to `most` that divides a size; `most` if the size is unknown: None or a tensor."""
  if size is None or tf.is_tensor(size):
    return most
  return max(n for n in range(1, most + 1) if size % n == 0)


def map_shards(function: Callable[..., Any], *tensors: tf.Tensor) -> list[Any]:
  """Return the results of `function(*shards)` for each of the equal shards of `tensors [B, ...]`.

  In a graph the calls run in parallel. Eagerly there is one call, with the whole batch.

  Args:
    function: function of tensors. If B is unknown, its calls may get shards of different sizes.
    *tensors: split along the first axis.
  """
  size = shape_of(tensors[0])[0]
  count = lane_count(size)
  if count == 1 or tf.executing_eagerly():
    return [function(*tensors)]
  traced = tf.function(function, autograph=False, reduce_retracing=True, experimental_attributes={"_noinline": True})
  bounds = [size * i // count for i in range(count + 1)]
  results = []
  for start, stop in zip(bounds, bounds[1:]):
    shards = [tensor[start:stop] for tensor in tensors]
    results.append(traced(*shards))
  return results


def concat_shards(function: Callable[..., tf.Tensor], *tensors: tf.Tensor) -> tf.Tensor:
  """Return `function(*tensors)`, computed in lanes; it and the tensors are `[B, ...]`."""
  results = map_shards(function, *tensors)
  return results[0] if len(results) == 1 else tf.concat(results, axis=0)


def sum_shards(parts: Sequence[tf.Tensor]) -> tf.Tensor:
  """Return the sum of tensors, added up in their order."""
  return sum(parts[1:], start=parts[0])


# --- Lanes of an eager evaluation -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class _Lane:
  """A lane of `in_eager_lanes`, which can wait for the others.

  Attributes:
    index: the lane's place among them.
    barrier: where the lanes wait for each other.
    tensors: a tensor of each lane; the lanes share the list.
  """

  index: int
  barrier: threading.Barrier
  tensors: list[Any]


def in_eager_lanes(function: Callable[..., tf.Tensor], *tensors: tf.Tensor, filters: int) -> tf.Tensor:
  """Return `function(*tensors)`, computed eagerly, with a thread for each lane; it and the tensors are `[B, ...]`.

  A small batch has one lane. If lanes are on, TensorFlow has one thread for each operation.

  Args:
    function: function of tensors. All lanes assign the same values to variables, which it reads before `moments`.
    *tensors: split along the first axis; the first has the pixels or the latents.
    filters: number of the networks' filters, for each value of the first tensor.
  """
  count = lane_count(len(tensors[0]))
  if count == 1 or math.prod(tensors[0].shape) * filters < _LEAST_NUMBERS:
    return function(*tensors)
  barrier = threading.Barrier(count)
  shared = [None] * count

  def run(index, shards):
    _thread.lane = _Lane(index, barrier, shared)
    try:
      return function(*shards)
    except BaseException:
      barrier.abort()  # the others would wait forever
      raise

  shards = zip(*(tf.split(tensor, count) for tensor in tensors))
  with concurrent.futures.ThreadPoolExecutor(count) as threads:
    futures = [threads.submit(run, index, lane_shards) for index, lane_shards in enumerate(shards)]
  # The first error is the cause; other lanes could only give up waiting.
  futures.sort(key=lambda future: isinstance(future.exception(), threading.BrokenBarrierError))
  return tf.concat([future.result() for future in futures], axis=0)


def moments(x: tf.Tensor, num_axes: int) -> tuple[tf.Tensor, tf.Tensor]:
  """Return mean and variance over the first `num_axes` axes; in `in_eager_lanes`, over all lanes."""
  flat = tf.reshape(x, [tf.reduce_prod(tf.shape(x)[:num_axes]), -1])
  count = tf.shape(flat)[0]
  total = sum_shards(_from_all_lanes(count))
  weights = tf.fill([1, count], 1 / tf.cast(total, x.dtype))
  # A product is the fastest sum.
  mean = sum_shards(_from_all_lanes(tf.matmul(weights, flat)))
  variance = sum_shards(_from_all_lanes(tf.matmul(weights, tf.math.squared_difference(flat, mean))))
  event_shape = x.shape[num_axes:]
  return tf.reshape(mean, event_shape), tf.reshape(variance, event_shape)


def whole_batch(x: tf.Tensor) -> tf.Tensor:
  """Return the whole batch, where `x` is the shard of a lane of `in_eager_lanes`; elsewhere return `x`."""
  shards = _from_all_lanes(x)
  return shards[0] if len(shards) == 1 else tf.concat(shards, axis=0)


def _from_all_lanes(tensor):
  """Return a list with this tensor of each lane, in order."""
  lane = getattr(_thread, "lane", None)
  if lane is None:
    return [tensor]
  lane.tensors[lane.index] = tensor
  lane.barrier.wait()
  tensors = list(lane.tensors)
  lane.barrier.wait()  # before one of them hands in its next tensor
  return tensors
