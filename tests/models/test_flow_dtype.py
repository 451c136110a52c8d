"""Networks in one precision, the flow around them in float64: couplings, log-dets and their sums."""

import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from support.models import TINY, perturb, perturbed, small_config, small_images
from support.training_steps import step, train_state

IMAGES = small_images()
CONFIG = small_config(TINY, flow_dtype="float64")
networks = pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])


def weights_of_networks(model):
  steps = (*model.coupling_flow.steps, *model.dequantizer.coupling_flow.steps)
  return {
    id(v) for network in (model.dequantizer.context_net, *(s.conditioner for s in steps)) for v in network.weights
  }


@networks
def test_the_networks_keep_their_precision_and_all_else_is_float64(dtype):
  model = perturbed(CONFIG, dtype=dtype)
  step, compute = model.coupling_flow.steps[0], "float32" if dtype == "float32" else "bfloat16"
  assert step.conditioner(tf.zeros([1, 4, 2, 2], tf.float64)).dtype == compute
  assert model.dequantizer.context_net(tf.zeros([1, 4, 4, 2], tf.float64)).dtype == compute
  inside = weights_of_networks(model)
  assert {v.dtype for v in model.weights if id(v) in inside} == {"float32"}
  assert {v.dtype for v in model.weights if id(v) not in inside} == {"float64"}
  terms = model.bound_terms(IMAGES, seed=0)
  assert {t.dtype for t in terms} == {tf.float64}
  assert model.bits_per_dim(IMAGES, seed=0).dtype == tf.float64


@networks
def test_the_log_det_is_the_sum_of_those_of_the_parts_in_float64(dtype):
  model = perturbed(CONFIG, dtype=dtype)
  noise = tf.random.stateless_uniform([6, 4, 4, 2], [0, 1], dtype=tf.float64)
  x = tf.cast(IMAGES, tf.float64) + noise
  chain = model.flow.bijector.bijector
  total = np.zeros(6)
  y = x
  for part in (*chain.bijectors[::-1][:1], *model.coupling_flow.bijector.bijectors[::-1]):
    total += part.forward_log_det_jacobian(y, 3).numpy()
    y = part.forward(y)
  actual = model.flow.bijector.inverse_log_det_jacobian(x, 3)
  np.testing.assert_allclose(actual, total, rtol=0, atol=1e-10)


@networks
def test_latents_decode_to_float64_rounding(dtype):
  model = perturbed(CONFIG, dtype=dtype)
  np.testing.assert_array_equal(model.decode(model.encode(IMAGES, seed=0)), IMAGES)
  x = tf.cast(IMAGES, tf.float64) + 0.5
  z = model.flow.bijector.inverse(x)
  np.testing.assert_allclose(model.flow.bijector.forward(tf.identity(z)), x, rtol=0, atol=1e-9)


def test_with_networks_in_float64_it_changes_nothing():
  bounds = [
    perturbed(CONFIG, dtype="float64", flow_dtype=flow).log_prob_bound(IMAGES, seed=0) for flow in ("", "float64")
  ]
  np.testing.assert_array_equal(*bounds)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_trains_and_a_checkpoint_has_every_weight(accumulate, tmp_path):
  first, other = (train_state(CONFIG, learning_rate=1e-2, ema_decay=0.9, accumulate=accumulate) for _ in range(2))
  perturb(first.model)
  first.model.initialize(IMAGES)
  first.reset_ema()
  before = [v.numpy() for v in first.variables]
  for _ in range(2):
    step(first, IMAGES)
  assert int(first.skipped_steps.numpy()) == 0
  moved = [np.any(v.numpy() != b) for v, b in zip(first.variables, before)]
  assert np.mean(moved) > 0.9
  state = lambda s: (*s.variables, *s.ema, *s.optimizer.variables)
  checkpoint = lambda s: tf.train.Checkpoint(**s.trackables())
  path = checkpoint(first).save(tmp_path / "checkpoint")
  checkpoint(other).restore(path).assert_consumed()
  for a, b in zip(state(first), state(other), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.slow
def test_a_saved_model_has_latents_and_bounds_in_float64(tmp_path):
  model = perturbed(CONFIG)
  fpp.export(model, tmp_path / "1", max_batch=8)
  loaded = fpp.load_saved_model(tmp_path / "1").saved_model
  images = tf.cast(IMAGES, tf.float32)
  bound = loaded.log_prob_bound(images, 1, 0)["log_prob_bound"]
  latents = loaded.encode(images, 0)["latents"]
  assert bound.dtype == latents.dtype == tf.float64
  np.testing.assert_allclose(bound, model.log_prob_bound(IMAGES, seed=0), rtol=1e-5)
  np.testing.assert_array_equal(loaded.decode(latents)["images"], IMAGES)
