"""How close a trained model of Gaussian random fields is to their density, which is known.

bin/train --flagfile=configs/random_field.flags --workdir=runs/random_field
python examples/random_field.py --workdir=runs/random_field

The first line is the KL divergence of the model from the truth: the mean of analytic minus model log density over the
test split. The second is the analytic log density of the model's own samples, beside what it is for true fields:
a model that is too wide anywhere has samples that the truth finds unlikely. The third rolls fields by whole blocks.
"""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags
import numpy as np

import flowpp_tf as fpp
from flowpp_tf.data import load_dataset
from flowpp_tf.data.gaussian_fields import expected_log_prob, field_log_prob
from flowpp_tf.evaluation import BatchedModel

FLAGS = flags.FLAGS


def define_flags():
  """Define the flags, which tests do not need."""
  flags.DEFINE_string("workdir", None, "Directory of the run.", required=True)
  flags.DEFINE_integer("fields", 4096, "Fields of the test split, and samples.", lower_bound=2, upper_bound=4096)
  flags.DEFINE_integer("seed", 0, "Seed of the samples.", lower_bound=0, upper_bound=2**31 - 1)


def log_probs(model, fields, batch_size=128):
  """Return the model's log density of fields, `[N]` nats, float64."""
  parts = [model.log_prob(fields[i : i + batch_size]).numpy() for i in range(0, len(fields), batch_size)]
  return np.concatenate(parts).astype(np.float64)


def mean_and_error(values):
  """Return the mean of independent values, and its standard error."""
  return values.mean(), values.std(ddof=1) / len(values) ** 0.5


def main(_):
  model, test = fpp.load(FLAGS.workdir), load_dataset("random_field", real_valued=True).test
  fields, spectrum = test[: FLAGS.fields], test.spectrum
  dims = fields[0].size
  found = log_probs(model, fields)
  kl, error = mean_and_error((field_log_prob(fields, spectrum) - found) / dims)
  print(f"KL(analytic || model), {len(fields):,} test fields: {kl:.5f} +- {error:.5f} nats/dim")
  samples = BatchedModel(model, 128).sample(len(fields), seed=FLAGS.seed)
  mean, error = mean_and_error(field_log_prob(samples, spectrum) / dims)
  expected, stddev = expected_log_prob(spectrum)
  print(
    f"analytic log density of {len(samples):,} samples: {mean:.5f} +- {error:.5f} nats/dim; of true fields "
    f"{expected / dims:.5f} +- {stddev / dims / len(samples) ** 0.5:.5f}"
  )
  block = 2 ** model.config.structure.count("squeeze")
  rolled = log_probs(model, np.roll(fields[:64], (block, 3 * block), axis=(1, 2)))
  print(
    f"rolled by whole blocks of {block}: largest change {np.abs(rolled - found[:64]).max():.2g} nats of {dims} values"
  )


if __name__ == "__main__":
  define_flags()
  app.run(main)
