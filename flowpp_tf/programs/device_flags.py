"""Flags for devices: strategy, lanes of a CPU, what XLA compiles."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from absl import flags

from flowpp_tf.core.registry import JIT, STRATEGIES
from flowpp_tf.programs import flag_kinds, process

if TYPE_CHECKING:
  import tensorflow as tf


def define_device_flags() -> None:
  """Define the flags."""
  flag_kinds.define_name("strategy", "auto", STRATEGIES, "Devices; see flowpp_tf/devices/strategy.py.")
  flags.DEFINE_string("tpu", None, "Name or address of the TPU, for --strategy=tpu.")
  flags.DEFINE_integer(
    "num_virtual_cpus", 0, "Split the CPU into so many devices, to try mirrored.", lower_bound=0, upper_bound=256
  )
  flags.DEFINE_integer(
    "cpu_splits",
    0,
    "Equal parts of a batch that the cores of a CPU work on side by side; 1 for "
    "none, 0 for one per core, up to 8, where there is no GPU or TPU; a training batch has as many as divide it.",
    lower_bound=0,
    upper_bound=256,
  )
  flags.DEFINE_enum(
    "jit",
    "auto",
    ["auto", *JIT],
    "What XLA compiles: nothing (off), or the blocks of the networks (blocks). auto is blocks on GPUs and TPUs, "
    "off on CPUs.",
  )


def strategy_from_flags(deterministic: bool = False, batch_size: int | None = None) -> tf.distribute.Strategy:
  """Set up lanes and XLA and return the strategy, as the flags ask for; call it before anything else uses a device.

  Args:
    deterministic: whether to enable determinism. Batches are then not split unless --cpu_splits asks for it; the parts
      come one after the other.
    batch_size: of a device, if it is known; see `use_cpu_lanes`.
  """
  from flowpp_tf.core.environment import has_accelerator
  from flowpp_tf.core.lanes import use_cpu_lanes
  from flowpp_tf.core.tracing import set_jit
  from flowpp_tf.devices import Workers, enable_determinism, get_strategy

  given = flags.FLAGS
  accelerated = has_accelerator() or given.strategy == "tpu"
  whole = deterministic or given.num_virtual_cpus > 1 or accelerated  # the cores have other work, or none
  use_cpu_lanes(given.cpu_splits or (1 if whole else 0), batch_size)
  set_jit(("blocks" if accelerated else "off") if given.jit == "auto" else given.jit)
  if deterministic:
    enable_determinism()
  strategy = get_strategy(given.strategy, given.num_virtual_cpus, given.tpu, functools.partial(process.say, ""))
  if Workers(strategy).count > 1:
    process.keep_teardown()
  return strategy
