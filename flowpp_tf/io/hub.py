"""Presets of the hubs of models, Hugging Face and Kaggle, by an address in place of a folder's path:

    hf://user/model    hf://user/model@revision    kaggle://user/model/framework/variation

Only the files of a preset are downloaded, into the cache of the hub's own library, and then read as those of any folder
from outside. What Hugging Face says that they hold is claimed from the budget before; Kaggle does not say it.
"""

import functools
import os
import pathlib
import re
from typing import Any

from flowpp_tf.core.environment import import_extra
from flowpp_tf.core.errors import InputError
from flowpp_tf.io import budget, gate
from flowpp_tf.types import Path

# What a preset may have; the first two it must have. Other files of a stranger are not downloaded.
FILES = (
  *("config.json", "preset.json", "best.weights.safetensors", "best.weights.h5", "README.md", "card.md"),
  *("metrics.jsonl", "evaluation.json", "typicality.json"),
)
_REQUIRED = FILES[:2]
_FORMS = {
  "hf": (re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII), "hf://user/model or hf://user/model@revision"),
  "kaggle": (
    re.compile(r"([\w.-]+/[\w.-]+/[\w.-]+/[\w.-]+(?:/\d+)?)()", re.ASCII),
    "kaggle://user/model/framework/variation",
  ),
}


def is_address(preset: Path) -> bool:
  """Return whether a preset is the address of one on a hub."""
  return os.fspath(preset).partition("://")[0] in _FORMS and "://" in os.fspath(preset)


def name_of_address(address: str) -> str:
  """Return a name for the folder of a preset: `user--model` for `hf://user/model`."""
  return "--".join(_parts(address)[1].split("/"))


@functools.cache
def download(address: str) -> pathlib.Path:
  """Return the folder of a preset on a hub, whose files are downloaded unless they are there; once in a process.

  Args:
    address: as above.

  Raises:
    InputError (a ValueError): for another address, a library that is not installed, and what cannot be downloaded or is
      no preset.
    BudgetError (an InputError): if it has more bytes than are read.
  """
  hub, name, revision = _parts(address)
  fetch = {"hf": _from_hugging_face, "kaggle": _from_kaggle}[hub]
  folder = fetch(address, name, revision)
  for required in _REQUIRED:
    if not (folder / required).is_file():
      raise InputError(f"{address!r} is no preset: it has no {required}")
  return folder


def _parts(address):
  hub, _, rest = address.partition("://")
  pattern, form = _FORMS[hub]
  found = pattern.fullmatch(rest)
  if not found:
    raise InputError(f"a preset of this hub must be {form}, got {address!r}")
  return hub, found[1], found[2] or None


def _from_hugging_face(address, name, revision):
  library: Any = import_extra("huggingface_hub", "hub", f"the preset {address!r}")
  fetch = functools.partial(library.snapshot_download, name, allow_patterns=[*FILES])
  try:
    about = library.HfApi().model_info(name, revision=revision, files_metadata=True)
  except Exception as error:  # of the library, of its HTTP client, of the network
    if getattr(error, "response", None) is not None or isinstance(error, ValueError):  # the hub has answered
      raise _failed(address, error) from None
    try:  # there is no network: what was downloaded before
      return pathlib.Path(fetch(revision=revision, local_files_only=True))
    except Exception:
      raise _failed(address, error) from None
  sizes = {file.rfilename: file.size or 0 for file in about.siblings or () if file.rfilename in FILES}
  _check_is_preset(address, sizes)
  budget.claim("bytes_in", sum(sizes.values()), repr(address))
  try:
    return pathlib.Path(fetch(revision=revision))  # not `about.sha`, by which it is not found without a network
  except Exception as error:
    raise _failed(address, error) from None


def _from_kaggle(address, name, revision):
  del revision  # a number at the end of the name
  library: Any = import_extra("kagglehub", "hub", f"the preset {address!r}")
  try:
    paths = [pathlib.Path(library.model_download(name, path=file)) for file in _REQUIRED]
    weights = gate.read_json(paths[1]).get("weights", "best.weights.h5")
    if weights in FILES:  # what reads the preset refuses others
      library.model_download(name, path=weights)
  except budget.BudgetError:
    raise
  except Exception as error:
    raise _failed(address, error) from None
  return paths[0].parent


def _check_is_preset(address, files):
  for required in _REQUIRED:
    if required not in files:
      raise InputError(f"{address!r} is no preset: it has no {required}")


def _failed(address, error):
  return InputError(f"the preset {address!r} cannot be downloaded: {type(error).__name__}: {gate.reason(error)[:300]}")
