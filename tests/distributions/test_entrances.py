"""What a flow refuses, in one line, rather than answer another question: events, dtypes, contexts, batches."""

import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from flowpp_tf import bijectors as fb
from flowpp_tf.core.context import EvalContext
from flowpp_tf.distributions import FlowDistribution
from support.comparing import assert_same
from support.models import perturb
from support.refusing import refuses

tfd = tfp.distributions


def small_flow(**kwargs):
  return perturb(fpp.vector_flow(2, couplings=2, components=2, hidden=8, blocks=1, **kwargs), 0.3)


@pytest.fixture(scope="module")
def flow():
  return small_flow()


@pytest.fixture(scope="module")
def conditional():
  return small_flow(context_size=3)


X = tf.constant(np.random.RandomState(1).randn(4, 2), tf.float32)


@pytest.mark.parametrize("shape", [(4, 1), (), (4, 3), (1,)])
def test_events_of_another_size_are_not_broadcast(flow, shape):
  """Nor by other methods, as test_wrong_arguments.py has it."""
  for log_prob in (flow.log_prob, tf.function(flow.log_prob, autograph=False)):
    refuses(r"`x` must be of shape \[..., 2\], got " + re.escape(str([*shape])), log_prob, tf.zeros(shape))


def test_an_event_that_parameters_would_broadcast_is_refused_by_the_bijectors_too(flow):
  for size, message in (
    (1, r"`y` must be of shape \[..., 2\], to which parameters broadcast it, got \[4, 1\]"),
    (3, r"`y` must be what .* can evaluate, got shape \[4, 3\]: .*3"),
  ):
    refuses(message, flow.bijector.inverse, tf.zeros([4, size]))
  act_norm = fb.ActNorm(tf.ones(3), tf.zeros(3))
  chain = fb.Chain([fb.Invertible1x1Conv(tf.eye(3), event_ndims=1), act_norm])
  for size, message in (
    (1, r"`x` must be of shape \[..., 3\], to which parameters broadcast it, got \[4, 1\]"),
    (2, r"`x` must be what .* can evaluate, got shape \[4, 2\]: .*2"),
  ):
    refuses(message, chain.forward, tf.zeros([4, size]))
  assert act_norm.forward(tf.zeros([4, 1])).shape == (4, 3)  # elementwise: parameters have a batch, as in TFP


@pytest.mark.parametrize("in_chain", [False, True])
def test_a_flow_whose_parameters_broadcast_the_event_is_refused(in_chain):
  act_norm = fb.ActNorm(tf.ones(3), tf.zeros(3))
  base = tfp.distributions.Sample(tfp.distributions.Normal(0.0, 1.0), [4, 4, 1])
  flow = fpp.distributions.FlowDistribution(base, fb.Chain([act_norm]) if in_chain else act_norm)
  message = r"must be of shape \[..., 4, 4, 3\], to which parameters broadcast it, got \[2, 4, 4, 1\]"
  for evaluate in (flow.log_prob, flow.transform):
    refuses(message, evaluate, tf.zeros([2, 4, 4, 1]))


@pytest.mark.parametrize("make", [lambda flow: flow.log_prob, lambda flow: flow.bijector.inverse])
def test_arrays_are_cast_and_tensors_of_another_dtype_are_not(flow, make):
  function = make(flow)
  expected = function(X)
  for same in (X.numpy().astype(np.float64), X.numpy().tolist(), tf.Variable(X)):
    np.testing.assert_array_equal(function(same), expected)
  np.testing.assert_array_equal(function(np.ones([4, 2], int)), function(tf.ones([4, 2])))
  for wrong, message in (
    (tf.cast(X, tf.float64), "`[xy]` must be of dtype float32, got a tensor of float64"),
    (tf.cast(X, tf.int32), "`[xy]` must be of dtype float32, got a tensor of int32"),
    (X.numpy().astype(complex), "`[xy]` must hold real numbers, got an array of complex128"),
    ("text", "`[xy]` must hold real numbers, got 'text'"),
    (None, "`[xy]` must hold real numbers, got None"),
    (np.array([["a", 1.0]], object), "`[xy]` must hold real numbers, got an array of object"),
    ([[1.0, 2.0], [3.0]], "`[xy]` must be an array of numbers, got "),
  ):
    refuses(message, function, wrong)


@pytest.mark.parametrize("make", [fb.Sigmoid, fb.PixelsToLogit])
def test_bijectors_of_any_dtype_take_real_numbers_only(make):
  for wrong in (np.ones(3, complex), tf.ones(3, tf.int32)):
    refuses("`x` must hold real numbers, got (an array of complex128|int32)", make().forward, wrong)


def test_values_fit_the_batch_of_the_base():
  base = tfd.Sample(tfd.Normal(tf.zeros(3), 1.0), 6)
  flow = FlowDistribution(base, fb.Invert(fb.BoundedAffine(tf.zeros(6), tf.ones(6))))
  assert flow.log_prob(tf.ones([2, 1, 6])).shape == flow.transform(tf.ones([2, 1, 6]))[1].shape == [2, 3]
  for function, name in ((flow.log_prob, "x"), (flow.prob, "x"), (flow.transform, "base_sample")):
    for call in (function, tf.function(function, autograph=False)):
      refuses(rf"broadcast, got `{name}` \[2\], `batch_shape` \[3\]", call, tf.ones([2, 6]))


def test_a_flow_is_given_one_context(conditional):
  a, b = tf.zeros([4, 3]), tf.ones([4, 3])
  assert np.all(conditional.given(a).log_prob(X) != conditional.given(b).log_prob(X))
  refuses("_given' is given a context already: call `given`", conditional.given(a).given, b)
  refuses("`bijector` must be without a context", fb.Conditioned, fb.Conditioned(conditional.bijector, a), b)
  for wrong in (
    lambda: conditional.given(a).log_prob(X, ctx=EvalContext(condition=b)),
    lambda: conditional.given(a).sample(ctx=EvalContext(condition=b)),
    lambda: fb.Conditioned(fb.Invert(fb.Conditioned(conditional.bijector, a)), b).forward(X),
  ):
    refuses("`ctx.condition` must be None", wrong)


def test_a_context_fits_the_flow(flow, conditional):
  for wrong in (tf.zeros([4, 2]), tf.zeros([4]), tf.zeros([4, 1])):
    refuses(r"`context` must be of shape \[..., 3\], got \[4", conditional.given, wrong)
  refuses("takes no context", flow.given, tf.zeros([4, 3]))
  for wrong in (lambda: conditional.log_prob(X), lambda: conditional.sample(2), lambda: conditional.transform(X)):
    refuses(r"'vector_flow' needs a context: use `flow.given\(context\)`", wrong)
  assert (flow.context_size, conditional.context_size) == (0, 3)
  assert "context_size=3" in repr(conditional) and "context_size" not in repr(flow)
  custom = fpp.distributions.FlowDistribution(
    tfp.distributions.Sample(tfp.distributions.Normal(0.0, 1.0), 2),
    fb.Coupling(lambda x, ctx: ctx.condition[..., :1] + tf.zeros([1, 2]), fb.affine_coupling_bijector, event_ndims=1),
  )
  assert custom.context_size is None and custom.given(tf.zeros([4, 7])).log_prob(X).shape == (4,)


@pytest.mark.parametrize("shape", [[2, -1], [[2]]])
def test_a_sample_shape_is_integers(flow, shape):
  refuses("`sample_shape` must be integers of at least 0, got", flow.sample, shape)


def test_initialization_takes_a_finite_batch_and_replaces_weights_only_if_it_is_told_to():
  flow = fpp.vector_flow(2, couplings=1, components=2, hidden=8)
  before = [v.numpy() for v in flow.variables]
  bad = np.random.RandomState(0).randn(64, 2).astype(np.float32)
  good = bad.copy()
  bad[5, 0] = np.nan
  for wrong, message in (
    (bad, "`x` must be finite, got 1 values"),
    (good[:1], "two or more"),
    (good[0], "two or more"),
  ):
    refuses(message, flow.initialize, wrong)
  assert_same(flow.variables, before)
  flow.initialize(good)
  after = [v.numpy() for v in flow.variables]
  refuses("is initialised already", flow.initialize, 3 * good)
  assert_same(flow.variables, after)
  flow.initialize(3 * good, overwrite=True)
  assert any(np.any(variable != value) for variable, value in zip(flow.variables, after))


def test_values_of_an_unknown_number_of_dimensions_are_refused_by_one_line():
  flow = fpp.vector_flow(2, couplings=1, hidden=8)
  log_prob = tf.function(flow.log_prob, input_signature=[tf.TensorSpec(None)], autograph=False)
  refuses(r"`x` must be of shape \[..., 2\], got one of an unknown number of dim", log_prob, tf.zeros([4, 2]))


def ensemble_of(flow):
  return fpp.ensemble([flow, flow])


@pytest.mark.parametrize("make", [lambda flow: flow, ensemble_of])
def test_ensembles_have_the_door_of_flows(make, conditional):
  given = make(conditional).given(tf.zeros([5, 3]))
  for shape in (2.5, (2, 0.5), -1, "2"):
    for draw in (given.sample, given.experimental_sample_and_log_prob):
      refuses("^`sample_shape` must be integers of at least 0, got ", draw, shape)
  refuses("^shapes must be .* got `x` \\[800\\], `batch_shape` \\[5\\]$", given.log_prob, tf.zeros([800, 2]))


def test_a_context_is_finite(conditional):
  network = keras.Sequential([keras.Input([2]), keras.layers.Dense(3)])
  embedded = small_flow(embedding=network)
  for flow, size in ((conditional, 3), (embedded, 2), (ensemble_of(conditional), 3), (ensemble_of(embedded), 2)):
    for value in (np.nan, np.inf):
      refuses(f"^`context` must be finite, got {size} values", flow.given, np.full([size], value))
  network.layers[0].kernel.assign(np.full([2, 3], np.nan))
  refuses(r"^`embedding\(context\)` must be finite, got 12 values", embedded.given, np.ones([4, 2]))


@pytest.mark.parametrize(
  "context, message",
  [
    (0.5, r"`context` must be of shape \[..., C\], got \[\]"),
    ([np.ones(200), np.ones(180)], "`context` must be an array of numbers, got parts of different shapes"),
    (np.ones([4, 2]), r"`context` must be of shape \[..., 3\], got \[4, 2\]"),
  ],
)
def test_a_context_of_another_shape_is_named(context, message, conditional):
  refuses(f"^{message}$", conditional.given, context)


def test_no_draws_of_one_value_given_a_context_are_none():
  flow = fpp.vector_flow(1, context_size=3, couplings=1, components=2, hidden=8, blocks=1)
  assert flow.given(tf.zeros([5, 3])).sample(0).shape == [0, 5, 1]


def test_an_error_of_a_network_is_told():
  network = keras.Sequential([keras.Input([3]), keras.layers.Dense(6)])
  coupling = fb.Coupling(network, fb.affine_coupling_bijector, event_ndims=1)
  refuses(
    "^`x` must be what 'coupling' can evaluate, got .*expected axis -1 .* value 3", coupling.forward, tf.zeros([2, 8])
  )


class Owner(keras.Model):
  """A Keras model with a flow as an attribute, which Keras does not track, unless a layer of the flow is one too."""

  def __init__(self, flow, owns):
    super().__init__()
    self.flow = flow
    self.network = keras.layers.Dense(3)
    self.owned = fpp.layers.Flow(flow) if owns else None

  def call(self, inputs):
    x, context = inputs
    return self.flow.given(self.network(context)).log_prob(x)


def negative(_, log_prob):
  return -log_prob


@pytest.mark.parametrize("owns", [False, True])
def test_a_keras_model_that_does_not_own_a_flow_is_told(owns):
  flow, rows = small_flow(context_size=3), (np.ones([8, 2]), np.ones([8, 4]))
  model = Owner(flow, owns)
  model.compile("adam", loss=negative)
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model.fit(rows, rows[0], epochs=2, verbose=0)
  texts = [str(warning.message) for warning in caught if "evaluates" in str(warning.message)]
  count = len(flow.trainable_variables)
  expected = f"the Keras layer 'owner.*' evaluates 'vector_flow', and {count} trainable variables of it"
  assert [bool(re.match(expected, text)) for text in texts] == ([] if owns else [True])
