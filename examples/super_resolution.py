"""Super-resolution: p(image | smaller image) as a Flow++, on scikit-learn's digits, 8x8 given 4x4.

python examples/super_resolution.py

It trains a model given the mean of each 2x2 pixels, prints what the smaller image is worth in bits/dim, and writes
--picture: smaller images enlarged, several samples for each, and the digits that they were made of. Measured in ten
minutes on two cores that other work shared: 1.246 +- 0.015 bits/dim given the smaller image, 1.801 +- 0.017 of another
model given nothing (16 samples); samples made smaller are 0.45 levels from what they were given, other digits 4.21.
"""

import dataclasses
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags, logging
import numpy as np
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import data, evaluation, training
from flowpp_tf.core.lanes import use_cpu_lanes

FLAGS = flags.FLAGS
SAMPLES, ROWS = 6, 8


def smaller(images):
  """The mean of each 2x2 pixels, between -1 and 1, `[B, 4, 4, 1]`."""
  return tf.nn.avg_pool2d(tf.cast(images, tf.float32), 2, 2, "VALID") / 8 - 1


def train(dataset, folder, config, condition=None):
  """Return the trained model with its best weights."""
  settings = training.TrainingConfig(
    steps=FLAGS.steps,
    batch_size=64,
    learning_rate=6e-3,
    warmup_steps=min(100, FLAGS.steps // 4),
    ema_decay=0.995,
    ema_warmup=True,
    validate_every=max(1, FLAGS.steps // 8),
    init_batch_size=512,
    tensorboard=(),
  )
  training.run_training(config, settings, dataset, training.Workdir(folder), condition=condition)
  return training.Workdir(folder).load()[0]


def bits_per_dim(model, images, condition=None):
  """Bits/dim of the importance-weighted bound of 16 samples."""
  given = None if condition is None else {"condition": condition}
  return evaluation.evaluate_bits_per_dim(model, images, 16, conditioning=given).best


def main(argv):
  del argv
  logging.set_verbosity(logging.WARNING)
  use_cpu_lanes()
  dataset = data.load_dataset("digits")
  config = dataclasses.replace(fpp.get_config("digits"), filters=FLAGS.filters, structure=FLAGS.structure)
  given_smaller = dataclasses.replace(config, condition_shape=(4, 4, 1))
  with tempfile.TemporaryDirectory() as folder:
    model = train(dataset, f"{folder}/given", given_smaller, smaller)
    plain = train(dataset, f"{folder}/plain", config) if FLAGS.plain else None

  test, condition = dataset.test, smaller(dataset.test).numpy()
  others = np.roll(condition, 1, axis=0)
  bounds = {
    "given the smaller image": bits_per_dim(model, test, condition),
    "given that of another digit": bits_per_dim(model, test, others),
    **({"another model, given nothing": bits_per_dim(plain, test)} if plain else {}),
  }
  for name, bound in bounds.items():
    print(f"{name:34} {bound.bits_per_dim:6.3f} +- {bound.standard_error:.3f} bits/dim")

  samples = np.stack([model.sample(len(test), seed=i, condition=condition) for i in range(SAMPLES)])
  error = lambda images: np.sqrt(np.mean((smaller(images) - condition) ** 2)) * 8
  print(
    f"samples made smaller are {np.mean([error(s) for s in samples]):.2f} levels (root mean square) from what they "
    f"were given, other digits {error(np.roll(test, 1, axis=0)):.2f}"
  )
  enlarged = np.round((condition + 1) * 8).astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)
  columns = [enlarged, *samples, test]
  grid = evaluation.image_grid(
    np.stack([column[:ROWS] for column in columns], axis=1).reshape(-1, 8, 8, 1),
    17,
    columns=len(columns),
    wide_columns=[1, len(columns) - 1],
  )
  grid.save(FLAGS.picture)
  print(f"wrote {FLAGS.picture}: the smaller image, {SAMPLES} samples, the digit")


if __name__ == "__main__":
  flags.DEFINE_integer("steps", 800, "Training steps of each of the two models.")
  flags.DEFINE_integer("filters", 32, "Channels inside the conditioners.")
  flags.DEFINE_string("structure", fpp.get_config("digits").structure, "Structure of the flow.")
  flags.DEFINE_bool("plain", True, "Train a model that is given nothing too.")
  flags.DEFINE_string("picture", "super_resolution.png", "PNG file for the picture.")
  app.run(main)
