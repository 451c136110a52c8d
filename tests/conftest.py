"""Shared by the tests: two logical CPU devices, and small models of every kind."""

import dataclasses

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism

import flowpp_tf as fpp
from flowpp_tf import training

# Before anything uses a device: the tests of MirroredStrategy need two.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
# One op after the other: else sums of gradients depend on the load of the machine, in the last bit.
tf.config.threading.set_inter_op_parallelism_threads(1)

# Each run draws the same few examples; `--hypothesis-profile=full` draws many, others each time.
hypothesis.settings.register_profile(
    "quick", max_examples=40, deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("full", max_examples=10_000, deadline=None, print_blob=True)
hypothesis.settings.load_profile("quick")

# Small, yet with every part: both splits, an odd group, squeeze, attention, context, dropout.
SMALL = fpp.FlowPlusPlusConfig(
    image_shape=(4, 4, 2), levels=8, structure="columns:3,squeeze,channels:2", components=3,
    filters=4, blocks=1, heads=2, dropout=0.2, dequant_structure="columns:2", dequant_filters=4,
    dequant_blocks=1, context_channels=4, context_blocks=1)

# For tests of what happens around a model, which trace it many times: every part once.
TINY = dataclasses.replace(SMALL, structure="columns:1,squeeze,channels:1", dequant_structure="columns:1")

VARIANTS = {
    "published": SMALL,
    "uniform": dataclasses.replace(SMALL, dequantization="uniform"),
    "affine": dataclasses.replace(SMALL, coupling="affine", invertible_conv="lu"),
    "no_attention": dataclasses.replace(SMALL, attention=False),
    "imagenet32": dataclasses.replace(
        SMALL, weight_norm=True, output_concat_elu=True, invertible_conv="none",
        context_layer_norm=True, context_attention=True),
    "imagenet64": dataclasses.replace(
        SMALL, output_concat_elu=True, invertible_conv="none", dequant_mixing=False,
        context_layer_norm=True),
    "augmented": dataclasses.replace(SMALL, augment_channels=2, augment_blocks=1),
    "augmented_normal": dataclasses.replace(
        SMALL, dequantization="uniform", augment_channels=2, augment_posterior="normal",
        structure="channels:1,columns:1,squeeze,channels:2"),
}


def small_images(count=6, config=SMALL, seed=0):
  """Random images for a config."""
  return np.random.RandomState(seed).randint(
      0, config.levels, [count, *config.image_shape]).astype(np.uint8)


def perturb(model, scale=0.1, seed=0):
  """Moves every weight of a model away from the identity that it starts near."""
  rng = np.random.RandomState(seed)
  for weight in model.trainable_variables:
    weight.assign_add(scale * rng.randn(*weight.shape))


def value_and_log_det(function, x):
  """`function(x)`, and log|det| of its Jacobian for each example, by autodiff."""
  with tf.GradientTape(persistent=True) as tape:
    tape.watch(x)
    y = function(x)
  jacobian = tape.batch_jacobian(y, x, experimental_use_pfor=False).numpy()
  size = int(np.prod(x.shape[1:]))
  return y, np.linalg.slogdet(jacobian.reshape(-1, size, size))[1]


def train_state(config, devices=1, optimizer=None, **settings):
  """The state of a run of a new model on one device or on two mirrored ones, and its strategy as `state.strategy`."""
  strategy = training.get_strategy("one" if devices == 1 else "mirrored")
  assert strategy.num_replicas_in_sync == devices
  with strategy.scope():
    keras.utils.set_random_seed(0)
    state = training.TrainState(
        fpp.FlowPlusPlus(config), training.TrainingConfig(**{"steps": 100, **settings}), optimizer and optimizer())
  state.strategy = strategy
  return state


def step(state, images):
  """Take a training step on all devices of a state; return bits/dim and gradient norm of this step."""
  if not hasattr(state, "take_step"):
    state.take_step = tf.function(lambda images: state.strategy.run(
        lambda images: training.train_step(state, images), args=(images,)), autograph=False)
  state.reset_sums()
  shares = tf.split(tf.constant(images), state.strategy.num_replicas_in_sync)
  state.take_step(shares[0] if len(shares) == 1 else state.strategy.experimental_distribute_values_from_function(
      lambda context: shares[context.replica_id_in_sync_group]))
  return state.means()


@pytest.fixture
def small_model():
  """A perturbed small model in float64, where mathematics is checked."""
  model = fpp.FlowPlusPlus(dataclasses.replace(SMALL, dtype="float64"))
  perturb(model)
  return model


@pytest.fixture(scope="module")
def deterministic():
  """As `--deterministic`, with the setting above: the same to the last bit whatever the load."""
  tf.config.experimental.enable_op_determinism()
  yield
  disable_op_determinism()


def pytest_addoption(parser):
  parser.addoption("--kills", type=int, default=2,
                   help="How often test_resume.py kills a run; more take half a minute each.")
  parser.addoption("--attack", type=int, default=0, metavar="SEED",
                   help="Also the long attacks of test_attacks.py, half an hour, drawn from a seed other than 0.")
  parser.addoption("--slow", action="store_true", help="Also the long versions of some tests.")


def pytest_configure(config):
  config.addinivalue_line("markers", "slow: only with --slow, as what it tests has a faster test too")


def pytest_collection_modifyitems(config, items):
  if not config.getoption("--slow"):
    for item in items:
      if "slow" in item.keywords:
        item.add_marker(pytest.mark.skip(reason="--slow runs it"))
