"""Trains Flow++ and leaves the run in a working directory.

bin/train --config=digits

A config brings the flags of its recipe, configs/NAME.flags; those that are given replace them.
"""

import contextlib
import dataclasses
import shlex
import sys
from typing import Any

from absl import flags
import numpy as np
import tensorflow as tf

from flowpp_tf.config import CONFIGS, PRECISIONS, FlowPlusPlusConfig, Recipe, RunSettings, TrainingConfig
from flowpp_tf.core.errors import InputError
from flowpp_tf.data import ImageDataset
from flowpp_tf.evaluation import BatchedModel, evaluate_bits_per_dim, plot_curves, reconstruct, write_record
from flowpp_tf.models import InitialWeights
from flowpp_tf.programs import data_flags, device_flags, process, run
from flowpp_tf.programs.sample_pictures import by_class, samples
from flowpp_tf.training import Diverged, Stopped, Workdir, Workers, run_training

_QUICK = 150  # steps
_RECONSTRUCTED, _ROUNDING = 64, 1e-4  # images; share of their pixels that may differ by rounding


def define_flags() -> None:
  """Define the program's flags."""
  flags.DEFINE_string("config", "digits", f"Model, one of {', '.join(CONFIGS)}.")
  run.define_settings_flags(FlowPlusPlusConfig, "The model, fields of FlowPlusPlusConfig", default="that of the config")
  run.define_settings_flags(TrainingConfig, "Training, fields of TrainingConfig")
  run.define_float("epochs", None, "Passes over the training data, instead of steps.", 0, 1e6)
  flags.DEFINE_enum(
    "precision",
    None,
    list(PRECISIONS),
    "Precision of the networks, instead of --dtype; weights, couplings and sums are float32.",
  )
  data_flags.define_data_flags(default="the config's name")
  flags.DEFINE_integer(
    "image_size",
    None,
    "Height and width of the model's images, to which those of a folder are "
    "cropped and resized; the config's if not given.",
    lower_bound=1,
    upper_bound=1 << 16,
  )
  flags.DEFINE_bool(
    "labels",
    False,
    "Train a model of images given their class, as many classes as the data have; "
    "the same as --num_classes with their number.",
  )
  flags.DEFINE_bool(
    "quick",
    False,
    "A short run to see how it goes: at most 150 steps and 64 test images, about a "
    "minute for the small configs, in runs/CONFIG_quick.",
  )
  flags.DEFINE_string(
    "workdir", None, "Directory of the run; runs/CONFIG if not given. The same command resumes the run that it holds."
  )
  flags.DEFINE_string(
    "init_from",
    None,
    "Trained weights to begin with: a preset's name, the directory of a run, or "
    "an .npz file of the published release. The data-dependent initialisation if not given.",
  )
  flags.DEFINE_bool("accept_unchecked", False, "Use weights of --init_from that have lost their checksum.")
  flags.DEFINE_bool(
    "deterministic", False, "The same weights to the last bit in every run on a device, where that costs speed."
  )
  flags.DEFINE_integer(
    "num_samples", 64, "Samples of the importance-weighted bound at the end.", lower_bound=1, upper_bound=1 << 20
  )
  flags.DEFINE_integer(
    "eval_images", None, "Test images at the end; all if not given.", lower_bound=1, upper_bound=1 << 31
  )
  device_flags.define_device_flags()


def train_from_flags() -> None:
  """Read the flags, then train and test."""
  given = flags.FLAGS
  settings = run.settings_from_flags(FlowPlusPlusConfig, TrainingConfig, RunSettings)
  recipe = Recipe.load(given.config).replace(**settings)
  if given.labels:  # the data say how many classes there are
    recipe = recipe.replace(num_classes=recipe.settings.get("num_classes", recipe.base.num_classes) or 1)
  if given.image_size is not None:
    recipe = recipe.replace(image_shape=_image_shape(given.image_size, recipe.config, settings))
  strategy = device_flags.strategy_from_flags(given.deterministic)  # before data use a device
  data = data_flags.complete_settings(recipe.settings, given.config)
  if recipe.config.condition_shape:
    raise InputError(
      "`condition_shape` must be empty: `flowpp_tf.training.run_training` trains such a model, given the "
      "function that makes the condition of images"
    )
  dataset = data_flags.load_from_settings(data, recipe.config, any_classes=given.labels)
  if given.labels:
    recipe = recipe.replace(num_classes=dataset.num_classes)
  config, training = recipe.resolve(dataset)
  num_samples, eval_images = recipe.settings.get("num_samples", given.num_samples), given.eval_images
  if given.quick:
    training = dataclasses.replace(
      training, steps=min(training.steps, _QUICK), validate_every=min(training.validate_every or _QUICK, _QUICK // 3)
    )
    num_samples, eval_images = min(num_samples, 4), min(eval_images or 64, 64)
    _say(f"--quick: {training.steps} steps, about a minute where the config is small; the model is not good yet")
  init_from = None if given.init_from is None else InitialWeights.find(given.init_from, given.accept_unchecked)
  name = f"{given.config}_quick" if given.quick else given.config
  workdir = Workdir(f"runs/{name}" if given.workdir is None else given.workdir)
  best = _train(config, training, dataset, workdir, data, init_from, strategy)
  if best is not None:
    _say(f"best validation: {best:.4f} bits/dim; its weights from here on")
    try:
      _test(workdir, dataset, num_samples, eval_images, training.seed)
    except process.Interrupted as interrupted:
      process.say("", f"{interrupted} after the last step, which is saved; the same command measures the test split")
      sys.exit(process.STOPPED_AND_SAVED)


def _image_shape(size: int, config: FlowPlusPlusConfig, settings: dict[str, Any]) -> tuple[int, ...]:
  """Return the config's image shape with the height and width of --image_size."""
  if "image_shape" in settings and config.image_shape[:2] != (size, size):
    shape = ",".join(map(str, config.image_shape))
    raise InputError(f"--image_size={size} and --image_shape={shape} say two things; give one of them")
  return size, size, config.image_shape[2]


def _say(line: str) -> None:
  """Print a line; a run does not end because nobody reads its lines any more."""
  with contextlib.suppress(OSError):
    print(line, flush=True)


def _train(
  config: FlowPlusPlusConfig,
  training: TrainingConfig,
  dataset: ImageDataset,
  workdir: Workdir,
  record: dict[str, Any],
  init_from: InitialWeights | None,
  strategy: tf.distribute.Strategy,
) -> float | None:
  """Train; return the best validation, or None if there is nothing more to do in this process."""
  chief = Workers(strategy).chief
  try:
    best = run_training(
      config,
      training,
      dataset,
      workdir,
      extra_metadata=record,
      init_from=init_from,
      strategy=strategy,
      progress_bar=sys.stderr.isatty(),
      log_fn=_say,
    )
    return best if chief else None
  except Stopped as stopped:
    if not stopped.saved:
      run.fail(f"{stopped}; the same command resumes there", process.STOPPED_NOT_SAVED)
    if chief:
      _say(f"{stopped}; the same command resumes there")
    sys.exit(process.STOPPED_AND_SAVED)
  except KeyboardInterrupt:
    run.fail("stopped by a second Ctrl-C; the same command resumes at the newest checkpoint", process.STOPPED_NOT_SAVED)
  except Diverged as error:
    run.fail(
      f"{error}; the newest checkpoint in {workdir.checkpoints} is of before; try a lower "
      "--learning_rate or --clip_norm, and --debug_numerics to see where it begins",
      process.FAILED,
    )


def _test(workdir: Workdir, dataset: ImageDataset, num_samples: int, eval_images: int | None, seed: int) -> None:
  """Measure the test split, draw curves and samples, and say what to do next."""
  model, _ = workdir.load()
  given = data_flags.given_of(dataset, "test", model.config, eval_images)
  _say(f"measuring {len(dataset.test[:eval_images]):,} test images, {num_samples} sample(s) each")
  result = evaluate_bits_per_dim(model, dataset.test[:eval_images], num_samples, given=given)
  fingerprint = dataset.fingerprint()
  write_record(workdir.evaluation, "test", result, fingerprint, workdir.weights_info(), seed=0)
  _say(f"test: {result}; data {fingerprint['digest']}")
  batched, classes = BatchedModel(model), range(model.config.num_classes)
  _say("drawing samples and curves")
  picture = by_class(batched, classes, 8, 1.0, seed) if classes else samples(batched, 64, 1.0, seed)
  run.replace(workdir.samples, picture.grid.save)
  run.replace(workdir.curves, lambda path: plot_curves(workdir.rows(), path))
  _warn_of_inexact_reconstructions(batched, dataset)
  _say(f"wrote {workdir.samples}, {workdir.curves} and {workdir.metrics}")
  _say("next:")
  _say(f"  {run.sibling_command('sample')} --workdir={shlex.quote(str(workdir.path))} --n=100 --temperature=0.8")
  _say(f"  {run.sibling_command('evaluate')} --workdir={shlex.quote(str(workdir.path))} --num_samples=256")


def _warn_of_inexact_reconstructions(batched, dataset):
  """Warn if images do not come back from their latents, as where all training images are the same."""
  if batched.model.config.num_classes or batched.model.config.condition_shape:
    return
  result = reconstruct(batched, dataset.test[:_RECONSTRUCTED])
  share = np.count_nonzero(result.differences) / result.differences.size
  if share > _ROUNDING:
    run.warn(
      f"decode(encode(image)) is not exact: {result} in {len(result.images)} test images. The flow spreads them "
      "too far for its precision, as where training images hardly differ: --flow_dtype=float64 helps, or more "
      "varied images"
    )


def main() -> None:
  """Entry point of `flowpp-train` and `bin/train`."""
  define_flags()
  run.run_program(train_from_flags)
