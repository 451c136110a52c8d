"""Ensembles of flows, and flows whose context a network makes of data."""

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from flowpp_tf.core.errors import InputError
from support.models import perturb

tfd = tfp.distributions
TINY = dict(couplings=1, components=2, hidden=8, blocks=1)
RNG = np.random.RandomState(0)
SERIES = RNG.normal(size=[300, 5, 1]).astype(np.float32) + RNG.normal(size=[300, 1, 1]).astype(np.float32)
MEANS = SERIES.mean(axis=1)  # of each series, what a posterior of its level depends on


def member(seed, **options):
  keras.utils.set_random_seed(seed)
  layer = fpp.VectorFlow(2, **{**TINY, "context_size": 1, **options})
  perturb(layer, seed=seed)
  return layer.distribution


def network():
  """A network of sets: the mean of what a layer makes of each value."""
  layers = [keras.layers.Dense(4, activation="elu"), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2)]
  return keras.Sequential([keras.Input([5, 1]), *layers])


def as_model(layer, *shapes):
  """A Keras model of a flow, which saves it."""
  inputs = [keras.Input(shape) for shape in shapes]
  return keras.Model(inputs, layer(*inputs))


def test_an_ensemble_is_the_equal_mixture_of_its_flows():
  flows = [member(seed) for seed in range(3)]
  given = fpp.ensemble(flows).given([[0.5], [-1.0]])
  x = RNG.normal(size=[7, 2, 2]).astype(np.float32)
  log_probs = [flow.given([[0.5], [-1.0]]).log_prob(x).numpy().astype(np.float64) for flow in flows]
  np.testing.assert_allclose(given.log_prob(x), scipy.special.logsumexp(log_probs, axis=0) - np.log(3), rtol=1e-5)
  assert given.batch_shape == [2] and given.sample([4, 3], seed=0).shape == [4, 3, 2, 2]
  np.testing.assert_array_equal(given.sample(9, seed=1), given.sample(9, seed=1))


def test_samples_of_an_ensemble_are_those_of_each_flow_as_often():
  normals = [tfd.MultivariateNormalDiag([loc, 0.0], [1.0, 1.0]) for loc in (-10.0, 0.0, 10.0)]
  flow = fpp.ensemble([fpp.distributions.FlowDistribution(n, tfp.bijectors.Identity()) for n in normals])
  which = np.round(flow.sample(9000, seed=0)[:, 0] / 10)
  counts = np.array([np.sum(which == i) for i in (-1, 0, 1)])
  assert counts.sum() == 9000 and np.all(np.abs(counts - 3000) < 5 * np.sqrt(2000))
  assert abs(np.std(flow.sample(9000, seed=0)[:, 1]) - 1) < 0.04


def test_outside_of_every_support_an_ensemble_has_density_0_and_finite_gradients():
  flow = fpp.ensemble([member(seed, context_size=0, support=fpp.support.box(0.0, seed + 1.0)) for seed in range(2)])
  x = tf.constant([[0.5, 0.5], [1.5, 1.5], [2.5, 0.5]])
  with tf.GradientTape() as tape:
    tape.watch(x)
    log_prob = flow.log_prob(x)
  assert np.all(np.isfinite(log_prob[:2])) and log_prob[2] == -np.inf
  assert np.all(np.isfinite(tape.gradient(log_prob, x)))


@pytest.mark.slow
def test_members_are_trained_from_weights_of_their_own_and_are_better_together(tmp_path):
  keras.utils.set_random_seed(0)
  x = MEANS + 0.3 * RNG.normal(size=[300, 2])
  result = fpp.fit(fpp.vector_flow(2, 1, **TINY), x, MEANS, members=3, steps=40)
  nats = [one.flow.given(MEANS).log_prob(x).numpy() for one in result.members]
  assert len({*(n.mean() for n in nats)}) == 3
  assert result.flow.given(MEANS).log_prob(x).numpy().mean() > np.mean(nats)  # Jensen's inequality
  again = fpp.ensemble([fpp.vector_flow(2, 1, **TINY) for _ in range(3)])
  as_model(fpp.layers.Flow(result.flow), [2], [1]).save_weights(tmp_path / "all.weights.h5")
  as_model(fpp.layers.Flow(again), [2], [1]).load_weights(tmp_path / "all.weights.h5")
  np.testing.assert_array_equal(again.given(MEANS).log_prob(x), result.flow.given(MEANS).log_prob(x))
  assert len(fpp.fit(again, x, MEANS, steps=1).members) == 3


def test_what_is_no_ensemble_is_an_error():
  with pytest.raises(InputError, match="^`flows` must have one shape of events .* got none"):
    fpp.ensemble([])
  with pytest.raises(InputError, match="^`flows` must have one shape of events"):
    fpp.ensemble([member(0), member(0, context_size=2)])
  with pytest.raises(InputError, match="^`flows` must have one shape of events .* one shape of context"):
    fpp.ensemble([member(0, context_size=0, embedding=network()), member(0, context_size=2)])
  normal = tfd.MultivariateNormalDiag(tf.Variable([0.0, 0.0]), [1.0, 1.0])
  with pytest.raises(InputError, match="^`members` must be 1 for 'MultivariateNormalDiag'"):
    fpp.fit(normal, RNG.normal(size=[50, 2]), members=2)


def test_a_network_that_reads_data_is_trained_and_saved_with_the_flow(tmp_path):
  keras.utils.set_random_seed(0)
  layer = fpp.VectorFlow(1, embedding=network(), **TINY)
  before = [np.array(w) for w in layer.distribution.embedding.weights]
  result = fpp.fit(layer, MEANS + 0.1 * RNG.normal(size=[300, 1]), SERIES, steps=150, learning_rate=2e-2)
  assert result.validation.max() > 0  # without the series it is -1.5, with their exact means 0.9
  assert all(np.any(w != old) for w, old in zip(layer.distribution.embedding.weights, before))
  as_model(layer, [1], [5, 1]).save(tmp_path / "flow.keras")
  loaded = keras.saving.load_model(tmp_path / "flow.keras").layers[-1]
  np.testing.assert_array_equal(loaded(MEANS, SERIES), layer(MEANS, SERIES))
  assert loaded.sample(3, SERIES[:2], seed=0).shape == [3, 2, 1]
  pairs = layer.distribution.given(SERIES[:6].reshape(3, 2, 5, 1)).log_prob(MEANS[:6].reshape(3, 2, 1))
  one = layer.distribution.given(SERIES[0]).log_prob(MEANS[0])
  np.testing.assert_allclose(tf.reshape(pairs, [-1]), layer(MEANS, SERIES)[:6], rtol=1e-5)
  np.testing.assert_allclose(one, pairs[0, 0], rtol=1e-5)


@pytest.mark.slow
def test_any_layer_reads_the_data_of_vector_flow_for():
  flow = fpp.vector_flow_for(MEANS, SERIES, embedding=keras.layers.Flatten(), **TINY)
  assert flow.context_shape == (5, 1) and flow.context_size == 5
  members = fpp.fit(flow, MEANS, SERIES, steps=2, members=2).flow.flows
  assert members[0].embedding is not members[1].embedding


@pytest.mark.slow
def test_members_share_what_a_layer_has_measured():
  layer, values = keras.layers.Normalization(), 3 * SERIES[..., 0] + 100
  layer.adapt(values)
  flow = fpp.vector_flow_for(MEANS, values, embedding=layer, **TINY)
  for member in fpp.fit(flow, MEANS, values, steps=1, members=2).flow.flows:
    np.testing.assert_allclose(member.embedding(values), (values - values.mean(0)) / values.std(0), atol=1e-3)


def test_what_cannot_read_data_is_an_error():
  with pytest.raises(InputError, match="^`embedding` must have one `keras.Input` and one output"):
    fpp.vector_flow(1, embedding=keras.Sequential([keras.layers.Dense(2)]))
  with pytest.raises(InputError, match="^`context_size` must be left out"):
    fpp.vector_flow(1, 3, embedding=network())
  flow = fpp.vector_flow(1, embedding=network(), **TINY)
  with pytest.raises(InputError, match=r"^`context` must be of shape \[..., 5, 1\]"):
    flow.given(SERIES[:, :4])


def test_a_graph_tells_the_size_of_events_that_it_does_not_know_when_traced():
  @tf.function(input_signature=[tf.TensorSpec([None])])
  def event_shape(mean):
    return fpp.ensemble([tfd.MultivariateNormalDiag(mean)]).event_shape_tensor()

  assert event_shape(tf.zeros([4])).numpy().tolist() == [4]
