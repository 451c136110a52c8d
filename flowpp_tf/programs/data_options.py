"""Define the options that name a command's images, and load data sets from a run's config.json.

The options do not import TensorFlow; loading a data set does.
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from flowpp_tf.config import FlowPlusPlusConfig
from flowpp_tf.config.data import DATA_SETTINGS, recorded_settings
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import DATASETS, SPLITS, dataset_entry
from flowpp_tf.core.settings import at_least, setting
from flowpp_tf.programs import process
from flowpp_tf.programs.options import Options, names_among

if TYPE_CHECKING:
  from flowpp_tf.data import ImageDataset
  from flowpp_tf.data.source import Images


@dataclasses.dataclass(frozen=True)
class DataOptions(Options):
  """Options of a data set."""

  GROUP = "Data"

  dataset: str | None = setting(None, "Data set; the run's if not given.", names_among(DATASETS))
  data_dir: str | None = setting(
    None,
    "Data directory of TensorFlow Datasets, or folder with the published files of cifar10, cifar100, mnist, "
    "fashion_mnist, imagenet32_old and imagenet64_old.",
  )
  download: bool | None = setting(None, "Let TensorFlow Datasets download a data set that is missing.")
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
    "For photos, elpv, sky16 and folders with images larger than the model's: train on crops at random positions, "
    "drawn again in each step; else on a grid of patches, or on whole images that are resized.",
  )

  @property
  def given_data(self) -> dict[str, Any]:
    """The data settings that were given, by name."""
    values = {name: getattr(self, name) for name in ("dataset", *DATA_SETTINGS)}
    return {name: value for name, value in values.items() if value is not None}

  def split_in_words(self, split: str) -> str:
    """Describe a split of the data set; raise an `InputError` for an unknown data set."""
    if self.dataset is not None:
      dataset_entry(self.dataset)
    return f"the {split} split of " + (self.dataset or "the model's data")

  def data_places(self) -> list[str]:
    """Return the paths of the images and of the splits file, which a program must not overwrite."""
    kind, _, path = (self.dataset or "").partition(":")
    image_path = path if kind in ("folder", "npz") else ""
    return [os.path.expanduser(place) for place in (image_path, self.splits_file) if place]


def complete_settings(given: Mapping[str, Any], default: str, recorded: dict | None = None) -> dict:
  """Return the settings that determine the data, for a run's config.json and for `load_from_settings`.

  Args:
    given: data settings that were given, from `DataOptions.given_data` or a recipe.
    default: name of the data set if none is given.
    recorded: settings of a run, as defaults of the given settings.
  """
  recorded = dict(recorded or {})
  if given.get("dataset") and recorded:  # these belong to the run's own folder
    recorded.update(splits_file=None, max_bad_files=None, crops=None)
  return recorded_settings(given.get("dataset") or default, {**recorded, **given})


def load_from_settings(
  settings: dict, config: FlowPlusPlusConfig, any_classes: bool = False, labels: bool | None = None
) -> "ImageDataset":
  """Load a data set, with labels if the model takes them, and check that it fits the config.

  Args:
    settings: from `complete_settings`.
    config: `FlowPlusPlusConfig` of the model.
    any_classes: whether the data may have another number of classes than the config.
    labels: whether to load the labels; None if the model takes them.
  """
  from flowpp_tf.data import load_dataset

  given = {name: settings[name] for name in DATA_SETTINGS if settings.get(name) is not None}
  if labels is None:
    labels = config.num_classes > 0
  dataset = load_dataset(
    _name_in(settings),
    **{"download": True, **given},
    image_shape=config.image_shape,
    levels=config.levels,
    labels=labels,
    neighbours=config.tile_neighbours,
    real_valued=config.pixel_levels is None,
  )
  if any_classes:
    config = dataclasses.replace(config, num_classes=dataset.num_classes)
  dataset.check(config)
  return dataset


def _name_in(settings):
  """Return the name of a run's data set; raise an `InputError` if none is recorded."""
  if not settings.get("dataset"):  # for example, a preset that was saved without settings
    raise InputError("the model does not name the data it was trained on; --dataset names images to measure")
  return settings["dataset"]


def short_name(name: str) -> str:
  """Return a name for use in file names: `test3` for `test:3`, `cat` for `pets/cat.png`."""
  return name.replace(":", "") if split_in(name) else pathlib.Path(name).stem or "images"


def split_in(name: str) -> str | None:
  """Return the split in a name such as `test` or `test:3`, None for other names."""
  split = name.partition(":")[0]
  return split if split in SPLITS else None


def images_to_measure(
  dataset: "ImageDataset", split: str, config: FlowPlusPlusConfig, limit: int | None = None
) -> tuple["Images", dict[str, np.ndarray], np.ndarray | None]:
  """Return the first `limit` images of a split, their conditioning by name, and how much of each tile is inside.

  Tiles cover their pictures; for a model of whole images the last value is None.
  """
  from flowpp_tf.data.random_crops import tiles_of

  if not config.tile_neighbours:
    return *chosen_images(dataset, split, config, slice(limit)), None
  dataset = dataset.with_edges()
  images, conditioning = chosen_images(dataset, split, config, slice(limit))
  tiles = tiles_of(dataset.split(split))
  return images, conditioning, None if tiles is None else tiles.inside(np.arange(len(images)))


def chosen_images(
  dataset: "ImageDataset", split: str, config: FlowPlusPlusConfig, chosen: slice | np.ndarray
) -> tuple["Images", dict[str, np.ndarray]]:
  """Read chosen images of a split; return them and their conditioning by name."""
  from flowpp_tf.data.pipeline import grid_tiles

  images = dataset.split(split)
  labels = dataset.labels_of(split) if config.num_classes else None
  conditioning = {}
  if labels is not None:
    conditioning["labels"] = labels[chosen]
  if config.tile_neighbours:
    conditioning["condition"] = grid_tiles(images, np.arange(len(images))[chosen])[1]
  return images[chosen], conditioning


def load_data_of_run(settings: dict, config: FlowPlusPlusConfig, given: dict) -> "ImageDataset":
  """Load the data of a run, or other data if given; warn if they are not the model's training data.

  Args:
    settings: settings of the run, from its config.json.
    config: `FlowPlusPlusConfig` of its model.
    given: data flags that were given, from `DataOptions.given_data`.
  """
  from flowpp_tf.data import describe

  name = given.get("dataset") or _name_in(settings)
  dataset = load_from_settings(complete_settings(given, name, settings), config)
  fingerprint = dataset.fingerprint()
  trained = settings.get("fingerprint")
  if trained and trained["sha256"] != fingerprint["sha256"]:
    process.warn(f"the model was trained on {describe(trained)}; this is {describe(fingerprint)}")
  return dataset


def load_with_labels(settings: dict, config: FlowPlusPlusConfig) -> "ImageDataset | None":
  """Load a data set with its labels, if it has any, even for a model without classes; return None without the data."""
  for labels in (True, None):
    with contextlib.suppress(InputError):
      return load_from_settings(settings, config, any_classes=True, labels=labels)
  return None
