"""An evaluation calls each conditioner once, with one dropout mask, and sees the current weights."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from flowpp_tf import bijectors as fb
from flowpp_tf.core.context import EvalContext
from flowpp_tf.distributions import FlowDistribution
from support.models import SMALL, small_images, value_and_log_det

tfb, tfd = tfp.bijectors, tfp.distributions


class CountingConditioner:
  """y = tanh(x1 w), which counts its calls."""

  def __init__(self):
    self.calls = 0
    self.weights = tf.Variable(tf.ones([1, 2]))
    self.variables = [self.weights]

  def __call__(self, x1):
    self.calls += 1
    return tf.tanh(x1 @ self.weights)


@pytest.fixture
def parts():
  conditioner = CountingConditioner()
  coupling = fb.Coupling(conditioner, fb.affine_coupling_bijector)
  return conditioner, fb.Chain([fb.SwapHalves(), coupling])


X = tf.constant(np.random.RandomState(0).randn(3, 2, 2, 2), tf.float32)
BASE = tfd.Sample(tfd.Normal(0.0, 1.0), [2, 2, 2])


EVALUATIONS = {
  "log_prob": lambda flow: flow.log_prob(X),
  "sample_and_log_prob": lambda flow: flow.experimental_sample_and_log_prob(3, seed=1),
  "transform": lambda flow: flow.transform(X),
  "log_det": lambda flow: flow.bijector.inverse_log_det_jacobian(X, 3),
}


@pytest.mark.parametrize("name", EVALUATIONS)
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_one_call_of_the_conditioner_a_pass(parts, name, graph):
  conditioner, chain = parts
  flow = FlowDistribution(BASE, fb.Invert(chain))
  evaluate = lambda: EVALUATIONS[name](flow)
  (tf.function(evaluate) if graph else evaluate)()
  assert conditioner.calls == 1


def test_one_call_a_pass_in_plain_tfp_in_graph_mode(parts):
  conditioner, chain = parts
  flow = tfd.TransformedDistribution(BASE, tfb.Invert(tfb.Chain(list(chain.bijectors))))
  tf.function(flow.log_prob)(X)
  assert conditioner.calls == 1


FUNCTIONS = {
  "flow": lambda chain: FlowDistribution(BASE, fb.Invert(chain)).log_prob,
  "flow_of_tfp": lambda chain: FlowDistribution(BASE, tfb.Invert(chain)).log_prob,
  "transform": lambda chain: FlowDistribution(BASE, fb.Invert(chain)).transform,
  "transform_log_prob": lambda chain: lambda x: FlowDistribution(BASE, fb.Invert(chain)).transform(x)[1],
  "chain": lambda chain: chain.forward,
  "chain_log_det": lambda chain: lambda x: chain.forward_log_det_jacobian(x, 3),
  "coupling": lambda chain: chain.bijectors[1].forward,
  "coupling_inverse": lambda chain: chain.bijectors[1].inverse,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_changed_weight_is_seen_by_the_next_eager_call_on_the_same_tensor(parts, name):
  conditioner, chain = parts
  evaluate = FUNCTIONS[name](chain)
  kept_alive = evaluate(X)  # and with it TFP's cached values
  conditioner.weights.assign_add([[1.0, 0.5]])
  second = evaluate(X)
  value = lambda out: out[0] if isinstance(out, tuple) else out
  assert np.max(np.abs(value(second) - value(kept_alive))) > 1e-3
  np.testing.assert_array_equal(value(second), value(evaluate(tf.identity(X))))


def test_a_second_gradient_tape_gets_its_own_gradient(parts):
  conditioner, chain = parts
  flow = FlowDistribution(BASE, fb.Invert(chain))
  gradients = []
  for _ in range(2):
    with tf.GradientTape() as tape:
      log_prob = flow.log_prob(X)
    gradients.append(tape.gradient(log_prob, conditioner.weights))
  assert gradients[1] is not None
  np.testing.assert_array_equal(*gradients)


@pytest.mark.slow
def test_value_and_log_det_see_the_same_dropout_mask():
  model = fpp.FlowPlusPlus(SMALL)
  step = model.coupling_flow.steps[0]
  x = tf.random.stateless_normal([2, 4, 2, 4], [0, 1])
  kwargs = dict(ctx=EvalContext(training=True, seed=tf.constant([1, 2])))
  y, log_det = step.coupling.forward(x, **kwargs), step.coupling.forward_log_det_jacobian(x, 3, **kwargs)
  # The log-det that belongs to this value, by autodiff through the same mask.
  out, expected = value_and_log_det(lambda x: step.coupling.forward(x, **kwargs), x)
  np.testing.assert_array_equal(out, y)
  np.testing.assert_allclose(log_det, expected, atol=1e-4)
  other = step.coupling.forward(x, ctx=EvalContext(training=True, seed=tf.constant([3, 4])))
  assert np.max(np.abs(other - y)) > 0


def test_each_conditioner_of_the_model_runs_once_in_a_bound():
  model = fpp.FlowPlusPlus(SMALL)
  calls = []
  for step in [*model.coupling_flow.steps, *model.dequantizer.coupling_flow.steps]:
    run = step.conditioner.call
    step.conditioner.call = lambda *a, run=run, name=step.name, **k: (calls.append(name), run(*a, **k))[1]
  model.log_prob_bound(small_images(), seed=0)
  names = [s.name for s in (*model.dequantizer.coupling_flow.steps, *model.coupling_flow.steps)]
  assert calls == names
