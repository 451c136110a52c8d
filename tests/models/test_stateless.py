"""Weights are read when they are used: new ones in a `keras.StatelessScope` give what assigning them gives."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import bijectors as fb
from flowpp_tf.layers import Conditioner, NetworkConfig
from support.bijector_cases import CASES, bijector_fn, draw, tensor_parameters
from support.comparing import assert_same
from support.conformance_rows import BIJECTOR_ROWS, LAYER_ROWS, ROWS
from support.marks import quick_rows
from support.models import SMALL, small_config, small_images

WITH_PARAMETERS = [name for name, case in CASES.items() if tensor_parameters(case.make("float64"))]
MODELS = [name for name in ROWS if name.startswith("model_")]


def new_values(variables):
  return [
    (v, tf.convert_to_tensor(v.value + 0.1 * draw(*v.shape, dtype=v.dtype, seed=i))) for i, v in enumerate(variables)
  ]


def check(evaluate, variables):
  """`evaluate()` in a scope of new values, and after they are assigned."""
  assert variables
  old, mapping = evaluate(), new_values(variables)
  with keras.StatelessScope(state_mapping=mapping):
    scoped = evaluate()
  for a, b in zip(tf.nest.flatten(evaluate()), tf.nest.flatten(old)):
    np.testing.assert_array_equal(a, b)  # nothing was assigned
  for variable, value in mapping:
    variable.assign(value)
  assigned = evaluate()
  assert_same(tf.nest.flatten(scoped), tf.nest.flatten(assigned), rtol=1e-6, atol=1e-6)
  assert any(np.max(np.abs(a - b)) > 1e-3 for a, b in zip(tf.nest.flatten(old), tf.nest.flatten(assigned)))


@pytest.mark.parametrize("name", WITH_PARAMETERS)
def test_bijectors_with_keras_variables(name):
  bijector, inputs = CASES[name].make("float64"), ROWS[name].inputs("float64")
  variables = {n: keras.Variable(value, dtype="float64") for n, value in tensor_parameters(bijector).items()}
  bijector = bijector.copy(**variables)
  for owner in (bijector, fb.Chain([bijector]), fb.Invert(bijector)):
    assert {id(v.value) for v in variables.values()} <= {id(v) for v in owner.trainable_variables}
  check(lambda: BIJECTOR_ROWS[name].evaluate(bijector, *inputs), list(variables.values()))


@pytest.mark.parametrize("kind", ["affine", "mixture_logistic"])
def test_couplings_with_keras_layers(kind):
  conditioner = Conditioner((4, 2, 2), 2 * fb.num_parameters(kind, 3), NetworkConfig(4, 1, heads=2), dtype="float64")
  coupling, x = fb.Coupling(conditioner, bijector_fn(kind), dtype="float64"), draw(3, 4, 2, 4)
  check(lambda: [coupling.forward_and_log_det(x), coupling.inverse_and_log_det(x)], conditioner.trainable_variables)


@pytest.mark.parametrize("name", ["flow", "variational_dequantizer", "images", *LAYER_ROWS])
def test_distributions_and_layers(name):
  if name == "dropout":  # it has no weights
    return
  subject, inputs = ROWS[name].make("float64"), ROWS[name].inputs("float64")
  if name in ("flow", "images"):  # whose model has the Keras variables
    model = ROWS["model_published"].make("float64")
    subject = model.flow if name == "flow" else model.distribution
    layer = model.coupling_flow if name == "flow" else model
  else:
    layer = subject
  check(lambda: ROWS[name].evaluate(subject, *inputs), layer.trainable_variables)


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("name", quick_rows(MODELS, ["model_conditional"]))
def test_stateless_call_of_a_model(name, graph):
  model = ROWS[name].make("float64")
  images, _, *given = ROWS[name].inputs("float64")
  if given:
    images = dict(zip(("image", "label", "condition"), (images, *given)))
  values = [value for _, value in new_values(model.trainable_variables)]
  others = [v.value for v in model.non_trainable_variables]
  call = lambda: model.stateless_call(values, others, images)[0]
  bound = tf.function(call, autograph=False)() if graph else call()
  before = model(images)
  assert np.max(np.abs(bound - before)) > 1e-3
  for variable, value in zip(model.trainable_variables, values, strict=True):
    variable.assign(value)
  np.testing.assert_allclose(bound, model(images), rtol=1e-6)
  if not given:
    np.testing.assert_allclose(bound, model.log_prob_bound(images, seed=0), rtol=1e-6)


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_gradients_of_a_stateless_call_are_those_without_rematerialized_couplings(graph):
  found = []
  for remat in ("off", "couplings"):
    keras.utils.set_random_seed(0)
    model = fpp.FlowPlusPlus(small_config(SMALL, structure="columns:1", dtype="float64", remat=remat))
    images, others = small_images(), [v.value for v in model.non_trainable_variables]
    values = [value for _, value in new_values(model.trainable_variables)]

    def gradients(model=model, images=images, others=others):
      with tf.GradientTape() as tape:
        tape.watch(values)
        bound = model.stateless_call(values, others, images)[0]
      return tape.gradient(bound, values)  # after the scope of the call has ended

    found.append(tf.function(gradients, autograph=False)() if graph else gradients())
  assert all(gradient is not None for gradient in found[1])
  assert_same(*reversed(found), rtol=1e-10, atol=1e-12)


def test_a_model_cloned_by_its_config_shares_no_weights():
  model = ROWS["model_published"].make("float64")
  clone = fpp.FlowPlusPlus.from_config(model.get_config())
  assert not {id(v) for v in clone.variables} & {id(v) for v in model.variables}
  clone.set_weights(model.get_weights())
  images, _ = ROWS["model_published"].inputs("float64")
  np.testing.assert_allclose(clone(images), model(images), rtol=1e-12)
