"""`bin/evaluate --samples`: figures of samples at some temperatures, beside those of real images."""

import dataclasses
import pathlib
from typing import Any

from absl import flags

from flowpp_tf.core.errors import with_error
from flowpp_tf.data import ImageDataset
from flowpp_tf.evaluation import BatchedModel, FeatureNetwork, SampleEvaluator, SampleQuality
from flowpp_tf.evaluation.record import write_entry
from flowpp_tf.evaluation.sample_quality import draw_samples
from flowpp_tf.models import FlowPlusPlus
from flowpp_tf.programs import data_flags, flag_kinds, process, run
from flowpp_tf.programs.sample_flags import temperatures_from_flags
from flowpp_tf.training import Workers

FLAGS = flags.FLAGS
_MOST_CLASSES = 20  # of which the shares are printed


def samples_from_flags(
  model: FlowPlusPlus,
  dataset: ImageDataset,
  settings: dict,
  about: dict[str, Any],
  output: pathlib.Path,
  workers: Workers,
) -> None:
  """Print the figures, and write them to the record.

  Args:
    model: the model.
    dataset: the data set of `load_data_of_run`.
    settings: settings of the run.
    about: what identifies the data and the weights in the record.
    output: file of the record.
    workers: of which the chief measures.
  """
  batched = BatchedModel(model, FLAGS.batch_size)
  say = process.phase if workers.chief else lambda line: None
  samples = {}
  for temperature in temperatures_from_flags():
    say(f"drawing {FLAGS.samples:,} samples at temperature {temperature}")
    samples[str(temperature)] = draw_samples(batched, dataset, FLAGS.samples, temperature, FLAGS.seed)
  if not workers.chief:
    return
  labelled, reason = data_flags.with_labels(dataset, settings, model.config, flag_kinds.given_from_flags())
  say("training a classifier whose features are compared, unless the cache has it")
  features = FeatureNetwork.cached(labelled, FLAGS.cache_dir or settings.get("cache_dir"))
  evaluator = SampleEvaluator(labelled, features, FLAGS.split)
  say("comparing the images")
  real = evaluator.real(FLAGS.samples)
  found = {temperature: evaluator(images) for temperature, images in samples.items()}
  kind, accuracy = "classes" if features.classes else "rotations", features.accuracy(labelled, FLAGS.split)
  chance = 1 / features.network.output_shape[1][-1]
  if accuracy < 2 * chance:
    run.warn(
      f"the classifier of {kind} is right for {accuracy:.2f} of the images, by chance it would be for {chance:.2f}: "
      "it has learned little, and its features say little of samples"
    )
  split = f"{dataset.name} {FLAGS.split}"
  count = len(dataset.split(FLAGS.split))
  print(f"{split}: {count:,} images, {FLAGS.samples:,} samples; data {about['data']['digest']}")
  print(
    f"  features of a classifier of {kind}, right for {accuracy:.4f} of them: no figures of Inception's FID"
    + (f"; {reason}" if reason else "")
  )
  print("\n".join(table(real, found)))
  if 0 < len(features.classes) <= _MOST_CLASSES:
    print(
      "\n".join(
        shares_table(
          features.classes, {FLAGS.split: evaluator.class_shares, **{t: q.class_shares for t, q in found.items()}}
        )
      ),
      flush=True,
    )
  entry = {"images": count, "features": kind, "accuracy": accuracy, "real": dataclasses.asdict(real)}
  entry["temperatures"] = {temperature: dataclasses.asdict(quality) for temperature, quality in found.items()}
  write_entry(output, f"{FLAGS.split} samples", {**entry, **about, "seed": FLAGS.seed})


def table(real: SampleQuality, found: dict[str, SampleQuality]) -> list[str]:
  """Return a line for real images and one for each temperature, below two of headings."""
  lines = [
    f"  {'':<24} {'Frechet':<20} nearest training image, RMS    class",
    f"  {'':<24} {'distance':<20} in levels: median, lowest 1 %  imbalance",
  ]
  for name, quality in {
    f"real, {real.images:,} of train": real,
    **{f"temperature {t}": q for t, q in found.items()},
  }.items():
    distance = with_error(quality.frechet_distance, quality.standard_error, ".2f")
    imbalance = "" if quality.imbalance is None else f"{quality.imbalance:.3f}"
    near = f"{quality.neighbour_distance:.2f}, {quality.closest:.2f}"
    lines.append(f"  {name:<24} {distance:<20} {near:<30} {imbalance}".rstrip())
  return lines


def shares_table(classes: tuple[str, ...], shares: dict[str, tuple[float, ...]]) -> list[str]:
  """Return the shares of the classes in percent, a line for each class and a column for each set of images."""
  width = max(24, *map(len, classes))
  lines = [f"  {'share of a class, %':<{width}}" + "".join(f" {name:>10}" for name in shares)]
  for i, name in enumerate(classes):
    lines.append(f"  {name:<{width}}" + "".join(f" {100 * of_images[i]:>10.1f}" for of_images in shares.values()))
  return lines
