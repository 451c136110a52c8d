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

_OF_THE_PROGRAM = ("dataset", "num_samples", "eval_images")


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
    images: integers `[N, H, W, C]` or `[N, H, W]`, or real numbers for a config of `dequantization` "none", of which
      the last tenth becomes the test split and the last fiftieth of the others the validation split, each at most
      10,000: shuffle images that are sorted; an `ImageDataset`; or the name of a data set, such as "digits" or
      "folder:my_photos".
    config: name of a config, which brings its recipe (`fpp.recipes()`), or a config. Its image shape becomes that of an
      array, and its number of classes that of the labels; a line says where they differ.
    workdir: directory of the run, which is resumed if it is there; None for a temporary one.
    labels: integers `[N]` with the class of each image of an array; None to train without.
    init_from: trained weights to begin with: a preset's name, folder or address, the directory of a run, or an `.npz`
      file of the published release.
    unchecked: whether weights of `init_from` are used that have lost their checksum.
    verbose: whether to print the run's lines.
    **settings: as in `Recipe.replace`: fields of `TrainingConfig` and of `FlowPlusPlusConfig`, `epochs` and
      `precision`; for a data set by name also the options of `data.load_dataset`, such as `crops`, which a recipe
      brings only for its own data set.

  Raises:
    InputError (a ValueError): if an argument is invalid, or `workdir` holds another run.
    Stopped: when asked to stop by SIGTERM or Ctrl-C; the state is saved if there is a `workdir`.
    Diverged: if too many steps in a row are not finite.

  Keras' global seed, `keras.utils.set_random_seed`, is that of the run afterwards.

  Examples:
    >>> model = fpp.train("digits", "digits", "runs/digits")
    >>> model.sample(4, seed=0).shape
    TensorShape([4, 8, 8, 1])
  """
  recipe = (Recipe.load(config) if isinstance(config, str) else Recipe(config)).replace(**settings)
  store = None if workdir is None else Workdir(workdir)  # before the data are read
  begin = None if init_from is None else InitialWeights.find(init_from, unchecked)
  if begin is not None and isinstance(images, str):  # an array says what its sizes are
    begin.load(FlowPlusPlus(recipe.config))
  log_fn = print if verbose else lambda line: None
  dataset, recorded = _dataset(images, labels, recipe, settings)
  if not isinstance(images, (str, ImageDataset)):
    recipe, line = _with_sizes_of(dataset, recipe, settings)
    if line:
      log_fn(f"config {config}: {line}" if isinstance(config, str) else f"config: {line}")
  model, training = recipe.resolve(dataset)
  if store is None:  # nobody would read its event files
    training = dataclasses.replace(training, tensorboard=())
  with contextlib.ExitStack() as stack:
    store = store or Workdir(stack.enter_context(tempfile.TemporaryDirectory()))
    try:
      run_training(model, training, dataset, store, extra_metadata=recorded, init_from=begin, log_fn=log_fn)
    except Stopped as stopped:
      raise stopped if workdir is not None else Stopped(stopped.step, None) from None  # it goes with the directory
    return store.load()[0]


@check_arguments
def load(
  path: Path, unchecked: bool = False, precision: str | None = None
) -> FlowPlusPlus | FlowDistribution | Ensemble:
  """Return the trained model of a run, with its best weights, or a flow that `fpp.save` wrote.

  Args:
    path: directory that `bin/train` or `fpp.train` left, or folder of `fpp.save`.
    unchecked: whether weights are used that have lost their checksum.
    precision: of the networks of a run, as in `FlowPlusPlus.from_preset`.

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
  """Return the data set, and what a run records of it; nothing of one that has no name by which it could be loaded."""
  changed = {name for name, value in settings.items() if value is not None}
  for name in sorted(changed.intersection(_OF_THE_PROGRAM)):
    raise InputError(f"`{name}` is a setting of `bin/train`, which `fpp.train` does not have")
  if isinstance(images, (str, ImageDataset)) and labels is not None:
    raise InputError("`labels` must be None for a data set, which has its own")
  if isinstance(images, str):
    return _named(images, recipe, {name: recipe.settings[name] for name in changed.intersection(DATA_SETTINGS)})
  for name in sorted(changed.intersection(DATA_SETTINGS)):
    raise InputError(f"`{name}` must be None, as `images` is not the name of a data set")
  if not isinstance(images, ImageDataset):
    images = _of_array(as_array("images", images), labels, recipe.config)
  return images, {}


def _named(name, recipe, options):
  config, data = recipe.config, recipe.settings
  own = data if name == data.get("dataset") else {}  # the recipe's crops are those of its own data set
  options = {"crops": bool(own.get("crops")), "bits": data.get("bits"), **options}
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
  """Return the recipe with the image shape and the number of classes of an array, and a line that says so."""
  config, found = recipe.config, {"image_shape": dataset.image_shape}
  if dataset.labels is not None:
    found["num_classes"] = dataset.num_classes
  different = {name: value for name, value in found.items() if value != getattr(config, name)}
  for name, value in different.items():
    if settings.get(name) is not None:
      raise InputError(f"`{name}` is {getattr(config, name)}, but the data have {value}")
  if not different:
    return recipe, ""
  sizes = ", ".join(f"`{name}` {value} in place of {getattr(config, name)}" for name, value in different.items())
  levels = f", such as `levels` {config.levels}" if config.pixel_levels else ""
  return recipe.replace(**different), f"from the data {sizes}; all else from the config{levels}"


def _of_array(images, labels, model):
  if images.ndim not in (3, 4):
    raise InputError(f"`images` must be of shape [N, H, W, C] or [N, H, W], got {images.shape}")
  if images.ndim == 3:
    images = images[..., np.newaxis]
  check_pixels(images, model.pixel_levels)
  dtype = images.dtype if model.pixel_levels is None else pixel_dtype(model.pixel_levels)
  splits, notes = split_train({"train": images.astype(dtype, copy=False)})
  of_splits, classes = None, tuple[str, ...]()
  if labels is not None:
    labels = as_array("labels", labels)
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
      raise InputError(
        f"`labels` must be one integer from 0 for each of the {len(images)} images, got {labels.dtype} "
        f"of shape {labels.shape}"
      )
    check_labels(labels, 0, MOST_CLASSES)
    of_splits, _ = split_train({"train": labels})
    classes = tuple(map(str, range(max(model.num_classes, 1 + int(labels.max())))))
  parts = splits["train"], splits["validation"], splits["test"]
  return ImageDataset("array", model.pixel_levels, *parts, notes=notes, labels=of_splits, classes=classes)
