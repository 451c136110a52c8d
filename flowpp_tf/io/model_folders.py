"""Find the folders of trained models, without TensorFlow: runs, presets by name, and presets on Hugging Face.

A preset of Hugging Face has an address in place of a folder's path:

    hf://user/model    hf://user/model@revision

Only the files of a preset are downloaded, into the cache of the hub's own library, and then read as files of any folder
from outside. What the hub says that they hold is claimed from the budget before.
"""

import contextlib
import functools
import os
import pathlib
import re
from typing import Any

from flowpp_tf.core.checks import check_arguments
from flowpp_tf.core.environment import import_extra
from flowpp_tf.core.errors import InputError, unknown_name
from flowpp_tf.io import budget, gate
from flowpp_tf.io.gate import read_json
from flowpp_tf.types import Path

_SHIPPED = pathlib.Path(__file__).parent.parent / "pretrained"
CONFIG = "config.json"
ABOUT = "preset.json"
FLOW = "flow.json"  # of a flow that `fpp.save` wrote
METRICS = "metrics.jsonl"
EVALUATION = "evaluation.json"
RUN_FORMAT = 2  # of config.json
# What a preset of a hub may have. Other files of a stranger are not downloaded.
HUB_FILES = (
  *(CONFIG, ABOUT, "best.weights.safetensors", "README.md", "card.md"),
  *(METRICS, EVALUATION, "typicality.json"),
)
# What a run or a preset has for its own in its folder, which the results of programs do not replace.
RUN_FILES = (
  *(*HUB_FILES, f".{EVALUATION}.lock", "run.lock", "curves.png", "samples.png"),
  *("checkpoints", "evaluation-*.npy", "codec_model.*.npz", "*.old"),
)
_HUB = "hf://"
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)


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
  if is_address(preset):
    return download(os.fspath(preset))
  folder = _SHIPPED / str(preset)
  if str(preset) in presets():
    return folder
  folder = pathlib.Path(preset).expanduser()
  if (folder / ABOUT).is_file():
    return folder
  if folder.is_dir():
    raise InputError(f"folder {str(preset)!r} is not a preset: it has no {ABOUT}")
  raise unknown_name("preset", str(preset), presets())


def name_of_preset(preset: Path) -> str:
  """Return the name of the copy of a preset below presets/, where programs write; errors as of `preset_folder`."""
  if is_address(preset):
    return os.fspath(preset).removeprefix(_HUB).partition("@")[0].replace("/", "--")
  return preset_folder(preset).name


def check_holds_run(folder: Path) -> None:
  """Raise an `InputError` (a ValueError) unless a folder holds a run or a preset."""
  config = pathlib.Path(folder) / CONFIG
  if not os.path.lexists(config):
    raise InputError(f"workdir {os.fspath(folder)!r} holds no run: there is no {config}")


# --- Hugging Face ---------------------------------------------------------------------------------


def is_address(preset: Path) -> bool:
  """Return whether a preset is the address of one on Hugging Face."""
  return os.fspath(preset).startswith(_HUB)


@functools.cache
def download(address: str) -> pathlib.Path:
  """Return the folder of a preset on Hugging Face, whose files are downloaded unless they exist; once in a process.

  Args:
    address: as above.

  Raises:
    InputError (a ValueError): for another address, a library that is not installed, and what cannot be downloaded or is
      not a preset.
    BudgetError (an InputError): if it has more bytes than are read.
  """
  found = _ADDRESS.fullmatch(address)
  if not found:
    raise InputError(f"a preset of this hub must be hf://user/model or hf://user/model@revision, got {address!r}")
  library: Any = import_extra("huggingface_hub", "hub", f"the preset {address!r}")
  try:
    return pathlib.Path(_downloaded(library, address, *found.groups()))
  except InputError:
    raise
  except Exception as error:  # of the library, of its HTTP client, of the network
    text = f"{type(error).__name__}: {gate.reason(error)[:300]}"
    raise InputError(f"the preset {address!r} cannot be downloaded: {text}") from None


def _downloaded(library, address, name, revision):
  """Return the path of the folder with a hub's files."""
  fetch = functools.partial(library.snapshot_download, name, revision=revision, allow_patterns=[*HUB_FILES])
  try:
    about = library.HfApi().model_info(name, revision=revision, files_metadata=True)
  except Exception as error:
    if getattr(error, "response", None) is None and not isinstance(error, ValueError):  # the hub has not answered
      with contextlib.suppress(Exception):
        return fetch(local_files_only=True)  # what was downloaded before
    raise
  sizes = {file.rfilename: file.size or 0 for file in about.siblings or () if file.rfilename in HUB_FILES}
  for required in (CONFIG, ABOUT):
    if required not in sizes:
      raise InputError(f"{address!r} is not a preset: it has no {required}")
  budget.claim("bytes_in", sum(sizes.values()), repr(address))
  return fetch()  # not of `about.sha`, by which it is not found without a network
