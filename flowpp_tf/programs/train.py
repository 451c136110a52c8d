"""Train Flow++ and leave the run in a working directory.

bin/train --config=digits
bin/train --config=photos_crops --dataset=folder:my_photos --batch_size=8 --workdir=runs/my_photos

A config sets the flags of its recipe, configs/NAME.flags; flags on the command line replace them.
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import sys
from typing import Any

from flowpp_tf.config import CONFIGS, PRECISIONS, FlowPlusPlusConfig, Recipe, RunSettings, TrainingConfig
from flowpp_tf.core.environment import check_extra
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import DATASETS, dataset_entry
from flowpp_tf.core.settings import Range, Rule, at_least, one_of, setting
from flowpp_tf.io.model_folders import presets
from flowpp_tf.programs import data_options, outputs, process
from flowpp_tf.programs.data_options import DataOptions
from flowpp_tf.programs.imports import import_tensorflow
from flowpp_tf.programs.model_options import DeviceOptions
from flowpp_tf.programs.options import names_among

_QUICK_STEPS = 150
_EPOCHS = Range(lambda epochs: epochs > 0, "positive", 1e6)
_RECONSTRUCTED = 64  # images
_RATES = {"schedule", "learning_rate", "warmup_steps"}  # a given flag may replace the recipe's others


@dataclasses.dataclass(frozen=True)
class TrainOptions(DeviceOptions, DataOptions):
  """Options of bin/train.

  Attributes:
    settings: fields of `FlowPlusPlusConfig` and `TrainingConfig` by name, which replace the settings of the config's
      recipe; each is a flag.
  """

  RULES = (
    Rule("labels", lambda options: "num_classes" not in options.settings, "left out with --num_classes"),
    Rule("image_size", lambda options: "image_shape" not in options.settings, "left out with --image_shape"),
  )
  SETTINGS = {
    "The model, fields of FlowPlusPlusConfig": (FlowPlusPlusConfig, "the config's"),
    "Training, fields of TrainingConfig": (TrainingConfig, None),
  }

  config: str = setting("digits", "Model.", names_among(CONFIGS))  # `Recipe.load` checks the name
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict, metadata={"range": None})
  dataset: str | None = setting(None, "Data set; the config's name if not given.", names_among(DATASETS))
  epochs: float | None = setting(None, "Passes over the training data, instead of steps.", _EPOCHS)
  precision: str | None = setting(
    None, "Precision of the networks, instead of --dtype; weights, couplings and sums are float32.", one_of(*PRECISIONS)
  )
  image_size: int | None = setting(
    None,
    "Height and width of the model's images. Images of a folder are cropped and resized to it; the config's if not "
    "given.",
    at_least(1, 1 << 16),
  )
  labels: bool | None = setting(None, "Train a model of images given their class. The data determine --num_classes.")
  quick: bool = setting(
    False, "A short run, about a minute for small configs: at most 150 steps and 64 test images, in runs/CONFIG_quick."
  )
  workdir: str | None = setting(
    None, "Directory of the run; runs/CONFIG if not given. The same command resumes the run that it holds."
  )
  init_from: str | None = setting(
    None,
    "Trained weights to start from. They are a run's directory, an .npz file of the release, or a preset's folder, "
    "address or name.",
    names_among(presets()),
  )
  accept_unchecked: bool = setting(False, "Use weights of --init_from without a checksum.")
  deterministic: bool = setting(
    False, "Train the same weights, bit by bit, in every run on a device; this costs speed."
  )
  num_samples: int | None = setting(
    None, "Samples of the importance-weighted bound at the end. (default: 64)", at_least(1, 1 << 20)
  )
  eval_images: int | None = setting(None, "Test images at the end; all if not given.", at_least(1))

  def recipe(self) -> Recipe:
    """Return the recipe of the config with the given settings."""
    settings = dict(self.settings)
    for field in dataclasses.fields(RunSettings):
      value = getattr(self, field.name)
      if value is not None:
        settings[field.name] = value
    recipe = Recipe.load(self.config).replace(**settings)
    if self.labels:  # replaced by the number of classes once the data are loaded
      num_classes = recipe.settings.get("num_classes", recipe.base.num_classes) or 1
      recipe = recipe.replace(num_classes=num_classes)
    elif self.labels is False:
      recipe = recipe.replace(num_classes=0, label_dropout=0.0)
    if self.image_size is not None:
      recipe = recipe.replace(image_shape=(self.image_size, self.image_size, recipe.config.image_shape[2]))
    return recipe

  @property
  def path(self) -> str:
    """Directory of the run."""
    suffix = "_quick" if self.quick else ""
    return self.workdir or f"runs/{self.config}{suffix}"


def run(options: TrainOptions) -> None:
  """Train, and measure the test split."""
  recipe = options.recipe()
  process.phase(_plan(options, recipe))
  import_tensorflow()
  from flowpp_tf.models import FlowPlusPlus, InitialWeights
  from flowpp_tf.training import Workdir

  batch_size = recipe.settings.get("batch_size", TrainingConfig.batch_size)
  strategy = options.set_up_devices(options.deterministic, batch_size)  # before the data use a device
  init_from = None
  if options.init_from is not None:
    init_from = InitialWeights.find(options.init_from, options.accept_unchecked)
    if not options.labels:  # else the number of classes is not known yet
      init_from.load(FlowPlusPlus(recipe.config))
  data = data_options.complete_settings(recipe.settings, options.config)
  dataset = data_options.load_from_settings(data, recipe.config, any_classes=bool(options.labels))
  if options.labels:
    recipe = recipe.replace(num_classes=dataset.num_classes)
  config, training = recipe.resolve(dataset)
  num_samples = recipe.settings.get("num_samples", 64)
  eval_images = options.eval_images
  if options.quick:
    training = dataclasses.replace(
      training,
      steps=min(training.steps, _QUICK_STEPS),
      validate_every=min(training.validate_every or _QUICK_STEPS, _QUICK_STEPS // 3),
    )
    num_samples = min(num_samples, 4)
    eval_images = min(eval_images or 64, 64)
    _say(f"--quick: {training.steps} steps, about a minute where the config is small; the model is not good yet")
  workdir = Workdir(options.path)
  best = _train(config, training, dataset, workdir, data, init_from, strategy)
  if config.pixel_levels is None:
    num_samples = 1  # the density is exact
  if best is not None:
    _say(f"best validation: {best:.4f} bits/dim in {config.precision}; its weights from here on")
    try:
      _test(workdir, dataset, num_samples, eval_images, training.seed)
    except process.Interrupted as interrupted:
      process.say("", f"{interrupted} after the last step, which is saved; the same command measures the test split")
      sys.exit(process.STOPPED_AND_SAVED)


def _plan(options, recipe):
  """Return a line on the work ahead; raise an `InputError` for options that are known to be wrong."""
  config, training = recipe.resolve(_Unknown())
  if config.condition_shape and not config.tile_neighbours:
    raise InputError("`condition_shape` must be empty; `flowpp_tf.training.run_training` trains such a model")
  dataset = data_options.complete_settings(recipe.settings, options.config)["dataset"]
  dataset_entry(dataset)
  if training.tensorboard:
    check_extra("tensorboard", "train", f"--tensorboard={','.join(training.tensorboard)}")
  check_extra("matplotlib", "plots", "the plot of a run's curves")
  epochs = recipe.settings.get("epochs")
  steps = min(training.steps, _QUICK_STEPS) if options.quick else training.steps
  length = f"{steps:,} steps" if epochs is None else f"{epochs:g} epochs"
  own = Recipe.load(options.config).settings
  replaced = [f", without the config's --{name}={own[name]}" for name in own if name in _RATES - {*recipe.settings}]
  return (
    f"training config {options.config} on {dataset}: {length} of {training.images_per_step:,} images in "
    f"{config.precision}, to {options.path}{''.join(replaced)}"
  )


class _Unknown:
  """Stand-in for data that are not loaded yet; only the steps of an epoch depend on it."""

  train = range(1)


def _say(line: str) -> None:
  """Print a line; a run goes on even if its output was closed."""
  with contextlib.suppress(OSError):
    print(line, flush=True)


def _train(config, training, dataset, workdir, record, init_from, strategy):
  """Train; return the best validation, or None in processes that do not measure the test split."""
  from flowpp_tf.training import Diverged, Stopped, Workers, run_training

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
      process.fail(f"{stopped}; the same command resumes there", process.STOPPED_NOT_SAVED)
    if chief:
      _say(f"{stopped}; the same command resumes there")
    sys.exit(process.STOPPED_AND_SAVED)
  except KeyboardInterrupt:
    process.fail(
      "stopped by a second Ctrl-C; the same command resumes at the newest checkpoint", process.STOPPED_NOT_SAVED
    )
  except Diverged as error:
    with_flags = str(error).replace(" `", " --").replace("`", "")
    advice = f"and --debug_numerics to see where it begins; the checkpoints in {workdir.checkpoints} are of before"
    process.fail(f"{with_flags}, {advice}", process.FAILED)


def _test(workdir, dataset, num_samples, eval_images, seed):
  """Measure the test split, draw curves and samples, and warn if latents do not decode to their images."""
  from flowpp_tf.evaluation import BatchedModel, evaluate_bits_per_dim, plot_curves, reconstruct, write_record
  from flowpp_tf.programs.sample_grids import samples, warn_of_differences

  model, _ = workdir.load()
  fingerprint = dataset.fingerprint()
  verbose = int(sys.stderr.isatty())
  images, conditioning, inside = data_options.images_to_measure(dataset, "test", model.config, eval_images)
  _say(f"measuring {len(images):,} test images, {num_samples} sample(s) each")
  result = evaluate_bits_per_dim(model, images, num_samples, conditioning=conditioning, verbose=verbose, inside=inside)
  write_record(workdir.evaluation, "test", result, fingerprint, workdir.weights_info(), seed=0)
  _say(f"test, data {fingerprint['digest']}: {result}")
  _say("drawing samples and curves")
  batched = BatchedModel(model)
  picture = samples(batched, None, (1.0,), range(model.config.num_classes), seed)
  outputs.replace(workdir.samples, picture.grid.save)
  outputs.replace(workdir.curves, lambda path: plot_curves(workdir.rows(), path))
  if not conditioning and model.config.pixel_levels is not None:
    warn_of_differences(reconstruct(batched, images[:_RECONSTRUCTED]), model.config)
  _say(f"wrote {workdir.samples}, {workdir.curves} and {workdir.metrics}")
