r"""Measure how well densities find defects of ELPV's solar cells: AUROC on the 262 test pictures, by kind of cell.

python benchmarks/elpv_defects.py
python benchmarks/elpv_defects.py --model=runs/elpv --output=elpv_defects.json

A picture is defective if its probability in the data set is above 0.5. Scores that need no model of ours come first:
the mean brightness, the size of the file as JPEG XL, and two coarse densities, Gaussians (probabilistic PCA, Tipping
and Bishop 1999) fitted on the sound training pictures of the kind: "brightness" of the log of the mean brightness of
15x15 blocks, "spread" of these and of the log of the deviation of 5x5 pixels' means in each block. With --model, a run
or preset for parts of the pictures, its bits: in all, how far they are from typical, their conformal p-value, and maps
of bits. Each `A + B` is a sum of scores that were standardised on the sound validation pictures of the kind. "chosen
for" marks the best score of each kind on validation, and the one with the best mean of both kinds. The choice uses the
validation's labels of defects, the scores use those of sound pictures only.
"""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags
import numpy as np

from flowpp_tf.data import load_dataset
from flowpp_tf.data.images import parallel_map
from flowpp_tf.evaluation import conformal_p_value
from plain_codecs import codecs
from tables import print_table, write_json

FLAGS = flags.FLAGS
KINDS, SPLITS = ("mono", "poly"), ("validation", "test")
BLOCKS, COMPONENTS, TILE = 15, 60, 20  # blocks along a side; components of the density; pixels of a block of a map
DARK = 4  # added to a brightness before its log: the noise of black


def auroc(scores, defective):
  """Return the probability that a defective picture scores higher than another one; ties count half."""
  higher = scores[defective][:, np.newaxis] - scores[~defective]
  return float((higher > 0).mean() + (higher == 0).mean() / 2)


def blocks(pictures, count):
  """Return means over `count` x `count` blocks, `[N, count, count]`."""
  side = pictures.shape[1] // count
  return pictures.reshape(len(pictures), count, side, count, side).mean(axis=(2, 4), dtype=np.float64)


def of_brightness(pictures):
  """Return features `[N, 225]` of the coarse density "brightness"."""
  return np.log(blocks(pictures, BLOCKS) + DARK).reshape(len(pictures), -1)


def of_spread(pictures):
  """Return features `[N, 450]` of the coarse density "spread"; both parts have about the same spread over pictures."""
  parts = blocks(pictures, 60).reshape(len(pictures), BLOCKS, 4, BLOCKS, 4)
  spread = np.log(parts.std(axis=(2, 4)) + 1).reshape(len(pictures), -1)
  return np.concatenate([of_brightness(pictures), spread], axis=1)


def fit_density(features, components):
  """Return the log of the squared Mahalanobis distance under probabilistic PCA, a monotone function of the density."""
  mean = features.mean(axis=0)
  variances, axes = np.linalg.eigh(np.cov((features - mean).T))
  variances, axes = variances[::-1], axes[:, ::-1]
  kept, noise = axes[:, :components], variances[components:].mean()

  def distance(others):
    centred = others - mean
    inside = centred @ kept
    outside = np.sum(centred**2, axis=1) - np.sum(inside**2, axis=1)
    return np.log(np.sum(inside**2 / variances[:components], axis=1) + outside / noise)

  return distance


def mirrored(pictures):
  """Return pictures and their mirror images: the cells are symmetric, and so few pictures go further."""
  return np.concatenate([pictures, pictures[:, ::-1], pictures[:, :, ::-1], pictures[:, ::-1, ::-1]])


def jpeg_xl_bits(pictures):
  encode, _ = codecs()["JPEG XL, effort 9"]
  size = lambda picture: 8.0 * len(encode(np.ascontiguousarray(picture)))
  return np.array(list(parallel_map(size, pictures)))


def maps_of(pictures):
  """Return bits of each pixel by split, float32 `[N, 300, 300]`, of --model; None without it."""
  if not FLAGS.model:
    return None
  from flowpp_tf.evaluation import BitMaps
  from flowpp_tf.io.model_folders import preset_folder, presets
  from flowpp_tf.training import Workdir

  model, _ = Workdir(preset_folder(FLAGS.model) if FLAGS.model in presets() else FLAGS.model).load()
  maps = BitMaps(model)
  return {
    split: np.stack([bits.astype(np.float32) for bits in maps(pictures[split][..., np.newaxis])]) for split in SPLITS
  }


def scores_of_kind(pictures, sound, bits, maps):
  """Return scores of both splits by name: `{name: {split: [N]}}`, higher for defects.

  Args:
    pictures: by split, and "train" of sound ones, of one kind of cell.
    sound: whether each validation picture is sound.
    bits: by split, bits in JPEG XL of each picture.
    maps: by split; None without a model.
  """
  by_split = lambda function: {split: function(split) for split in SPLITS}
  sound_ones = mirrored(pictures["train"])
  scores = {
    "- brightness": by_split(lambda split: -pictures[split].mean(axis=(1, 2))),
    "- JPEG XL's bits": by_split(lambda split: -bits[split]),
  }
  densities = {"brightness": of_brightness, "spread": of_spread}
  for name, features in densities.items():
    distance = fit_density(features(sound_ones), COMPONENTS)
    scores[name] = by_split(lambda split, d=distance, f=features: d(f(pictures[split])))
  fine = ["- JPEG XL's bits"]
  if maps is not None:
    total = by_split(lambda split: maps[split].sum(axis=(1, 2)))
    calibration = total["validation"][sound]
    tiles = by_split(lambda split: blocks(maps[split], 300 // TILE).reshape(len(maps[split]), -1))
    of_place, spread = tiles["validation"][sound].mean(axis=0), tiles["validation"][sound].std(axis=0, ddof=1)
    z = by_split(lambda split: (tiles[split] - of_place) / spread)
    scores |= {
      "- bits": by_split(lambda split: -total[split]),
      "typicality": by_split(lambda split: np.abs(total[split] - calibration.mean())),
      "1 - conformal p": by_split(lambda split: 1 - conformal_p_value(calibration, total[split], two_sided=True)),
      "map, largest block": by_split(lambda split: tiles[split].max(axis=1)),
      "map, 95 % of blocks": by_split(lambda split: np.quantile(tiles[split], 0.95, axis=1)),
      "map, z of place, mean square": by_split(lambda split: np.mean(z[split] ** 2, axis=1)),
      "map, z of place, lowest 5 %": by_split(lambda split: -np.quantile(z[split], 0.05, axis=1)),
      "JPEG XL's bits - bits": by_split(lambda split: bits[split] - total[split]),
    }
    fine += ["- bits", "map, z of place, lowest 5 %"]

  def standardised(name, split):
    of_sound = scores[name]["validation"][sound]
    return (scores[name][split] - of_sound.mean()) / of_sound.std()

  for coarse in densities:
    for name in fine:
      both = lambda split, a=coarse, b=name: standardised(a, split) + standardised(b, split)
      three = lambda split, f=both, b=name: (
        f(split) - (standardised(b, split) - standardised("- brightness", split)) / 2
      )
      scores[f"{coarse} + {name}"] = by_split(both)
      scores[f"{coarse} + half {name} + half - brightness"] = by_split(three)
  return scores


def measure():
  """Return a row for each score, as dicts."""
  dataset = load_dataset("elpv", labels=True)
  pictures = {split: dataset.split(split)[..., 0] for split in ("train", *SPLITS)}
  kind = {split: dataset.labels_of(split) // 4 for split in pictures}
  third = {split: dataset.labels_of(split) % 4 for split in pictures}  # of the probability of a defect
  bits = {split: jpeg_xl_bits(pictures[split]) for split in SPLITS}
  maps = maps_of(pictures)
  found: dict[str, dict] = {}
  for number, name in enumerate(KINDS):
    here = {split: kind[split] == number for split in pictures}
    of_kind = {split: pictures[split][here[split]] for split in SPLITS}
    of_kind["train"] = pictures["train"][here["train"] & (third["train"] == 0)]
    select = lambda values, here=here: {split: values[split][here[split]] for split in SPLITS}
    sound = select(third)["validation"] == 0
    scores = scores_of_kind(of_kind, sound, select(bits), None if maps is None else select(maps))
    for score, by_split in scores.items():
      row = found.setdefault(score, {"score": score})
      for split in SPLITS:
        row[f"{split} {name}"] = auroc(by_split[split], select(third)[split] >= 2)
  best = {kind: max(found.values(), key=lambda row, kind=kind: row[f"validation {kind}"]) for kind in KINDS}
  both = max(found.values(), key=lambda row: sum(row[f"validation {kind}"] for kind in KINDS))
  chosen = lambda row: [kind for kind in KINDS if row is best[kind]] + ["both"] * (row is both)
  return [row | {"chosen for": " ".join(chosen(row))} for row in found.values()]


def main(argv):
  del argv
  rows = measure()
  print_table([{k: f"{v:.3f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows])
  write_json(FLAGS.output, rows)


if __name__ == "__main__":
  flags.DEFINE_string("model", None, "Run or preset whose images are parts of the pictures; none without it.")
  flags.DEFINE_string("output", None, "JSON file to write; none if not given.")
  app.run(main)
