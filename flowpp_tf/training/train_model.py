"""`fpp.train` and `fpp.load`: a trained model in one call, with the recipe of a config."""

import contextlib
import dataclasses
import pathlib
import tempfile
from typing import Any

import numpy as np

from flowpp_tf.config import FlowPlusPlusConfig, Recipe
from flowpp_tf.config.data import DATA_SETTINGS, recorded_settings
from flowpp_tf.core.checks import as_array, check_arguments, check_labels, check_pixels, pixel_dtype
from flowpp_tf.core.errors import InputError
from flowpp_tf.data import ImageDataset, load_dataset
from flowpp_tf.data.dataset import MOST_CLASSES, split_train
from flowpp_tf.distributions import FlowDistribution
from flowpp_tf.io.model_folders import FLOW
from flowpp_tf.models import FlowPlusPlus, InitialWeights
from flowpp_tf.posterior.conditional import Ensemble
from flowpp_tf.posterior.flow_files import load_flow
from flowpp_tf.training.loop import run_training
from flowpp_tf.training.signals import Stopped
from flowpp_tf.training.workdir import Workdir
from flowpp_tf.types import Path

_PROGRAM_SETTINGS = ("dataset", "num_samples", "eval_images")


@check_arguments
def train(
  images: np.ndarray | ImageDataset | str,
  config: str | FlowPlusPlusConfig,
  workdir: Path | None = None,
  *,
  labels: np.ndarray | None = None,
  init_from: Path | None = None,
  unchecked: bool = False,
  verbose: bool | int = True,
  **settings: Any,
) -> FlowPlusPlus:
  """Train a model, or resume its run, and return it with the best weights, as `fpp.load` does.

  Args:
    images: integers `[N, H, W, C]` or `[N, H, W]`, or real numbers for a config with `dequantization` "none"; an
      `ImageDataset`; or the name of a data set, such as "digits" or "folder:my_photos". The last tenth of an array
      becomes the test split, and the last fiftieth of the rest the validation split, each at most 10,000 images. So
      shuffle images that are sorted.
    config: name of a config, whose recipe is used (`fpp.recipes()`), or a config. Image shape and number of classes are
      taken from an array and its labels; a line names what differs from the config.
    workdir: directory of the run. A run in it is resumed. None for a temporary directory.
    labels: integers `[N]` with the class of each image of an array; None to train without.
    init_from: trained weights to begin with: a preset's name, folder or address, the directory of a run, or an `.npz`
      file of the published release.
    unchecked: whether to use weights of `init_from` without their checksum.
    verbose: whether to print the run's lines.
    **settings: as in `Recipe.replace`: fields of `TrainingConfig` and of `FlowPlusPlusConfig`, `epochs` and
      `precision`; for a data set by name also the options of `data.load_dataset`, such as `crops`. A recipe sets
      `crops` only for its own data set.

  Raises:
    InputError (a ValueError): if an argument is invalid, or `workdir` holds another run.
    Stopped: when asked to stop by SIGTERM or Ctrl-C; the state is saved if there is a `workdir`.
    Diverged: if too many steps in a row are not finite.

  This sets Keras' global seed, as `keras.utils.set_random_seed` does, to the seed of the run.

  Examples:
    >>> model = fpp.train("digits", "digits", "runs/digits")
    >>> model.sample(4, seed=0).shape
    TensorShape([4, 8, 8, 1])
  """
  name = "config"
  if isinstance(config, str):
    name = f"config {config}"
    recipe = Recipe.load(config)
  else:
    recipe = Recipe(config)
  recipe = recipe.replace(**settings)
  store = None if workdir is None else Workdir(workdir)  # before the data are read
  begin = None if init_from is None else InitialWeights.find(init_from, unchecked)
  if begin is not None and isinstance(images, str):  # the sizes of an array are known only later
    begin.load(FlowPlusPlus(recipe.config))
  log_fn = print if verbose else lambda line: None
  dataset, recorded = _dataset(images, labels, recipe, settings)
  if not isinstance(images, (str, ImageDataset)):
    recipe, line = _with_sizes_of(dataset, recipe, settings)
    if line:
      log_fn(f"{name}: {line}")
  model, training = recipe.resolve(dataset)
  if store is None:  # nobody would read its event files
    training = dataclasses.replace(training, tensorboard=())
  with contextlib.ExitStack() as stack:
    store = store or Workdir(stack.enter_context(tempfile.TemporaryDirectory()))
    try:
      run_training(model, training, dataset, store, extra_metadata=recorded, init_from=begin, log_fn=log_fn)
    except Stopped as stopped:
      if workdir is None:  # the saved state goes with the temporary directory
        raise Stopped(stopped.step, None) from None
      raise
    return store.load()[0]


@check_arguments
def load(
  path: Path, unchecked: bool = False, precision: str | None = None
) -> FlowPlusPlus | FlowDistribution | Ensemble:
  """Return the trained model of a run, with its best weights, or a flow that `fpp.save` wrote.

  Args:
    path: directory of a run of `bin/train` or `fpp.train`, or folder of `fpp.save`.
    unchecked: whether to use weights without their checksum.
    precision: precision of the networks of a run, as in `FlowPlusPlus.from_preset`.

  Raises:
    InputError (a ValueError): if `path` holds neither, the run has not been validated yet, or a file is damaged.

  Examples:
    >>> model = fpp.train("digits", "digits", "runs/digits")
    >>> fpp.load("runs/digits").config.levels
    17
  """
  folder = pathlib.Path(path)
  if not (folder / FLOW).is_file():
    return Workdir(path, unchecked).load(precision)[0]
  if precision is not None:
    raise InputError("`precision` must be None for a flow, whose dtype is in its file")
  return load_flow(folder, unchecked)


def _dataset(images, labels, recipe, settings):
  """Return the data set and the settings by which it is loaded again; no settings if it is not loaded by its name."""
  changed = {name for name, value in settings.items() if value is not None}
  for name in sorted(changed.intersection(_PROGRAM_SETTINGS)):
    raise InputError(f"`{name}` is a setting of `bin/train`, which `fpp.train` does not have")
  if isinstance(images, (str, ImageDataset)) and labels is not None:
    raise InputError("`labels` must be None for a data set, which has its own")
  data_settings = sorted(changed.intersection(DATA_SETTINGS))
  if isinstance(images, str):
    return _load_by_name(images, recipe, {name: recipe.settings[name] for name in data_settings})
  for name in data_settings:
    raise InputError(f"`{name}` must be None, as `images` is not the name of a data set")
  if not isinstance(images, ImageDataset):
    images = _array_dataset(as_array("images", images), labels, recipe.config)
  return images, {}


def _load_by_name(name, recipe, options):
  config = recipe.config
  data = recipe.settings
  crops = name == data.get("dataset") and bool(data.get("crops"))  # a recipe crops only its own data set
  options = {"crops": crops, "bits": data.get("bits"), **options}
  dataset = load_dataset(
    name,
    image_shape=config.image_shape,
    levels=config.levels,
    labels=config.num_classes > 0,
    neighbours=config.tile_neighbours,
    real_valued=config.pixel_levels is None,
    **options,
  )
  return dataset, recorded_settings(name, options)


def _with_sizes_of(dataset, recipe, settings):
  """Return the recipe with the image shape and the number of classes of an array, and a line that names the changes."""
  config = recipe.config
  found = {"image_shape": dataset.image_shape}
  if dataset.labels is not None:
    found["num_classes"] = dataset.num_classes
  different = {name: value for name, value in found.items() if value != getattr(config, name)}
  for name, value in different.items():
    if settings.get(name) is not None:
      raise InputError(f"`{name}` is {getattr(config, name)}, but the data have {value}")
  if not different:
    return recipe, ""
  sizes = ", ".join(f"`{name}` {value} in place of {getattr(config, name)}" for name, value in different.items())
  line = f"from the data {sizes}; all else from the config"
  if config.pixel_levels:
    line += f", such as `levels` {config.levels}"
  return recipe.replace(**different), line


def _array_dataset(images, labels, model):
  if images.ndim not in (3, 4):
    raise InputError(f"`images` must be of shape [N, H, W, C] or [N, H, W], got {images.shape}")
  if images.ndim == 3:
    images = images[..., np.newaxis]
  check_pixels(images, model.pixel_levels)
  dtype = images.dtype if model.pixel_levels is None else pixel_dtype(model.pixel_levels)
  splits, notes = split_train({"train": images.astype(dtype, copy=False)})
  labels_by_split = None
  classes: tuple[str, ...] = ()
  if labels is not None:
    labels = _check_array_labels(labels, len(images))
    labels_by_split, _ = split_train({"train": labels})
    num_classes = max(model.num_classes, 1 + int(labels.max()))
    classes = tuple(str(number) for number in range(num_classes))
  return ImageDataset(
    "array",
    model.pixel_levels,
    train=splits["train"],
    validation=splits["validation"],
    test=splits["test"],
    notes=notes,
    labels=labels_by_split,
    classes=classes,
  )


def _check_array_labels(labels, count):
  labels = as_array("labels", labels)
  if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
    raise InputError(
      f"`labels` must be one integer from 0 for each of the {count} images, got {labels.dtype} of shape {labels.shape}"
    )
  check_labels(labels, 0, MOST_CLASSES)
  return labels
