"""`fpp.train` and `fpp.load`: a trained model in one call, with the recipe of a config."""

import contextlib
import tempfile
from typing import Any

import numpy as np

from flowpp_tf.config import FlowPlusPlusConfig, Recipe
from flowpp_tf.core.checks import check_pixels
from flowpp_tf.core.errors import InputError
from flowpp_tf.data import ImageDataset, load_dataset
from flowpp_tf.data.dataset import split_train
from flowpp_tf.models import FlowPlusPlus, InitialWeights
from flowpp_tf.training.loop import run_training
from flowpp_tf.training.workdir import Workdir
from flowpp_tf.types import Path


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
    **settings: as in `Recipe.replace`, such as fields of `TrainingConfig` and of `FlowPlusPlusConfig`.

  Raises:
    InputError (a ValueError): if a setting or the images are invalid, or `workdir` holds another run.
    Diverged: if too many steps in a row are not finite.

  Examples:
    >>> model = fpp.train("digits", "digits", "runs/digits")
    >>> model.sample(4, seed=0).shape
    TensorShape([4, 8, 8, 1])
  """
  recipe = Recipe.load(config) if isinstance(config, str) else Recipe(config)
  dataset, recipe = _dataset(images, labels, recipe.replace(**settings))
  model, training = recipe.resolve(dataset)
  begin = None if init_from is None else InitialWeights.find(init_from)
  with contextlib.ExitStack() as stack:
    store = Workdir(stack.enter_context(tempfile.TemporaryDirectory()) if workdir is None else workdir)
    run_training(model, training, dataset, store, init_from=begin, log_fn=print if verbose else lambda line: None)
    return store.load()[0]


def load(workdir: Path) -> FlowPlusPlus:
  """Return the trained model of a run, with its best weights.

  Args:
    workdir: directory that `bin/train` or `fpp.train` has left.

  Raises:
    InputError (a ValueError): if there is no such run, or it has not been validated yet.

  Examples:
    >>> model = fpp.train("digits", "digits", "runs/digits")
    >>> fpp.load("runs/digits").config.levels
    17
  """
  return Workdir(workdir).load()[0]


def _dataset(images, labels, recipe):
  """Return the data set, and the recipe with the image shape and the number of classes of an array."""
  config, data = recipe.config, recipe.settings
  if isinstance(images, ImageDataset):
    return images, recipe
  if isinstance(images, str):
    dataset = load_dataset(
      images,
      image_shape=config.image_shape,
      levels=config.levels,
      bits=data.get("bits"),
      crops=bool(data.get("crops")) and images == data.get("dataset"),
      labels=config.num_classes > 0,
    )
    return dataset, recipe
  dataset = _of_array(np.asarray(images), labels, config)
  num_classes = config.num_classes if labels is None else max(config.num_classes, dataset.num_classes)
  return dataset, recipe.replace(image_shape=dataset.image_shape, num_classes=num_classes)


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
