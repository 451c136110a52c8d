"""Measure the presets' samples by temperature: Fréchet distance of features, nearest training images, classes.

python benchmarks/sample_quality.py --samples=2000 --temperature=0.7,0.8,0.9,1.0 --output=sample_quality.json

The temperature is chosen on validation images; the figures of test images are for the same samples.
"""

import dataclasses
import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import app, flags

from tables import write_json

FLAGS = flags.FLAGS
SPLITS = ("validation", "test")


def measure(name, count, temperatures, seed):
  """Return figures of samples of a preset, and of training images, against both splits that it was not trained on."""
  import numpy as np

  from flowpp_tf.core.errors import InputError
  from flowpp_tf.data import load_dataset
  from flowpp_tf.evaluation import BatchedModel, FeatureNetwork, SampleEvaluator, read_record
  from flowpp_tf.evaluation.calibration import typical_indices
  from flowpp_tf.evaluation.sample_quality import draw_samples, frechet_with_error
  from flowpp_tf.models import FlowPlusPlus, preset_folder
  from flowpp_tf.training import Workdir

  begin = time.process_time()
  tested_on = read_record(Workdir(preset_folder(name)).evaluation)["test"]["data"]["name"]
  try:
    dataset = load_dataset(tested_on, labels=True)
  except InputError:
    dataset = load_dataset(tested_on)
  features = FeatureNetwork.train(dataset)
  trained = time.process_time()
  print(f"{name}: features in {trained - begin:.0f} s of CPU", file=sys.stderr, flush=True)
  of_split = {split: features(dataset.split(split))[0] for split in SPLITS}
  evaluator = SampleEvaluator(features, "validation")

  def of(images):  # of the distance to test images too; nearest training images and classes are those of `evaluator`
    distance, error = frechet_with_error(features(images)[0], of_split["test"])
    return {"test": {"frechet_distance": distance, "standard_error": error}}

  real = evaluator.real(count)
  train = np.asarray(dataset.train[typical_indices(len(dataset.train), count)])
  noise = np.random.RandomState(seed).randint(0, dataset.levels, [count, *dataset.image_shape]).astype(np.uint8)
  result = {
    "samples": count,
    "seed": seed,
    "classes": dataset.classes,
    "accuracy": {split: features.accuracy(split) for split in SPLITS},
    "images": {split: len(dataset.split(split)) for split in SPLITS},
    "real": {"validation": dataclasses.asdict(real), **of(train)},
    "noise": of(noise),
    "temperatures": {},
  }
  batched = BatchedModel(FlowPlusPlus.from_preset(name))
  sampling = 0.0
  for temperature in temperatures:
    before = time.process_time()
    images = draw_samples(batched, dataset, count, temperature, seed)
    sampling += time.process_time() - before
    figures = {"validation": dataclasses.asdict(evaluator(images)), **of(images)}
    result["temperatures"][str(temperature)] = figures
    print(f"{name} {temperature}, {sampling:.0f} s of CPU: {figures}", file=sys.stderr, flush=True)
  return result | {
    "cpu_seconds": {"features": trained - begin, "samples": sampling, "all": time.process_time() - begin},
    "cores": os.cpu_count(),
  }


def best_temperature(result):
  """Return the temperature with the smallest Fréchet distance to validation images."""
  return min(result["temperatures"], key=lambda t: result["temperatures"][t]["validation"]["frechet_distance"])


def table(results):
  """Yield the rows of the table: real images, each temperature, and noise."""
  head = "preset, samples|images|distance to validation images|to test images"
  yield *head.split("|"), "nearest training image, median; lowest 1 %", "class imbalance"
  for name, result in results.items():
    rows = {"real": result["real"], **result["temperatures"], "noise": result["noise"]}
    for row, figures in rows.items():
      of, is_best = figures.get("validation"), row == best_temperature(result)
      label = {"real": "of the training split", "noise": "noise"}.get(row, f"temperature {row}")
      yield (
        f"`{name}`, {result['samples']:,}" if row == "real" else "",
        f"**{label}**" if is_best else label,
        _with_error(of) if of else "",
        _with_error(figures["test"]),
        f"{of['neighbour_distance']:.2f}; {of['closest']:.2f}" if of else "",
        f"{of['imbalance']:.3f}" if of and of["imbalance"] is not None else "",
      )


def _with_error(figures):
  return f"{figures['frechet_distance']:.2f} +- {figures['standard_error']:.2f}"


def main(argv):
  del argv
  from flowpp_tf.core.lanes import use_cpu_lanes

  use_cpu_lanes()
  found = {}
  for name in FLAGS.presets:
    found[name] = measure(name, FLAGS.samples, [float(t) for t in FLAGS.temperature], FLAGS.seed)
    write_json(FLAGS.output, found)  # each is kept, should the next one fail


if __name__ == "__main__":
  flags.DEFINE_list("presets", ["digits", "digits_by_class", "fashion_mnist"], "Presets whose data are here.")
  flags.DEFINE_integer("samples", 2000, "Samples at each temperature.")
  flags.DEFINE_list("temperature", ["0.7", "0.8", "0.9", "1.0"], "Temperatures.")
  flags.DEFINE_integer("seed", 0, "Seed of the samples.")
  flags.DEFINE_string("output", None, "JSON file to write; none if not given.")
  app.run(main)
