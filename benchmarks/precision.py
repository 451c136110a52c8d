"""Test bits/dim of trained weights, with their networks in each precision and the same noise.

python benchmarks/precision.py --workdirs=runs/digits,runs/photos --output=precision.json
"""

import dataclasses
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags

import flowpp_tf as fpp
from flowpp_tf.data import load_dataset
from flowpp_tf.evaluation import evaluate_bits_per_dim
from flowpp_tf.training import Workdir
from model import PRECISIONS
from tables import print_table, write_json

FLAGS = flags.FLAGS


def rows(path):
  """A row for each precision, as dicts."""
  workdir = Workdir(path)
  trained, settings = workdir.load()
  images = load_dataset(settings["dataset"]).test
  expected = None
  for precision, dtype in PRECISIONS.items():
    model = fpp.FlowPlusPlus(dataclasses.replace(trained.config, dtype=dtype))
    model.load_weights(workdir.best_weights)
    bits = evaluate_bits_per_dim(model, images).best.bits_per_dim
    expected = expected or bits  # float32 is the first
    yield dict(
      trained_in=trained.config.dtype,
      data=settings["dataset"],
      images=len(images),
      precision=precision,
      bits_per_dim=bits,
      less_float32=bits - expected,
    )


def define_flags():
  """The script's flags; a function, as in the other scripts."""
  flags.DEFINE_list("workdirs", ["runs/digits", "runs/photos"], "Runs on bundled data.")
  flags.DEFINE_string("output", None, "JSON file to write; none if not given.")


def main(argv):
  del argv
  results = [row for path in FLAGS.workdirs for row in rows(path)]
  print_table(results)
  write_json(FLAGS.output, results)


if __name__ == "__main__":
  define_flags()
  app.run(main)
