"""`fpp.train` and `fpp.load`: a trained model in one call, with the recipe of a config."""

import contextlib
import dataclasses
import tempfile
from typing import Any

import numpy as np

from flowpp_tf.config.recipe import read_recipe, without_replaced
from flowpp_tf.config.training import TrainingConfig
from flowpp_tf.core.errors import InputError, check_pixels, unknown_name
from flowpp_tf.core.settings import parse_text
from flowpp_tf.data import ImageDataset, load_dataset
from flowpp_tf.data.dataset import split_train
from flowpp_tf.models import FlowPlusPlus, FlowPlusPlusConfig, InitialWeights, get_config
from flowpp_tf.training.loop import train as train_run
from flowpp_tf.training.workdir import Workdir
from flowpp_tf.types import Path

_MODEL = {field.name: field for field in dataclasses.fields(FlowPlusPlusConfig)}
_TRAINING = {field.name: field for field in dataclasses.fields(TrainingConfig)}


def train(
  images: np.ndarray | ImageDataset | str,
  config: str | FlowPlusPlusConfig,
  workdir: Path | None = None,
  *,
  labels: np.ndarray | None = None,
  init_from: str | None = None,
  verbose: bool = True,
  **settings: Any,
) -> FlowPlusPlus:
  """Train a model, or resume its run, and return it with the best weights.

  Args:
    images: integers `[N, H, W, C]` or `[N, H, W]`, of which a tenth become the test split and a fiftieth of the others
      the validation split; an `ImageDataset`; or the name of a data set, such as "digits" or "folder:my_photos".
    config: name of a config, which brings its recipe (`fpp.recipes()`), or a config. Its image shape becomes that of an
      array.
    workdir: directory of the run, which is resumed if it is there; None for a temporary one.
    labels: integers `[N]` with the class of each image of an array; None to train without.
    init_from: trained weights to begin with: a preset's name or the directory of a run.
    verbose: whether to print the run's lines.
    **settings: fields of `TrainingConfig` and of `FlowPlusPlusConfig`, instead of those of the recipe and the config.

  Raises:
    InputError (a ValueError): if a setting or the images are invalid, or `workdir` holds another run.
    Diverged: if too many steps in a row are not finite.

  Example:
    >>> model = fpp.train("digits", "digits", "runs/digits")
    >>> model.sample(4, seed=0).shape
    TensorShape([4, 8, 8, 1])
  """
  for name in settings:
    if name not in _MODEL and name not in _TRAINING:
      raise unknown_name("setting", name, {*_MODEL, *_TRAINING})
  recipe = read_recipe(config) if isinstance(config, str) else {}
  recipe = without_replaced(recipe, {name: str(value) for name, value in settings.items()})
  model = get_config(config) if isinstance(config, str) else config
  model = dataclasses.replace(model, **_fields_of(_MODEL, recipe, settings))
  dataset, model = _dataset(images, labels, model, recipe)
  training = _fields_of(_TRAINING, recipe, settings)
  if "epochs" in recipe:
    images_per_step = TrainingConfig(**{**training, "steps": 1}).images_per_step
    training["steps"] = max(1, round(float(recipe["epochs"]) * len(dataset.train) / images_per_step))
  if "steps" not in training:
    raise InputError("`steps` must say how long to train: there is no recipe for the config")
  begin = None if init_from is None else InitialWeights.find(init_from)
  with contextlib.ExitStack() as stack:
    store = Workdir(stack.enter_context(tempfile.TemporaryDirectory()) if workdir is None else workdir)
    train_run(
      model, TrainingConfig(**training), dataset, store, init_from=begin, log_fn=print if verbose else lambda line: None
    )
    return store.load()[0]


def load(workdir: Path) -> FlowPlusPlus:
  """Return the trained model of a run, with its best weights.

  Args:
    workdir: directory that `bin/train` or `fpp.train` has left.

  Raises:
    InputError (a ValueError): if there is no such run, or it has not been validated yet.

  Example:
    >>> model = fpp.train("digits", "digits", "runs/digits")
    >>> fpp.load("runs/digits").config.levels
    17
  """
  return Workdir(workdir).load()[0]


def _fields_of(fields, recipe, settings):
  """The values of a config's fields: those of the recipe, and the settings in their place."""
  return {
    **{name: parse_text(fields[name], text) for name, text in recipe.items() if name in fields},
    **{name: value for name, value in settings.items() if name in fields},
  }


def _dataset(images, labels, model, recipe):
  """The data set, and the config with its image shape and its number of classes."""
  if isinstance(images, str):
    bits = recipe.get("bits")
    dataset = load_dataset(
      images,
      image_shape=model.image_shape,
      levels=model.levels,
      bits=bits and int(bits),
      crops=recipe.get("crops") == "true" and images == recipe.get("dataset"),
      labels=model.num_classes > 0,
    )
  elif isinstance(images, ImageDataset):
    dataset = images
  else:
    dataset = _of_array(np.asarray(images), labels, model)
    model = dataclasses.replace(
      model,
      image_shape=dataset.image_shape,
      num_classes=(max(model.num_classes, dataset.num_classes) if labels is not None else model.num_classes),
    )
  return dataset, model


def _of_array(images, labels, model):
  if images.ndim == 3:
    images = images[..., np.newaxis]
  check_pixels(images, model.levels)
  splits, notes = split_train({"train": images.astype(np.uint8)})
  of_splits, classes = None, tuple[str, ...]()
  if labels is not None:
    labels = np.asarray(labels)
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
      raise InputError(
        f"`labels` must be one integer from 0 for each of the {len(images)} images, got {labels.dtype} "
        f"of shape {labels.shape}"
      )
    of_splits, _ = split_train({"train": labels})
    classes = tuple(map(str, range(max(model.num_classes, 1 + int(labels.max())))))
  return ImageDataset(
    "array",
    model.levels,
    splits["train"],
    splits["validation"],
    splits["test"],
    notes=notes,
    labels=of_splits,
    classes=classes,
  )
