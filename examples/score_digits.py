"""Compare scores at telling digits from other images: AUROC of each score.

bin/train --flagfile=configs/digits.flags
python examples/score_digits.py --workdir=runs/digits

It scores the test digits, training digits and nine sets of other images: 180 images of 8x8 pixels and 17
levels each. AUROC is the probability that an image of a set scores higher than a test digit, with ties
counted half: 1 is perfect, 0.5 is chance. docs/scoring.md discusses the table, and has histograms.
"""

import io
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from absl import app, flags
import numpy as np
from PIL import Image
import sklearn.metrics

from flowpp_tf.data import load_dataset
from flowpp_tf.data.images import read_for_model
from flowpp_tf.evaluation import Scorer, measure_typical
from flowpp_tf.models import FlowPlusPlusConfig
from flowpp_tf.training import Workdir

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", "runs/digits", "Directory of a run of configs/digits.flags.")
flags.DEFINE_integer("num_samples", 16, "Samples of the importance-weighted bound.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of the noise and of the shuffles.")

SCORES = ("bits_per_dim", "typicality", "complexity_corrected")  # all are higher for stranger images


def image_sets(config: FlowPlusPlusConfig, seed: int) -> dict[str, np.ndarray]:
  """Return the test digits and the sets to compare with, by name: uint8 `[180, 8, 8, 1]`, 0 .. 16."""
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
    "digits of the training split": load_dataset("digits").train[: len(digits)],
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


def as_file(pixels: np.ndarray, config: FlowPlusPlusConfig) -> np.ndarray:
  """Return what the model sees of RGB pixels that come as a file."""
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "PNG")
  file.seek(0)
  return read_for_model(file, config)


def main(argv: list[str]) -> None:
  del argv
  model, settings = Workdir(FLAGS.workdir).load()
  if settings["dataset"] != "digits":
    raise app.UsageError(f"--workdir={FLAGS.workdir} is a run on {settings['dataset']}, not on digits")
  scorer = Scorer(model, FLAGS.num_samples, FLAGS.seed)
  typical = measure_typical(scorer, load_dataset("digits").validation, most_images=1000)
  scorer.typical = typical.mean
  print(f"validation: mean {typical.mean:.3f}, standard deviation {typical.std:.3f} bits/dim\n")
  scores = {name: scorer(images) for name, images in image_sets(model.config, FLAGS.seed).items()}

  print(
    "| images | bits/dim, median | PNG bytes, median | AUROC: bits/dim | typicality | "
    "complexity-corrected |\n|---|---|---|---|---|---|"
  )
  digits = scores["digits"]
  for name, part in scores.items():
    aurocs = [
      ""
      if part is digits
      else "{:.3f}".format(
        sklearn.metrics.roc_auc_score(
          np.repeat([0, 1], [len(digits[score]), len(part[score])]), np.concatenate([digits[score], part[score]])
        )
      )
      for score in SCORES
    ]
    print(
      f"| {name} | {np.median(part['bits_per_dim']):.2f} | {np.median(part['png_bytes']):.0f} | {' | '.join(aurocs)} |"
    )


if __name__ == "__main__":
  app.run(main)
