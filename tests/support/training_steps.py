"""Training states of new models on one device or two, and steps of them; whole runs of small models."""

from unittest import mock

import keras
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import data, training
from flowpp_tf.io.weights_file import weights_to_bytes
from flowpp_tf.training import step as train_step_module
from flowpp_tf.training.optimizer import make_optimizer
from support.models import MINIMAL, small_images


def train_state(config, devices=1, optimizer=None, **settings):
  """Return the state of a run of a new model on one device or two mirrored ones, with `strategy` as an attribute.

  `optimizer()` is an optimizer that the settings of a run do not have, to compare with.
  """
  strategy = training.get_strategy("one" if devices == 1 else "mirrored")
  assert strategy.num_replicas_in_sync == devices
  settings = training.TrainingConfig(**{"steps": 100, **settings})
  make = optimizer and (lambda _: optimizer())
  with strategy.scope(), mock.patch.object(train_step_module, "make_optimizer", make or make_optimizer):
    keras.utils.set_random_seed(0)
    state = training.TrainState(fpp.FlowPlusPlus(config), settings)
  state.strategy = strategy
  return state


def step(state, batch):
  """Take a training step on all devices of a state; return bits/dim and gradient norm of this step."""
  if not hasattr(state, "take_step"):
    state.take_step = tf.function(
      lambda batch: state.strategy.run(lambda batch: training.train_step(state, batch), args=(batch,)), autograph=False
    )
  state.reset_sums()
  count = state.strategy.num_replicas_in_sync
  share = lambda i: tf.nest.map_structure(lambda values: tf.split(tf.constant(values), count)[i], batch)
  state.take_step(
    share(0)
    if count == 1
    else state.strategy.experimental_distribute_values_from_function(
      lambda context: share(context.replica_id_in_sync_group)
    )
  )
  return state.means()


def small_data(config=MINIMAL, sizes=(16, 8, 8)):
  """A data set of random images for a config, so many of training, validation and test."""
  parts = [small_images(count, config, seed) for seed, count in enumerate(sizes)]
  return data.ImageDataset("small", config.levels, *parts)


def small_run(path, config=MINIMAL, dataset=None, log_fn=lambda line: None, strategy=None, init_from=None, **settings):
  """Train a model in a working directory, for two steps unless the settings say more; return it and the best bound."""
  workdir = training.Workdir(path)
  usual = dict(steps=2, batch_size=8, validate_every=1, learning_rate=3e-3, tensorboard=())
  best = training.run_training(
    config,
    training.TrainingConfig(**{**usual, **settings}),
    small_data(config) if dataset is None else dataset,
    workdir,
    strategy=strategy,
    init_from=init_from,
    log_fn=log_fn,
  )
  return workdir, best


def without_times(rows):
  """Return rows of a run's metrics without the columns that measure time."""
  return [{k: v for k, v in row.items() if k not in ("images_per_second", "cpu_seconds")} for row in rows]


def stored_run(path, model, **settings):
  """The working directory of a run that ended with a model, and had these settings."""
  workdir = training.Workdir(path)
  workdir.open(model.config, settings)
  workdir.best_weights.write_bytes(weights_to_bytes(model))
  return workdir
