"""Configs, recipes, training runs and devices."""

import dataclasses
import types
import typing

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from flowpp_tf import config, training
from flowpp_tf.config.recipe import _REGISTERED
from flowpp_tf.core.settings import value_type
from support import wrong_values as wrong
from support.models import MINIMAL, small_config
from support.public_callables.row import look, row
from support.public_callables.world import IMAGES, NORMAL, VECTORS

OBJECTS = {"Workdir": lambda w: training.Workdir(w.run)}
USUAL = dict(
  config=MINIMAL,
  model=lambda w: w.model,
  dataset=lambda w: w.dataset,
  precision=wrong.optional(wrong.name("float32")),
  log_fn=lambda line: None,
)

# --- Settings: an argument for each field, by its type ------------------------------------------


def _setting(field, valid):
  """The argument that a field of `Settings` is; values that its range may or may not have are left out."""
  kind = value_type(field)
  if typing.get_origin(kind) is tuple:
    of_texts = typing.get_args(kind)[0] is str
    argument = wrong.some_of(valid or (), [("fraction", 0.5)]) if of_texts else _numbers(valid or (1, 2))
  else:
    argument = {
      bool: wrong.flag,
      int: lambda v: wrong.count(v, huge=wrong.same(2**62)).but("too small"),
      float: lambda v: wrong.number(v, low=0).but("too small").also(("negative", -1.5)),
      str: wrong.text,
    }[kind](valid)
  is_optional = isinstance(field.type, types.UnionType) and types.NoneType in typing.get_args(field.type)
  return argument._replace(optional=is_optional)


def _numbers(valid):
  def values(valid):
    yield "None", None
    yield "number", 3
    yield "text", "a"
    yield "fractions", tuple(n + 0.5 for n in valid)
    yield "negative", tuple(-n for n in valid)
    yield "texts", tuple(map(str, valid))
    yield "NaN", tuple(float("nan") for _ in valid)
    yield "booleans", tuple(True for _ in valid)
    yield "nested", (valid,)

  return wrong.Argument(valid, values)


def _settings(cls, **valid):
  """The arguments of a class of settings; `valid`: values in place of defaults."""
  return {field.name: _setting(field, valid.get(field.name, field.default)) for field in dataclasses.fields(cls)}


OF_MODEL = _settings(
  config.FlowPlusPlusConfig, condition_shape=(2, 2, 1), num_classes=3, augment_channels=2, dropout=0.2
)
OF_MODEL["condition_shape"] = OF_MODEL["condition_shape"].but("nested")
OF_NAMES = "coupling invertible_conv dequantization augment_posterior remat dtype structure dequant_structure"
for key in OF_NAMES.split():
  OF_MODEL[key] = wrong.name(OF_MODEL[key].valid)
OF_MODEL["flow_dtype"] = wrong.name("float64").but("empty")
OF_TRAINING = _settings(
  config.TrainingConfig,
  steps=10,
  learning_rate=1e-3,
  validate_every=2,
  init_batch_size=4,
  checkpoint_every=3,
  seed=1,
  warmup_steps=1,
)
OF_TRAINING["optimizer"] = wrong.name("adam")  # the text of a schedule is read when the run begins
OF_RUN = _settings(
  config.RunSettings,
  epochs=2.0,
  precision="float32",
  dataset="digits",
  data_dir="data",
  cache_dir="cache",
  bits=5,
  splits_file="splits.json",
  max_bad_files=1,
  crops=False,
  download=False,
  num_samples=2,
  eval_images=3,
)
OF_RUN["precision"] = wrong.optional(wrong.name("float32"))


def _chosen(recipe):
  """Look at a recipe: what it resolves to."""
  whole = recipe if {"steps", "epochs"} & {*recipe.settings} else recipe.replace(steps=3)
  return look([dict(recipe.settings), recipe.config, whole.resolve(types.SimpleNamespace(train=IMAGES))])


# --- Runs ---------------------------------------------------------------------------------------

TRAINING = training.TrainingConfig(steps=1, batch_size=2, validate_every=1, tensorboard=())


MANY = np.concatenate([IMAGES] * 8)


def _train(w, **kwargs):
  """A run of one step."""
  settings = dict(workdir=w.new("run"), verbose=False, steps=1, batch_size=2, validate_every=1)
  return fpp.train(**{"images": MANY, "config": MINIMAL, **settings, **kwargs})


TO_FIT = np.random.RandomState(0).randn(8, 2).astype(np.float32)


_TRAINING = {
  "fit": row(
    flow=lambda w: tfp.distributions.MultivariateNormalDiag(tf.Variable([0.0, 0.0]), tf.Variable([1.0, 1.0])),
    data=TO_FIT,
    validation=NORMAL(4, 2),
    steps=2,
    batch_size=2,
    learning_rate=wrong.number(0.001, low=0, ends=False),
    weight_decay=wrong.optional(wrong.number(0.1, low=0)),
    patience=2,
    seed=wrong.count(1, low=0, most=2**32 - 1),
  ),
  "fit/context": row(
    lambda w: (
      lambda **kwargs: (
        fpp.fit(fpp.vector_flow(2, 3, **VECTORS), TO_FIT, validation=NORMAL(4, 2), steps=1, **kwargs).steps
      )
    ),
    context=wrong.data(NORMAL(8, 3)).named("data"),
    validation_context=wrong.data(NORMAL(4, 3)),
    slow=True,
  ),
  "calibration": row(
    flow=wrong.instance(lambda w: w.layer_given),
    data=NORMAL(4, 2),
    context=wrong.data(NORMAL(4, 3)).named("context"),
    names=wrong.optional(wrong.some_of(["mass", "spin"])),
  ),
  "Calibration.plot": row(
    lambda w: fpp.calibration(w.flow_given, NORMAL(4, 2), NORMAL(4, 3), draws=3).plot,
    path=wrong.path(lambda w: w.new("a.png"), there=False).also(("ending", "a.txt")),
  ),
  "run_training": row(
    training=TRAINING,
    workdir=lambda w: training.Workdir(w.new("run")),
    extra_metadata={},
    init_from=lambda w: fpp.models.InitialWeights.find(str(w.preset)),
    slow=True,
  ),
  "TrainState": row(config=TRAINING, look=lambda state: None),
  "Workdir": row(
    path=wrong.path(lambda w: w.folder / "run", there=False).but("in no folder").named("workdir"),
    look=lambda workdir: str(workdir.path),
  ),
  "Workdir.load": row(look=lambda found: found[0].config.dtype),
  "PiecewiseSchedule": row(
    pieces=wrong.name("linear:1.0@10,hold")
    .named("schedule")
    .also(*((entry, entry) for entry in ("hold:-1", "hold:nan", "linear:1", "decay:2", ",", "hold:1@1.5"))),
    look=lambda schedule: float(schedule(3)),
  ),
  "get_strategy": row(
    name=wrong.name("one").named("strategy"),
    num_virtual_cpus=wrong.count(0, low=0).but("np.int64", "tensor", "array of rank 0"),
    tpu=wrong.optional(wrong.text(None).also(("address", "a"))),
    look=repr,
  ),
  "Workers": row(strategy=tf.distribute.get_strategy(), look=lambda workers: workers.count),
  "load": row(path=lambda w: w.run),
  "train": row(
    lambda w: lambda **kwargs: _train(w, **kwargs),
    # From which the config takes its image shape; an image of three axes is one of one channel each.
    images=wrong.images(MANY, 8).but(*wrong.OTHER_SHAPES).named("dataset"),
    config=wrong.name(MINIMAL)._replace(wrong=lambda valid: wrong.name("digits").wrong("digits")),
    workdir=wrong.optional(wrong.path(lambda w: w.new("run"), there=False)),
    verbose=wrong.flag(False),
    look=lambda model: model.config,
    slow=True,
  ),
  "train/labels": row(
    lambda w: lambda **kwargs: _train(w, **kwargs),
    labels=wrong.labels(np.arange(len(MANY)) % 3, 3, one=False).but("too large", "None"),
    look=lambda model: model.config,
    slow=True,
  ),
  "train/init_from": row(
    lambda w: lambda **kwargs: _train(w, **kwargs),
    init_from=lambda w: str(w.preset),
    unchecked=False,
    look=lambda model: model.config,
    slow=True,
  ),
}

ROWS = {
  "FlowPlusPlusConfig": row(
    lambda w: lambda **kwargs: config.FlowPlusPlusConfig(**{"num_classes": 3, **kwargs}), **OF_MODEL
  ),
  "TrainingConfig": row(lambda w: lambda **kwargs: config.TrainingConfig(**{"steps": 10, **kwargs}), **OF_TRAINING),
  "RunSettings": row(lambda w: config.RunSettings, **OF_RUN),
  "Recipe": row(
    base=MINIMAL,
    settings=wrong.mapping({"steps": 3})
    .also(("unknown", {"stepz": 3}), ("wrong", {"steps": "a"}))
    .named("setting", "steps"),
    look=_chosen,
  ),
  "Recipe.load": row(name=wrong.name("digits").named("config"), look=_chosen),
  "Recipe.replace": row(
    lambda w: config.Recipe(small_config(num_classes=3)).replace,
    **{**OF_MODEL, **{key: value for key, value in OF_TRAINING.items() if key != "tensorboard"}},
    look=_chosen,
  ),
  "Recipe.replace/run": row(lambda w: config.Recipe(MINIMAL).replace, **OF_RUN, look=_chosen),
  "Recipe.resolve": row(
    lambda w: config.Recipe(MINIMAL, {"steps": 3}).resolve,
    dataset=wrong.instance(lambda w: w.dataset).but("text", "list", "array"),
  ),
  "register_config": row(
    name=wrong.text("mine").also(("empty", ""), ("taken", "digits")),
    recipe=config.Recipe(MINIMAL, {"steps": 3}),
    reset=lambda w: (fpp.CONFIGS.pop("mine", None), _REGISTERED.pop("mine", None)),
  ),
  "get_config": row(name=wrong.name("digits").named("config")),
  **_TRAINING,
}
