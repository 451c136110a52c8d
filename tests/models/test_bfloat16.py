"""Networks in bfloat16, mathematics in float32: what is approximate and what stays exact.

A coupling keeps half of its input to the bit, so its inverse calls the network on the same numbers:
whatever the network rounds, value, inverse and log-det belong together to float32's rounding. So it
is within one mode of execution: eager mode, graph mode and XLA round a network in their own ways.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from flowpp_tf import bijectors as fb
from flowpp_tf.layers import Conditioner, NetworkConfig
from support.bijector_cases import bijector_fn
from support.comparing import MODES
from support.marks import quick_rows
from support.models import SMALL, perturb, perturbed, small_images, value_and_log_det

X = tf.constant(np.random.RandomState(0).randn(8, 4, 2, 4), tf.float32)
ROUNDING = 5e-5  # of float32, in a round trip of this coupling
kinds = pytest.mark.parametrize("kind", ["affine", "mixture_logistic"])


def coupling(kind, policy):
  keras.utils.set_random_seed(0)
  conditioner = Conditioner((4, 2, 2), 2 * fb.num_parameters(kind, 3), NetworkConfig(8, 1, heads=2), dtype=policy)
  perturb(conditioner)
  return fb.Coupling(conditioner, bijector_fn(kind))


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
