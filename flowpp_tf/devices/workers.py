"""Collective operations across worker processes; with a single process they do nothing.

Every worker runs the same program. The first one, the chief, writes files; all read them from a shared file system.
"""

from collections.abc import Iterator, Sequence
import contextlib
import functools

import numpy as np
import tensorflow as tf

from flowpp_tf.core.checks import check_arguments
from flowpp_tf.core.errors import WorkerLost

# Errors that TensorFlow raises in a worker when another one has ended.
_LOST = (
  tf.errors.UnavailableError,
  tf.errors.AbortedError,
  tf.errors.CancelledError,
  tf.errors.InternalError,
  tf.errors.DeadlineExceededError,
)


class Workers:
  """Collective operations across the workers of a strategy.

  Args:
    strategy: `tf.distribute.Strategy`.

  Attributes:
    strategy: the argument.
    count: number of workers.
    index: index of this worker.
    chief: whether this is the first worker.

  Examples:
    >>> from flowpp_tf.devices import Workers, get_strategy
    >>> workers = Workers(get_strategy("one"))
    >>> workers.count, workers.chief
    (1, True)
  """

  @check_arguments
  def __init__(self, strategy: tf.distribute.Strategy) -> None:
    self.strategy = strategy
    self.count = 1
    self.index = 0
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
      resolver = strategy.cluster_resolver
      addresses = resolver.cluster_spec().as_dict().get("worker", [])
      self.count = max(1, len(addresses))
      self.index = resolver.task_id or 0
    self.chief = self.index == 0

  def scope(self) -> contextlib.AbstractContextManager:
    """Return the scope of the strategy, in which to make a model for its devices."""
    return self.strategy.scope()

  @contextlib.contextmanager
  def guard(self) -> Iterator[None]:
    """Raise `WorkerLost` for the errors that TensorFlow raises when another worker has ended."""
    try:
      yield
    except _LOST as error:
      if self.count == 1:
        raise
      raise WorkerLost(f"worker {self.index} of {self.count} has lost another one ({type(error).__name__})") from error

  def any(self, *flags: object) -> list[bool]:
    """Return for each flag whether it is true on any worker; all workers must call it."""
    if self.count == 1:
      return [bool(flag) for flag in flags]
    total = self._sum(tf.constant([float(bool(flag)) for flag in flags]))
    return list(total.numpy() > 0)

  def agree(self, number: int) -> bool:
    """Return whether an integer is the same on all workers; all workers must call it."""
    if self.count == 1:
      return True
    chief_number = self._from_chief(tf.constant(number, tf.float64)).numpy()
    return not self.any(number != chief_number)[0]

  def broadcast_array(self, array: np.ndarray) -> None:
    """Set an array of floats to its values on the chief; all workers must call it."""
    if self.count > 1:
      array[...] = self._from_chief(tf.constant(array)).numpy()

  def broadcast(self, variables: Sequence[tf.Variable]) -> None:
    """Set variables to their values on the chief; all workers must call it."""
    if self.count == 1:
      return
    for dtype in sorted({v.dtype.name for v in variables}):
      chosen = [v for v in variables if v.dtype.name == dtype]
      flat_values = [tf.reshape(v.read_value(), [-1]) for v in chosen]
      flat = self._from_chief(tf.concat(flat_values, axis=0))
      sizes = [tf.size(v) for v in chosen]
      for variable, value in zip(chosen, tf.split(flat, sizes)):
        variable.assign(tf.reshape(value, variable.shape))

  def _from_chief(self, tensor):
    """Return the chief's value of a tensor; all workers must call it."""
    return self._sum(tensor if self.chief else tf.zeros_like(tensor))

  @functools.cached_property
  def _sum(self):
    """Return a function that sums a tensor over the workers. All have the same number of replicas."""
    replicas = self.strategy.num_replicas_in_sync // self.count

    def all_reduce(value):
      replica = tf.distribute.get_replica_context()
      if replica.replica_id_in_sync_group % replicas != 0:  # not the first of its worker
        value = tf.zeros_like(value)
      return replica.all_reduce(tf.distribute.ReduceOp.SUM, value)

    @tf.function
    def total(value):
      return self.strategy.experimental_local_results(self.strategy.run(all_reduce, args=(value,)))[0]

    return total
