"""The store of a run: the one place that reads and writes the files of a working directory.

config.json            format, model config, data set with its fingerprint, training settings
checkpoints/           the newest states of the run, to resume from, with copies of the next two; see checkpoints.py
best.weights.h5        EMA weights at the best validation, with their checksum; see io/weights_file.py
metrics.jsonl          a row for each validation, with the digest of the data
run.lock               which process trains in the directory
curves.png samples.png
evaluation.json        measured bits/dim, see evaluation/record.py
evaluation-*.npy       an evaluation that was stopped, to resume from
typicality.json        bits/dim of the validation split, measured by bin/score
codec_model.*.npz      the model as bin/decompress reads it without TensorFlow
saved_model/1/         written by bin/export
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import itertools
import json
import math
import os
import pathlib
from typing import Any

from absl import logging

from flowpp_tf.config.training import TrainingConfig
from flowpp_tf.core.checks import check_type
from flowpp_tf.core.errors import InputError
from flowpp_tf.data import describe
from flowpp_tf.io import gate
from flowpp_tf.io.budget import BudgetError
from flowpp_tf.io.files import copy_file, file_sha256, remove_leftovers, write_file, writing
from flowpp_tf.io.lock import sole_owner
from flowpp_tf.io.model_folders import ABOUT, CONFIG, EVALUATION, METRICS, RUN_FORMAT, check_holds_run
from flowpp_tf.io.weights_file import WeightsFile, read_weights, weights_to_bytes
from flowpp_tf.models import FlowPlusPlus, FlowPlusPlusConfig
from flowpp_tf.pretrained.presets import read_weights_of_preset
from flowpp_tf.pretrained.stored_config import config_of_fields, with_precision
from flowpp_tf.training.checkpoints import MANIFEST, Checkpoints, Restored, checkpoint_folders, read_manifest
from flowpp_tf.types import Path

_MAY_CHANGE = {"data_dir", "cache_dir", "splits_file", "max_bad_files", "remat"}
_SETTINGS = {field.name for field in dataclasses.fields(TrainingConfig)} | {
  "dataset",
  "data_dir",
  "cache_dir",
  "bits",
  "splits_file",
  "max_bad_files",
  "crops",
  "init_from",
  "fingerprint",
}
_FIELDS = {field.name for field in dataclasses.fields(FlowPlusPlusConfig)}
# What a run of a version without a setting did: the default of a setting that a later version adds changes nothing.
_DEFAULTS = {
  part: {f.name: f.default for f in dataclasses.fields(settings) if f.default is not dataclasses.MISSING}
  for part, settings in (("model", FlowPlusPlusConfig), ("training", TrainingConfig))
}


class Workdir:
  """The files of a run.

  Args:
    path: the directory; it need not exist.
    unchecked: whether best weights are used that have lost their checksum.

  Raises:
    InputError (a ValueError): if the path is empty or no text in UTF-8, which TensorFlow needs.

  Examples:
    >>> from flowpp_tf import training
    >>> model = fpp.train("digits", "digits", "runs/digits")
    >>> model, settings = training.Workdir("runs/digits").load()
  """

  def __init__(self, path: Path, unchecked: bool = False) -> None:
    check_type("unchecked", unchecked, bool)
    if not isinstance(path, (str, os.PathLike)):
      raise InputError(f"`workdir` must be the path of a directory, got {path!r}")
    text = os.fsdecode(path)
    try:
      text.encode()
    except UnicodeError:
      raise InputError(f"workdir {text!r} must be a path in UTF-8") from None
    if not text or "\0" in text:
      raise InputError(f"workdir must be the path of a directory, got {text!r}")
    self.path = pathlib.Path(path)
    self.config = self.path / CONFIG
    self.checkpoints = self.path / "checkpoints"
    self.best_weights = self.path / "best.weights.h5"
    self.metrics = self.path / METRICS
    self.curves = self.path / "curves.png"
    self.samples = self.path / "samples.png"
    self.evaluation = self.path / EVALUATION
    self.typicality = self.path / "typicality.json"
    self._unchecked = unchecked
    self._is_owned: Callable[[], bool] = lambda: True
    self._rows: list[dict[str, Any]] = []
    self._loaded: WeightsFile | None = None

  # --- The run ----------------------------------------------------------------------------------

  @contextlib.contextmanager
  def sole_owner(self) -> Iterator[None]:
    """Return a context in which no other process trains in the directory, which is made if it is not there.

    Raises:
      InputError (a ValueError): if another process trains in it, or it cannot be written.
    """
    with contextlib.ExitStack() as stack:
      with self._writing():
        self.path.mkdir(parents=True, exist_ok=True)
        if not os.access(self.path, os.W_OK):
          raise PermissionError(0, "no permission")
        self._is_owned = stack.enter_context(sole_owner(self.path / "run.lock"))
        stack.callback(setattr, self, "_is_owned", lambda: True)
        remove_leftovers(self.path)
      yield

  def check_owned(self) -> None:
    """Raise an `InputError` (a ValueError) if the directory is no longer the one that `sole_owner` holds."""
    if not self._is_owned():
      raise InputError(
        f"workdir {str(self.path)!r} was moved, deleted or replaced while this run used it; the run ends, and writes "
        "nothing more there; from a directory that was moved it can be resumed"
      )

  def open(self, config: FlowPlusPlusConfig, settings: dict[str, Any]) -> dict[str, Any]:
    """Make the directory a run's own; arguments, result and errors as for `check`."""
    identity = self.check(config, settings)
    with self._writing():
      self.path.mkdir(parents=True, exist_ok=True)
      write_file(self.config, json.dumps(identity, indent=2) + "\n")
    return identity

  def check(self, config: FlowPlusPlusConfig, settings: dict[str, Any]) -> dict[str, Any]:
    """Check that a directory that has a run has this one, and change nothing.

    One that ended before it had saved anything, as for want of memory, is not in the way of another.

    Args:
      config: `FlowPlusPlusConfig`.
      settings: what else determines the run; two runs with the same "fingerprint" have the same data, whatever their
        name and place.

    Returns:
      What identifies the run, to be kept with its checkpoints.

    Raises:
      InputError (a ValueError): if it holds another run (the message names what differs), or cannot be written.
    """
    wanted = json.loads(json.dumps({"format": RUN_FORMAT, "model": dataclasses.asdict(config), "training": settings}))
    if os.path.lexists(self.config):
      present = self._read()
      if self._has_saved():
        self._check_same(present, wanted)
        wanted["training"] = present["training"] | wanted["training"]
    else:
      self._check_checkpoints(wanted)
    return wanted

  def check_run(self, wanted: dict[str, Any], run: dict[str, Any]) -> None:
    """Raise an `InputError` (a ValueError) unless a checkpoint's run is the wanted one; `{}` if one is not known."""
    if run and wanted:
      self._check_same(run, wanted)

  def _has_saved(self):
    """Whether the directory has more than what a run makes before its first weights."""
    with self._writing():
      others = {path.name for path in self.path.iterdir()} - {CONFIG, "run.lock", "tensorboard", self.checkpoints.name}
      return bool(others) or (self.checkpoints.is_dir() and any(self.checkpoints.iterdir()))

  def _check_same(self, present, wanted):
    may_change = set(_MAY_CHANGE)
    # A run may be prolonged unless its schedule depends on the number of steps.
    if wanted["training"].get("schedule") != "cosine":
      may_change.add("steps")
    if "fingerprint" in present["training"]:
      may_change.add("dataset")
    there = {part: json.loads(json.dumps(_DEFAULTS[part])) | present[part] for part in _DEFAULTS}
    differences = [
      f"{key} is {_shown(key, there[part][key])} there and {_shown(key, value)} here"
      for part in _DEFAULTS
      for key, value in wanted[part].items()
      if key not in may_change
      and key in there[part]  # a program may have no such setting of the data
      and _compared(key, there[part][key]) != _compared(key, value)
    ]
    if differences:
      raise InputError(
        f"workdir {str(self.path)!r} holds another run: {'; '.join(differences)}; "
        "give another --workdir, or the same flags to resume it"
      )
    known = {"model": _FIELDS, "training": _SETTINGS | {*wanted["training"]}}
    for part, names in known.items():
      unknown = sorted({*present[part]} - names)
      if unknown:
        raise InputError(
          f"workdir {str(self.path)!r} holds a run with {part} settings that this version of flowpp_tf "
          f"does not know: {', '.join(unknown)}"
        )

  def _check_config(self, run):
    """Raise an `InputError` unless config.json has the model that the newest checkpoint knows."""
    for folder in checkpoint_folders(self.checkpoints):
      with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        known = gate.read_json(folder / MANIFEST)["run"]["model"]
        wrong = [key for key in known if key not in _MAY_CHANGE and known[key] != run["model"].get(key)]
        if wrong:
          break
        return
    else:
      return
    raise InputError(
      f"{str(self.config)!r} is damaged, or of another run: its {', '.join(wrong)} differ from those of "
      f"checkpoint {str(folder)!r}"
    )

  def _check_checkpoints(self, wanted):
    """The same for a directory without config.json: its checkpoints say whose they are."""
    for folder in checkpoint_folders(self.checkpoints):
      try:
        run = read_manifest(folder).get("run")
      except InputError:
        raise
      except (OSError, ValueError):
        continue
      if not run:
        raise InputError(
          f"workdir {str(self.path)!r} has checkpoints and no {self.config.name}, which says what run "
          "they are of; bring it back, or give another --workdir"
        )
      self._check_same(run, wanted)
      return

  def new_checkpoints(self, keep: int, run: dict[str, Any], **trackables: Any) -> Checkpoints:
    """Return the `Checkpoints` of the run, which keep copies of the best weights and of the metrics."""
    return Checkpoints(self.checkpoints, keep, run, (self.best_weights, self.metrics), **trackables)

  def recover(self, restored: Restored | None, step: int) -> None:
    """Make the best weights and the metrics those of a checkpoint.

    Args:
      restored: the checkpoint; None if there is none.
      step: the last validation that it has seen; rows after it are taken again.

    Raises:
      InputError (a ValueError): if they cannot be written.
    """
    with self._writing():
      copies = (
        {} if restored is None else {path: restored.folder / path.name for path in (self.best_weights, self.metrics)}
      )
      for path, copy in copies.items():
        if copy.exists() and not (path.is_file() and file_sha256(path) == file_sha256(copy)):
          if path == self.best_weights and not _is_whole(path):
            logging.warning("%s is missing or damaged; that of checkpoint %s takes its place", path, copy.parent)
          copy_file(copy, path)
      rows, damaged = self._read_rows()
      if restored is None and len(rows) > 1:  # as after a disk that was full all the time
        logging.warning(
          "there is no checkpoint to resume from: the run starts over; what it has left is kept as %s",
          ", ".join(str(_set_aside(path)) for path in (self.best_weights, self.metrics) if path.exists()),
        )
        rows, damaged = [], 0
      if damaged:
        logging.warning(
          "%s: rows that cannot be read are left out, %d; the file as it was is kept as %s",
          self.metrics,
          damaged,
          _set_aside(self.metrics),
        )
      self._rows = [row for row in rows if row["step"] <= step]
      if damaged or len(self._rows) < len(rows):
        self._write_rows()

  def add_row(self, row: Mapping[str, Any]) -> None:
    """Append a row to the metrics, with those before that a full disk had no room for.

    Raises:
      OSError: if it cannot be written; the next row brings it along.
    """
    self._rows.append(dict(row))
    self._write_rows()

  def save_best(self, model: FlowPlusPlus, step: int, val_bits_per_dim: float) -> None:
    """Write the weights of a model as the best of the run; raise an `OSError` if they cannot be written."""
    about = {"step": step, "val_bits_per_dim": val_bits_per_dim}
    write_file(self.best_weights, weights_to_bytes(model, about))
    self._loaded = None

  # --- What a run has left ----------------------------------------------------------------------

  def load(self, precision: str | None = None) -> tuple[FlowPlusPlus, dict[str, Any]]:
    """Return the trained model, with its best EMA weights, and the run's settings.

    Args:
      precision: of the networks, as in `FlowPlusPlus.from_preset`.

    Best weights that are damaged or missing are read from the newest checkpoint that has a copy, with a warning.

    Raises:
      InputError (a ValueError): if the directory holds no run, or none that has been validated yet.
    """
    check_holds_run(self.path)
    run = self._read()
    unknown = sorted({*run["model"]} - _FIELDS)
    if unknown:
      raise InputError(
        f"{str(self.config)!r} has model settings that this version of flowpp_tf does not know: {', '.join(unknown)}"
      )
    self._check_config(run)
    try:
      config = config_of_fields(run["model"], repr(str(self.config)))
    except BudgetError:
      raise
    except (ValueError, TypeError) as error:
      raise InputError(f"{str(self.config)!r} cannot be used: {error}") from None
    config = with_precision(config, precision)
    self._loaded, model = self._find_weights(), FlowPlusPlus(config)
    with gate.reading(self.best_weights):
      self._loaded.load(model)
    return model, run["training"]

  def weights_info(self) -> dict[str, Any]:
    """Return what identifies the weights that `load` gives: file, SHA-256, step and validation.

    Raises:
      InputError (a ValueError): if files of the run cannot be read.
    """
    weights = self._loaded or self._find_weights()
    about = weights.about
    if "step" not in about:  # a preset's weights
      rows, damaged = self._read_rows()
      if damaged:
        raise InputError(f"{str(self.metrics)!r} cannot be read: {damaged} of its rows are damaged")
      about = min(
        (row for row in rows if math.isfinite(row["val_bits_per_dim"])),
        key=lambda row: row["val_bits_per_dim"],
        default={},
      )
    return {
      "file": weights.name,
      "sha256": weights.sha256,
      "step": about.get("step"),
      "val_bits_per_dim": about.get("val_bits_per_dim"),
    }

  def rows(self) -> list[dict[str, Any]]:
    """Return the rows of the metrics that can be read."""
    return self._read_rows()[0]

  def _find_weights(self):
    """The best weights, or those of the newest checkpoint that has whole ones."""
    folders = checkpoint_folders(self.checkpoints)
    if not folders and os.path.lexists(self.path / ABOUT):
      with gate.reading(self.path / ABOUT):
        return read_weights_of_preset(self.path, self._unchecked)
    problem = None
    recorded = {folder: self._recorded(folder) for folder in folders}
    copies = [folder / self.best_weights.name for folder in folders]
    for path in filter(os.path.lexists, (self.best_weights, *copies)):
      try:
        if path == self.best_weights:
          weights = self._checked_best(recorded.values())
        else:
          weights = read_weights(path, recorded[path.parent][1], self._unchecked)
      except InputError as error:
        problem = problem or error
        continue
      if path != self.best_weights:
        logging.warning(
          "%s; the weights of %s are used instead, and the command that trained the run restores them",
          problem or f"{str(self.best_weights)!r} is missing",
          path.parent,
        )
      return weights
    raise problem or InputError(
      f"workdir {str(self.path)!r} has no trained weights yet: there is no {self.best_weights}"
    )

  def _recorded(self, folder):
    """Step of a checkpoint, and the SHA-256 of its best weights; None each if its manifest does not say."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
      manifest = gate.read_json(folder / MANIFEST)
      step, sha256 = manifest.get("step"), manifest.get("files", {}).get(self.best_weights.name)
      if isinstance(step, int) and isinstance(sha256, str):
        return step, sha256
    return None, None

  def _checked_best(self, recorded):
    """The best weights; an `InputError` if they have no checksum, or are not those of a checkpoint at or after them."""
    weights = read_weights(self.best_weights, unchecked=True)
    known = {sha256: step for step, sha256 in recorded if sha256}
    if not known and (weights.checked or self._unchecked):
      return weights
    if weights.sha256 in known:
      return weights
    if not (weights.checked or self._unchecked):
      return read_weights(self.best_weights)  # which says that they have none
    step = weights.about.get("step")
    if isinstance(step, int) and step <= max(known.values()):
      raise InputError(
        f"{str(self.best_weights)!r} is of step {step}, and not the file that the checkpoint of step "
        f"{max(known.values())} has a copy of"
      )
    return weights

  def _read_rows(self):
    """Rows of the metrics, and how many lines are none."""
    rows: list[dict[str, Any]] = []
    if not self.metrics.exists():
      return rows, 0
    with gate.reading(self.metrics):
      lines = gate.read_bytes(self.metrics).splitlines()
    for line in lines:
      with contextlib.suppress(ValueError):
        row = gate.parse_json(line.decode())
        numbers = [row.get("step"), row.get("val_bits_per_dim", "missing")] if isinstance(row, dict) else [None]
        if numbers[0] is not None and all(isinstance(number, (int, float, type(None))) for number in numbers):
          rows.append({name: math.nan if value is None else value for name, value in row.items()})
    return rows, len(lines) - len(rows)

  def _write_rows(self):
    # JSON has no NaN: what is not finite is null.
    rows = ({k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in r.items()} for r in self._rows)
    write_file(self.metrics, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))

  def _read(self):
    with gate.reading(self.config):
      run = gate.read_json(self.config)
      if not (isinstance(run, dict) and all(isinstance(run.get(part), dict) for part in ("model", "training"))):
        raise ValueError("it is not the config.json of a run")
    number, unknown = run.get("format"), sorted({*run} - {"format", "model", "training"})
    if unknown or number != RUN_FORMAT:
      what = f"has {', '.join(unknown)}" if unknown else f"has the format {number!r}"
      raise InputError(f"{str(self.config)!r} {what}, which this version of flowpp_tf does not know")
    return run

  @contextlib.contextmanager
  def _writing(self):
    with writing(f"workdir {str(self.path)!r}"):
      self.check_owned()
      yield


def _compared(key, value):
  if key == "crops":  # not given, or off
    return bool(value)
  # Of data and initial weights, wherever they are.
  return value["sha256"] if isinstance(value, dict) and "sha256" in value else value


def _shown(key, value):
  return describe(value) if key == "fingerprint" else repr(value)


def _set_aside(path):
  """Give a file a name that nothing uses, and return it."""
  names = (path.with_name(f"{path.name}.old{i}") for i in itertools.count(1))
  aside = next(name for name in names if not os.path.lexists(name))
  os.rename(path, aside)
  return aside


def _is_whole(path):
  try:
    read_weights(path, unchecked=True)
    return True
  except InputError:
    return False
