"""Choose a `tf.distribute.Strategy`: one device, all devices of a host, several hosts, or a TPU."""

from collections.abc import Callable, Iterator
import contextlib
import functools
import json
import os
import re
import signal
import sys
import threading

import tensorflow as tf

from flowpp_tf.core.checks import check_arguments, check_count
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import STRATEGIES

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]]+):(\d{1,5})")


def _print_to_stderr(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


@check_arguments
def get_strategy(
  name: str = "auto",
  num_virtual_cpus: int = 0,
  tpu: str | None = None,
  log_fn: Callable[[str], None] = _print_to_stderr,
) -> tf.distribute.Strategy:
  """Return a `tf.distribute.Strategy` by its name.

  Args:
    name: "one" for a single device; "mirrored" for `MirroredStrategy` over all GPUs, or over all logical CPU devices
      on a host without GPUs; "multiworker" for `MultiWorkerMirroredStrategy` over the hosts in the environment variable
      TF_CONFIG, or over the hosts of a SLURM job; "tpu" for `TPUStrategy`; "auto" for "multiworker" if TF_CONFIG lists
      several workers, else "mirrored" if there are several GPUs or `num_virtual_cpus`, else "one".
    num_virtual_cpus: number of logical devices to split the CPU into first, to try "mirrored" without GPUs; 0 leaves
      it whole. Possible only before TensorFlow has used its devices.
    tpu: name or address of the TPU, for "tpu"; None for the TPU of this host.
    log_fn: takes a line with the addresses that "multiworker" waits for.

  "multiworker" waits for all workers, an hour at most, and must come before anything else that uses TensorFlow.
  "mirrored" is the same strategy at each call: two strategies in one process fail if their models differ, because
  TensorFlow confuses their collective operations.

  Raises:
    InputError (a ValueError): for an unknown name, when it is too late to split the CPU, for a TF_CONFIG that is
      missing or invalid, if not all workers start in time, or if the TPU is not found.

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
  if num_virtual_cpus:
    _split_cpu(num_virtual_cpus)
  if name == "auto":
    name = _automatic_name(num_virtual_cpus)
  return {
    "one": tf.distribute.get_strategy,
    "mirrored": _mirrored,
    "multiworker": lambda: _multiworker(log_fn),
    "tpu": lambda: _tpu(tpu),
  }[name]()


def _automatic_name(num_virtual_cpus):
  if len(workers_of_environment()) > 1:
    return "multiworker"
  num_devices = len(tf.config.list_physical_devices("GPU")) or num_virtual_cpus
  return "mirrored" if num_devices > 1 else "one"


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
    # Ops run one after the other: `tf.add_n`, which sums gradients, takes its arguments in an order that depends on
    # which of them are still in use elsewhere.
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


def workers_of_environment() -> list[str]:
  """Return the addresses of the workers in TF_CONFIG, or an empty list if it is not set.

  Raises:
    InputError (a ValueError): for a TF_CONFIG of another form, or an invalid address.
  """
  text = os.environ.get("TF_CONFIG")
  if not text:
    return []
  try:
    config = json.loads(text)
    jobs = config["cluster"]
    workers = jobs["worker"]
    task = config["task"]
    index = task["index"]
    is_worker = isinstance(workers, list) and task["type"] == "worker"
    if not is_worker or type(index) is not int or not 0 <= index < len(workers):
      raise ValueError
  except (ValueError, KeyError, TypeError, RecursionError):
    raise InputError(
      'TF_CONFIG must be like {"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": '
      f'"worker", "index": 0}}}}, with the index of this host, got {text[:500]}'
    ) from None
  if {*jobs} != {"worker"}:
    raise InputError(f"TF_CONFIG must list workers only, got {', '.join(map(repr, jobs))}")
  for address in workers:
    match = isinstance(address, str) and _ADDRESS.fullmatch(address)
    if not match or not 0 < int(match[2]) < 65536:
      raise InputError(f"TF_CONFIG: a worker must be host:port with a port from 1 to 65535, got {address!r}")
  if len({*workers}) < len(workers):
    raise InputError(f"TF_CONFIG lists a worker twice: {', '.join(workers)}")
  return workers


def _multiworker(log_fn):
  if not workers_of_environment() and "SLURM_PROCID" not in os.environ:
    raise InputError("`strategy` multiworker needs the environment variable TF_CONFIG on each host, or a SLURM job")
  try:
    if workers_of_environment():
      resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    else:
      resolver = tf.distribute.cluster_resolver.SlurmClusterResolver()
    workers = resolver.cluster_spec().as_dict()["worker"]
    others = [address for task, address in enumerate(workers) if task != resolver.task_id]
    with _ended_by_signals():
      if others:
        this = f"worker {resolver.task_id} of {len(workers)}, {workers[resolver.task_id]}"
        log_fn(f"{this}, waits for {', '.join(others)}")
      return tf.distribute.MultiWorkerMirroredStrategy(resolver)
  except (ValueError, RuntimeError, KeyError, OSError, tf.errors.OpError) as error:
    raise InputError(f"this worker cannot be started: {str(error).splitlines()[0]}") from None


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
  """Let signals end the process during a call of TensorFlow, in which Python cannot handle them."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
  try:
    for number, handler in handlers.items():
      if handler is not signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
    yield
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler or signal.SIG_DFL)


def _tpu(name):
  try:
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name or "local")
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
  except (ValueError, RuntimeError, tf.errors.OpError) as error:
    raise InputError(f"`strategy` tpu found no TPU {name or 'on this host'}: {str(error).splitlines()[0]}") from None
  return tf.distribute.TPUStrategy(resolver)
