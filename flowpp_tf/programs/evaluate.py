"""Measure bits/dim of a trained model on a split of its data.

bin/evaluate --workdir=runs/digits --split=test --num_samples=1,16,256
bin/evaluate --preset=photos --codecs

Prints a line and writes WORKDIR/evaluation.json. The same command resumes after it was killed.
"""

import hashlib
import json
import math
import os
import pathlib
import sys

from absl import flags
import numpy as np

from flowpp_tf.data import SPLITS
from flowpp_tf.evaluation import (
  check_codecs,
  classify,
  evaluate_bits_per_dim,
  measure_codecs,
  read_record,
  write_record,
)
from flowpp_tf.programs import data_flags, device_flags, model_flags, run
from flowpp_tf.training import Workers

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Define the program's flags."""
  model_flags.define_model_flags()
  flags.DEFINE_string("split", "test", f"One of {', '.join(SPLITS)}.")
  flags.DEFINE_list(
    "num_samples",
    "1",
    "Samples of the importance-weighted bound, one number or several "
    "such as 1,16,256; the single-sample bound is always measured.",
  )
  flags.DEFINE_integer("batch_size", 100, "Batch size.", lower_bound=1, upper_bound=1 << 16)
  flags.DEFINE_integer(
    "limit", None, "Number of images, from the start; all if not given.", lower_bound=1, upper_bound=1 << 31
  )
  flags.DEFINE_bool("gap", False, "Measure as many training images too, and print the difference.")
  flags.DEFINE_bool(
    "codecs", False, "Print what PNG, WebP, JPEG XL, JPEG-LS, bzip2 and xz need for the same images, lossless."
  )
  flags.DEFINE_bool(
    "classify",
    False,
    "Of a model with classes, print how often the class of largest likelihood is "
    "right, and what labels are worth, with the largest of --num_samples.",
  )
  data_flags.define_data_flags(default="that of the run")
  device_flags.define_device_flags()
  flags.DEFINE_integer("seed", 0, "Seed of the dequantization noise.", lower_bound=-1 << 63, upper_bound=(1 << 63) - 1)
  flags.DEFINE_string("output", None, "File for the results; WORKDIR/evaluation.json if not given.")


def evaluate_from_flags() -> None:
  """Print a line for each split that is measured, and one for the gap."""
  counts = _counts(FLAGS.num_samples)
  if FLAGS.codecs:
    check_codecs()
  workdir, workers = model_flags.workdir_from_flags(), Workers(device_flags.strategy_from_flags())
  with workers.scope():
    model, settings = workdir.load()
  if FLAGS.classify and not model.config.num_classes:
    raise run.InputError("--classify is for a model with classes, and this one has none")
  dataset, fingerprint = data_flags.load_data_of_run(settings, model.config, run.given_from_flags())
  output = workdir.evaluation if FLAGS.output is None else pathlib.Path(FLAGS.output)
  if os.path.realpath(output) != os.path.realpath(workdir.evaluation):
    run.check_can_be_written(FLAGS.output)  # fail before the measurement, not after it
  read_record(output)
  checkpoint = workdir.weights_info()

  def measure(split, images):
    what = [checkpoint["sha256"], fingerprint["sha256"], split, len(images), counts, FLAGS.batch_size, FLAGS.seed]
    name = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]
    result = evaluate_bits_per_dim(
      model,
      images,
      counts,
      FLAGS.batch_size,
      FLAGS.seed,
      partial=workdir.path / f"evaluation-{name}.npy" if workers.chief else None,
      verbose=int(sys.stderr.isatty() and workers.chief),
      given=data_flags.given_of(dataset, split, model.config, len(images)),
    )
    if workers.chief:
      print(f"{dataset.name} {split}: {result}; data {fingerprint['digest']}", flush=True)
      codecs = measure_codecs(images) if FLAGS.codecs else []
      for codec in codecs:
        print(f"  lossless {codec}", flush=True)
      write_record(output, split, result, fingerprint, checkpoint, FLAGS.seed, codecs)
    return result.best

  images = dataset.split(FLAGS.split)[: FLAGS.limit]
  held_out = measure(FLAGS.split, images)
  if FLAGS.classify:
    labels = data_flags.given_of(dataset, FLAGS.split, model.config, len(images))["labels"]
    result = classify(model, np.asarray(images), labels, counts[-1], FLAGS.batch_size, FLAGS.seed)
    if workers.chief:
      print(f"{dataset.name} {FLAGS.split}: {result}", flush=True)
  seen = measure("train", dataset.train[: len(images)]) if FLAGS.gap else None
  if seen and workers.chief:
    print(
      f"gap, {FLAGS.split} - train: {held_out.bits_per_dim - seen.bits_per_dim:+.4f} +- "
      f"{math.hypot(held_out.standard_error, seen.standard_error):.4f} bits/dim"
    )


def _counts(texts):
  try:
    counts = sorted(map(int, texts))
  except ValueError:
    counts = []
  if not counts or counts[0] < 1 or counts[-1] > 1 << 20:
    raise run.InputError(
      f"`num_samples` must be positive integers of at most 1,048,576, such as 1,16,256, got {','.join(texts)!r}"
    )
  return counts


def main() -> None:
  """Entry point of `flowpp-evaluate` and `bin/evaluate`."""
  define_flags()
  run.run_program(evaluate_from_flags)
