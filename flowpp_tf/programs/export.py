"""Write a trained model as a SavedModel, for other runtimes or as a preset. The flags are in export_flags.py."""

import math

from absl import flags
import numpy as np

from flowpp_tf.core.errors import InputError
from flowpp_tf.evaluation import conformal_threshold
from flowpp_tf.evaluation.record import read_record
from flowpp_tf.evaluation.typicality import typical_indices
from flowpp_tf.exporting import export_litert, export_onnx, export_openvino, export_saved_model
from flowpp_tf.io.files import writing
from flowpp_tf.models import FlowPlusPlus, save_preset
from flowpp_tf.programs import data_flags, model_flags, process
from flowpp_tf.programs.export_flags import output_from_flags
from flowpp_tf.training import Workdir

FLAGS = flags.FLAGS
_FALSE_ALARMS = (0.1, 0.05, 0.01, 0.001)
_MOST_CALIBRATION_IMAGES, _BATCH = 1000, 100


def export_from_flags() -> None:
  """Write the files of a run, in the format of the flags."""
  workdir = model_flags.workdir_from_flags()
  model, settings = model_flags.load_from_flags(workdir)
  output = output_from_flags()
  metadata = metadata_of_run(workdir, settings)
  if FLAGS.format == "preset":
    description = f"Flow++, trained on {settings['dataset']}" if settings.get("dataset") else "Flow++"
    with writing(repr(str(output))):
      if output.exists() and not FLAGS.overwrite:
        raise InputError(f"{str(output)!r} exists already; `overwrite` replaces it")
      save_preset(model, output, description, settings, "safetensors", FLAGS.license, metadata["evaluation"])
    print(f"wrote {output}")
    return
  if FLAGS.calibrate:
    process.phase("measuring the validation split of the run, for the thresholds")
    metadata["calibration"] = calibration_of_run(model, settings)
  process.phase("tracing the model's functions, and writing them")
  if FLAGS.format == "saved_model":
    export_saved_model(model, output, metadata, FLAGS.max_batch, FLAGS.overwrite)
  elif FLAGS.format in ("onnx", "openvino"):
    export = {"onnx": export_onnx, "openvino": export_openvino}[FLAGS.format]
    export(model, output, metadata, FLAGS.overwrite, FLAGS.weight_dtype)
  else:
    export_litert(model, output, metadata, FLAGS.overwrite)
  print(f"wrote {output}")


def metadata_of_run(workdir: Workdir, settings: dict) -> dict:
  """Return what identifies the data and the weights of a run, and the bits/dim measured with these weights.

  These are figures of float32 weights, and say so: an export may store them as int8, which is another model.
  """
  checkpoint = workdir.weights_info()
  evaluation = {
    split: entry | {"weight_dtype": "float32"}
    for split, entry in read_record(workdir.evaluation).items()
    if entry.get("checkpoint", {}).get("sha256") == checkpoint["sha256"]
  }
  return {"data": settings.get("fingerprint"), "checkpoint": checkpoint, "evaluation": evaluation}


def calibration_of_run(model: FlowPlusPlus, settings: dict) -> dict:
  """Return thresholds of the single-sample bound, bits/dim, by the share of images like those of training above them.

  Each image has noise of its own, as in calls of an exported model. Shares that the split is too small for are left
  out.
  """
  dataset = data_flags.load_data_of_run(settings, model.config, {})[0]
  chosen = typical_indices(len(dataset.validation), _MOST_CALIBRATION_IMAGES)
  images = dataset.validation[chosen]
  given = {name: values[chosen] for name, values in data_flags.given_of(dataset, "validation", model.config).items()}
  batches = []
  for start in range(0, len(images), _BATCH):
    part = slice(start, start + _BATCH)
    batch = {name: values[part] for name, values in given.items()}
    batches.append(model.bits_per_dim(images[part], seed=start, **batch).numpy())
  bits = np.concatenate(batches)
  thresholds = {str(share): conformal_threshold(bits, share) for share in _FALSE_ALARMS}
  return {
    "split": "validation",
    "weight_dtype": "float32",
    "images": len(images),
    "score": "bits_per_dim",
    "threshold_by_false_alarms": {share: value for share, value in thresholds.items() if math.isfinite(value)},
  }
