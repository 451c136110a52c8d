"""Options that name the images a command reads, and how a run records them in its config.json.

The options import no TensorFlow; loading a data set does.
"""

from collections.abc import Mapping
import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from flowpp_tf.config import FlowPlusPlusConfig
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import DATASETS, dataset_entry
from flowpp_tf.core.settings import DATA_SETTINGS, at_least, recorded_settings, setting
from flowpp_tf.io.image_folder import DEEP_SUFFIXES, image_files
from flowpp_tf.programs import process
from flowpp_tf.programs.options import Options, names_among

if TYPE_CHECKING:
  from flowpp_tf.data import ImageDataset


@dataclasses.dataclass(frozen=True)
class DataOptions(Options):
  """Options of a data set."""

  GROUP = "Data"

  dataset: str | None = setting(None, "Data set; that of the run if not given.", names_among(DATASETS))
  data_dir: str | None = setting(
    None,
    "Data directory of TensorFlow Datasets, or folder with the published files of cifar10, cifar100, mnist, "
    "fashion_mnist, imagenet32_old and imagenet64_old.",
  )
  download: bool | None = setting(None, "Let TensorFlow Datasets download a set of its own that is missing.")
  cache_dir: str | None = setting(
    None, "Directory for decoded images of large data sets; ~/.cache/flowpp_tf if not given."
  )
  bits: int | None = setting(
    None,
    "Bits to keep of 8-bit images, x // 2**(8 - bits), for a model with 2**bits levels; all if not given.",
    at_least(1, 8),
  )
  splits_file: str | None = setting(
    None,
    "For a folder: JSON, or lines of split and file name. If not given, the split follows from a hash of the file "
    "name.",
  )
  max_bad_files: int | None = setting(
    None, "For a folder: maximum number of unreadable files to skip; 0 if not given.", at_least(0)
  )
  crops: bool | None = setting(
    None,
    "For photos, elpv, sky16 and folders: train on crops at random positions, others in each step, of images larger "
    "than the model's; else on a grid of patches, or on whole images made smaller.",
  )

  @property
  def given_data(self) -> dict[str, Any]:
    """What is given of the data, by name."""
    values = {name: getattr(self, name) for name in ("dataset", *DATA_SETTINGS)}
    return {name: value for name, value in values.items() if value is not None}

  def split_in_words(self, split: str) -> str:
    """Return in words which images a split is; raise an `InputError` for an unknown data set."""
    if self.dataset is not None:
      dataset_entry(self.dataset)
    return f"the {split} split of " + (self.dataset or "the model's data")

  def data_files(self) -> list[str]:
    """Return the files of images and of splits, which a program leaves as they are."""
    kind, _, path = (self.dataset or "").partition(":")
    paths = [path if kind in ("folder", "npz") else "", self.splits_file]
    return [file for path in paths if path for file in files_below(os.path.expanduser(path))]


def complete_settings(given: Mapping[str, Any], default: str, recorded: dict | None = None) -> dict:
  """Return the settings that determine the data, for a run's config.json and for `load_from_settings`.

  Args:
    given: data settings that were given, from `DataOptions.given_data` or a recipe.
    default: name of the data set if none is given.
    recorded: settings of a run, which apply where nothing is given.
  """
  recorded = dict(recorded or {})
  if given.get("dataset") and recorded:  # these belong to the run's own folder
    recorded.update(splits_file=None, max_bad_files=None, crops=None)
  return recorded_settings(given.get("dataset") or default, {**recorded, **given})


def files_below(path: str) -> list[str]:
  """Return the image files of any model below a folder; of a path that is not a folder, the path."""
  if not os.path.isdir(path):
    return [path]
  return [os.path.join(path, name) for name in image_files(pathlib.Path(path), DEEP_SUFFIXES)]


def load_from_settings(
  settings: dict, config: FlowPlusPlusConfig, any_classes: bool = False, labels: bool | None = None
) -> "ImageDataset":
  """Load a data set, with labels if the model takes them, and check that it fits the config.

  Args:
    settings: from `complete_settings`.
    config: of the model.
    any_classes: whether the data may have another number of classes than the config.
    labels: whether to load the labels; None if the model takes them.
  """
  from flowpp_tf.data import load_dataset

  dataset = load_dataset(
    _name_in(settings),
    settings.get("data_dir"),
    image_shape=config.image_shape,
    levels=config.levels,
    bits=settings.get("bits"),
    splits_file=settings.get("splits_file"),
    max_bad_files=settings.get("max_bad_files") or 0,
    cache_dir=settings.get("cache_dir"),
    crops=bool(settings.get("crops")),
    download=settings.get("download") is not False,
    labels=config.num_classes > 0 if labels is None else labels,
    neighbours=config.tile_neighbours,
    real_valued=config.pixel_levels is None,
  )
  dataset.check(dataclasses.replace(config, num_classes=dataset.num_classes) if any_classes else config)
  return dataset


def _name_in(settings):
  """Return the name of the data set of a run."""
  if not settings.get("dataset"):  # as of a preset that was saved without settings
    raise InputError("the model does not name the data it was trained on; --dataset names images to measure")
  return settings["dataset"]


def tiles_to_measure(
  dataset: "ImageDataset", split: str, config: FlowPlusPlusConfig, limit: int | None = None
) -> tuple["ImageDataset", np.ndarray | None]:
  """Return the data set whose tiles cover its pictures, and how much of the first `limit` tiles of a split is inside.

  For a model of whole images these are the data set itself, and None.
  """
  if not config.tile_neighbours:
    return dataset, None
  from flowpp_tf.data.random_crops import tiles_of

  dataset = dataset.with_edges()
  tiles = tiles_of(dataset.split(split))
  assert tiles is not None
  return dataset, tiles.inside(np.arange(len(tiles))[:limit])


def conditioning_of(
  dataset: "ImageDataset", split: str, config: FlowPlusPlusConfig, limit: int | None = None
) -> dict[str, np.ndarray]:
  """Return the conditioning of the first `limit` images of a split, by name, for a model of this config."""
  labels = dataset.labels_of(split) if config.num_classes else None
  conditioning = {} if labels is None else {"labels": labels[:limit]}
  from flowpp_tf.data.pipeline import grid_tiles
  from flowpp_tf.data.random_crops import tiles_of

  images = dataset.split(split)
  if config.tile_neighbours and tiles_of(images) is not None:
    conditioning["condition"] = grid_tiles(images, np.arange(len(images))[:limit])[1]
  return conditioning


def load_data_of_run(settings: dict, config: FlowPlusPlusConfig, given: dict) -> tuple["ImageDataset", dict]:
  """Load the data of a run, or other data if given, with a warning if the model was trained on others.

  Args:
    settings: settings of the run, from its config.json.
    config: `FlowPlusPlusConfig` of its model.
    given: data flags that were given, from `DataOptions.given_data`.

  Returns:
    `ImageDataset` and its fingerprint.
  """
  from flowpp_tf.data import describe

  name = given.get("dataset") or _name_in(settings)
  dataset = load_from_settings(complete_settings(given, name, settings), config)
  fingerprint, trained = dataset.fingerprint(), settings.get("fingerprint")
  if trained and trained["sha256"] != fingerprint["sha256"]:
    process.warn(f"the model was trained on {describe(trained)}; this is {describe(fingerprint)}")
  return dataset, fingerprint


def load_given_data(settings: dict, config: FlowPlusPlusConfig, given: dict) -> "ImageDataset":
  """Load the data set that is given by name, else that of the run; arguments as for `load_data_of_run`."""
  if given.get("dataset"):
    return load_from_settings(complete_settings(given, given["dataset"], settings), config)
  return load_data_of_run(settings, config, given)[0]


def with_labels(
  dataset: "ImageDataset", settings: dict, config: FlowPlusPlusConfig, given: dict
) -> tuple["ImageDataset", str]:
  """Load the labels of a data set of `load_data_of_run` that the model does not take, if it has any.

  Returns:
    The data set with its labels and "", or as it is and the reason why it has none.
  """
  if dataset.labels is not None:
    return dataset, ""
  name = given.get("dataset") or settings["dataset"]
  try:
    return load_from_settings(complete_settings(given, name, settings), config, any_classes=True, labels=True), ""
  except InputError as error:
    return dataset, str(error)
