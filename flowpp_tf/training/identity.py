"""What a run is: its architecture, settings and data, as config.json and each checkpoint record them."""

import dataclasses
import json
import pathlib
from typing import Any

from flowpp_tf.config.data import DATA_SETTINGS
from flowpp_tf.config.training import TrainingConfig
from flowpp_tf.core.errors import InputError
from flowpp_tf.data import describe
from flowpp_tf.io import gate
from flowpp_tf.io.model_folders import RUN_FORMAT
from flowpp_tf.models import FlowPlusPlusConfig

MAY_CHANGE = {"data_dir", "cache_dir", "splits_file", "max_bad_files", "remat"}
# The default of a setting that a later version adds changes nothing: a run without the setting is one with its default.
_DEFAULTS = {
  part: {f.name: f.default for f in dataclasses.fields(config) if f.default is not dataclasses.MISSING}
  for part, config in (("model", FlowPlusPlusConfig), ("training", TrainingConfig))
}


def identity_of(config: FlowPlusPlusConfig, settings: dict[str, Any]) -> dict[str, Any]:
  """Return what identifies a run, as it is read from JSON again.

  Args:
    config: `FlowPlusPlusConfig`.
    settings: what else determines the run; two runs with the same "fingerprint" have the same data, regardless of
      its name and place.
  """
  return json.loads(json.dumps({"format": RUN_FORMAT, "model": dataclasses.asdict(config), "training": settings}))


def is_identity(value: Any) -> bool:
  """Return whether a value that was read from JSON has the parts of what identifies a run."""
  return isinstance(value, dict) and all(isinstance(value.get(part), dict) for part in _DEFAULTS)


def read_identity(path: pathlib.Path) -> dict[str, Any]:
  """Return what a config.json holds; raise an `InputError` (a ValueError) if it is not one of a run."""
  with gate.reading(path):
    run = gate.read_json(path)
    if not is_identity(run):
      raise ValueError("it is not the config.json of a run")
  unknown = sorted({*run} - {"format", *_DEFAULTS})
  if unknown or run.get("format") != RUN_FORMAT:
    what = f"has {', '.join(unknown)}" if unknown else f"has the format {run.get('format')!r}"
    raise InputError(f"{str(path)!r} {what}, which this version of flowpp_tf does not know")
  return run


def check_same_run(workdir: pathlib.Path, present: dict[str, Any], wanted: dict[str, Any]) -> None:
  """Raise an `InputError` (a ValueError), which names what differs, unless a directory's run is the wanted one."""
  may_change = MAY_CHANGE | ({"dataset"} if "fingerprint" in present["training"] else set())
  if wanted["training"].get("schedule") != "cosine":  # the only schedule that depends on the number of steps
    may_change.add("steps")
  differences = []
  for part, defaults in _DEFAULTS.items():
    there = json.loads(json.dumps(defaults)) | present[part]
    for key in wanted[part].keys() & there.keys() - may_change:  # a program may have no such setting of the data
      value = wanted[part][key]
      other = there[key]
      if _compared(key, value) != _compared(key, other):
        differences.append(f"{key} is {_shown(key, other)} there and {_shown(key, value)} here")
  if differences:
    raise InputError(
      f"workdir {str(workdir)!r} holds another run: {'; '.join(sorted(differences))}; "
      "give another --workdir, or the same flags to resume it"
    )
  for part in _DEFAULTS:
    if unknown := sorted({*present[part]} - {*wanted[part], *DATA_SETTINGS}):
      raise InputError(
        f"workdir {str(workdir)!r} holds a run with {part} settings that this version of flowpp_tf "
        f"does not know: {', '.join(unknown)}"
      )


def _compared(key, value):
  if key == "crops":  # not given, or off
    return bool(value)
  # Of data and initial weights, wherever they are.
  return value["sha256"] if isinstance(value, dict) and "sha256" in value else value


def _shown(key, value):
  return describe(value) if key == "fingerprint" else repr(value)
