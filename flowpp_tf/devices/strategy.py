"""Devices: one, all of a host mirrored, several hosts, a TPU."""

from collections.abc import Callable
import functools
import os

import tensorflow as tf

from flowpp_tf.core.checks import check_arguments, check_count
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import STRATEGIES
from flowpp_tf.devices.cluster import Cluster, cluster_of_environment, ended_by_signals, wait_for_workers


@check_arguments
def get_strategy(
  name: str = "auto",
  num_virtual_cpus: int = 0,
  tpu: str | None = None,
  worker_timeout: float = 600,
  log_fn: Callable[[str], None] | None = None,
) -> tf.distribute.Strategy:
  """Return a `tf.distribute.Strategy`.

  Args:
    name: "one" for a single device; "mirrored" for `MirroredStrategy` over all GPUs, or over all logical CPU devices
      where there is no GPU; "multiworker" for `MultiWorkerMirroredStrategy` over the hosts that the environment
      variable TF_CONFIG lists, or those of a SLURM job; "tpu" for `TPUStrategy`; "auto" for "multiworker" where
      TF_CONFIG lists several workers, else "mirrored" where there are several GPUs or `num_virtual_cpus`, else "one".
    num_virtual_cpus: split the CPU into so many logical devices first, to try "mirrored" without GPUs; 0 leaves it
      whole. Possible only before TensorFlow has used its devices.
    tpu: name or address of the TPU, for "tpu"; None for that of this host.
    worker_timeout: seconds that "multiworker" waits for the other workers.
    log_fn: takes a line for each half minute of that wait; None prints it on stderr.

  "multiworker" waits for all workers, and must come before anything else that uses TensorFlow. "mirrored" is the same
  strategy at each call: two of them in one process fail where their models differ (TensorFlow takes a collective
  operation of the one for one of the other).

  Raises:
    InputError (a ValueError): for an unknown name, when it is too late to split the CPU, for a TF_CONFIG that is
      missing or not one, or if there is no such TPU.
    WorkerLost: if not all workers are there in time.

  Examples:
    >>> from flowpp_tf.devices import get_strategy
    >>> with get_strategy("one").scope():
    ...   model = fpp.FlowPlusPlus.from_preset("digits")
  """
  if name not in STRATEGIES:
    raise InputError(f"`strategy` must be one of {', '.join(STRATEGIES)}, got {name!r}")
  if tpu is not None and name != "tpu":
    raise InputError(f"`tpu` is for `strategy` tpu, got {tpu!r} for `strategy` {name}")
  check_count("num_virtual_cpus", num_virtual_cpus, 0, 1024)
  if worker_timeout < 0:
    raise InputError(f"`worker_timeout` must be at least 0, got {worker_timeout}")
  if num_virtual_cpus:
    _split_cpu(num_virtual_cpus)
  if name == "auto":
    gpus = tf.config.list_physical_devices("GPU")
    several = len(gpus) > 1 or (not gpus and num_virtual_cpus > 1)
    cluster = cluster_of_environment()
    name = "multiworker" if cluster and len(cluster.workers) > 1 else "mirrored" if several else "one"
  return {
    "one": tf.distribute.get_strategy,
    "mirrored": _mirrored,
    "multiworker": lambda: _multiworker(worker_timeout, log_fn),
    "tpu": lambda: _tpu(tpu),
  }[name]()


def enable_determinism() -> None:
  """Make every run on a device the same to the last bit; possible only before TensorFlow has used a device.

  Raises:
    InputError (a ValueError): when it is too late.

  Examples:
    >>> from flowpp_tf.devices import enable_determinism
    >>> enable_determinism()  # before anything else uses TensorFlow
  """
  tf.config.experimental.enable_op_determinism()
  try:
    # Ops one after the other: `tf.add_n`, by which gradients are added up, takes its arguments in an order that
    # depends on which of them are still in use elsewhere.
    tf.config.threading.set_inter_op_parallelism_threads(1)
  except RuntimeError:
    raise InputError("determinism must be enabled before TensorFlow uses its devices") from None


def _split_cpu(count):
  cpu = tf.config.list_physical_devices("CPU")[0]
  try:
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
  except RuntimeError:
    raise InputError("`num_virtual_cpus` must be set before TensorFlow uses its devices") from None


@functools.cache  # TensorFlow keeps collectives for the process, by keys that a second strategy would use again
def _mirrored():
  kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
  return tf.distribute.MirroredStrategy([d.name for d in tf.config.list_logical_devices(kind)])


def _multiworker(timeout, log_fn):
  cluster = cluster_of_environment()
  if cluster is None and "SLURM_PROCID" not in os.environ:
    raise InputError("`strategy` multiworker needs the environment variable TF_CONFIG on each host, or a SLURM job")
  try:
    if cluster is None:
      resolver = tf.distribute.cluster_resolver.SlurmClusterResolver()
      cluster = Cluster(tuple(resolver.cluster_spec().as_dict()["worker"]), resolver.task_id)
    else:
      resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if len(cluster.workers) > 1:
      wait_for_workers(cluster, timeout, *([log_fn] if log_fn else []))
    with ended_by_signals():
      return tf.distribute.MultiWorkerMirroredStrategy(resolver)
  except InputError:
    raise
  except (ValueError, RuntimeError, KeyError, OSError, tf.errors.OpError) as error:
    here = f" at {cluster.workers[cluster.task]}" if cluster else ""
    raise InputError(f"this worker cannot be started{here}: {str(error).splitlines()[0]}") from None


def _tpu(name):
  try:
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name or "local")
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
  except (ValueError, RuntimeError, tf.errors.OpError) as error:
    raise InputError(f"`strategy` tpu found no TPU {name or 'on this host'}: {str(error).splitlines()[0]}") from None
  return tf.distribute.TPUStrategy(resolver)
