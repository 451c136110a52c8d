"""Which score tells digits from other images: AUROC of each, and a picture of all of them.

bin/train --flagfile=configs/digits.flags
python examples/score_digits.py --workdir=runs/digits --picture=scores_digits.png

The digits of the test split against digits of the training split and nine sets of images that are none,
each of 180 images of 8x8 pixels and 17 levels. AUROC is the probability that a score of such an image
is higher than that of a test digit, ties counted half: 1 is perfect, 0.5 is chance, and below that the
score has it the wrong way round. docs/scoring.md discusses the table.
"""

import io
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# pylint: disable=wrong-import-position
from absl import app
from absl import flags
import numpy as np
from PIL import Image
import sklearn.metrics

from flowpp_tf.data import load_dataset
from flowpp_tf.data.images import read_for_model
from flowpp_tf.evaluation import Scorer
from flowpp_tf.evaluation import measure_typical
from flowpp_tf.training import Workdir

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", "runs/digits", "Directory of a run of configs/digits.flags.")
flags.DEFINE_integer("num_samples", 16, "Samples of the importance-weighted bound.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of its noise, and of the shuffles.")
flags.DEFINE_string("picture", None, "PNG of histograms to write; none if not given.")

SCORES = ("bits_per_dim", "typicality", "complexity_corrected")  # each higher for stranger images
DRAWN = ("digits", "digits at half contrast, x // 2", "two middle columns, rest black",
         "digits mirrored")


def image_sets(config, seed):
  """The test digits, and what they are compared with, by name: uint8 `[180, 8, 8, 1]`, 0 .. 16."""
  digits = load_dataset("digits").test
  rng = np.random.RandomState(seed)
  shuffled = [rng.permutation(image.reshape(-1)).reshape(image.shape) for image in digits]
  photos = load_dataset("photos").test
  photos = photos[np.arange(len(digits)) * len(photos) // len(digits)]
  top = config.levels - 1
  greys = np.linspace(0, top, len(digits)).round().astype(np.uint8)
  row, column = np.arange(8)[:, np.newaxis, np.newaxis], np.arange(8)[:, np.newaxis]
  return {
      "digits": digits,
      "digits of the training split": load_dataset("digits").train[:len(digits)],
      "pixels of each digit shuffled": np.stack(shuffled),
      "digits inverted, 16 - x": top - digits,
      "8x8 patches of photographs": np.stack([as_file(photo[12:20, 12:20], config) for photo in photos]),
      "constant, black to white": np.ones_like(digits) * greys[:, np.newaxis, np.newaxis, np.newaxis],
      "digits at half contrast, x // 2": digits // 2,
      "upper half of digits, rest black": np.where(row < 4, digits, 0),
      "two middle columns, rest black": np.where((column == 3) | (column == 4), digits, 0),
      "digits mirrored": digits[:, :, ::-1],
      "digits turned by 180 degrees": digits[:, ::-1, ::-1],
  }


def as_file(pixels, config):
  """What the model sees of an RGB image that comes as a file."""
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "PNG")
  return read_for_model(file, config)


def draw(scores, path):
  """Histograms of each score, a row for each of the sets that are close to the digits."""
  import matplotlib  # here, since it takes long to import
  matplotlib.use("agg")
  from matplotlib import pyplot as plt

  scores = {name: scores[name] for name in DRAWN}
  figure, grid = plt.subplots(
      len(scores), len(SCORES), figsize=(9, 5), sharex="col", sharey="col", layout="constrained")
  for column, score in enumerate(SCORES):
    everything = np.concatenate([part[score] for part in scores.values()])
    bins = np.linspace(everything.min(), np.quantile(everything, 0.995), 50)
    for axes, (name, part) in zip(grid[:, column], scores.items()):
      axes.hist(part[score], bins, color="C0" if name == "digits" else "C1")
      axes.axvline(np.median(scores["digits"][score]), color="C0", linewidth=1)
      axes.set_yticks([])
      if column == 0:
        axes.set_title(name, fontsize=9, loc="left")
    grid[-1, column].set_xlabel(f"{score}, bits/dim")
  figure.savefig(path, dpi=100, format="png")
  plt.close(figure)


def main(argv):
  del argv
  model, settings = Workdir(FLAGS.workdir).load()
  if settings["dataset"] != "digits":
    raise app.UsageError(f"--workdir={FLAGS.workdir} is a run on {settings['dataset']}, not on digits")
  scorer = Scorer(model, FLAGS.num_samples, FLAGS.seed)
  typical = measure_typical(scorer, load_dataset("digits").validation, most_images=1000)
  scorer.typical = typical.mean
  print(f"validation: mean {typical.mean:.3f}, standard deviation {typical.std:.3f} bits/dim\n")
  scores = {name: scorer(images) for name, images in image_sets(model.config, FLAGS.seed).items()}

  print("| images | bits/dim, median | PNG bytes, median | AUROC: bits/dim | typicality | "
        "complexity-corrected |\n|---|---|---|---|---|---|")
  digits = scores["digits"]
  for name, part in scores.items():
    aurocs = ["" if part is digits else "{:.3f}".format(sklearn.metrics.roc_auc_score(
        np.repeat([0, 1], [len(digits[score]), len(part[score])]),
        np.concatenate([digits[score], part[score]]))) for score in SCORES]
    print(f"| {name} | {np.median(part['bits_per_dim']):.2f} | {np.median(part['png_bytes']):.0f} | "
          f"{' | '.join(aurocs)} |")
  if FLAGS.picture:
    draw(scores, FLAGS.picture)


if __name__ == "__main__":
  app.run(main)
