"""Make a preset of a run, or of several that each began with the weights of the one before.

python benchmarks/preset.py --workdirs=runs/first,runs/second --name=fashion_mnist --dataset=fashion_mnist \
    --description="28x28 grey pictures of clothes"

The first may be a copy of the preset that it takes the place of, if the second began with its weights.

It writes flowpp_tf/pretrained/NAME: the weights of the last run, the curves of all, bits/dim of the test split in both
bounds, the codecs, and typicality. The fingerprint in its config.json is that of the data with the most training
images of the runs, also where --dataset, whose test split is measured, is another. The model card, card.md, is written
by hand and is kept. For the card it prints how near test images are to the training images: one of both splits would be
at 0.
"""

import dataclasses
import json
import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import app, flags

from flowpp_tf.core.errors import InputError
from flowpp_tf.core.lanes import use_cpu_lanes
from flowpp_tf.data import describe, load_dataset
from flowpp_tf.evaluation import (
  Scorer,
  evaluate_bits_per_dim,
  measure_codecs,
  measure_typical,
  nearest_neighbours,
  write_record,
)
from flowpp_tf.evaluation.sample_quality import compared_images
from flowpp_tf.models import FlowPlusPlus, save_preset
from flowpp_tf.programs.data_options import images_to_measure, load_from_settings
from flowpp_tf.programs.score import typical_key
from flowpp_tf.training import Workdir

FLAGS = flags.FLAGS


def main(argv):
  del argv
  use_cpu_lanes()
  runs = [Workdir(path) for path in FLAGS.workdirs]
  trained, last = runs[-1].load()
  model = FlowPlusPlus(dataclasses.replace(trained.config, dtype="float32"))
  model.set_weights(trained.get_weights())
  dataset = load_dataset(FLAGS.dataset, labels=model.config.num_classes > 0)
  settings = max(map(_settings, reversed(runs)), key=lambda of: of["fingerprint"]["splits"]["train"])
  trained_on = load_from_settings(settings, model.config)
  if trained_on.fingerprint()["sha256"] != settings["fingerprint"]["sha256"]:
    raise InputError(f"the data {describe(settings['fingerprint'])} of a run are no longer there")
  places = ("data_dir", "cache_dir", "splits_file", "init_from", "crops")
  kept = {name: value for name, value in last.items() if name not in places}
  kept |= {"dataset": FLAGS.dataset, "fingerprint": settings["fingerprint"]}
  folder = ROOT / "flowpp_tf" / "pretrained" / FLAGS.name
  card = (folder / "card.md").read_text() if (folder / "card.md").exists() else None
  save_preset(model, folder, FLAGS.description, kept)
  (folder / "README.md").unlink()  # a hub's; ours is card.md
  if card is not None:
    (folder / "card.md").write_text(card)
  preset = Workdir(folder)
  _write_curve(runs, preset.metrics)

  model, settings = preset.load()  # in float16: what is measured is what ships
  counts = [int(count) for count in FLAGS.num_samples]
  images, conditioning, _ = images_to_measure(dataset, "test", model.config)
  result = evaluate_bits_per_dim(model, images, counts, conditioning=conditioning)
  codecs = measure_codecs(dataset.test)
  write_record(preset.evaluation, "test", result, dataset.fingerprint(), preset.weights_info(), 0, codecs)
  print(result, *codecs, sep="\n")
  print(nearest(dataset.test, trained_on.train))
  key = typical_key(preset, settings)
  measure_typical(Scorer(model, key["num_samples"]), trained_on.validation, key["typical_images"]).save(
    preset.typicality, key
  )


def _settings(run):
  return json.loads(run.config.read_text())["training"]


def nearest(test, train):
  """Return a line of how near test images are to the nearest training image."""
  distances = nearest_neighbours(np.asarray(test[:]), compared_images(train), neighbours=1)[1][:, 0]
  distances /= np.sqrt(np.prod(test.shape[1:]))
  equal = np.count_nonzero(distances == 0)
  return (
    f"nearest training image of a test image, root mean square over pixels in levels: least {distances.min():.2f}, "
    f"median {np.median(distances):.2f}; {equal:,} of {len(distances):,} are equal to one"
  )


def _write_curve(runs, path):
  """Write the rows of all runs, with the steps counted through."""
  rows, before, stretches = [], 0, 0
  for run in runs:
    found = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    rows += [{**row, "step": before + row["step"], "stretch": stretches + row.get("stretch", 1)} for row in found]
    before, stretches = rows[-1]["step"], rows[-1]["stretch"]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
  flags.DEFINE_list("workdirs", None, "Directories of the runs, in their order.", required=True)
  flags.DEFINE_string("name", None, "Name of the preset.", required=True)
  flags.DEFINE_string("dataset", None, "Data set whose test split is measured.", required=True)
  flags.DEFINE_string("description", None, "One line.", required=True)
  flags.DEFINE_list("num_samples", ["1", "4"], "Samples of the bounds.")
  app.run(main)
