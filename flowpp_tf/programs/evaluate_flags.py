"""Measure bits/dim of a trained model on a split of its data.

bin/evaluate --workdir=runs/digits --split=test --num_samples=1,16,256
bin/evaluate --preset=photos --codecs

Prints a table and writes WORKDIR/evaluation.json. The same command resumes after it was killed.
"""

import os

from absl import flags

from flowpp_tf.core.errors import InputError
from flowpp_tf.core.extras import check_extra
from flowpp_tf.core.registry import SPLITS
from flowpp_tf.io.model_folders import EVALUATION
from flowpp_tf.programs import data_flags, device_flags, flag_kinds, model_flags, run

COMMON = "preset workdir dataset split num_samples limit gap codecs classify output".split()


def define_flags() -> None:
  """Define the program's flags."""
  model_flags.define_model_flags()
  flag_kinds.define_name("split", "test", SPLITS, "Split.")
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


def plan_from_flags() -> str:
  """Return what will be done; raise an `InputError` for what is wrong already."""
  given, counts = flags.FLAGS, counts_from_flags()
  if given.codecs:
    check_extra("imagecodecs", "--codecs")
  model, workdir = model_flags.model_from_flags()
  output = workdir / EVALUATION if given.output is None else given.output
  if os.path.realpath(output) != os.path.realpath(workdir / EVALUATION):
    run.check_can_be_written(output)
  images = data_flags.images_from_flags()
  return f"evaluating {model} on {images}, {','.join(map(str, counts))} sample(s) per image, to {output}"


def counts_from_flags() -> list[int]:
  """Return the numbers of samples of the bounds."""
  texts = flags.FLAGS.num_samples
  try:
    counts = sorted(map(int, texts))
  except ValueError:
    counts = []
  if not counts or counts[0] < 1 or counts[-1] > 1 << 20:
    raise InputError(
      f"`num_samples` must be positive integers of at most 1,048,576, such as 1,16,256, got {','.join(texts)!r}"
    )
  return counts
