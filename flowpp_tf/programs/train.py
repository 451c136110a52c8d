"""Train a model, test it, and say what to do next. The flags are in train_flags.py."""

import contextlib
import dataclasses
import shlex
import sys
from typing import Any

from absl import flags
import tensorflow as tf

from flowpp_tf.config import FlowPlusPlusConfig, TrainingConfig
from flowpp_tf.core.errors import InputError
from flowpp_tf.data import ImageDataset
from flowpp_tf.evaluation import BatchedModel, evaluate_bits_per_dim, plot_curves, reconstruct, write_record
from flowpp_tf.models import FlowPlusPlus, InitialWeights
from flowpp_tf.pretrained.stored_config import with_precision
from flowpp_tf.programs import data_flags, device_flags, flag_kinds, process, run
from flowpp_tf.programs.figures import headed_table
from flowpp_tf.programs.sample_grids import by_class, samples, warn_of_differences, whole_pictures
from flowpp_tf.programs.train_flags import QUICK_STEPS, recipe_from_flags, workdir_path_from_flags
from flowpp_tf.training import Diverged, Stopped, Workdir, Workers, run_training

_RECONSTRUCTED = 64  # images


def train_from_flags() -> None:
  """Read the flags, then train and test."""
  given, recipe = flags.FLAGS, recipe_from_flags()
  batch_size = recipe.settings.get("batch_size", TrainingConfig.batch_size)
  strategy = device_flags.strategy_from_flags(given.deterministic, batch_size)  # before data use a device
  init_from = None
  if given.init_from is not None:
    init_from = InitialWeights.find(given.init_from, given.accept_unchecked)
    if not given.labels:  # else the data say how many classes there are
      init_from.load(FlowPlusPlus(recipe.config))
  data = data_flags.complete_settings(recipe.settings, given.config)
  dataset = data_flags.load_from_settings(data, recipe.config, any_classes=given.labels)
  if given.labels:
    if flag_kinds.given_from_flags().get("num_classes") not in (None, dataset.num_classes):
      raise InputError(
        f"--num_classes={given.num_classes} and --labels say two things: data set {dataset.name!r} has "
        f"{dataset.num_classes} classes; give one of them"
      )
    recipe = recipe.replace(num_classes=dataset.num_classes)
  config, training = recipe.resolve(dataset)
  num_samples, eval_images = recipe.settings.get("num_samples", given.num_samples), given.eval_images
  if given.quick:
    training = dataclasses.replace(
      training,
      steps=min(training.steps, QUICK_STEPS),
      validate_every=min(training.validate_every or QUICK_STEPS, QUICK_STEPS // 3),
    )
    num_samples, eval_images = min(num_samples, 4), min(eval_images or 64, 64)
    _say(f"--quick: {training.steps} steps, about a minute where the config is small; the model is not good yet")
  workdir = Workdir(workdir_path_from_flags())
  best = _train(config, training, dataset, workdir, data, init_from, strategy)
  if config.pixel_levels is None:
    num_samples = 1  # the density is exact
  if best is not None:
    after = with_precision(config).precision
    _say(f"best validation: {best:.4f} bits/dim in {config.precision}; its weights from here on, in {after} networks")
    try:
      _test(workdir, dataset, num_samples, eval_images, training.seed)
    except process.Interrupted as interrupted:
      process.say("", f"{interrupted} after the last step, which is saved; the same command measures the test split")
      sys.exit(process.STOPPED_AND_SAVED)


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
    with_flags = str(error).replace(" `", " --").replace("`", "")
    run.fail(
      f"{with_flags}, and --debug_numerics to see where it begins; the newest checkpoint in {workdir.checkpoints} is "
      "of before",
      process.FAILED,
    )


def _test(workdir: Workdir, dataset: ImageDataset, num_samples: int, eval_images: int | None, seed: int) -> None:
  """Measure the test split, draw curves and samples, and say what to do next."""
  model, _ = workdir.load()
  fingerprint = dataset.fingerprint()
  dataset, inside = data_flags.tiles_to_measure(dataset, "test", model.config, eval_images)
  given = data_flags.given_of(dataset, "test", model.config, eval_images)
  images, shown = dataset.test[:eval_images], int(sys.stderr.isatty())
  _say(f"measuring {len(images):,} test images, {num_samples} sample(s) each")
  result = evaluate_bits_per_dim(model, images, num_samples, conditioning=given, verbose=shown, inside=inside)
  write_record(workdir.evaluation, "test", result, fingerprint, workdir.weights_info(), seed=0)
  _say(headed_table("test", result, fingerprint["digest"]))
  batched, classes = BatchedModel(model), range(model.config.num_classes)
  _say("drawing samples and curves")
  if model.config.tile_neighbours:
    picture = whole_pictures(batched, 4, None, 1.0, seed)
  else:
    picture = by_class(batched, classes, 8, 1.0, seed) if classes else samples(batched, 64, 1.0, seed)
  run.replace(workdir.samples, picture.grid.save)
  run.replace(workdir.curves, lambda path: plot_curves(workdir.rows(), path))
  _say("decoding encoded images, to see that they come back")
  _warn_of_inexact_reconstructions(batched, dataset)
  _say(f"wrote {workdir.samples}, {workdir.curves} and {workdir.metrics}")
  _say("next:")
  _say(f"  {run.sibling_command('sample')} --workdir={shlex.quote(str(workdir.path))} --n=100 --temperature=0.8")
  _say(f"  {run.sibling_command('evaluate')} --workdir={shlex.quote(str(workdir.path))} --num_samples=256")


def _warn_of_inexact_reconstructions(batched, dataset):
  """Warn if images do not come back from their latents, as where all training images are the same."""
  config = batched.model.config
  if config.num_classes or config.condition_shape or config.pixel_levels is None:
    return
  warn_of_differences(reconstruct(batched, dataset.test[:_RECONSTRUCTED]), config)
