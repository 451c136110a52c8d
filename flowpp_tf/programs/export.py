"""Write a trained model as a SavedModel, as ONNX, for LiteRT or as a preset. The flags are in export_flags.py."""

from absl import flags

from flowpp_tf.core.errors import InputError
from flowpp_tf.evaluation.record import read_record
from flowpp_tf.exporting import export_litert, export_onnx, export_saved_model
from flowpp_tf.models import save_preset
from flowpp_tf.programs import model_flags, process
from flowpp_tf.programs.export_flags import output_from_flags
from flowpp_tf.training import Workdir

FLAGS = flags.FLAGS


def export_from_flags() -> None:
  """Write the files of a run, in the format of the flags."""
  workdir = model_flags.workdir_from_flags()
  model, settings = workdir.load()
  output = output_from_flags()
  process.phase("tracing the model's functions, and writing them")
  metadata = metadata_of_run(workdir, settings)
  if FLAGS.format == "preset":
    if output.exists() and not FLAGS.overwrite:
      raise InputError(f"{str(output)!r} exists already; `overwrite` replaces it")
    description = f"Flow++, trained on {settings['dataset']}" if settings.get("dataset") else "Flow++"
    save_preset(model, output, description, settings, "safetensors", FLAGS.license, metadata["evaluation"])
  elif FLAGS.format == "saved_model":
    export_saved_model(model, output, metadata, FLAGS.max_batch, FLAGS.overwrite)
  else:
    export = {"onnx": export_onnx, "litert": export_litert}[FLAGS.format]
    export(model, output, metadata, FLAGS.overwrite)
  print(f"wrote {output}")


def metadata_of_run(workdir: Workdir, settings: dict) -> dict:
  """Return what identifies the data and the weights of a run, and the bits/dim measured with these weights."""
  checkpoint = workdir.weights_info()
  evaluation = {
    split: entry
    for split, entry in read_record(workdir.evaluation).items()
    if entry.get("checkpoint", {}).get("sha256") == checkpoint["sha256"]
  }
  return {"data": settings.get("fingerprint"), "checkpoint": checkpoint, "evaluation": evaluation}
