"""Flags for a trained model: the directory of a run, or a preset."""

from absl import flags

from flowpp_tf.core.errors import InputError
from flowpp_tf.models import copy_preset, preset_folder, presets
from flowpp_tf.training import Workdir


def define_model_flags() -> None:
  """Define the flags."""
  flags.DEFINE_string("workdir", None, "Directory of the run.")
  flags.DEFINE_string(
    "preset",
    None,
    f"Trained model instead of a run, one of {', '.join(presets())}, or the folder "
    "of a preset; it is copied to presets/NAME, which is then the directory of the run.",
  )
  flags.DEFINE_bool("accept_unchecked", False, "Use weights that have lost the checksum that they were written with.")


def workdir_from_flags() -> Workdir:
  """Return the directory of the run that the flags name.

  Raises:
    InputError (a ValueError): unless one of the flags is given, and names a run or a preset.
  """
  workdir, preset = flags.FLAGS.workdir, flags.FLAGS.preset
  if (workdir is None) == (preset is None):
    raise InputError("give the model as --workdir or as --preset, one of them")
  if preset is None:
    return Workdir(workdir, flags.FLAGS.accept_unchecked)
  return workdir_of_preset(preset, flags.FLAGS.accept_unchecked)


def workdir_of_preset(preset: str, unchecked: bool = False) -> Workdir:
  """Copy a preset to presets/NAME, and return that as the directory of a run."""
  folder = f"presets/{preset_folder(preset).name}"
  copy_preset(preset, folder, unchecked)
  return Workdir(folder, unchecked)
