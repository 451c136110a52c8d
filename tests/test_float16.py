"""Networks in float16: a scaled loss whose scale is found, saved, and no part of the result."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from conftest import SMALL
from conftest import perturb
from conftest import small_images
import flowpp_tf as fpp

IMAGES = small_images(8)


def made(dtype="mixed_float16", devices=1, **options):
  strategy = tf.distribute.get_strategy() if devices == 1 else tf.distribute.MirroredStrategy(
      [d.name for d in tf.config.list_logical_devices("CPU")])
  # All mirrored models have the same size: TensorFlow's collectives of a process remember it.
  short = dict(structure="columns:2", dequant_structure="columns:1") if devices == 1 else {}
  with strategy.scope():
    keras.utils.set_random_seed(0)
    model = fpp.FlowPlusPlus(dataclasses.replace(SMALL, dtype=dtype, dropout=0.0, **short))
    model.compile(keras.optimizers.SGD(1e-3), ema_decay=0.9, **options)
  perturb(model)
  return model


def step(model, scale=None):
  """A training step, from a scale of the loss; its metrics."""
  if scale is not None:
    model.loss_scale.value.assign(scale)
  return {name: float(value) for name, value in model.fit(
      IMAGES, batch_size=8, shuffle=False, verbose=0).history.items() for value in value}


def state(model):
  return [v.numpy() for v in (*model.trainable_variables, *model.averages)]


def scale_and_good_steps(model):
  return float(model.loss_scale.value.numpy()), int(model.loss_scale.good_steps.numpy())


def test_the_networks_compute_in_float16_and_the_bound_is_near_that_of_float32():
  half, single = made(), made("float32")
  assert half.coupling_flow.steps[0].conditioner(tf.zeros([1, 4, 2, 2])).dtype == tf.float16
  assert {v.dtype for v in half.trainable_variables} == {"float32"}
  bounds = [model.bits_per_dim(IMAGES, seed=0) for model in (half, single)]
  assert bounds[0].dtype == tf.float32
  assert 0 < np.max(np.abs(bounds[0] - bounds[1])) < 0.02


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_the_step_is_that_of_float32_whatever_the_scale(clip_norm):
  single = made("float32", clip_norm=clip_norm)
  assert single.loss_scale is None
  expected, before = step(single), state(made("float32"))
  for scale in (2.0**3, 2.0**9):
    model = made(clip_norm=clip_norm)
    np.testing.assert_allclose(step(model, scale)["gradient_norm"], expected["gradient_norm"], rtol=5e-3)
    moves = [np.concatenate([np.ravel(a - b) for a, b in zip(state(m), before)]) for m in (model, single)]
    assert np.linalg.norm(moves[0] - moves[1]) < 0.02 * np.linalg.norm(moves[1])


@pytest.mark.parametrize("devices", [1, 2])
def test_a_scale_that_is_too_high_is_halved_and_nothing_else_changes(devices):
  model = made(devices=devices)
  before = state(model)
  assert step(model, 2.0**40) == {"bits_per_dim": 0.0, "gradient_norm": 0.0}
  assert scale_and_good_steps(model) == (2.0**39, 0)
  for a, b in zip(state(model), before, strict=True):
    np.testing.assert_array_equal(a, b)
  counters = [int(v.numpy()) for v in (
      model.optimizer.iterations, model.skipped_steps, model.skipped_in_a_row)]
  assert counters == [1, 1, 0]  # a scale that comes down is no divergence
  step(model, 2.0**6)
  assert scale_and_good_steps(model) == (2.0**6, 1)


def test_a_loss_that_is_not_finite_counts_towards_the_end_of_the_run():
  model = made()
  model.trainable_variables[0].assign(np.nan * model.trainable_variables[0])
  step(model)
  assert int(model.skipped_in_a_row.numpy()) == 1
  assert scale_and_good_steps(model) == (2.0**14, 0)


def test_the_scale_is_doubled_after_2000_good_steps():
  model = made()
  model.loss_scale.good_steps.assign(1998)
  step(model, 2.0**6)
  assert scale_and_good_steps(model) == (2.0**6, 1999)
  step(model)
  assert scale_and_good_steps(model) == (2.0**7, 0)


def test_a_checkpoint_has_the_scale(tmp_path):
  model, other = made(), made()
  model.loss_scale.value.assign(8.0)
  model.loss_scale.good_steps.assign(5)
  path = tf.train.Checkpoint(model=model).save(tmp_path / "checkpoint")
  tf.train.Checkpoint(model=other).restore(path).assert_consumed()
  assert scale_and_good_steps(other) == (8.0, 5)


def test_keras_scales_nothing_itself():
  assert type(made().optimizer) is keras.optimizers.SGD
  with pytest.raises(ValueError, match="the optimizer must not scale the loss"):
    made().compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()))


def test_a_model_trains_and_gives_encoded_images_back():
  model = made()
  np.testing.assert_array_equal(model.decode(model.encode(IMAGES, seed=0)), IMAGES)
  model.compile(keras.optimizers.Adam(1e-2), clip_norm=1.0)
  model.initialize(IMAGES)
  bits = model.fit(IMAGES, batch_size=8, epochs=30, verbose=0).history["bits_per_dim"]
  assert bits[-1] < 0.9 * bits[len(bits) // 2 - 10]
