"""Measure bits/dim of a trained model on a split of its data, or its samples. The flags are in evaluate_flags.py."""

import hashlib
import json
import math
import pathlib
import sys

from absl import flags
import numpy as np

from flowpp_tf.core.errors import InputError, with_error
from flowpp_tf.evaluation import classify, evaluate_bits_per_dim, measure_codecs, read_record, write_record
from flowpp_tf.programs import data_flags, device_flags, flag_kinds, model_flags, process
from flowpp_tf.programs.evaluate_flags import counts_from_flags
from flowpp_tf.programs.evaluate_samples import samples_from_flags
from flowpp_tf.programs.figures import headed_table
from flowpp_tf.training import Workers

FLAGS = flags.FLAGS


def evaluate_from_flags() -> None:
  """Print and record the figures that the flags ask for."""
  workdir, workers = model_flags.workdir_from_flags(), Workers(device_flags.strategy_from_flags())
  with workers.scope():
    model, settings = model_flags.load_from_flags(workdir)
  if FLAGS.classify and not model.config.num_classes:
    raise InputError("--classify is for a model with classes, and this one has none")
  if model.has_exact_density and (FLAGS.codecs or FLAGS.samples):
    raise InputError(
      f"--{'codecs' if FLAGS.codecs else 'samples'} is for integer images, and the model's are real-valued"
    )
  dataset, fingerprint = data_flags.load_data_of_run(settings, model.config, flag_kinds.given_from_flags())
  output = workdir.evaluation if FLAGS.output is None else pathlib.Path(FLAGS.output)
  read_record(output)
  checkpoint = workdir.weights_info()
  if FLAGS.samples:
    samples_from_flags(model, dataset, settings, {"data": fingerprint, "checkpoint": checkpoint}, output, workers)
  else:
    _bits_from_flags(model, dataset, fingerprint, checkpoint, output, workers)


def _bits_from_flags(model, dataset, fingerprint, checkpoint, output, workers):
  """Print a table for each split that is measured, and a line for the gap."""
  counts = counts_from_flags()
  say = process.phase if workers.chief else lambda line: None

  def measure(split, limit):
    covering, inside = data_flags.tiles_to_measure(dataset, split, model.config, limit)
    images = covering.split(split)[:limit]
    what = [checkpoint["sha256"], fingerprint["sha256"], split, len(images), counts, FLAGS.batch_size, FLAGS.seed]
    name = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]
    say(f"measuring {len(images):,} {split} images, {counts[-1]} sample(s) each")
    result = evaluate_bits_per_dim(
      model,
      images,
      counts,
      FLAGS.batch_size,
      FLAGS.seed,
      partial=output.with_name(f"evaluation-{name}.npy") if workers.chief else None,
      verbose=int(sys.stderr.isatty() and workers.chief),
      conditioning=data_flags.given_of(covering, split, model.config, len(images)),
      inside=inside,
    )
    if workers.chief:
      print(headed_table(f"{dataset.name} {split}", result, fingerprint["digest"]), flush=True)
      if FLAGS.codecs:
        say("compressing the images with other codecs")
      codecs = measure_codecs(images, inside) if FLAGS.codecs else []
      for codec in codecs:
        print(
          f"  {f'lossless {codec.codec}':<39} {with_error(codec.each, codec.standard_error)} bits/dim, "
          f"{codec.sheet:.4f} on one sheet",
          flush=True,
        )
      write_record(output, split, result, fingerprint, checkpoint, FLAGS.seed, codecs)
    return result.best

  held_out = measure(FLAGS.split, FLAGS.limit)
  if FLAGS.classify:
    images = dataset.split(FLAGS.split)[: FLAGS.limit]
    labels = data_flags.given_of(dataset, FLAGS.split, model.config, len(images))["labels"]
    say("measuring the images given each class")
    result = classify(model, np.asarray(images), labels, counts[-1], FLAGS.batch_size, FLAGS.seed)
    if workers.chief:
      print(f"{dataset.name} {FLAGS.split}: {result}", flush=True)
  seen = measure("train", len(dataset.split(FLAGS.split)[: FLAGS.limit])) if FLAGS.gap else None
  if seen and workers.chief:
    error = math.hypot(held_out.standard_error, seen.standard_error)
    gap = with_error(held_out.bits_per_dim - seen.bits_per_dim, error, "+.4f")
    print(f"gap, {FLAGS.split} - train: {gap} bits/dim")
