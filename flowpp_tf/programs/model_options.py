"""Define the options of a trained model, the precision of its networks, and devices."""

import dataclasses
import functools
import os
import pathlib
from typing import TYPE_CHECKING, Any

from flowpp_tf.config import PRECISIONS
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import JIT, STRATEGIES
from flowpp_tf.core.settings import at_least, one_of, setting
from flowpp_tf.io.model_folders import check_holds_run, name_of_preset, presets
from flowpp_tf.programs import process
from flowpp_tf.programs.options import Options, names_among

if TYPE_CHECKING:
  import tensorflow as tf

  from flowpp_tf.devices import Workers
  from flowpp_tf.models import FlowPlusPlus
  from flowpp_tf.training import Workdir


@dataclasses.dataclass(frozen=True)
class ModelOptions(Options):
  """Options that name a trained model."""

  GROUP = "The trained model"

  _: dataclasses.KW_ONLY  # so that the archive of bin/decompress comes first
  preset: str | None = setting(
    None,
    "Preset in place of a run: its name, its folder, or hf://USER/MODEL. It is copied to presets/NAME, which is then "
    "the directory of the run.",
    names_among(presets()),
  )
  workdir: str | None = setting(None, "Directory of the run.")
  accept_unchecked: bool = setting(False, "Use weights without a checksum.")

  def find_model(self) -> tuple[str, pathlib.Path]:
    """Return a description of the model, and the directory of its run.

    Raises:
      InputError (a ValueError): unless one of the options is given, and names a run or a preset.
    """
    if self.preset is None and self.workdir is not None:
      check_holds_run(self.workdir)
      return f"the run in {self.workdir}", pathlib.Path(self.workdir)
    if self.preset is None or self.workdir is not None:
      raise InputError("give the model as --workdir or as --preset, one of them")
    return f"preset {self.preset}", pathlib.Path("presets", name_of_preset(self.preset))

  def find_workdir(self) -> "Workdir":
    """Return the directory of the run, after copying a preset to it; errors as in `find_model`."""
    from flowpp_tf.models import copy_preset
    from flowpp_tf.training import Workdir

    name, folder = self.find_model()
    process.phase(f"loading {name}")
    if self.preset is not None:
      copy_preset(self.preset, folder, self.accept_unchecked)
    return Workdir(folder, self.accept_unchecked)

  @staticmethod
  def check_output(output: str | None, folder: pathlib.Path) -> None:
    """Raise an `InputError` if no output is given, and the model's folder is not writable."""
    if output is None and folder.exists() and not os.access(folder, os.W_OK):
      raise InputError(f"no file can be written in {str(folder)!r}; --output names another place for the result")


@dataclasses.dataclass(frozen=True)
class PrecisionOptions(ModelOptions):
  """Options that name a trained model and the precision of its networks."""

  GROUP = ModelOptions.GROUP

  precision: str | None = setting(
    None,
    "Precision of the networks. By default float32, regardless of training: with less precision, "
    "decode(encode(image)) is not the image.",
    one_of(*PRECISIONS),
  )


@dataclasses.dataclass(frozen=True)
class DeviceOptions(Options):
  """Options of devices: strategy, lanes of a CPU, compilation by XLA."""

  GROUP = "Devices"

  strategy: str = setting("auto", "Devices; see flowpp_tf/devices/strategy.py.", one_of(*STRATEGIES))
  tpu: str | None = setting(None, "Name or address of the TPU, for --strategy=tpu.")
  num_virtual_cpus: int = setting(0, "Number of devices to split the CPU into, to try mirrored.", at_least(0, 256))
  cpu_splits: int = setting(
    0,
    "Number of equal parts of a batch that the cores of a CPU process in parallel. 1 does not split; 0 takes one part "
    "per core, up to 8, without a GPU or TPU. A training batch gets fewer parts if they do not divide it.",
    at_least(0, 256),
  )
  jit: str = setting(
    "auto",
    "What XLA compiles: nothing (off), or the blocks of the networks (blocks). auto means blocks on GPUs and TPUs, and "
    "off on CPUs.",
    one_of("auto", *JIT),
  )

  def set_up_devices(self, deterministic: bool = False, batch_size: int | None = None) -> "tf.distribute.Strategy":
    """Set up lanes and XLA and return the strategy; call it before anything else uses a device.

    Args:
      deterministic: whether to enable determinism. Batches are then split only if `cpu_splits` asks for it, and their
        parts are processed one after the other.
      batch_size: batch size per device, if it is known; see `use_cpu_lanes`.
    """
    from flowpp_tf.core.environment import has_accelerator
    from flowpp_tf.core.lanes import use_cpu_lanes
    from flowpp_tf.core.tracing import set_jit
    from flowpp_tf.devices import Workers, enable_determinism, get_strategy

    accelerated = has_accelerator() or self.strategy == "tpu"
    lanes = self.cpu_splits
    if not lanes and (deterministic or self.num_virtual_cpus > 1 or accelerated):
      lanes = 1
    use_cpu_lanes(lanes, batch_size)
    auto_jit = "blocks" if accelerated else "off"
    set_jit(auto_jit if self.jit == "auto" else self.jit)
    if deterministic:
      enable_determinism()
    strategy = get_strategy(self.strategy, self.num_virtual_cpus, self.tpu, functools.partial(process.say, ""))
    if Workers(strategy).count > 1:
      process.keep_teardown()
    return strategy


def load_on_devices(options: Any) -> "tuple[Workdir, Workers, FlowPlusPlus, dict[str, Any]]":
  """Return the run that `PrecisionOptions` name, the workers of `DeviceOptions`, the model, and the run's settings."""
  from flowpp_tf.devices import Workers

  workdir = options.find_workdir()
  workers = Workers(options.set_up_devices())
  with workers.scope():
    return workdir, workers, *workdir.load(options.precision)
