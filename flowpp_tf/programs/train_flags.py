"""Trains Flow++ and leaves the run in a working directory.

bin/train --config=digits

A config brings the flags of its recipe, configs/NAME.flags; those that are given replace them.
"""

from absl import flags

from flowpp_tf.config import CONFIGS, PRECISIONS, FlowPlusPlusConfig, Recipe, RunSettings, TrainingConfig
from flowpp_tf.core.environment import check_extra
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import dataset_entry
from flowpp_tf.io.model_folders import presets
from flowpp_tf.programs import data_flags, device_flags, flag_kinds

COMMON = (
  "config dataset quick steps epochs batch_size learning_rate precision image_size labels workdir init_from seed"
).split()
QUICK_STEPS = 150


def define_flags() -> None:
  """Define the program's flags."""
  flag_kinds.define_name("config", "digits", CONFIGS, "Model.", others=True)  # another name has its own error
  flag_kinds.define_settings_flags(
    FlowPlusPlusConfig, "The model, fields of FlowPlusPlusConfig", default="that of the config"
  )
  flag_kinds.define_settings_flags(TrainingConfig, "Training, fields of TrainingConfig")
  flag_kinds.define_float("epochs", None, "Passes over the training data, instead of steps.", 0, 1e6)
  flags.DEFINE_enum(
    "precision", None, list(PRECISIONS), "Of the networks, instead of --dtype; weights, couplings and sums are float32."
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
  flags.DEFINE_bool("labels", False, "Train a model of images given their class: --num_classes is that of the data.")
  flags.DEFINE_bool(
    "quick",
    False,
    "A short run, about a minute for small configs: at most 150 steps and 64 test images, in runs/CONFIG_quick.",
  )
  flags.DEFINE_string(
    "workdir", None, "Directory of the run; runs/CONFIG if not given. The same command resumes the run that it holds."
  )
  flag_kinds.define_name(
    "init_from",
    None,
    presets(),
    "Trained weights to begin with: a run's directory, an .npz file of the release, a preset's folder, address or "
    "name.",
    others=True,
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


def plan_from_flags() -> str:
  """Return what will be done; raise an `InputError` for what is wrong already."""
  given, recipe = flags.FLAGS, recipe_from_flags()
  config, training = recipe.resolve(_Unknown())
  if config.condition_shape and not config.tile_neighbours:
    raise InputError(
      "`condition_shape` must be empty: `flowpp_tf.training.run_training` trains such a model, given the "
      "function that makes the condition of images"
    )
  dataset = data_flags.complete_settings(recipe.settings, given.config)["dataset"]
  dataset_entry(dataset)
  if training.tensorboard:
    check_extra("tensorboard", "train", f"--tensorboard={','.join(training.tensorboard)}")
  check_extra("matplotlib", "plots", "the plot of a run's curves")
  epochs = recipe.settings.get("epochs")
  steps = min(training.steps, QUICK_STEPS) if given.quick else training.steps
  at_most = f", at most {QUICK_STEPS} steps" if given.quick else ""
  length = f"{steps:,} steps" if epochs is None else f"{epochs:g} epochs{at_most}"
  rates = ("schedule", "learning_rate", "warmup_steps")  # one of which may replace the others
  replaced = [
    f", without the config's --{name}={value}"
    for name, value in Recipe.load(given.config).settings.items()
    if name in rates and name not in recipe.settings
  ]
  return (
    f"training config {given.config} on {dataset}: {length} of {training.images_per_step:,} images in "
    f"{config.precision}, to {workdir_path_from_flags()}{''.join(replaced)}"
  )


class _Unknown:
  """Data that are not loaded yet, of which nothing depends but the number of steps of an epoch."""

  train = range(1)


def recipe_from_flags() -> Recipe:
  """Return the recipe of the config, with the settings whose flags were given."""
  given = flags.FLAGS
  settings = flag_kinds.settings_from_flags(FlowPlusPlusConfig, TrainingConfig, RunSettings)
  recipe = Recipe.load(given.config).replace(**settings)
  if given.labels:  # the data say how many classes there are
    recipe = recipe.replace(num_classes=recipe.settings.get("num_classes", recipe.base.num_classes) or 1)
  elif given["labels"].present and recipe.config.num_classes:
    raise InputError(
      f"--nolabels and `num_classes` {recipe.config.num_classes} say two things; --num_classes=0 --label_dropout=0 "
      "trains without labels"
    )
  if given.image_size is not None:
    recipe = recipe.replace(image_shape=_image_shape(given.image_size, recipe.config, settings))
  return recipe


def workdir_path_from_flags() -> str:
  """Return the directory of the run."""
  given = flags.FLAGS
  name = f"{given.config}_quick" if given.quick else given.config
  return f"runs/{name}" if given.workdir is None else given.workdir


def _image_shape(size, config, settings):
  """Return the config's image shape with the height and width of --image_size."""
  if "image_shape" in settings and config.image_shape[:2] != (size, size):
    shape = ",".join(map(str, config.image_shape))
    raise InputError(f"--image_size={size} and --image_shape={shape} say two things; give one of them")
  return size, size, config.image_shape[2]
