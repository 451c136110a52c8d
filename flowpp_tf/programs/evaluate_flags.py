"""Measure bits/dim of a trained model on a split of its data.

bin/evaluate --workdir=runs/digits --split=test --num_samples=1,16,256
bin/evaluate --preset=photos --codecs
bin/evaluate --preset=digits --samples=2000 --temperature=0.8,1.0 --split=validation

Prints a table and writes WORKDIR/evaluation.json. The same command resumes after it was killed.
"""

import os

from absl import flags

from flowpp_tf.core.environment import check_extra
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import SPLITS
from flowpp_tf.io.model_folders import EVALUATION
from flowpp_tf.programs import data_flags, device_flags, flag_kinds, model_flags, run
from flowpp_tf.programs.sample_flags import temperatures_from_flags

COMMON = "preset workdir dataset split num_samples limit gap codecs classify samples temperature output".split()


def define_flags() -> None:
  """Define the program's flags."""
  model_flags.define_model_flags()
  model_flags.define_precision_flag()
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
  flags.DEFINE_integer(
    "samples",
    None,
    "Measure so many samples rather than bits/dim: Frechet distance of a small classifier's features to those of the "
    "split, nearest training images, class balance, and the same of real images. The classifier is trained on the "
    "data's training images, once: --cache_dir keeps it.",
    lower_bound=20,
    upper_bound=100_000,
  )
  flags.DEFINE_list(
    "temperature",
    ["1.0"],
    "Of --samples: factor of the standard deviation of the latents; several values, such as 0.8,1.0, are a row each.",
  )
  data_flags.define_data_flags(default="that of the run")
  device_flags.define_device_flags()
  flags.DEFINE_integer(
    "seed", 0, "Seed of the dequantization noise, and of --samples.", lower_bound=-1 << 63, upper_bound=(1 << 63) - 1
  )
  flags.DEFINE_string(
    "output",
    None,
    "File for the results; WORKDIR/evaluation.json if not given. An evaluation that was stopped is kept beside it.",
  )


def plan_from_flags() -> str:
  """Return what will be done; raise an `InputError` for what is wrong already."""
  given, counts = flags.FLAGS, counts_from_flags()
  temperatures = temperatures_from_flags()
  _check_kind(flag_kinds.given_from_flags())
  if given.codecs:
    check_extra("imagecodecs", "codecs", "--codecs")
  model, workdir = model_flags.model_from_flags()
  model_flags.check_output_from_flags(workdir)
  output = workdir / EVALUATION if given.output is None else given.output
  if os.path.realpath(output) != os.path.realpath(workdir / EVALUATION):
    run.check_can_be_written(output)
  images = data_flags.images_from_flags()
  if given.samples:
    at = ",".join(map(str, temperatures))
    return f"comparing {given.samples} samples at temperature {at} of {model} with {images}, to {output}"
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


def _check_kind(given):
  """Raise an `InputError` for flags of bits/dim together with --samples, and for those of samples without it."""
  if given.get("gap") and given.get("split") == "train":
    raise InputError("--gap is that to the training images, and --split=train measures these; give another split")
  if "samples" not in given:
    if "temperature" in given:
      raise InputError("--temperature is for --samples, which must be a number of samples")
    return
  for name in ("num_samples", "limit", "gap", "codecs", "classify"):
    if name in given and given[name] is not False:
      raise InputError(f"--{name} is for bits/dim, and does not go with --samples")
