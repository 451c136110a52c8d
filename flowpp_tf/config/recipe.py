"""A recipe: everything that defines a training run, as one object. `bin/train` and `fpp.train` both resolve one.

Each config has a recipe, the file configs/NAME.flags with the flags of a whole experiment; the installed package
includes these files.
"""

from collections.abc import Mapping, Sized
import dataclasses
import pathlib
import types
from typing import Any, Protocol, get_args, get_origin

from flowpp_tf.config.model import CONFIGS, FlowPlusPlusConfig, get_config
from flowpp_tf.config.training import WITHOUT_EPSILON, TrainingConfig
from flowpp_tf.core.checks import check_arguments, check_type
from flowpp_tf.core.errors import InputError, unknown_name
from flowpp_tf.core.registry import register
from flowpp_tf.core.settings import POSITIVE, Settings, as_setting, at_least, one_of, setting, value_type

_HERE = pathlib.Path(__file__).parent.parent
_FOLDERS = (_HERE / "configs", _HERE.parent / "configs")  # of the installed package, of a clone
_EPOCHS = POSITIVE._replace(high=1_000_000)
# Pairs of settings that say the same; a recipe has at most one setting of a pair.
SAY_THE_SAME = (("length of the run", "steps", "epochs"), ("precision", "precision", "dtype"))
_REGISTERED: dict[str, "Recipe"] = {}  # from outside of the package
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@dataclasses.dataclass(frozen=True)
class RunSettings(Settings):
  """Settings of a recipe that are fields of neither config; `bin/train --help` explains them.

  Examples:
    >>> from flowpp_tf.config import RunSettings
    >>> RunSettings(precision="bfloat16", crops=True).precision
    'bfloat16'
  """

  epochs: float | None = setting(None, "Passes over the training data, instead of steps.", _EPOCHS)
  precision: str | None = setting(None, "Name of the dtype.", one_of(*PRECISIONS))
  dataset: str | None = setting(None, "Name of the data set.")
  data_dir: str | None = setting(None, "Its folder.")
  cache_dir: str | None = setting(None, "Folder for decoded images.")
  bits: int | None = setting(None, "Bits of the images to keep.", at_least(1, 8))
  splits_file: str | None = setting(None, "Splits of a folder.")
  max_bad_files: int | None = setting(None, "Unreadable files of a folder to skip.", at_least(0))
  crops: bool | None = setting(None, "Whether to train on random crops.")
  download: bool | None = setting(None, "Whether missing data may be downloaded.")
  num_samples: int | None = setting(None, "Samples of the bound at the end.", at_least(1))
  eval_images: int | None = setting(None, "Test images at the end.", at_least(1))


def _fields_by_name(settings_class):
  return {field.name: field for field in dataclasses.fields(settings_class)}


_MODEL, _TRAINING, _RUN = map(_fields_by_name, (FlowPlusPlusConfig, TrainingConfig, RunSettings))
_FIELDS = {**_RUN, **_TRAINING, **_MODEL}


class TrainingData(Protocol):
  """The data set that a recipe is resolved for, such as an `ImageDataset`."""

  @property
  def train(self) -> Sized:
    """Training images."""


@dataclasses.dataclass(frozen=True)
class Recipe:
  """A config, and settings by name; immutable.

  Attributes:
    base: config of the model.
    settings: values by name, for fields of `FlowPlusPlusConfig`, `TrainingConfig` and `RunSettings`. They override
      `base` and the defaults.

  Raises:
    InputError (a ValueError): for an unknown name, a value that its setting cannot have, or two settings that say the
      same.

  Examples:
    >>> from flowpp_tf.data import load_dataset
    >>> recipe = fpp.Recipe.load("digits").replace(steps=50, filters=16)
    >>> config, training = recipe.resolve(load_dataset("digits"))
    >>> config.filters, training.steps, training.ema_decay
    (16, 50, 0.995)
  """

  base: FlowPlusPlusConfig
  settings: Mapping[str, Any] = dataclasses.field(default_factory=lambda: types.MappingProxyType({}))

  def __post_init__(self) -> None:
    check_type("base", self.base, FlowPlusPlusConfig)
    check_type("settings", self.settings, Mapping)
    settings = {}
    for name, value in self.settings.items():
      if name not in _FIELDS:
        raise unknown_name("setting", name, _FIELDS)
      settings[name] = as_setting(_FIELDS[name], value)
    object.__setattr__(self, "settings", types.MappingProxyType(settings))  # a copy: the caller may change the argument
    RunSettings(**self._chosen(_RUN))  # checks the ranges of these; the configs check the others
    for what, first, second in SAY_THE_SAME:
      if self.settings.get(first) is not None and self.settings.get(second) is not None:
        raise InputError(f"give the {what} as --{first} or as --{second}, one of them")

  @classmethod
  @check_arguments
  def load(cls, name: str) -> "Recipe":
    """Return the recipe of a config by name.

    Raises:
      InputError (a ValueError): for an unknown name; the message suggests close ones.
    """
    config = get_config(name)
    if name in _REGISTERED:
      return _REGISTERED[name]
    path = _folder() / f"{name}.flags"
    if not path.is_file():
      return cls(config)
    settings = {}
    for line in path.read_text().splitlines():
      flag, equals, text = line.strip().removeprefix("--").partition("=")
      if line.startswith("--") and flag != "config":
        if not equals:
          text = "true"
        settings[flag] = _parse_text(_FIELDS[flag], text)
    return cls(config, settings)

  def replace(self, **settings: Any) -> "Recipe":
    """Return the recipe with other settings. They also replace settings that say the same, as `epochs` does `steps`.

    Raises:
      InputError (a ValueError): for an unknown name (the message suggests close ones), a value of another type, or two
        settings that say the same.
    """
    replaced = replaced_by(settings, self.settings)
    kept = {name: value for name, value in self.settings.items() if name not in replaced}
    return dataclasses.replace(self, settings={**kept, **settings})

  @property
  def config(self) -> FlowPlusPlusConfig:
    """Config of the model: `base` with the settings that are fields of it."""
    chosen = self._chosen(_MODEL)
    precision = self.settings.get("precision")
    if precision is not None:
      chosen["dtype"] = PRECISIONS[precision]
    return dataclasses.replace(self.base, **chosen)

  @check_arguments
  def resolve(self, dataset: TrainingData) -> tuple[FlowPlusPlusConfig, TrainingConfig]:
    """Return the configs of a run on a data set, whose size says how many steps an epoch has.

    Raises:
      InputError (a ValueError): if a setting is out of its range, or neither `steps` nor `epochs` is set.
    """
    training = self._chosen(_TRAINING)
    epochs = self.settings.get("epochs")
    if epochs is not None:
      images_per_step = TrainingConfig(**{**training, "steps": 1}).images_per_step
      training["steps"] = max(1, round(epochs * len(dataset.train) / images_per_step))
    if training.get("steps") is None:
      raise InputError("`steps` must say how long to train: there is no recipe for the config")
    return self.config, TrainingConfig(**training)

  def _chosen(self, fields):
    return {name: value for name, value in self.settings.items() if name in fields}


def replaced_by(settings: Mapping[str, Any], before: Mapping[str, Any]) -> set[str]:
  """Return the names of those settings, and of what they replace in the settings before them."""
  replaced = {*settings}
  for _, *pair in SAY_THE_SAME:
    if not replaced.isdisjoint(pair):
      replaced.update(pair)
  if str(settings.get("optimizer")) in WITHOUT_EPSILON:
    replaced.add("adam_epsilon")
  rates = {"learning_rate", "warmup_steps"}
  if _has_own_rates(settings):
    replaced |= rates
  if _has_own_rates(before) and replaced & rates:
    replaced.add("schedule")
  return replaced


def _has_own_rates(settings):
  """Return whether the schedule is in pieces, such as linear:3e-4@2000,hold, with rates and warm-up of its own."""
  return ":" in str(settings.get("schedule", ""))


def recipes() -> list[str]:
  """Return the names of the recipes.

  Examples:
    >>> "cifar10" in fpp.recipes()
    True
  """
  return sorted([*(path.stem for path in _folder().glob("*.flags")), *_REGISTERED])


@check_arguments
def register_config(name: str, recipe: Recipe) -> None:
  """Register a recipe as a config under a name; programs import a module that calls this by --import=MODULE.

  Args:
    name: for `Recipe.load`, `get_config`, `fpp.train` and --config.
    recipe: the config, and the settings of its runs; without `dataset`, the data set of the same name is used.

  Raises:
    InputError (a ValueError): if a config of that name exists.

  Examples:
    >>> fpp.register_config("small_digits", fpp.Recipe.load("digits").replace(filters=16, steps=500))
    >>> fpp.get_config("small_digits").filters, "small_digits" in fpp.recipes()
    (16, True)
  """
  register("config", CONFIGS, name, recipe.config)
  _REGISTERED[name] = recipe


def _folder():
  return next((folder for folder in _FOLDERS if folder.is_dir()), _FOLDERS[0])


def _parse_text(field, text):
  """Parse the text of a field's value in a recipe's file."""
  kind = value_type(field)
  if get_origin(kind) is tuple:
    item_type, *_ = get_args(kind)
    return tuple(item_type(item) for item in text.split(",") if item)
  return text == "true" if kind is bool else kind(text)
