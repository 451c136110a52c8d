"""Networks in float16: a scaled loss whose scale is found, saved, and no part of the result."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import training
from support.models import SMALL, perturb, small_config, small_images
from support.training_steps import step as take_step
from support.training_steps import train_state

IMAGES = small_images(8)
SHORT = small_config(SMALL, dropout=0.0, structure="columns:1", dequant_structure="columns:1")


def made(dtype="mixed_float16", devices=1, optimizer=lambda: keras.optimizers.SGD(1e-3), **settings):
  state = train_state(
    dataclasses.replace(SHORT, dtype=dtype), devices, optimizer, ema_decay=0.9, **{"clip_norm": None, **settings}
  )
  perturb(state.model)
  return state


def step(state, scale=None):
  """A training step, from a scale of the loss; its metrics."""
  if scale is not None:
    state.loss_scale.value.assign(scale)
  return take_step(state, IMAGES)


def weights(state):
  return [v.numpy() for v in (*state.variables, *state.ema)]


def scale_and_good_steps(state):
  return float(state.loss_scale.value.numpy()), int(state.loss_scale.good_steps.numpy())


@pytest.fixture(scope="module")
def shared():
  """A state that tests take steps with, whose graph is traced once."""
  return made()


@pytest.fixture
def state(shared):
  """The shared state as it was at first."""
  first = [v.numpy() for v in variables(shared)]
  yield shared
  for variable, value in zip(variables(shared), first, strict=True):
    variable.assign(value)


def variables(state):
  return [
    *state.variables,
    *state.ema,
    *(v.value for v in state.optimizer.variables),
    state.skipped_steps,
    state.skipped_in_a_row,
    state.loss_scale.value,
    state.loss_scale.good_steps,
  ]


def test_the_networks_compute_in_float16_and_the_bound_is_near_that_of_float32():
  half, single = made().model, made("float32").model
  assert half.coupling_flow.steps[0].conditioner(tf.zeros([1, 4, 2, 2])).dtype == tf.float16
  assert {v.dtype for v in half.trainable_variables} == {"float32"}
  bounds = [model.bits_per_dim(IMAGES, seed=0) for model in (half, single)]
  assert bounds[0].dtype == tf.float32
  assert 0 < np.max(np.abs(bounds[0] - bounds[1])) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_the_step_is_that_of_float32_whatever_the_scale(clip_norm):
  single, half = made("float32", clip_norm=clip_norm), made(clip_norm=clip_norm)
  assert single.loss_scale is None
  before = weights(half)
  expected = step(single)
  for scale in (2.0**3, 2.0**9):
    for variable, value in zip((*half.variables, *half.ema), before, strict=True):
      variable.assign(value)
    half.optimizer.iterations.assign(0)
    np.testing.assert_allclose(step(half, scale)["gradient_norm"], expected["gradient_norm"], rtol=5e-3)
    moves = [np.concatenate([np.ravel(a - b) for a, b in zip(weights(s), before)]) for s in (half, single)]
    assert np.linalg.norm(moves[0] - moves[1]) < 0.02 * np.linalg.norm(moves[1])


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_scale_that_is_too_high_is_halved_and_nothing_else_changes(devices):
  state = made(devices=devices)
  before = weights(state)
  means = step(state, 2.0**40)
  assert all(np.isnan(mean) for mean in means.values())  # of no step
  assert all(total.numpy() == 0 for total in state.sums.values())
  assert scale_and_good_steps(state) == (2.0**39, 0)
  for a, b in zip(weights(state), before, strict=True):
    np.testing.assert_array_equal(a, b)
  counters = [int(v.numpy()) for v in (state.optimizer.iterations, state.skipped_steps, state.skipped_in_a_row)]
  assert counters == [1, 1, 0]  # a scale that comes down is no divergence
  step(state, 2.0**6)
  assert scale_and_good_steps(state) == (2.0**6, 1)


def test_a_loss_that_is_not_finite_counts_towards_the_end_of_the_run(state):
  state.variables[0].assign(np.nan * state.variables[0])
  step(state)
  assert int(state.skipped_in_a_row.numpy()) == 1
  assert scale_and_good_steps(state) == (2.0**14, 0)


def test_the_scale_is_doubled_after_2000_good_steps(state):
  state.loss_scale.good_steps.assign(1998)
  step(state, 2.0**6)
  assert scale_and_good_steps(state) == (2.0**6, 1999)
  step(state)
  assert scale_and_good_steps(state) == (2.0**7, 0)


def test_a_checkpoint_has_the_scale(tmp_path):
  state, other = made(), made()
  state.loss_scale.value.assign(8.0)
  state.loss_scale.good_steps.assign(5)
  path = tf.train.Checkpoint(**state.trackables()).save(tmp_path / "checkpoint")
  tf.train.Checkpoint(**other.trackables()).restore(path).assert_consumed()
  assert scale_and_good_steps(other) == (8.0, 5)


def test_keras_scales_nothing_itself():
  assert type(made().optimizer) is keras.optimizers.SGD


@pytest.mark.slow
def test_a_model_trains_and_gives_encoded_images_back():
  state = made(optimizer=lambda: training.Adam(1e-2), clip_norm=1.0)
  np.testing.assert_array_equal(state.model.decode(state.model.encode(IMAGES, seed=0)), IMAGES)
  state.model.initialize(IMAGES)
  bits = [step(state)["bits_per_dim"] for _ in range(30)]
  assert bits[-1] < 0.9 * bits[len(bits) // 2 - 10]


@pytest.mark.slow
@pytest.mark.parametrize("flow_dtype", ["", "float64"])
def test_keras_scales_the_loss_of_its_own_fit(flow_dtype):
  model = fpp.FlowPlusPlus(dataclasses.replace(SHORT, dtype="mixed_float16", flow_dtype=flow_dtype))
  model.compile("adam", auto_scale_loss=False)
  assert not isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
  model.compile("adam")
  assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
  model.initialized = True
  assert np.isfinite(model.fit(IMAGES, epochs=8, verbose=0).history["loss"]).all()  # the first steps lower the scale
  assert model.optimizer.iterations.numpy() > 0
