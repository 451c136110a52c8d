"""Flows given a context: batch, broadcast, event-space bijectors, gradients, and bad contexts."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from flowpp_tf import bijectors as fb
from flowpp_tf.core.context import EvalContext
from flowpp_tf.core.environment import check_backend
from support.bijector_cases import draw
from support.models import perturb
from support.refusing import refuses

tfb, tfd = tfp.bijectors, tfp.distributions

SIZE, CONTEXT = 3, 2


@functools.cache
def flow():
  """A perturbed conditional flow of vectors in float64."""
  keras.utils.set_random_seed(0)
  layer = fpp.VectorFlow(SIZE, CONTEXT, couplings=2, components=3, hidden=8, blocks=1, dtype="float64")
  return perturb(layer, scale=0.3).distribution


CONTEXTS = draw(4, CONTEXT, seed=5)
X = draw(4, SIZE, seed=6)


def test_values_and_contexts_broadcast_against_each_other():
  given = flow().given(CONTEXTS)
  table = np.array([[flow().given(c).log_prob(v) for c in CONTEXTS] for v in X])
  np.testing.assert_allclose(given.log_prob(X[:, tf.newaxis]), table, rtol=1e-10)
  np.testing.assert_allclose(given.log_prob(X[0]), table[0], rtol=1e-10)
  np.testing.assert_allclose(flow().given(CONTEXTS[:, tf.newaxis]).log_prob(X), table.T, rtol=1e-10)
  graph = tf.function(
    lambda x, c: flow().given(c).log_prob(x),
    autograph=False,
    input_signature=[tf.TensorSpec([None, None, SIZE], tf.float64), tf.TensorSpec([None, CONTEXT], tf.float64)],
  )
  np.testing.assert_allclose(graph(X[:, tf.newaxis], CONTEXTS), table, rtol=1e-10)


def test_the_bijector_and_the_event_space_bijector_know_the_context():
  given = flow().given(CONTEXTS)
  z = draw(4, SIZE, seed=7)
  np.testing.assert_allclose(given.bijector.inverse(X), flow().given(CONTEXTS[:4]).bijector.inverse(X))
  assert np.min(np.abs(given.bijector.forward(z) - flow().given(CONTEXTS[::-1]).bijector.forward(z))) > 1e-4
  space = given.experimental_default_event_space_bijector()
  np.testing.assert_allclose(space.forward(z), given.bijector.forward(z), rtol=1e-12)


def test_the_gradient_reaches_the_context():
  context = tf.Variable(CONTEXTS)
  given = flow().given(context)
  assert any(v is context for v in given.trainable_variables)
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(given.log_prob(X))
  assert np.all(np.abs(tape.gradient(loss, context)) > 0)


def image_coupling(size=4):
  """A coupling of images `[size, size, 2]` with a context of as many channels as there are images."""
  network = fpp.layers.Conditioner(
    (size, size, 1),
    fb.num_parameters("mixture_logistic", 3),
    fpp.layers.NetworkConfig(4, 1, heads=2),
    context_channels=size,
    dtype="float64",
  )
  return fb.Coupling(perturb(network), lambda p: fb.mixture_logistic_coupling_bijector(p, 3), dtype="float64")


def test_a_vector_as_context_of_images_does_not_leak_across_the_batch():
  # [N, C] would be broadcast to [H, W, C] where N = H = W.
  coupling, x, classes = image_coupling(), draw(4, 4, 4, 2), draw(4, 4, seed=1)
  refuses(
    r"`context` must be of shape \[..., H, W, C\], got \[4, 4\].*\[N, 1, 1, C\]", fb.Conditioned, coupling, classes
  )
  refuses("must have an event of 3 dimensions", coupling.forward_and_log_det, x, EvalContext(condition=classes))
  given = fb.Conditioned(coupling, classes[:, tf.newaxis, tf.newaxis])
  whole = given.forward(x)
  for i in range(4):
    np.testing.assert_allclose(given[i].forward(x[i]), whole[i], rtol=1e-10)


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda: flow().log_prob(X, context=CONTEXTS), "no keyword 'context'; `flow.given"),
    (lambda: flow().sample(2, contxt=CONTEXTS), "no keyword 'contxt'"),
    (lambda: flow().given(CONTEXTS).log_prob(X, cal=None), "no keyword 'cal'"),
    (lambda: flow().given(tf.constant(1.0)), r"^`context` must be of shape \[..., C\], got \[\]$"),
  ],
)
def test_what_cannot_be_meant_is_an_error(call, message):
  with pytest.raises((TypeError, ValueError), match=message):
    call()


def test_other_than_exact_numbers_of_parameters_are_refused():
  # With half of the parameters those of one value would be taken for both.
  for values, match in ((1, "parameters for 1 values, but 2 are"), (3, "parameters for 3 values, but 2 are")):
    coupling = fb.Coupling(
      lambda x1, values=values: tf.zeros([*x1.shape[:-1], 2 * values]), fb.affine_coupling_bijector, event_ndims=1
    )
    refuses(match, coupling.forward, tf.zeros([5, 4]))


def test_an_additive_coupling_has_log_det_zero():
  coupling = fb.Coupling(lambda x1: 2 * x1, lambda p: tfb.Shift(p), event_ndims=1)
  y, log_det = coupling.forward_and_log_det(tf.constant([[1.0, 2.0], [3.0, 4.0]]))
  np.testing.assert_array_equal(y, [[1.0, 4.0], [3.0, 10.0]])
  np.testing.assert_array_equal(np.broadcast_to(log_det, [2]), np.zeros(2))
  flow = fpp.distributions.FlowDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), 2), fb.Invert(coupling))
  assert flow.log_prob(y).shape == (2,)
  with pytest.raises(ValueError, match="must return an elementwise bijector"):
    fb.Coupling(lambda x1: x1, lambda p: fb.SwapHalves(), event_ndims=1).forward(tf.zeros([2, 4]))


@pytest.mark.parametrize(
  "make",
  [
    lambda d: fb.LogitMixtureLogisticCDF(draw(4, 3, dtype=d), draw(4, 3, dtype=d, seed=1), draw(4, 3, dtype=d)),
    lambda d: fb.MixtureLogisticCDF(draw(4, 3, dtype=d), draw(4, 3, dtype=d, seed=1), draw(4, 3, dtype=d)),
    lambda d: fb.Sigmoid(),
  ],
)
def test_bfloat16_values_go_through_and_back(make):
  bijector = make("bfloat16")
  x = tf.cast(draw(4, seed=3), "bfloat16")
  y = bijector.forward(x)
  assert y.dtype == tf.bfloat16
  np.testing.assert_allclose(
    bijector.inverse(tf.identity(y)).numpy().astype("float32"), x.numpy().astype("float32"), atol=0.06
  )


def test_composites_of_composites_need_one_trace():
  traces = []

  @tf.function(autograph=False)
  def log_prob(distribution, x):
    traces.append(distribution)
    return distribution.log_prob(x)

  for shift in (0.0, 1.0):
    chain = fb.Invert(fb.Chain([fb.ActNorm(tf.ones([3]), tf.fill([3], shift)), fb.Invert(fb.Sigmoid())]))
    made = fpp.distributions.FlowDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), 3), chain)
    assert isinstance(made, fpp.distributions.FlowDistribution) and isinstance(chain, fb.Invert)
    x = tf.fill([2, 3], 0.3)
    np.testing.assert_allclose(log_prob(made, x), made.log_prob(x), rtol=1e-5)
  assert len(traces) == 1


def test_another_backend_of_keras_is_refused_on_import(monkeypatch):
  monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
  with pytest.raises(ImportError, match="needs Keras on TensorFlow, got the backend 'jax'; set"):
    check_backend()
