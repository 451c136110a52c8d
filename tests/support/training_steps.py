"""Training states of new models on one device or two, and steps of them."""

from unittest import mock

import keras
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import training
from flowpp_tf.training import step as train_step_module
from flowpp_tf.training.optimizer import make_optimizer


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


def step(state, images):
  """Take a training step on all devices of a state; return bits/dim and gradient norm of this step."""
  if not hasattr(state, "take_step"):
    state.take_step = tf.function(
      lambda images: state.strategy.run(lambda images: training.train_step(state, images), args=(images,)),
      autograph=False,
    )
  state.reset_sums()
  shares = tf.split(tf.constant(images), state.strategy.num_replicas_in_sync)
  state.take_step(
    shares[0]
    if len(shares) == 1
    else state.strategy.experimental_distribute_values_from_function(
      lambda context: shares[context.replica_id_in_sync_group]
    )
  )
  return state.means()
