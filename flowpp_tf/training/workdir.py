"""The directory of a run: what it holds, and whether a command may use it.

    config.json            model config, data set with its fingerprint, training settings
    checkpoints/           the newest states of the run, to resume from
    best.weights.h5        EMA weights at the best validation
    metrics.jsonl          a row for each validation, with the digest of the data
    curves.png samples.png
    evaluation.json        measured bits/dim, see evaluation/record.py
    evaluation-*.npy       an evaluation that was stopped, to resume from
    typicality.json        bits/dim of the validation split, measured by bin/score
    saved_model/1/         written by bin/export
"""

import dataclasses
import json
import math
import os
import pathlib
from typing import Any

from flowpp_tf.data import describe
from flowpp_tf.errors import InputError
from flowpp_tf.files import file_sha256, replace_file
from flowpp_tf.models import FlowPlusPlus, FlowPlusPlusConfig
from flowpp_tf.types import Path


class Workdir:
  """Paths of a run's directory, and its settings."""

  def __init__(self, path: Path) -> None:
    self.path = pathlib.Path(path)
    self.config = self.path / "config.json"
    self.checkpoints = self.path / "checkpoints"
    self.best_weights = self.path / "best.weights.h5"
    self.metrics = self.path / "metrics.jsonl"
    self.curves = self.path / "curves.png"
    self.samples = self.path / "samples.png"
    self.evaluation = self.path / "evaluation.json"
    self.typicality = self.path / "typicality.json"

  def open(self, config: FlowPlusPlusConfig, settings: dict[str, Any]) -> None:
    """Make the directory a run's own; a directory that has a run must have this one.

    Args:
      config: `FlowPlusPlusConfig`.
      settings: what else determines the run; two runs with the same "fingerprint" have the same data, whatever their
        name and place.

    Raises:
      InputError (a ValueError): if it holds another run (the message names what differs), or cannot be written.
    """
    # Settings that may change on resume: paths, remat, and steps unless the schedule depends on them.
    may_change = {"data_dir", "cache_dir", "splits_file", "max_bad_files", "remat"}
    if settings.get("schedule") != "cosine":
      may_change.add("steps")
    wanted = json.loads(json.dumps({"model": dataclasses.asdict(config), "training": settings}))
    if os.path.exists(self.config):
      present = self._read()
      if "fingerprint" in present["training"]:
        may_change.add("dataset")
      differences = [
          f"{key} is {_shown(key, present[part][key])} there and {_shown(key, value)} here"
          for part in wanted for key, value in wanted[part].items()
          if key not in may_change and key in present[part]  # an older version may lack a setting
          and _compared(key, present[part][key]) != _compared(key, value)]
      if differences:
        raise InputError(f"workdir {str(self.path)!r} holds another run: {'; '.join(differences)}; "
                         "give another --workdir, or the same flags to resume it")
    try:
      self.path.mkdir(parents=True, exist_ok=True)
      replace_file(self.config, lambda path: path.write_text(json.dumps(wanted, indent=2) + "\n"))
    except OSError as error:
      raise InputError(f"workdir {str(self.path)!r} cannot be written: {error.strerror}") from None

  def load(self) -> tuple[FlowPlusPlus, dict[str, Any]]:
    """Return the trained model, with its best EMA weights, and the run's settings.

    Raises:
      InputError (a ValueError): if the directory holds no run, or none that has been validated yet.
    """
    if not os.path.exists(self.config):
      raise InputError(f"workdir {str(self.path)!r} holds no run: there is no {self.config}")
    run = self._read()
    if not os.path.exists(self.best_weights):
      raise InputError(f"workdir {str(self.path)!r} has no trained weights yet: there is no "
                       f"{self.best_weights}")
    try:
      model = FlowPlusPlus(FlowPlusPlusConfig(**run["model"]))
      model.load_weights(self.best_weights)
    except (OSError, ValueError, TypeError, KeyError) as error:
      raise InputError(f"{str(self.best_weights)!r} cannot be loaded: {error}") from None
    return model, run["training"]

  def checkpoint(self) -> dict[str, Any]:
    """Return what identifies the weights that `load` gives: file, SHA-256, step and validation.

    Raises:
      InputError (a ValueError): if files of the run cannot be read.
    """
    rows = []
    try:
      digest = file_sha256(self.best_weights)
      if self.metrics.exists():
        rows = [json.loads(line) for line in self.metrics.read_text().splitlines()]
      best: dict = min((row for row in rows if math.isfinite(row["val_bits_per_dim"])),
                 key=lambda row: row["val_bits_per_dim"], default={})
    except (OSError, ValueError, TypeError, KeyError) as error:
      raise InputError(f"the weights and metrics of workdir {str(self.path)!r} cannot be read: "
                       f"{error}") from None
    return {"file": self.best_weights.name, "sha256": digest, "step": best.get("step"),
            "val_bits_per_dim": best.get("val_bits_per_dim")}

  def _read(self):
    try:
      run = json.loads(self.config.read_text())
      if not all(isinstance(run[part], dict) for part in ("model", "training")):
        raise ValueError("it is not the config.json of a run")
      return run
    except (OSError, ValueError, TypeError, KeyError) as error:
      raise InputError(f"{str(self.config)!r} cannot be read: {error}") from None


def _compared(key, value):
  return value["sha256"] if isinstance(value, dict) else value  # of data and initial weights, wherever they are


def _shown(key, value):
  return describe(value) if key == "fingerprint" else repr(value)
