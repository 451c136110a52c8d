"""The store of a run: the one place that reads and writes the files of a working directory.

config.json            format, model config, data set with its fingerprint, training settings
checkpoints/           the newest states of the run, to resume from, with copies of the next two; see checkpoints.py
best.weights.safetensors   EMA weights at the best validation, with their checksum; see io/weights_file.py
metrics.jsonl          a row for each validation, with the digest of the data
run.lock               is locked by the process that trains in the directory
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
import json
import math
import os
import pathlib
import time
from typing import Any

from absl import logging

from flowpp_tf.core.checks import check_type
from flowpp_tf.core.errors import InputError
from flowpp_tf.io import gate
from flowpp_tf.io.files import copy_file, file_sha256, finite_json, remove_leftovers, sole_owner, write_file, writing
from flowpp_tf.io.model_folders import ABOUT, CONFIG, EVALUATION, METRICS, check_holds_run
from flowpp_tf.io.weights_file import WEIGHTS, WeightsFile, read_weights, weights_to_bytes
from flowpp_tf.models import FlowPlusPlus, FlowPlusPlusConfig
from flowpp_tf.pretrained.presets import read_weights_of_preset
from flowpp_tf.pretrained.stored_config import config_from_fields, with_precision
from flowpp_tf.training.checkpoints import Checkpoints, Restored, checkpoint_folders
from flowpp_tf.training.identity import MAY_CHANGE, check_same_run, identity_of, read_identity
from flowpp_tf.types import Path

_BEFORE_WEIGHTS = {CONFIG, "run.lock", "tensorboard", "checkpoints"}  # names that a run writes before its first weights


class Workdir:
  """The files of a run.

  Args:
    path: the directory; it need not exist.
    unchecked: whether to use best weights without their checksum.

  Raises:
    InputError (a ValueError): if the path is empty or not UTF-8, which TensorFlow needs.

  Examples:
    >>> from flowpp_tf import training
    >>> model = fpp.train("digits", "digits", "runs/digits")
    >>> model, settings = training.Workdir("runs/digits").load()
  """

  def __init__(self, path: Path, unchecked: bool = False) -> None:
    check_type("unchecked", unchecked, bool)
    check_type("workdir", path, Path)
    text = os.fsdecode(path)
    if "\0" in text or text.encode(errors="ignore").decode() != text:
      raise InputError(f"`workdir` must be the path of a directory in UTF-8, got {text!r}")
    self.path = pathlib.Path(path)
    self.config = self.path / CONFIG
    self.checkpoints = self.path / "checkpoints"
    self.best_weights = self.path / WEIGHTS
    self.metrics = self.path / METRICS
    self.curves = self.path / "curves.png"
    self.samples = self.path / "samples.png"
    self.evaluation = self.path / EVALUATION
    self.typicality = self.path / "typicality.json"
    self._replaced = [self.best_weights, self.metrics, self.evaluation, self.typicality, self.samples, self.curves]
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
        self._is_owned = stack.enter_context(sole_owner(self.path / "run.lock"))
        stack.callback(setattr, self, "_is_owned", lambda: True)
        remove_leftovers(self.path)
      yield

  def check_owned(self) -> None:
    """Raise an `InputError` (a ValueError) if the directory was moved, deleted or replaced within `sole_owner`."""
    if not self._is_owned():
      raise InputError(
        f"workdir {str(self.path)!r} was moved, deleted or replaced while this run used it; the run ends, and writes "
        "nothing more there; from a directory that was moved it can be resumed"
      )

  def check(self, config: FlowPlusPlusConfig, settings: dict[str, Any]) -> dict[str, Any]:
    """Check that the directory holds no other run. This changes nothing.

    A run that has saved nothing yet does not count.

    Args:
      config: as for `identity_of`.
      settings: as for `identity_of`.

    Returns:
      What identifies the run.

    Raises:
      InputError (a ValueError): if it holds another run (the message names what differs), or cannot be written.
    """
    wanted = identity_of(config, settings)
    if os.path.lexists(self.config):
      present = read_identity(self.config)
      if self._has_saved():
        check_same_run(self.path, present, wanted)
        wanted["training"] = present["training"] | wanted["training"]
      return wanted
    files = [*self._replaced, self.checkpoints]
    found = [path.name for path in files if os.path.lexists(path)]
    if found:
      raise InputError(
        f"workdir {str(self.path)!r} has {', '.join(found)} and no {self.config.name}, which says what run they are "
        "of; bring it back, or give another --workdir"
      )
    return wanted

  def open(self, config: FlowPlusPlusConfig, settings: dict[str, Any]) -> dict[str, Any]:
    """Make the directory a run's own; arguments, result and errors as for `check`."""
    identity = self.check(config, settings)
    with self._writing():
      self.path.mkdir(parents=True, exist_ok=True)
      write_file(self.config, json.dumps(identity, indent=2) + "\n")
    return identity

  def _has_saved(self):
    """Return whether the directory has more than what a run writes before its first weights."""
    with self._writing():
      names = {path.name for path in self.path.iterdir()}
      if names - _BEFORE_WEIGHTS:
        return True
      return self.checkpoints.is_dir() and any(self.checkpoints.iterdir())

  def new_checkpoints(self, keep: int, run: dict[str, Any], **trackables: Any) -> Checkpoints:
    """Return the `Checkpoints` of the run, which keep copies of the best weights and of the metrics."""
    return Checkpoints(self.checkpoints, keep, run, (self.best_weights, self.metrics), **trackables)

  def recover(self, restored: Restored | None, step: int) -> None:
    """Replace the best weights and the metrics by the copies in a checkpoint.

    Args:
      restored: the checkpoint; None without one. Then rows and best weights of earlier steps get other names.
      step: step of the last validation before the checkpoint; rows after it are removed.

    Raises:
      InputError (a ValueError): if they cannot be written.
    """
    with self._writing():
      if restored is not None:
        for path in (self.best_weights, self.metrics):
          copy = restored.folder / path.name
          if copy.exists() and not (path.is_file() and file_sha256(path) == file_sha256(copy)):
            copy_file(copy, path)
      rows = self.rows()
      self._rows = [row for row in rows if restored is not None and row["step"] <= step]
      if restored is None and len(rows) > 1:  # as after a disk that was full all the time
        for path in (self.best_weights, self.metrics):
          if path.exists():
            aside = f"{path}.{time.strftime('%Y%m%d-%H%M%S')}.old"
            os.rename(path, aside)
            logging.warning("there is no checkpoint to resume from: the run starts over; %s is now %s", path, aside)
      elif len(self._rows) < len(rows):
        self._write_rows()

  def add_row(self, row: Mapping[str, Any]) -> None:
    """Append a row to the metrics.

    Raises:
      OSError: if it cannot be written, as on a full disk; the next call writes it too.
    """
    self._rows.append(dict(row))
    self._write_rows()

  def save_best(self, model: FlowPlusPlus, step: int, val_bits_per_dim: float) -> None:
    """Write the weights of a model as the best of the run; raise an `OSError` if they cannot be written."""
    about = {"step": step, "val_bits_per_dim": val_bits_per_dim, "model": dataclasses.asdict(model.config)}
    write_file(self.best_weights, weights_to_bytes(model, about))
    self._loaded = None

  # --- What a run has left ----------------------------------------------------------------------

  def load(self, precision: str | None = None) -> tuple[FlowPlusPlus, dict[str, Any]]:
    """Return the trained model, with its best EMA weights, and the run's settings.

    Args:
      precision: precision of the networks, as in `FlowPlusPlus.from_preset`.

    Raises:
      InputError (a ValueError): if the directory holds no run, the run has not been validated yet, or its files are
        damaged. The command that trained the run restores its best weights from the newest checkpoint.
    """
    check_holds_run(self.path)
    run = read_identity(self.config)
    with gate.reading(self.config):
      config = config_from_fields(run["model"], repr(str(self.config)))
    self._loaded = self._read_best()
    with gate.reading(self.best_weights):
      known = self._loaded.about.get("model", {})
      fields = identity_of(config, {})["model"]
      wrong = [key for key in known if key not in MAY_CHANGE and known[key] != fields.get(key)]
      if wrong:
        raise InputError(
          f"{str(self.config)!r} is damaged, or of another run: its {', '.join(wrong)} differ from those of {WEIGHTS}"
        )
      model = FlowPlusPlus(with_precision(config, precision))
      self._loaded.load(model)
    return model, run["training"]

  def weights_info(self) -> dict[str, Any]:
    """Return what identifies the weights that `load` reads: file, SHA-256, step and validation.

    Raises:
      InputError (a ValueError): if files of the run cannot be read.
    """
    weights = self._loaded or self._read_best()
    about = weights.about
    if "step" not in about:  # a preset's weights
      validated = [row for row in self.rows() if math.isfinite(row["val_bits_per_dim"])]
      about = min(validated, key=lambda row: row["val_bits_per_dim"], default={})
    return {
      "file": WEIGHTS,
      "sha256": weights.sha256,
      "step": about.get("step"),
      "val_bits_per_dim": about.get("val_bits_per_dim"),
    }

  def _read_best(self):
    if os.path.lexists(self.path / ABOUT) and not checkpoint_folders(self.checkpoints):
      with gate.reading(self.path / ABOUT):
        return read_weights_of_preset(self.path, self._unchecked)
    if not os.path.lexists(self.best_weights):
      raise InputError(f"workdir {str(self.path)!r} has no trained weights yet: there is no {self.best_weights}")
    return read_weights(self.best_weights, unchecked=self._unchecked)

  def rows(self) -> list[dict[str, Any]]:
    """Return the rows of the metrics; raise an `InputError` (a ValueError) if they are damaged."""
    if not os.path.lexists(self.metrics):
      return []
    with gate.reading(self.metrics):
      rows = [gate.parse_json(line.decode()) for line in gate.read_bytes(self.metrics).splitlines()]
      for number, row in enumerate(rows, 1):
        is_row = isinstance(row, dict) and isinstance(row.get("step"), int) and "val_bits_per_dim" in row
        if not (is_row and isinstance(row["val_bits_per_dim"], (int, float, type(None)))):
          raise ValueError(f"its line {number} is not the row of a validation")
    for row in rows:
      for name, value in row.items():
        if value is None:  # JSON has no NaN
          row[name] = math.nan
    return rows

  def _write_rows(self):
    lines = [json.dumps(finite_json(row), allow_nan=False) + "\n" for row in self._rows]
    write_file(self.metrics, "".join(lines))

  @contextlib.contextmanager
  def _writing(self):
    with writing(f"workdir {str(self.path)!r}"):
      self.check_owned()
      yield
