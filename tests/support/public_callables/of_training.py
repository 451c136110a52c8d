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
from support.models import MINIMAL
from support.public_callables.row import Row, look, row
from support.public_callables.world import IMAGES, NORMAL, VECTORS
from support.wrong_values import (
  OTHER_SHAPES,
  Argument,
  count,
  flag,
  images,
  instance,
  labels,
  mapping,
  name,
  number,
  optional,
  path,
  real,
  same,
  some_of,
  text,
)

# --- Settings: an argument for each field, by its type ------------------------------------------


def _setting(field, valid):
  """The argument that a field of `Settings` is; values that its range may or may not have are left out."""
  kind = value_type(field)
  if typing.get_origin(kind) is tuple:
    of_texts = typing.get_args(kind)[0] is str
    argument = some_of(valid or (), [("fraction", 0.5)]) if of_texts else _numbers(valid or (1, 2))
  else:
    argument = {
      bool: flag,
      int: lambda v: count(v, huge=same(2**62)).but("too small"),
      float: lambda v: number(v, low=0).but("too small").also(("negative", -1.5)),
      str: text,
    }[kind](valid)
  is_optional = isinstance(field.type, types.UnionType) and types.NoneType in typing.get_args(field.type)
  return argument._replace(optional=is_optional)


def _numbers(valid):
  def wrong(valid):
    yield "None", None
    yield "number", 3
    yield "text", "a"
    yield "fractions", tuple(n + 0.5 for n in valid)
    yield "negative", tuple(-n for n in valid)
    yield "texts", tuple(map(str, valid))
    yield "NaN", tuple(float("nan") for _ in valid)
    yield "booleans", tuple(True for _ in valid)
    yield "nested", (valid,)

  return Argument(valid, wrong)


def _settings(cls, **valid):
  """The arguments of a class of settings; `valid`: values in place of defaults."""
  return {field.name: _setting(field, valid.get(field.name, field.default)) for field in dataclasses.fields(cls)}


OF_MODEL = _settings(
  config.FlowPlusPlusConfig, condition_shape=(2, 2, 1), num_classes=3, augment_channels=2, dropout=0.2
)
OF_MODEL["condition_shape"] = OF_MODEL["condition_shape"].but("nested")
for key in (
  "coupling",
  "invertible_conv",
  "dequantization",
  "augment_posterior",
  "remat",
  "dtype",
  "structure",
  "dequant_structure",
):
  OF_MODEL[key] = name(OF_MODEL[key].valid)
OF_MODEL["flow_dtype"] = name("float64").but("empty")
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
OF_TRAINING["optimizer"] = name("adam")  # the text of a schedule is read when the run begins
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
OF_RUN["precision"] = optional(name("float32"))


def _with_steps(recipe):
  return recipe if {"steps", "epochs"} & {*recipe.settings} else recipe.replace(steps=3)


def _chosen(recipe):
  """Look at a recipe: what it resolves to."""
  return look([dict(recipe.settings), recipe.config, _with_steps(recipe).resolve(types.SimpleNamespace(train=IMAGES))])


# --- Runs ---------------------------------------------------------------------------------------

TRAINING = training.TrainingConfig(steps=1, batch_size=2, validate_every=1, tensorboard=())


def _run(w, **kwargs):
  arguments = dict(
    config=MINIMAL,
    training=TRAINING,
    dataset=w.dataset,
    workdir=training.Workdir(w.new("run")),
    log_fn=lambda line: None,
  )
  return training.run_training(**{**arguments, **kwargs})


MANY = np.concatenate([IMAGES] * 8)


def _train(w, **kwargs):
  """A run of one step."""
  settings = dict(workdir=w.new("run"), verbose=False, steps=1, batch_size=2, validate_every=1)
  return fpp.train(**{"images": MANY, "config": MINIMAL, **settings, **kwargs})


TO_FIT = np.random.RandomState(0).randn(8, 2).astype(np.float32)
POINTS_TO_FIT = real(TO_FIT, event=1, batch=1, finite=True, cast="all")


def _fit(**kwargs):
  """Two steps of a normal distribution."""
  return fpp.fit(**{"flow": _normal(), "data": TO_FIT, "steps": 2, **kwargs})


def _given():
  return fpp.vector_flow(2, 3, **VECTORS)


def _normal():
  return tfp.distributions.MultivariateNormalDiag(tf.Variable([0.0, 0.0]), tf.Variable([1.0, 1.0]))


_TRAINING = {
  "fit": row(
    lambda w: _fit,
    data=POINTS_TO_FIT,
    validation=optional(POINTS_TO_FIT._replace(valid=NORMAL(4, 2))),
    steps=2,
    batch_size=2,
    learning_rate=number(0.001, low=0, ends=False),
    weight_decay=optional(number(0.1, low=0)),
    patience=2,
    seed=count(1, low=0, most=2**32 - 1),
  ),
  "fit/flow": row(lambda w: _fit, flow=lambda w: _normal()),
  "fit/context": row(
    lambda w: lambda **kwargs: fpp.fit(_given(), TO_FIT, validation=NORMAL(4, 2), steps=1, **kwargs).steps,
    context=real(NORMAL(8, 3), event=1, batch=1, finite=True, cast="all").named("data"),
    validation_context=real(NORMAL(4, 3), event=1, batch=1, finite=True, cast="all"),
    slow=True,
  ),
  "run_training": row(
    lambda w: lambda **kwargs: _run(w, **kwargs),
    config=MINIMAL,
    training=TRAINING,
    dataset=lambda w: w.dataset,
    workdir=lambda w: training.Workdir(w.new("run")),
    extra_metadata={},
    init_from=lambda w: fpp.models.InitialWeights.find(str(w.preset)),
    log_fn=lambda line: None,
    slow=True,
  ),
  "TrainState": row(model=lambda w: w.model, config=TRAINING, look=lambda state: None),
  "Workdir": row(
    path=path(lambda w: w.folder / "run", there=False).but("in no folder").named("workdir"),
    look=lambda workdir: str(workdir.path),
  ),
  "Workdir.load": row(
    lambda w: training.Workdir(w.run).load,
    precision=optional(name("float32")),
    look=lambda found: found[0].config.dtype,
  ),
  "PiecewiseSchedule": row(
    pieces=name("linear:1.0@10,hold")
    .named("schedule")
    .also(*((entry, entry) for entry in ("hold:-1", "hold:nan", "linear:1", "decay:2", ",", "hold:1@1.5"))),
    look=lambda schedule: float(schedule(3)),
  ),
  "get_strategy": row(
    name=name("one").named("strategy"),
    num_virtual_cpus=count(0, low=0).but("np.int64", "tensor", "array of rank 0"),
    tpu=optional(text(None).also(("address", "a"))),
    log_fn=print,
    look=repr,
  ),
  "Workers": row(strategy=tf.distribute.get_strategy(), look=lambda workers: workers.count),
  "load": row(workdir=lambda w: w.run, precision=optional(name("float32"))),
  "train": row(
    lambda w: lambda **kwargs: _train(w, **kwargs),
    # From which the config takes its image shape; an image of three axes is one of one channel each.
    images=images(MANY, 8).but(*OTHER_SHAPES).named("dataset"),
    config=name(MINIMAL)._replace(wrong=lambda valid: name("digits").wrong("digits")),
    workdir=optional(path(lambda w: w.new("run"), there=False)),
    verbose=flag(False),
    look=lambda model: model.config,
    slow=True,
  ),
  "train/labels": row(
    lambda w: lambda **kwargs: _train(w, **kwargs),
    labels=labels(np.arange(len(MANY)) % 3, 3, one=False).but("too large", "None"),
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
  "FlowPlusPlusConfig": Row(
    lambda w: lambda **kwargs: config.FlowPlusPlusConfig(**{"num_classes": 3, **kwargs}), OF_MODEL
  ),
  "TrainingConfig": Row(lambda w: lambda **kwargs: config.TrainingConfig(**{"steps": 10, **kwargs}), OF_TRAINING),
  "RunSettings": Row(lambda w: config.RunSettings, OF_RUN),
  "Recipe": row(
    base=MINIMAL,
    settings=mapping({"steps": 3}).also(("unknown", {"stepz": 3}), ("wrong", {"steps": "a"})).named("setting", "steps"),
    look=_chosen,
  ),
  "Recipe.load": row(name=name("digits").named("config"), look=_chosen),
  "Recipe.replace": Row(
    lambda w: config.Recipe(dataclasses.replace(MINIMAL, num_classes=3)).replace,
    {**OF_MODEL, **{k: v for k, v in OF_TRAINING.items() if k != "tensorboard"}},
    _chosen,
  ),
  "Recipe.replace/run": Row(lambda w: config.Recipe(MINIMAL).replace, OF_RUN, _chosen),
  "Recipe.resolve": row(
    lambda w: config.Recipe(MINIMAL, {"steps": 3}).resolve,
    dataset=instance(lambda w: w.dataset).but("text", "list", "array"),
  ),
  "register_config": row(
    name=text("mine").also(("empty", ""), ("taken", "digits")),
    recipe=config.Recipe(MINIMAL, {"steps": 3}),
    reset=lambda w: (fpp.CONFIGS.pop("mine", None), _REGISTERED.pop("mine", None)),
  ),
  "get_config": row(name=name("digits").named("config")),
  **_TRAINING,
}
