"""Write a trained model as a SavedModel, as ONNX, for LiteRT or OpenVINO, or as a preset.

bin/export --workdir=runs/digits
bin/export --preset=digits --format=onnx --output=digits_onnx
"""

import dataclasses
import math
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from flowpp_tf.core.environment import check_extra
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import WEIGHT_DTYPES
from flowpp_tf.core.settings import Rule, at_least, one_of, setting
from flowpp_tf.programs import data_options, outputs, process
from flowpp_tf.programs.imports import import_tensorflow
from flowpp_tf.programs.model_options import PrecisionOptions

if TYPE_CHECKING:
  from flowpp_tf.training import Workdir

_FORMATS = ("saved_model", "onnx", "litert", "openvino", "preset")
_TYPED_FORMATS = ("onnx", "openvino")  # formats with a choice of the weights' dtype
# Files that --overwrite may replace; `save_preset` knows the files of a preset.
_WRITTEN = ("metadata.json", "*.onnx", "*.tflite", "*.xml", "*.bin", "*.pb", "variables", "assets", "assets.extra")
_FALSE_ALARMS = (0.1, 0.05, 0.01, 0.001)
_MOST_CALIBRATION_IMAGES = 1000
_BATCH_SIZE = 100


@dataclasses.dataclass(frozen=True)
class ExportOptions(PrecisionOptions):
  """Options of bin/export."""

  RULES = (
    Rule("max_batch", lambda options: options.format == "saved_model", "left out unless --format=saved_model"),
    Rule("weight_dtype", lambda options: options.format in _TYPED_FORMATS, "left out unless --format=onnx or openvino"),
    Rule("license", lambda options: options.format == "preset", "left out unless --format=preset, whose card names it"),
    Rule("calibrate", lambda options: options.format != "preset", "left out with --format=preset, without functions"),
  )

  format: str = setting("saved_model", "What to write.", one_of(*_FORMATS))
  output: str | None = setting(
    None,
    "Directory to write, with a number as its name for TensorFlow Serving; WORKDIR/saved_model/1 if not given, or "
    "WORKDIR/onnx and so on.",
  )
  max_batch: int | None = setting(
    None,
    "Maximum batch size of a call of a SavedModel; an image counts once for each sample of its bound. (default: 256)",
    at_least(1, 1 << 20),
  )
  license: str | None = setting(
    None, "Licence of the model, in the card of --format=preset, such as apache-2.0 or cc-by-4.0. (default: unknown)"
  )
  calibrate: bool = setting(
    False,
    "Write into metadata.json the bits/dim that 10, 5, 1 and 0.1 % of images like the training images exceed, measured "
    "on up to 1,000 images of the run's validation split.",
  )
  weight_dtype: str | None = setting(
    None,
    "Dtype in which --format=onnx and openvino store the kernels of the networks; smaller files cost bits/dim "
    "(docs/serving.md). (default: float32)",
    one_of(*WEIGHT_DTYPES),
  )
  overwrite: bool = setting(False, "Replace an existing export of the same format.")


def run(options: ExportOptions) -> None:
  """Export a run."""
  if options.format in _TYPED_FORMATS:
    check_extra("onnx", "onnx", f"--format={options.format}")
    check_extra(options.format, options.format, f"--format={options.format}")
  name, folder = options.find_model()
  options.check_output(options.output, folder)
  default = folder / ("saved_model/1" if options.format == "saved_model" else options.format)
  output = pathlib.Path(options.output or default)
  if folder.resolve().is_relative_to(output.resolve()):  # --overwrite would replace the run
    raise InputError(f"--output={output} holds the model itself, {folder}; give another directory")
  if options.overwrite and options.format != "preset":
    outputs.check_holds_only(output, _WRITTEN)
  process.phase(f"exporting {name} as {options.format} to {output}")
  import_tensorflow()
  from flowpp_tf import exporting

  workdir = options.find_workdir()
  model, settings = workdir.load(options.precision)
  metadata = metadata_of_run(workdir, settings)
  if options.format == "preset":
    description = f"Flow++, trained on {settings['dataset']}" if settings.get("dataset") else "Flow++"
    metadata = {"description": description, "settings": settings, "evaluation": metadata["evaluation"]}
  if options.calibrate:
    process.phase("measuring the validation split of the run, for the thresholds")
    metadata["calibration"] = _calibration_of_run(model, settings)
  process.phase("tracing the model's functions, and writing them")
  exporting.export(
    model,
    output,
    options.format,
    metadata,
    options.overwrite,
    max_batch=options.max_batch,
    weight_dtype=options.weight_dtype,
    license=options.license,
  )
  print(f"wrote {output}")


def metadata_of_run(workdir: "Workdir", settings: dict[str, Any]) -> dict[str, Any]:
  """Return the fingerprints of a run's data and weights, and the bits/dim measured with these weights.

  The entries name the dtype of the measured weights, float32: an export may store them as int8, which is another model.
  """
  from flowpp_tf.evaluation import read_record

  checkpoint = workdir.weights_info()
  evaluation = {
    split: entry | {"weight_dtype": "float32"}
    for split, entry in read_record(workdir.evaluation).items()
    if entry.get("checkpoint", {}).get("sha256") == checkpoint["sha256"]
  }
  return {"data": settings.get("fingerprint"), "checkpoint": checkpoint, "evaluation": evaluation}


def _calibration_of_run(model, settings):
  """Return thresholds of the single-sample bound, bits/dim, by the share of sound images above them.

  Each image has its own noise, as in calls of an exported model. Shares that need a larger split are left out.
  """
  from flowpp_tf.evaluation import conformal_threshold
  from flowpp_tf.evaluation.calibration import typical_indices

  dataset = data_options.load_data_of_run(settings, model.config, {})
  chosen = typical_indices(len(dataset.validation), _MOST_CALIBRATION_IMAGES)
  images, conditioning = data_options.chosen_images(dataset, "validation", model.config, chosen)
  batches = []
  for start in range(0, len(images), _BATCH_SIZE):
    rows = slice(start, start + _BATCH_SIZE)
    batch_conditioning = {name: values[rows] for name, values in conditioning.items()}
    batches.append(model.bits_per_dim(images[rows], seed=start, **batch_conditioning).numpy())
  bits = np.concatenate(batches)
  thresholds = {str(share): conformal_threshold(bits, share) for share in _FALSE_ALARMS}
  return {
    "split": "validation",
    "weight_dtype": "float32",
    "images": len(images),
    "score": "bits_per_dim",
    "threshold_by_false_alarms": {share: value for share, value in thresholds.items() if math.isfinite(value)},
  }
