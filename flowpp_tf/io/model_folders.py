"""Folders of trained models: the presets by name, and runs. Finding them imports no TensorFlow."""

import os
import pathlib

from flowpp_tf.core.checks import check_arguments
from flowpp_tf.core.errors import InputError, unknown_name
from flowpp_tf.io import hub
from flowpp_tf.io.gate import read_json
from flowpp_tf.types import Path

_SHIPPED = pathlib.Path(__file__).parent.parent / "pretrained"
CONFIG, ABOUT = "config.json", "preset.json"
METRICS, EVALUATION = "metrics.jsonl", "evaluation.json"
RUN_FORMAT = 2  # of config.json


def presets() -> dict[str, str]:
  """Return the names of the presets that ship with the package, each with one line of description.

  Examples:
    >>> list(fpp.presets())
    ['digits', 'digits_by_class', 'fashion_mnist', 'photos']
  """
  return {path.parent.name: read_json(path)["description"] for path in sorted(_SHIPPED.glob(f"*/{ABOUT}"))}


@check_arguments
def preset_folder(preset: Path) -> pathlib.Path:
  """Return the folder of a preset, given its name, the path of a folder, or its address on a hub, from where it comes.

  Raises:
    InputError (a ValueError): if there is none, with the names that come close, or it cannot be downloaded.

  Examples:
    >>> fpp.models.preset_folder("digits").name
    'digits'
  """
  if hub.is_address(preset):
    return hub.download(os.fspath(preset))
  folder = _SHIPPED / str(preset)
  if str(preset) in presets():
    return folder
  folder = pathlib.Path(preset).expanduser()
  if (folder / ABOUT).is_file():
    return folder
  if folder.is_dir():
    raise InputError(f"folder {str(preset)!r} is no preset: it has no {ABOUT}")
  raise unknown_name("preset", str(preset), presets())


def name_of_preset(preset: Path) -> str:
  """Return the name of the copy of a preset below presets/, where programs write; errors as of `preset_folder`."""
  return hub.name_of_address(os.fspath(preset)) if hub.is_address(preset) else preset_folder(preset).name


def check_holds_run(folder: Path) -> None:
  """Raise an `InputError` (a ValueError) unless a folder is that of a run, or of a preset."""
  config = pathlib.Path(folder) / CONFIG
  if not os.path.lexists(config):
    raise InputError(f"workdir {os.fspath(folder)!r} holds no run: there is no {config}")
