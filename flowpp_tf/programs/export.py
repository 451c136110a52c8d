"""Writes a trained model as a SavedModel, for TensorFlow and TensorFlow Serving; see docs/serving.md.

bin/export --workdir=runs/digits
"""

import pathlib

from absl import flags

from flowpp_tf.evaluation.record import read_record
from flowpp_tf.export import export_saved_model
from flowpp_tf.programs import run
from flowpp_tf.training import Workdir

FLAGS = flags.FLAGS


def define_flags():
  """The program's flags."""
  flags.DEFINE_string("workdir", None, "Directory of the run.", required=True)
  flags.DEFINE_string("output", None, "Directory to write, named by a number for TensorFlow Serving; "
                                      "WORKDIR/saved_model/1 if not given.")
  flags.DEFINE_integer("max_batch", 256, "Images at once that a call may ask for, each of its samples "
                       "counted.", lower_bound=1)
  flags.DEFINE_bool("overwrite", False, "Replace the SavedModel that is there.")


def export_from_flags():
  """Writes the directory."""
  workdir = Workdir(FLAGS.workdir)
  model, settings = workdir.load()
  output = pathlib.Path(FLAGS.output or workdir.path / "saved_model" / "1")
  export_saved_model(model, output, metadata_of_run(workdir, settings), FLAGS.max_batch, FLAGS.overwrite)
  print(f"wrote {output}")


def metadata_of_run(workdir, settings):
  """Data and weights of a run, and what was measured of these weights."""
  checkpoint = workdir.checkpoint()
  evaluation = {split: entry for split, entry in read_record(workdir.evaluation).items()
                if entry.get("checkpoint", {}).get("sha256") == checkpoint["sha256"]}
  return {"data": settings.get("fingerprint"), "checkpoint": checkpoint, "evaluation": evaluation}


def main():
  """Entry point of `flowpp-export` and `bin/export`."""
  define_flags()
  run.run_program(export_from_flags)
