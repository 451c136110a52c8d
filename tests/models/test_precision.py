"""Networks in one precision, the flow around them in another: what is approximate and what stays exact.

First networks in bfloat16 with mathematics in float32, then any with a flow in float64.

A coupling keeps half of its input to the bit, so its inverse calls the network on the same numbers:
whatever the network rounds, value, inverse and log-det belong together to float32's rounding. So it
is within one mode of execution: eager mode, graph mode and XLA round a network in their own ways.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import bijectors as fb
from flowpp_tf.layers import Conditioner, NetworkConfig
from support.bijector_cases import bijector_fn
from support.comparing import MODES
from support.marks import quick_rows, slow
from support.models import SMALL, TINY, perturb, perturbed, small_config, small_images, value_and_log_det
from support.training_steps import step, train_state

X = tf.constant(np.random.RandomState(0).randn(8, 4, 2, 4), tf.float32)
ROUNDING = 5e-5  # of float32, in a round trip of this coupling
kinds = pytest.mark.parametrize("kind", [slow("affine"), "mixture_logistic"])


def coupling(kind, policy):
  keras.utils.set_random_seed(0)
  conditioner = Conditioner((4, 2, 2), 2 * fb.num_parameters(kind, 3), NetworkConfig(8, 1, heads=2), dtype=policy)
  return fb.Coupling(perturb(conditioner), bijector_fn(kind))


def model(dtype):
  return perturbed(SMALL, dtype=dtype, structure="columns:2", dequant_structure="columns:1")


def largest(difference):
  return np.max(np.abs(difference))


@kinds
def test_the_network_does_compute_in_bfloat16_and_its_weights_are_float32(kind):
  half, single = coupling(kind, "mixed_bfloat16"), coupling(kind, "float32")
  assert half.conditioner(X[..., :2]).dtype == tf.bfloat16
  assert {v.dtype for v in half.trainable_variables} == {tf.float32}
  y = half.forward(X)
  assert y.dtype == tf.float32
  assert 20 * ROUNDING < largest(y - single.forward(X)) < 0.2


@kinds
@pytest.mark.parametrize("mode", quick_rows(MODES, ["eager", "graph"]))
def test_inverse_undoes_forward_to_float32_rounding(kind, mode):
  bijector = coupling(kind, "mixed_bfloat16")
  # Two programs, as sampling and likelihood are.
  forward = MODES[mode](lambda x: (bijector.forward(x), bijector.forward_log_det_jacobian(x, 3)))
  inverse = MODES[mode](lambda y: (bijector.inverse(y), bijector.inverse_log_det_jacobian(y, 3)))
  y, fldj = forward(X)
  x, ildj = inverse(tf.identity(y))
  assert largest(x - X) < ROUNDING
  assert largest(fldj + ildj) < 10 * ROUNDING  # a sum over 16 values


@kinds
def test_log_det_is_that_of_the_autodiff_jacobian(kind):
  bijector = coupling(kind, "mixed_bfloat16")
  _, expected = value_and_log_det(bijector.forward, X)  # in graph mode, as the log-det here
  log_det = tf.function(lambda x: bijector.forward_log_det_jacobian(x, 3), autograph=False)
  assert largest(log_det(X) - expected) < 10 * ROUNDING


@pytest.mark.slow
def test_a_model_has_nearly_the_bound_and_the_gradient_of_float32():
  images = small_images()
  bounds, gradients = [], []
  for dtype in ("float32", "mixed_bfloat16"):
    made = model(dtype)
    noise = tf.random.stateless_normal([6, 4, 4, 2], [0, 1])
    with tf.GradientTape() as tape:
      bound = made.bits_per_dim(images, noise=noise)
    weights = [v.value for v in made.trainable_variables]
    flat = [tf.reshape(g, [-1]) for g in tape.gradient(bound, weights) if g is not None]
    assert bound.dtype == tf.float32 and {g.dtype for g in flat} == {tf.float32}
    bounds.append(bound)
    gradients.append(tf.concat(flat, axis=0))
  assert 1e-4 < largest(bounds[1] - bounds[0]) < 0.2
  cosine = tf.reduce_sum(tf.math.multiply(*map(tf.linalg.l2_normalize, gradients)))
  assert cosine > 0.99


@pytest.mark.slow
def test_a_model_trains_and_gives_encoded_images_back():
  made = model("mixed_bfloat16")
  images = small_images()
  np.testing.assert_array_equal(made.decode(made.encode(images, seed=0)), images)
  made.compile("adam")
  made.adapt(images)
  before = made.get_weights()
  history = made.fit(images, batch_size=6, verbose=0).history
  assert np.isfinite(history["bits_per_dim"]).all()
  assert any(np.any(a != b) for a, b in zip(before, made.get_weights()))


IMAGES = small_images()
CONFIG = small_config(TINY, flow_dtype="float64")
networks = pytest.mark.parametrize("dtype", ["float32", slow("mixed_bfloat16")])


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
