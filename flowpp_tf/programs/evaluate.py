"""Measures bits/dim of a trained model on a split of its data.

bin/evaluate --workdir=runs/digits --split=test --num_samples=64
"""

from absl import flags

from flowpp_tf.data import SPLITS
from flowpp_tf.evaluation import evaluate_bits_per_dim
from flowpp_tf.programs import data_flags
from flowpp_tf.programs import run
from flowpp_tf.training import Workdir

FLAGS = flags.FLAGS


def define_flags():
  """The program's flags."""
  flags.DEFINE_string("workdir", None, "Directory of the run.", required=True)
  flags.DEFINE_string("split", "test", f"One of {', '.join(SPLITS)}.")
  flags.DEFINE_integer("num_samples", 1, "Samples of the importance-weighted bound.",
                       lower_bound=1)
  flags.DEFINE_integer("batch_size", 100, "Images at once.", lower_bound=1)
  flags.DEFINE_integer("limit", None, "First so many images of the split; all if not given.",
                       lower_bound=1)
  data_flags.define_data_flags(default="that of the run")
  flags.DEFINE_integer("seed", 0, "Seed of the dequantization noise.")


def evaluate_from_flags():
  """Prints one line."""
  model, settings = Workdir(FLAGS.workdir).load()
  dataset, fingerprint = data_flags.load_data_of_run(settings, model.config)
  images = dataset.split(FLAGS.split)[:FLAGS.limit]
  result = evaluate_bits_per_dim(
      model, images, FLAGS.num_samples, FLAGS.batch_size, FLAGS.seed)
  print(f"{dataset.name} {FLAGS.split}: {result}; data {fingerprint['digest']}")


def main():
  """Entry point of `flowpp-evaluate` and `bin/evaluate`."""
  define_flags()
  run.run_program(evaluate_from_flags)
