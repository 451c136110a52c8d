"""What the processes of a run must do together. With one of them there is nothing to do.

Every worker runs the same program. The first, the chief, writes; all read what it wrote, from a file
system that they share.
"""

import contextlib
import functools

import tensorflow as tf

# What TensorFlow raises in a worker when another has gone.
_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError,
         tf.errors.InternalError, tf.errors.DeadlineExceededError)


class WorkerLost(Exception):
  """Another worker of the run has ended or cannot be reached."""


class Workers:
  """The workers of a strategy.

  Args:
    strategy: `tf.distribute.Strategy`.

  Attributes:
    count: how many there are.
    index: which of them this is.
    chief: whether this is the first.
  """

  def __init__(self, strategy):
    self._strategy = strategy
    resolver = strategy.cluster_resolver
    self.count, self.index = 1, 0
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
      self.count = max(1, len(resolver.cluster_spec().as_dict().get("worker", [])))
      self.index = resolver.task_id or 0
    self.chief = self.index == 0

  @contextlib.contextmanager
  def guard(self):
    """Within it, what TensorFlow raises when another worker has gone is a `WorkerLost`."""
    try:
      yield
    except _LOST as error:
      if self.count == 1:
        raise
      raise WorkerLost(f"worker {self.index} of {self.count} has lost another one "
                       f"({type(error).__name__})") from error

  def any(self, *flags):
    """Whether each of the flags is true on any worker; to be called by all of them."""
    if self.count == 1:
      return [bool(flag) for flag in flags]
    total = self._sum(tf.constant([float(bool(flag)) for flag in flags]))
    return list(total.numpy() > 0)

  def broadcast(self, variables):
    """Sets variables of one dtype to what they are on the chief; to be called by all workers."""
    if self.count == 1:
      return

    flat = tf.concat([tf.reshape(v.read_value(), [-1]) for v in variables], axis=0)
    flat = self._sum(flat if self.chief else tf.zeros_like(flat))
    for variable, value in zip(variables, tf.split(flat, [tf.size(v) for v in variables])):
      variable.assign(tf.reshape(value, variable.shape))

  @functools.cached_property
  def _sum(self):
    """Adds up a tensor over the workers, of which each has the same number of replicas."""
    replicas = self._strategy.num_replicas_in_sync // self.count

    def all_reduce(value):
      replica = tf.distribute.get_replica_context()
      first = replica.replica_id_in_sync_group % replicas == 0
      return replica.all_reduce(tf.distribute.ReduceOp.SUM, value if first else tf.zeros_like(value))

    @tf.function
    def total(value):
      return self._strategy.experimental_local_results(
          self._strategy.run(all_reduce, args=(value,)))[0]
    return total
