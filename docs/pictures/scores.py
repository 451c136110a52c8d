"""Histograms of scores of the preset digits, for the sets of images of examples/score_digits.py."""

import functools
import sys

import numpy as np
import style

import flowpp_tf as fpp
from flowpp_tf.data import load_dataset
from flowpp_tf.evaluation import Scorer, measure_typical

sys.path.append(str(style.IMAGES.parents[1] / "examples"))
import score_digits  # noqa: E402

NUM_SAMPLES, SEED = 16, 0
DRAWN = {
  "digits of the training split": "training digits",
  "digits": "test digits",
  "digits mirrored": "test digits, mirrored",
  "digits at half contrast, x // 2": "test digits, half contrast",
  "two middle columns, rest black": "two columns of test digits",
}


@functools.cache
def scores():
  """The scores of each set, by its name in the picture."""
  model = fpp.FlowPlusPlus.from_preset("digits")
  scorer = Scorer(model, NUM_SAMPLES, SEED)
  scorer.typical = measure_typical(scorer, load_dataset("digits").validation, most_images=1000).mean
  sets = score_digits.image_sets(model.config, SEED)
  return {text: scorer(sets[name]) for name, text in DRAWN.items()}


def scores_digits(theme):
  """Histograms of each score, a row for each set; the line is the median of the test digits."""
  found = scores()
  names = {"bits_per_dim": "bits/dim", "typicality": "typicality", "complexity_corrected": "complexity-corrected"}
  fig, grid = style.figure(theme, 7.2, len(found), len(names), sharex="col", sharey="col")
  colors = {"training digits": theme.training, "test digits": theme.ours}
  for column, score in enumerate(names):
    everything = np.concatenate([part[score] for part in found.values()])
    bins = np.linspace(everything.min(), np.quantile(everything, 0.99), 30)
    median = np.median(found["test digits"][score])
    for ax, (name, part) in zip(grid[:, column], found.items()):
      ax.hist(part[score], bins, histtype="stepfilled", color=colors.get(name, theme.other))
      ax.axvline(median, color=theme.ours, linewidth=2)
      ax.set_yticks([])
      ax.spines["left"].set_visible(False)
      ax.locator_params(axis="x", nbins=4)
      if column == 0:
        ax.set_title(name, loc="left", color=colors.get(name, theme.other))
    grid[-1, column].set_xlabel(names[score] + ("\n(bits/dim)" if column else ""), color=theme.text)
  return fig
