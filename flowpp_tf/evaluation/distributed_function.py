"""A function of images, computed by all devices: the replicas of the model's strategy, and the lanes of a CPU."""

from collections.abc import Callable, Sequence
import functools
import math
from typing import Any

import numpy as np
import tensorflow as tf

from flowpp_tf.core.errors import InputError
from flowpp_tf.core.finite import check_finite, not_finite
from flowpp_tf.core.lanes import concat_shards, in_eager_lanes, lane_count
from flowpp_tf.devices import Workers
from flowpp_tf.models import FlowPlusPlus


class DistributedFunction:
  """Calls a function of batches, each device with its part of the batch; traced once, for any batch size.

  A first call that is said to be the only one is evaluated eagerly, which takes less time than to trace.

  A batch is filled up to equal parts with copies of its last example, whose results are left out. With several workers
  each of them makes the same calls, and each gets all results; if one of them ends, the others raise
  a `WorkerLost`.

  Args:
    model: `FlowPlusPlus`, made in the scope of the `tf.distribute.Strategy` whose devices are to be used.
    function: of tensors `[B, ...]`, with one result `[B, ...]` that has for each example what follows from it. What is
      random must be among its arguments.
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
      gathered = tf.int32 if result.dtype.is_integer else result.dtype  # the other integers cannot be
      return tf.cast(replica.all_gather(tf.cast(result, gathered), axis=0), result.dtype)

    def on_all(*tensors):
      if replicas == 1:
        return concat_shards(function, *tensors)
      return strategy.experimental_local_results(strategy.run(on_replica, args=tensors))[0]

    self._function = function
    self._eagerly = functools.partial(in_eager_lanes, function, filters=model.config.filters)
    self._workers = Workers(strategy)
    self._parts = replicas * lane_count()
    self._unused = True
    self._run = tf.function(
      on_all, autograph=False, input_signature=[tf.TensorSpec([None, *shape], dtype) for shape, dtype in specs]
    )

  def tracing_count(self) -> int:
    """Return how often the function has been traced."""
    return self._run.experimental_get_tracing_count()

  def __call__(self, *arrays: Any, single: bool = False) -> np.ndarray:
    """Return the results `[B, ...]` for `arrays [B, ...]`; raise an `InputError` if they are not finite.

    Args:
      *arrays: as in `specs`.
      single: whether no other calls are expected.
    """
    count = len(arrays[0])
    missing = math.ceil(count / self._parts) * self._parts - count
    if missing:
      arrays = tuple(tf.concat([array, tf.gather(array, [len(array) - 1] * missing)], axis=0) for array in arrays)
    eagerly = single and self._unused and self._parts == lane_count()
    self._unused = False
    tensors = lambda: map(tf.convert_to_tensor, arrays)
    again = lambda: self._function(*tensors())
    try:
      with self._workers.guard():
        results = (self._eagerly(*tensors()) if eagerly else self._run(*arrays)).numpy()[:count]
    except tf.errors.InvalidArgumentError as error:  # of images that were not finite before they became integers
      raise InputError(not_finite("the images of the model", again)) from error
    if results.dtype.kind == "f":
      check_finite("the results of the model", results, again)
    return results
