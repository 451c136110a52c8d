"""Draws images from a trained model.

bin/sample --workdir=runs/digits --n=100 --temperature=0.8 --seed=1
"""

import pathlib

from absl import flags
import numpy as np

from flowpp_tf.evaluation import image_grid
from flowpp_tf.files import replace_file
from flowpp_tf.programs import run
from flowpp_tf.training import Workdir

FLAGS = flags.FLAGS


def define_flags():
  """The program's flags."""
  flags.DEFINE_string("workdir", None, "Directory of the run.", required=True)
  flags.DEFINE_integer("n", 64, "Number of images.", lower_bound=1)
  flags.DEFINE_float("temperature", 1.0, "Factor of the standard deviation of the latents.",
                     lower_bound=0)
  flags.DEFINE_integer("seed", 0, "The same seed gives the same images.")
  flags.DEFINE_string("output", None, "PNG of the grid; WORKDIR/samples_t1.0_s0.png, with temperature "
                                      "and seed, if not given.")
  flags.DEFINE_string("npy", None, "File for the images as they are, uint8 [n, H, W, C].")


def sample_from_flags():
  """Writes the grid, and the array if asked to."""
  workdir = Workdir(FLAGS.workdir)
  model, _ = workdir.load()
  output = pathlib.Path(FLAGS.output or workdir.path / (
      f"samples_t{FLAGS.temperature}_s{FLAGS.seed}.png"))
  images = model.sample(FLAGS.n, FLAGS.temperature, FLAGS.seed).numpy()
  try:
    grid = image_grid(images, model.config.levels)
    replace_file(output, lambda path: grid.save(path, format="PNG"))
    print(f"wrote {output}")
    if FLAGS.npy:
      with open(FLAGS.npy, "wb") as file:
        np.save(file, images)
      print(f"wrote {FLAGS.npy}")
  except OSError as error:
    raise run.InputError(f"cannot write {error.filename!r}: {error.strerror}") from None


def main():
  """Entry point of `flowpp-sample` and `bin/sample`."""
  define_flags()
  run.run_program(sample_from_flags)
