"""Flags for a trained model: the directory of a run, or a preset."""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING, Any

from absl import flags

from flowpp_tf.config import PRECISIONS
from flowpp_tf.core.errors import InputError
from flowpp_tf.io.model_folders import check_holds_run, name_of_preset, presets
from flowpp_tf.programs import flag_kinds, process

if TYPE_CHECKING:
  from flowpp_tf.models import FlowPlusPlus
  from flowpp_tf.training import Workdir


def define_model_flags() -> None:
  """Define the flags."""
  flags.DEFINE_string("workdir", None, "Directory of the run.")
  flag_kinds.define_name(
    "preset",
    None,
    presets(),
    "Trained model instead of a run, the folder of a preset, or hf://USER/MODEL. It is copied to presets/NAME, which "
    "is then the directory of the run.",
    others=True,
  )
  flags.DEFINE_bool("accept_unchecked", False, "Use weights that have lost the checksum that they were written with.")


def define_precision_flag() -> None:
  """Define the flag of what computes with the model's networks in the precision that is asked for."""
  flags.DEFINE_enum(
    "precision",
    None,
    list(PRECISIONS),
    "Of the networks. By default float32, whatever training took: rounded to less, decode(encode(image)) is not the "
    "image.",
  )


def load_from_flags(workdir: Workdir) -> tuple[FlowPlusPlus, dict[str, Any]]:
  """Return the trained model in the precision that the flag asks for, and the run's settings."""
  return workdir.load(flags.FLAGS.precision)


def model_from_flags() -> tuple[str, pathlib.Path]:
  """Return which model the flags name, in words, and the directory of its run.

  Raises:
    InputError (a ValueError): unless one of the flags is given, and names a run or a preset.
  """
  workdir, preset = flags.FLAGS.workdir, flags.FLAGS.preset
  if (workdir is None) == (preset is None):
    raise InputError("give the model as --workdir or as --preset, one of them")
  if preset is not None:
    return f"preset {preset}", pathlib.Path(_copied_to(preset))
  check_holds_run(workdir)
  return f"the run in {workdir}", pathlib.Path(workdir)


def check_output_from_flags(folder: pathlib.Path) -> None:
  """Raise an `InputError` if --output is not given, and no file can be written in the model's folder instead."""
  if flags.FLAGS.output is None and folder.exists() and not os.access(folder, os.W_OK):
    raise InputError(f"no file can be written in {str(folder)!r}; --output names another place for the result")


def workdir_from_flags() -> Workdir:
  """Return the directory of the run that the flags name; errors as of `model_from_flags`."""
  from flowpp_tf.training import Workdir

  process.phase(f"loading {model_from_flags()[0]}")
  if flags.FLAGS.preset is None:
    return Workdir(flags.FLAGS.workdir, flags.FLAGS.accept_unchecked)
  return workdir_of_preset(flags.FLAGS.preset, flags.FLAGS.accept_unchecked)


def workdir_of_preset(preset: str, unchecked: bool = False) -> Workdir:
  """Copy a preset to presets/NAME, and return that as the directory of a run."""
  from flowpp_tf.models import copy_preset
  from flowpp_tf.training import Workdir

  folder = _copied_to(preset)
  copy_preset(preset, folder, unchecked)
  return Workdir(folder, unchecked)


def _copied_to(preset):
  return f"presets/{name_of_preset(preset)}"
