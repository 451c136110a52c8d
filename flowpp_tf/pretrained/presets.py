"""Presets: trained models that ship with the package, and those that a user saves in the same form.

A preset is a folder like a run's, with everything needed to load and describe the model:

    config.json         model config, training settings: `fingerprint` is of the training data, `dataset` what programs
                        read if no other is given, which warn if it is not the training data
    best.weights.safetensors   EMA weights, in float16, and the config in their metadata
    preset.json         one line of description, and the SHA-256 of the weights
    metrics.jsonl evaluation.json typicality.json   its curve and its figures, as in a run
    card.md             the model card: data, licence, command, figures, limits; README.md in one that was saved, which
                        hubs of models read
"""

from collections.abc import Callable
import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import numpy as np

from flowpp_tf.core.checks import check_arguments
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.finite import check_weights_finite
from flowpp_tf.io.files import copy_file, file_sha256, replace_directory, writing
from flowpp_tf.io.gate import read_json, reading
from flowpp_tf.io.model_folders import ABOUT, CONFIG, RUN_FORMAT, preset_folder
from flowpp_tf.io.weights_file import WEIGHTS, WeightsFile, read_weights, weights_to_bytes
from flowpp_tf.pretrained.card import model_card
from flowpp_tf.pretrained.stored_config import FlowPlusPlusLike, config_from_fields, with_precision
from flowpp_tf.types import Path

CARD = "README.md"
MEASURED = ("evaluation.json", "typicality.json")
# What a folder has that a newer preset may replace; codec_model.* are made of the weights when they are needed.
_REPLACED = {WEIGHTS, *MEASURED, CONFIG, ABOUT, CARD, "card.md", "metrics.jsonl", ".evaluation.json.lock"}


@check_arguments
def open_preset(preset: Path, unchecked: bool = False) -> tuple[dict[str, Any], pathlib.Path, WeightsFile]:
  """Return the fields of a preset's model config, its folder, and its weights.

  Args:
    preset: its name, or the path of its folder.
    unchecked: whether to read weights without a checksum in preset.json and in the file.

  Raises:
    InputError (a ValueError): if no such preset exists, or its files are damaged: the weights must have the SHA-256
      that they were saved with.

  Examples:
    >>> fields, folder, weights = fpp.models.open_preset("digits")
    >>> fields["image_shape"], len(weights.arrays)
    ([8, 8, 1], 274)
  """
  folder = preset_folder(preset)
  try:
    fields = read_json(folder / CONFIG)["model"]
    return fields, folder, read_weights_of_preset(folder, unchecked)
  except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
    raise InputError(f"preset {str(preset)!r} in {str(folder)!r} is damaged, or cannot be used: {error}") from None


def load_preset(make_model: Callable[..., Any], preset: Path, unchecked: bool, precision: str | None) -> Any:
  """Return the model that `make_model(config)` makes, with a preset's weights; other arguments as in `from_preset`.

  Raises:
    InputError (a ValueError): if no such preset exists, or it is damaged.
  """
  fields, folder, weights = open_preset(preset, unchecked)
  config = config_from_fields(fields, repr(str(folder / CONFIG)))
  model = make_model(with_precision(config, precision))
  with reading(folder / WEIGHTS):
    weights.load(model)
  return model


def read_weights_of_preset(folder: pathlib.Path, unchecked: bool = False) -> WeightsFile:
  """Return the weights in a preset's folder, which must have the SHA-256 of its preset.json.

  Raises:
    InputError, OSError, ValueError, AttributeError: if its files are damaged, or another preset's.
  """
  sha256 = read_json(folder / ABOUT).get("sha256")
  if sha256 is None and not unchecked:
    raise ValueError(f"its {ABOUT} has no `sha256` of its weights; --accept_unchecked uses them all the same")
  if sha256 is not None:
    sha256 = str(sha256)
  return read_weights(folder / WEIGHTS, sha256, unchecked)


@check_arguments
def save_preset(
  model: FlowPlusPlusLike,
  folder: Path,
  description: str,
  settings: dict[str, Any] | None = None,
  license: str = "unknown",
  evaluation: dict[str, Any] | None = None,
) -> None:
  """Write a model as a preset; the folder of an older one is replaced when the new one is complete.

  Weights are in float16, except for real-valued images, whose standardization is in the unit of the data.

  Args:
    model: `FlowPlusPlus`.
    folder: folder to write.
    description: one line.
    settings: of the training, for config.json, such as the fingerprint of its data.
    license: of the model, for its card, an identifier such as "apache-2.0".
    evaluation: bits/dim of the model, for its card, as in evaluation.json.

  Raises:
    InputError (a ValueError): for weights that float16 cannot hold, or a folder that is not a preset, or holds other
      files too.
    OSError: if the folder cannot be written.

  Examples:
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> fpp.models.save_preset(model, "my_digits", "Digits, 8x8, as they ship.")
    >>> copy = fpp.FlowPlusPlus.from_preset("my_digits")
  """
  for split, entry in (evaluation or {}).items():
    if not isinstance(entry, dict) or not isinstance(entry.get("bounds"), list):
      raise InputError(f"`evaluation` must be the content of an evaluation.json, whose {split!r} has `bounds`")
  check_weights_finite(model.weights)
  dtype = model.variable_dtype if model.has_exact_density else "float16"
  largest = max(np.abs(np.asarray(weight)).max(initial=0) for weight in model.weights)
  if largest > np.finfo(dtype).max:
    raise InputError(f"the weights do not fit float16: the largest is {largest}")
  target = pathlib.Path(folder)
  names = {path.name for path in target.glob("*") if not path.name.startswith("codec_model.")}
  others = names - _REPLACED if ABOUT in names else names
  if others:
    raise InputError(f"{str(folder)!r} holds more than a preset, which would be lost: {', '.join(sorted(others))}")

  def write(folder):
    fields = dataclasses.asdict(model.config)
    content = weights_to_bytes(model, {"config": fields}, dtype=dtype)
    (folder / WEIGHTS).write_bytes(content)
    run = {"format": RUN_FORMAT, "model": fields, "training": settings or {}}
    (folder / CONFIG).write_text(json.dumps(run, indent=2) + "\n")
    about = {"description": description, "sha256": hashlib.sha256(content).hexdigest()}
    card = model_card(target.name, model.config, settings or {}, about, license, evaluation or {}, dtype)
    (folder / CARD).write_text(card)
    (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n")

  replace_directory(folder, write)


@check_arguments
def copy_preset(preset: Path, folder: Path, unchecked: bool = False) -> None:
  """Copy a preset's files into a folder, where files of the same content, and others, stay as they are.

  Args:
    preset: its name, or the path of its folder.
    folder: folder to write.
    unchecked: as in `FlowPlusPlus.from_preset`.

  Raises:
    InputError (a ValueError): if no such preset exists, it is damaged, or the folder holds a run or cannot be written.

  Examples:
    >>> import os
    >>> fpp.models.copy_preset("digits", "runs/mine")  # what `--workdir=runs/mine` then reads
    >>> "card.md" in os.listdir("runs/mine")
    True
  """
  _, whole, _ = open_preset(preset, unchecked)
  target = pathlib.Path(folder)
  config = target / CONFIG
  holds_run = any(target.glob("checkpoints/*"))
  if config.exists() and not (target / ABOUT).exists():  # a run, or a copy that was stopped
    holds_run |= file_sha256(config) != file_sha256(whole / CONFIG)
  if holds_run:
    raise InputError(
      f"{str(folder)!r} holds a run, whose files those of preset {str(preset)!r} would replace: move it away"
    )
  with writing(f"the copy of preset {str(preset)!r} in {str(folder)!r}"):
    target.mkdir(parents=True, exist_ok=True)
    for source in sorted(filter(pathlib.Path.is_file, whole.iterdir())):
      copy = target / source.name
      if copy.exists() and (copy.name in MEASURED or file_sha256(copy) == file_sha256(source)):
        continue  # a user's own measurements may have been added
      copy_file(source, copy)
