"""Measure bits/dim of a trained model on a split of its data.

bin/evaluate --workdir=runs/digits --split=test --num_samples=1,16,256
bin/evaluate --preset=photos --codecs
bin/evaluate --preset=digits --samples=2000 --temperature=0.8,1.0 --split=validation

Prints a table and writes WORKDIR/evaluation.json. The same command resumes after it was killed.
"""

import dataclasses
import math
import pathlib
import sys

import numpy as np

from flowpp_tf.core.environment import check_extra
from flowpp_tf.core.errors import InputError, with_error
from flowpp_tf.core.registry import SPLITS
from flowpp_tf.core.settings import Range, Rule, at_least, one_of, setting
from flowpp_tf.io.model_folders import EVALUATION
from flowpp_tf.programs import data_options, outputs, process
from flowpp_tf.programs.data_options import DataOptions
from flowpp_tf.programs.imports import import_tensorflow
from flowpp_tf.programs.model_options import DeviceOptions, PrecisionOptions, load_on_devices
from flowpp_tf.programs.options import SEED, TEMPERATURES

_BITS_OPTIONS = ("num_samples", "limit", "gap", "codecs", "classify")  # invalid with --samples
_MOST_CLASSES = 20  # shares of more classes are not printed
_NEAREST = "nearest training image, RMS in levels: median, lowest 1 %"
_COUNTS = Range(
  lambda counts: len(counts) > 0 and all(1 <= count <= 1 << 20 for count in counts),
  "positive integers of at most 1,048,576, such as 1,16,256",
)


@dataclasses.dataclass(frozen=True)
class EvaluateOptions(DeviceOptions, DataOptions, PrecisionOptions):
  """Options of bin/evaluate."""

  RULES = (
    Rule("gap", lambda options: options.split != "train", "left out with --split=train, which it compares with"),
    Rule("temperature", lambda options: options.samples is not None, "left out without --samples"),
    *(Rule(name, lambda options: options.samples is None, "left out with --samples") for name in _BITS_OPTIONS),
  )

  split: str = setting("test", "Split.", one_of(*SPLITS))
  num_samples: tuple[int, ...] = setting(
    (1,),
    "Samples of the importance-weighted bound. Give one number or several such as 1,16,256; the single-sample bound is "
    "always measured.",
    _COUNTS,
  )
  batch_size: int = setting(100, "Batch size.", at_least(1, 1 << 16))
  limit: int | None = setting(None, "Number of images, from the start; all if not given.", at_least(1))
  gap: bool = setting(False, "Measure as many training images too, and print the difference.")
  codecs: bool = setting(
    False, "Print the bits/dim of PNG, WebP, JPEG XL, JPEG-LS, bzip2 and xz for the same images, lossless."
  )
  classify: bool = setting(
    False,
    "Classify the images, for a model with classes. It prints the accuracy of the most likely class, and the bits/dim "
    "that labels save, with the largest of --num_samples.",
  )
  samples: int | None = setting(
    None,
    "Number of samples to measure, instead of bits/dim. It prints the Frechet distance between a small classifier's "
    "features of samples and of the split, nearest training images, class balance, and the same of real images. The "
    "classifier is trained on the data's training images.",
    at_least(20, 100_000),
  )
  temperature: tuple[float, ...] = setting(
    (1.0,),
    "Factor of the standard deviation of the latents of --samples. Several values, such as 0.8,1.0, are a row each.",
    TEMPERATURES,
  )
  seed: int = setting(0, "Seed of the dequantization noise, and of --samples.", SEED)
  output: str | None = setting(
    None,
    "File for the results; WORKDIR/evaluation.json if not given. An evaluation that was stopped is kept next to it.",
  )


def run(options: EvaluateOptions) -> None:
  """Measure, print and record the results."""
  process.phase(_plan(options))
  import_tensorflow()
  from flowpp_tf.evaluation import read_record

  workdir, workers, model, settings = load_on_devices(options)
  if options.classify and not model.config.num_classes:
    raise InputError("--classify is for a model with classes, and this one has none")
  if model.has_exact_density and (options.codecs or options.samples):
    name = "codecs" if options.codecs else "samples"
    raise InputError(f"--{name} is for integer images, and the model's are real-valued")
  dataset = data_options.load_data_of_run(settings, model.config, options.given_data)
  output = workdir.evaluation if options.output is None else pathlib.Path(options.output)
  read_record(output)
  about = {"data": dataset.fingerprint(), "checkpoint": workdir.weights_info()}
  if options.samples:
    _measure_samples(options, model, dataset, settings, about, output, workers)
  else:
    _measure_bits(options, model, dataset, about, output, workers)


def _plan(options):
  """Return a line on the work ahead; raise an `InputError` for missing packages or an output that cannot be written."""
  if options.codecs:
    check_extra("imagecodecs", "codecs", "--codecs")
  model, workdir = options.find_model()
  options.check_output(options.output, workdir)
  output = options.output or workdir / EVALUATION
  if not outputs.are_one(output, workdir / EVALUATION):
    outputs.check_can_be_written(output, outputs.RECORD)
  images = options.split_in_words(options.split)
  if options.samples:
    return f"comparing {options.samples} samples of {model} with {images}, to {output}"
  return f"evaluating {model} on {images}, to {output}"


def _measure_bits(options, model, dataset, about, output, workers):
  """Print a table for each measured split, and a line for the gap."""
  from flowpp_tf.evaluation import classify, evaluate_bits_per_dim, measure_codecs, write_record

  counts = sorted(options.num_samples)
  split = options.split
  fingerprint = about["data"]

  def measure(split, limit):
    images, conditioning, inside = data_options.images_to_measure(dataset, split, model.config, limit)
    process.phase(f"measuring {len(images):,} {split} images, {counts[-1]} sample(s) each")
    result = evaluate_bits_per_dim(
      model,
      images,
      counts,
      options.batch_size,
      options.seed,
      partial=output.parent if workers.chief else None,
      verbose=int(sys.stderr.isatty() and workers.chief),
      conditioning=conditioning,
      inside=inside,
    )
    if workers.chief:
      print(f"{dataset.name} {split}, data {fingerprint['digest']}: {result}", flush=True)
      if options.codecs:
        process.phase("compressing the images with other codecs")
      codecs = measure_codecs(images, inside) if options.codecs else []
      for codec in codecs:
        print(
          f"  {f'lossless {codec.codec}':<39} {with_error(codec.each, codec.standard_error)} bits/dim, "
          f"{codec.sheet:.4f} on one sheet",
          flush=True,
        )
      write_record(output, split, result, fingerprint, about["checkpoint"], options.seed, codecs)
    return result.best, images, conditioning

  held_out, images, conditioning = measure(split, options.limit)
  if options.classify:
    process.phase("measuring the images given each class")
    labels = conditioning["labels"]
    result = classify(model, np.asarray(images), labels, counts[-1], options.batch_size, options.seed)
    if workers.chief:
      print(f"{dataset.name} {split}: {result}", flush=True)
  if options.gap:
    train, _, _ = measure("train", len(dataset.split(split)[: options.limit]))
    error = math.hypot(held_out.standard_error, train.standard_error)
    gap = with_error(held_out.bits_per_dim - train.bits_per_dim, error, "+.4f")
    if workers.chief:
      print(f"gap, {split} - train: {gap} bits/dim")


def _measure_samples(options, model, dataset, settings, about, output, workers):
  """Print and record the figures of samples at each temperature, and of real images."""
  from flowpp_tf.evaluation import BatchedModel, FeatureNetwork, SampleEvaluator
  from flowpp_tf.evaluation.record import write_entry
  from flowpp_tf.evaluation.sample_quality import draw_samples

  batched = BatchedModel(model, options.batch_size)
  num_samples = options.samples or 0
  samples = {}
  for temperature in options.temperature:
    process.phase(f"drawing {num_samples:,} samples at temperature {temperature}")
    samples[str(temperature)] = draw_samples(batched, dataset, num_samples, temperature, options.seed)
  if not workers.chief:
    return
  name = options.dataset or settings["dataset"]
  given = data_options.complete_settings(options.given_data, name, settings)
  labelled = data_options.load_with_labels(given, model.config) or dataset
  process.phase("training a classifier whose features are compared")
  features = FeatureNetwork.train(labelled)
  evaluator = SampleEvaluator(features, options.split)
  process.phase("comparing the images")
  real = evaluator.real(num_samples)
  qualities = {temperature: evaluator(images) for temperature, images in samples.items()}
  kind = "classes" if labelled.classes else "rotations"
  accuracy = features.accuracy(options.split)
  count = len(dataset.split(options.split))
  print(
    f"{dataset.name} {options.split}, data {about['data']['digest']}: {count:,} images, {num_samples:,} samples\n"
    f"  features of a classifier of {kind}, right for {accuracy:.4f} of them: no figures of Inception's FID"
  )
  rows = [[f"real, {real.images:,} of train", *_texts(real)]]
  rows += [[f"temperature {temperature}", *_texts(quality)] for temperature, quality in qualities.items()]
  _print_table(["", "Frechet distance", _NEAREST, "class imbalance"], rows)
  if 0 < len(labelled.classes) <= _MOST_CLASSES:
    columns = [evaluator.class_shares, *(quality.class_shares for quality in qualities.values())]
    rows = [[name, *(f"{100 * share:.1f}" for share in shares)] for name, *shares in zip(labelled.classes, *columns)]
    _print_table(["share of a class, %", options.split, *qualities], rows)
  entry = {"images": count, "features": kind, "accuracy": accuracy, "real": dataclasses.asdict(real)}
  entry["temperatures"] = {temperature: dataclasses.asdict(quality) for temperature, quality in qualities.items()}
  write_entry(output, f"{options.split} samples", {**entry, **about, "seed": options.seed})


def _texts(quality):
  """Return the figures of samples as texts of the table."""
  distance = with_error(quality.frechet_distance, quality.standard_error, ".2f")
  imbalance = "" if quality.imbalance is None else f"{quality.imbalance:.3f}"
  return [distance, f"{quality.neighbour_distance:.2f}, {quality.closest:.2f}", imbalance]


def _print_table(head, rows):
  """Print rows of texts in aligned columns."""
  widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
  for row in [head, *rows]:
    print("  " + "  ".join(map(str.ljust, row, widths)).rstrip(), flush=True)
