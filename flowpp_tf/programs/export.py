"""Write a trained model as a SavedModel, for TensorFlow and TensorFlow Serving; see docs/serving.md.

bin/export --workdir=runs/digits
"""

import pathlib

from absl import flags

from flowpp_tf.evaluation.record import read_record
from flowpp_tf.exporting import export_saved_model
from flowpp_tf.programs import model_flags, run
from flowpp_tf.training import Workdir

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Define the program's flags."""
  model_flags.define_model_flags()
  flags.DEFINE_string(
    "output", None, "Directory to write, named by a number for TensorFlow Serving; WORKDIR/saved_model/1 if not given."
  )
  flags.DEFINE_integer(
    "max_batch",
    256,
    "Maximum batch size of a call; an image counts once for each sample of its bound.",
    lower_bound=1,
    upper_bound=1 << 20,
  )
  flags.DEFINE_bool("overwrite", False, "Replace an existing SavedModel.")


def export_from_flags() -> None:
  """Write the SavedModel of a run."""
  workdir = model_flags.workdir_from_flags()
  model, settings = workdir.load()
  output = pathlib.Path(FLAGS.output or workdir.path / "saved_model" / "1")
  export_saved_model(model, output, metadata_of_run(workdir, settings), FLAGS.max_batch, FLAGS.overwrite)
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


def main() -> None:
  """Entry point of `flowpp-export` and `bin/export`."""
  define_flags()
  run.run_program(export_from_flags)
