"""Measure bits/dim of a trained model on a split of its data.

bin/evaluate --workdir=runs/digits --split=test --num_samples=1,16,256
bin/evaluate --preset=photos --codecs
bin/evaluate --preset=digits --samples=2000 --temperature=0.8,1.0 --split=validation

Prints a table and writes WORKDIR/evaluation.json. The same command resumes after it was killed.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from flowpp_tf.core.environment import check_extra
from flowpp_tf.core.errors import InputError, with_error
from flowpp_tf.core.registry import SPLITS
from flowpp_tf.core.settings import Range, at_least, one_of, setting
from flowpp_tf.io.model_folders import EVALUATION
from flowpp_tf.programs import data_options, outputs, process
from flowpp_tf.programs.data_options import DataOptions
from flowpp_tf.programs.imports import import_tensorflow
from flowpp_tf.programs.model_options import DeviceOptions, PrecisionOptions
from flowpp_tf.programs.options import SEED, TEMPERATURES

if TYPE_CHECKING:
  from flowpp_tf.data import ImageDataset
  from flowpp_tf.evaluation import BitsPerDim, SampleQuality
  from flowpp_tf.models import FlowPlusPlus
  from flowpp_tf.training import Workers

_MOST_CLASSES = 20  # of which the shares are printed
_COUNTS = Range(
  lambda counts: len(counts) > 0 and all(1 <= count <= 1 << 20 for count in counts),
  "positive integers of at most 1,048,576, such as 1,16,256",
)


@dataclasses.dataclass(frozen=True)
class EvaluateOptions(DeviceOptions, DataOptions, PrecisionOptions):
  """Options of bin/evaluate."""

  COMMON = (
    *("preset", "workdir", "dataset", "split", "num_samples", "limit", "gap", "codecs", "classify", "samples"),
    *("temperature", "output"),
  )

  split: str = setting("test", "Split.", one_of(*SPLITS))
  num_samples: tuple[int, ...] | None = setting(
    None,
    "Samples of the importance-weighted bound, one number or several such as 1,16,256; the single-sample bound is "
    "always measured. (default: 1)",
    _COUNTS,
  )
  batch_size: int = setting(100, "Batch size.", at_least(1, 1 << 16))
  limit: int | None = setting(None, "Number of images, from the start; all if not given.", at_least(1))
  gap: bool = setting(False, "Measure as many training images too, and print the difference.")
  codecs: bool = setting(
    False, "Print what PNG, WebP, JPEG XL, JPEG-LS, bzip2 and xz need for the same images, lossless."
  )
  classify: bool = setting(
    False,
    "Of a model with classes, print how often the class of largest likelihood is right, and what labels are worth, "
    "with the largest of --num_samples.",
  )
  samples: int | None = setting(
    None,
    "Measure so many samples rather than bits/dim: Frechet distance of a small classifier's features to those of the "
    "split, nearest training images, class balance, and the same of real images. The classifier is trained on the "
    "data's training images, once: --cache_dir keeps it.",
    at_least(20, 100_000),
  )
  temperature: tuple[float, ...] | None = setting(
    None,
    "Of --samples: factor of the standard deviation of the latents; several values, such as 0.8,1.0, are a row each. "
    "(default: 1.0)",
    TEMPERATURES,
  )
  seed: int = setting(0, "Seed of the dequantization noise, and of --samples.", SEED)
  output: str | None = setting(
    None,
    "File for the results; WORKDIR/evaluation.json if not given. An evaluation that was stopped is kept beside it.",
  )

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.gap and self.split == "train":
      raise InputError("--gap is that to the training images, and --split=train measures these; give another split")
    if self.samples is None and self.temperature is not None:
      raise InputError("--temperature is for --samples, which must be a number of samples")
    for name in ("num_samples", "limit", "gap", "codecs", "classify"):
      if self.samples is not None and getattr(self, name):
        raise InputError(f"--{name} is for bits/dim, and does not go with --samples")


def run(options: EvaluateOptions) -> None:
  """Print and record the figures that the options ask for."""
  process.phase(_plan(options))
  import_tensorflow()
  from flowpp_tf.evaluation import read_record
  from flowpp_tf.training import Workers

  workdir, workers = options.find_workdir(), Workers(options.set_up_devices())
  with workers.scope():
    model, settings = workdir.load(options.precision)
  if options.classify and not model.config.num_classes:
    raise InputError("--classify is for a model with classes, and this one has none")
  if model.has_exact_density and (options.codecs or options.samples):
    raise InputError(
      f"--{'codecs' if options.codecs else 'samples'} is for integer images, and the model's are real-valued"
    )
  dataset, fingerprint = data_options.load_data_of_run(settings, model.config, options.given_data)
  output = workdir.evaluation if options.output is None else pathlib.Path(options.output)
  read_record(output)
  about = {"data": fingerprint, "checkpoint": workdir.weights_info()}
  if options.samples:
    _measure_samples(options, model, dataset, settings, about, output, workers)
  else:
    _measure_bits(options, model, dataset, about, output, workers)


def _plan(options):
  """Return what will be done; raise an `InputError` for what is missing here or cannot be written."""
  if options.codecs:
    check_extra("imagecodecs", "codecs", "--codecs")
  model, workdir = options.find_model()
  options.check_output(options.output, workdir)
  output = options.output or workdir / EVALUATION
  if os.path.realpath(output) != os.path.realpath(workdir / EVALUATION):
    outputs.check_can_be_written(output)
  images = options.split_in_words(options.split)
  if options.samples:
    at = ",".join(map(str, options.temperature or (1.0,)))
    return f"comparing {options.samples} samples at temperature {at} of {model} with {images}, to {output}"
  counts = ",".join(map(str, sorted(options.num_samples or (1,))))
  return f"evaluating {model} on {images}, {counts} sample(s) per image, to {output}"


def _measure_bits(options, model, dataset, about, output, workers):
  """Print a table for each split that is measured, and a line for the gap."""
  from flowpp_tf.evaluation import classify, evaluate_bits_per_dim, measure_codecs, write_record

  counts, split, limit = sorted(options.num_samples or (1,)), options.split, options.limit
  fingerprint, checkpoint = about["data"], about["checkpoint"]
  say = process.phase if workers.chief else lambda line: None

  def measure(split, limit):
    covering, inside = data_options.tiles_to_measure(dataset, split, model.config, limit)
    images = covering.split(split)[:limit]
    what = [checkpoint["sha256"], fingerprint["sha256"], split, len(images), counts, options.batch_size, options.seed]
    name = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]
    say(f"measuring {len(images):,} {split} images, {counts[-1]} sample(s) each")
    result = evaluate_bits_per_dim(
      model,
      images,
      counts,
      options.batch_size,
      options.seed,
      partial=output.with_name(f"evaluation-{name}.npy") if workers.chief else None,
      verbose=int(sys.stderr.isatty() and workers.chief),
      conditioning=data_options.conditioning_of(covering, split, model.config, len(images)),
      inside=inside,
    )
    if workers.chief:
      print(headed_table(f"{dataset.name} {split}", result, fingerprint["digest"]), flush=True)
      if options.codecs:
        say("compressing the images with other codecs")
      codecs = measure_codecs(images, inside) if options.codecs else []
      for codec in codecs:
        print(
          f"  {f'lossless {codec.codec}':<39} {with_error(codec.each, codec.standard_error)} bits/dim, "
          f"{codec.sheet:.4f} on one sheet",
          flush=True,
        )
      write_record(output, split, result, fingerprint, checkpoint, options.seed, codecs)
    return result.best

  held_out = measure(split, limit)
  if options.classify:
    images = dataset.split(split)[:limit]
    labels = data_options.conditioning_of(dataset, split, model.config, len(images))["labels"]
    say("measuring the images given each class")
    result = classify(model, np.asarray(images), labels, counts[-1], options.batch_size, options.seed)
    if workers.chief:
      print(f"{dataset.name} {split}: {result}", flush=True)
  seen = measure("train", len(dataset.split(split)[:limit])) if options.gap else None
  if seen and workers.chief:
    error = math.hypot(held_out.standard_error, seen.standard_error)
    gap = with_error(held_out.bits_per_dim - seen.bits_per_dim, error, "+.4f")
    print(f"gap, {split} - train: {gap} bits/dim")


def _measure_samples(
  options: EvaluateOptions,
  model: "FlowPlusPlus",
  dataset: "ImageDataset",
  settings: dict[str, Any],
  about: dict[str, Any],
  output: pathlib.Path,
  workers: "Workers",
) -> None:
  """Print the figures of samples at some temperatures, and of real images, and write them to the record.

  Args:
    options: of the command.
    model: the model.
    dataset: the data set of `load_data_of_run`.
    settings: settings of the run.
    about: what identifies the data and the weights in the record.
    output: file of the record.
    workers: of which the chief measures.
  """
  from flowpp_tf.evaluation import BatchedModel, FeatureNetwork, SampleEvaluator
  from flowpp_tf.evaluation.record import write_entry
  from flowpp_tf.evaluation.sample_quality import draw_samples

  batched, wanted = BatchedModel(model, options.batch_size), options.samples or 0
  say = process.phase if workers.chief else lambda line: None
  samples = {}
  for temperature in options.temperature or (1.0,):
    say(f"drawing {wanted:,} samples at temperature {temperature}")
    samples[str(temperature)] = draw_samples(batched, dataset, wanted, temperature, options.seed)
  if not workers.chief:
    return
  labelled, reason = data_options.with_labels(dataset, settings, model.config, options.given_data)
  say("training a classifier whose features are compared")
  features = FeatureNetwork.train(labelled)
  evaluator = SampleEvaluator(labelled, features, options.split)
  say("comparing the images")
  real = evaluator.real(wanted)
  found = {temperature: evaluator(images) for temperature, images in samples.items()}
  kind, accuracy = "classes" if features.classes else "rotations", features.accuracy(labelled, options.split)
  chance = 1 / features.network.output_shape[1][-1]
  if accuracy < 2 * chance:
    process.warn(
      f"the classifier of {kind} is right for {accuracy:.2f} of the images, by chance it would be for {chance:.2f}: "
      "it has learned little, and its features say little of samples"
    )
  split = f"{dataset.name} {options.split}"
  count = len(dataset.split(options.split))
  print(f"{split}: {count:,} images, {wanted:,} samples; data {about['data']['digest']}")
  print(
    f"  features of a classifier of {kind}, right for {accuracy:.4f} of them: no figures of Inception's FID"
    + (f"; {reason}" if reason else "")
  )
  print("\n".join(table(real, found)))
  if 0 < len(features.classes) <= _MOST_CLASSES:
    print(
      "\n".join(
        shares_table(
          features.classes, {options.split: evaluator.class_shares, **{t: q.class_shares for t, q in found.items()}}
        )
      ),
      flush=True,
    )
  entry = {"images": count, "features": kind, "accuracy": accuracy, "real": dataclasses.asdict(real)}
  entry["temperatures"] = {temperature: dataclasses.asdict(quality) for temperature, quality in found.items()}
  write_entry(output, f"{options.split} samples", {**entry, **about, "seed": options.seed})


def table(real: "SampleQuality", found: "dict[str, SampleQuality]") -> list[str]:
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


def headed_table(name: str, result: "BitsPerDim", digest: str) -> str:
  """Return the table of bits/dim of a split, whose first line names the split and the digest of the data."""
  head, *rows = str(result).splitlines()
  return "\n".join([f"{name}: {head}; data {digest}", *rows])
