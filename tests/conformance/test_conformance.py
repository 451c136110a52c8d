"""The conformance suite: each promise a test, every bijector, distribution and model a row of it.

Graph mode, XLA, precision, devices, and saving.
"""

import functools
import inspect
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from flowpp_tf import training
from support.bijector_cases import CASES
from support.conformance_rows import (
  FEW,
  LAYER_ROWS,
  MODEL_ROWS,
  OTHERS_STAND_FOR,
  PARTS,
  ROWS,
  WITHOUT_VARIABLES,
  copy_variables,
  signature,
  variables,
)
from support.marks import quick_rows

# In the quick tests one of each kind of code, and the model of the paper.
rows = pytest.mark.parametrize("name", quick_rows(ROWS, FEW, [*OTHERS_STAND_FOR, *PARTS]))


@functools.cache
def eager(name):
  """What a row makes in float64, its inputs, and what it gives for them in eager mode."""
  row = ROWS[name]
  subject, inputs = row.make("float64"), row.inputs("float64")
  return subject, inputs, row.evaluate(subject, *inputs)


def compare(actual, expected, rtol=0, atol=0):
  """Assert that two dicts of arrays are the same, to the last bit unless a tolerance is given."""
  assert actual.keys() == expected.keys()
  for key, value in actual.items():
    np.testing.assert_allclose(value, expected[key], rtol, atol, err_msg=key)


@rows
def test_one_trace_serves_every_batch_size_and_gives_the_same_as_eager_mode(name):
  subject, inputs, expected = eager(name)
  traces = []

  @tf.function(input_signature=signature(inputs), autograph=False)
  def evaluate(*inputs):
    traces.append(name)
    return ROWS[name].evaluate(subject, *inputs)

  compare(evaluate(*inputs), expected, rtol=1e-9, atol=1e-9)
  first = evaluate(*(t[:1] for t in inputs))
  compare(first, {key: value[:1] for key, value in expected.items()}, rtol=1e-9, atol=1e-9)
  assert len(traces) == 1


@rows
def test_xla_gives_the_same_as_eager_mode_traced_for_any_batch_size_too(name):
  subject, inputs, expected = eager(name)
  evaluate = tf.function(
    functools.partial(ROWS[name].evaluate, subject),
    input_signature=signature(inputs),
    jit_compile=True,
    autograph=False,
  )
  compare(evaluate(*inputs), expected, rtol=1e-9, atol=1e-9)


@rows
def test_float32_is_close_to_float64(name):
  subject, _, expected = eager(name)
  single = ROWS[name].make("float32")
  copy_variables(subject, single)
  actual = ROWS[name].evaluate(single, *ROWS[name].inputs("float32"))
  assert all(value.dtype == tf.float32 for value in actual.values())
  compare(actual, expected, rtol=1e-5, atol=1e-4)


@rows
def test_two_mirrored_devices_give_the_values_and_gradients_of_one(name):
  subject, inputs, expected = eager(name)
  strategy = training.get_strategy("mirrored")
  with strategy.scope():
    mirrored = ROWS[name].make("float64")
  copy_variables(subject, mirrored)

  def values_and_gradients(subject, *inputs):
    with tf.GradientTape() as tape:
      outputs = ROWS[name].evaluate(subject, *inputs)
      total = tf.add_n([tf.reduce_sum(value) for value in outputs.values()])
    return outputs, tape.gradient(total, variables(subject), unconnected_gradients=tf.UnconnectedGradients.ZERO)

  halves = [
    strategy.experimental_distribute_values_from_function(
      lambda context, t=t: tf.split(t, 2)[context.replica_id_in_sync_group]
    )
    for t in inputs
  ]
  outputs, gradients = tf.function(lambda: strategy.run(values_and_gradients, (mirrored, *halves)), autograph=False)()
  joined = {key: tf.concat(strategy.experimental_local_results(value), axis=0) for key, value in outputs.items()}
  compare(joined, expected, rtol=1e-9, atol=1e-9)
  _, expected_gradients = values_and_gradients(subject, *inputs)
  for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
    total = sum(strategy.experimental_local_results(gradient))  # each is that of its half
    np.testing.assert_allclose(total, expected_gradient, rtol=1e-7, atol=1e-9)


def public(module, base):
  return {cls for _, cls in inspect.getmembers(module, inspect.isclass) if issubclass(cls, base)}


def test_every_public_bijector_has_a_row():
  rows = {type(case.make("float64")) for case in CASES.values()}
  assert not public(fpp.bijectors, tfp.bijectors.Bijector) - rows - {fpp.bijectors.Bijector}  # the base class


@pytest.mark.slow
def test_rows_without_variables_are_listed():
  assert {name for name, row in ROWS.items() if not variables(row.make("float32"))} == WITHOUT_VARIABLES


@pytest.mark.slow
def test_every_public_layer_has_a_row():
  assert not public(fpp.layers, keras.layers.Layer) - {type(row.make("float32")) for row in LAYER_ROWS.values()}


@pytest.mark.slow
def test_every_public_distribution_has_a_row():
  rows = {type(ROWS[name].make("float32")) for name in ("flow", "images")}
  rows |= {
    type(ROWS[name].make("float32").posterior(ROWS[name].inputs("float32")[0]))
    for name in ("uniform_dequantizer", "variational_dequantizer")
  }
  assert not public(fpp.distributions, tfp.distributions.Distribution) - rows


HAVE_VARIABLES = [name for name in ROWS if name not in WITHOUT_VARIABLES]


def evaluate(name, subject):
  return ROWS[name].evaluate(subject, *ROWS[name].inputs("float32"))


def fresh(name):
  """What the row makes, with other weights, those too that nobody would list."""
  subject = ROWS[name].make("float32", seed=1)
  for variable in variables(subject):
    variable.assign(variable + 0.1)
  return subject


@pytest.mark.parametrize("name", quick_rows(HAVE_VARIABLES, {*FEW} & {*HAVE_VARIABLES}, OTHERS_STAND_FOR))
def test_a_checkpoint_restores_every_weight(name, tmp_path):
  subject, other = ROWS[name].make("float32"), fresh(name)
  path = tf.train.Checkpoint(subject=subject).save(tmp_path / "checkpoint")
  tf.train.Checkpoint(subject=other).restore(path).assert_consumed()
  for restored, saved in zip(variables(other), variables(subject), strict=True):
    np.testing.assert_array_equal(restored, saved, err_msg=saved.name)
  compare(evaluate(name, other), evaluate(name, subject))


@pytest.mark.parametrize("name", quick_rows(ROWS, FEW, [*OTHERS_STAND_FOR, *PARTS]))
def test_a_saved_model_gives_the_same_for_every_batch_size(name, tmp_path):
  subject, inputs = ROWS[name].make("float32"), ROWS[name].inputs("float32")
  module = tf.Module()
  module.subject = subject
  module.evaluate = tf.function(
    lambda *inputs: ROWS[name].evaluate(subject, *inputs), input_signature=signature(inputs), autograph=False
  )
  tf.saved_model.save(module, tmp_path)
  loaded = tf.saved_model.load(tmp_path)  # kept: its functions do not own its variables
  for part in (slice(None), slice(1)):
    sliced = [t[part] for t in inputs]
    compare(loaded.evaluate(*sliced), module.evaluate(*sliced))


# Bijectors and distributions are no Keras objects: their layers are saved with the model. A compiled one is below.
@pytest.mark.parametrize("name", quick_rows(MODEL_ROWS, [], OTHERS_STAND_FOR))
def test_keras_saves_and_loads_the_whole_model(name, tmp_path):
  model = ROWS[name].make("float32")
  model.save(tmp_path / "model.keras")
  loaded = keras.models.load_model(tmp_path / "model.keras")
  assert loaded.config == model.config
  compare(evaluate(name, loaded), evaluate(name, model))


SAVED_ALONE = [
  name for name in LAYER_ROWS if name not in ("flow_layer", "ensemble_layer", "label_embedding", "condition_net")
]  # see below


@pytest.mark.parametrize("name", quick_rows(SAVED_ALONE, ["conv", "block", "dense_conditioner", "vector_flow_layer"]))
def test_keras_saves_and_loads_each_layer_in_a_model_of_its_own(name, tmp_path):
  layer, inputs = ROWS[name].make("float32"), ROWS[name].inputs("float32")
  if "position_embedding" in layer.call.__code__.co_varnames:  # it has no batch: the block does without
    inputs = inputs[:1]
  symbolic = [keras.Input(t.shape[1:]) for t in inputs]
  model = keras.Model(symbolic, layer(*symbolic))
  assert len(model.trainable_variables) == len(layer.trainable_variables)
  model.save(tmp_path / "model.keras")
  loaded = keras.models.load_model(tmp_path / "model.keras")
  np.testing.assert_array_equal(loaded(list(inputs)), model(list(inputs)))
  if len(inputs) == 1:
    keras.Sequential([type(layer).from_config(layer.get_config())])(inputs[0])


def test_keras_saves_and_loads_layers_of_labels_and_conditions(tmp_path):
  labels, condition = keras.Input([], dtype="int32"), keras.Input([2, 2, 1])
  net = fpp.layers.ConditionNet((4, 4, 2), 3, (2, 2, 1))
  model = keras.Model([labels, condition], [net(labels, condition), fpp.layers.LabelEmbedding(3, 4)(labels)])
  inputs = [tf.constant([0, -1]), tf.ones([2, 2, 2, 1])]
  model.save(tmp_path / "model.keras")
  for ours, theirs in zip(keras.models.load_model(tmp_path / "model.keras")(inputs), model(inputs), strict=True):
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", quick_rows(MODEL_ROWS, ["model_published"], OTHERS_STAND_FOR))
def test_keras_weights_and_config_make_the_same_model_again(name, tmp_path):
  model = ROWS[name].make("float32")
  again = type(model).from_config(model.get_config())
  model.save_weights(tmp_path / "model.weights.h5")
  again.load_weights(tmp_path / "model.weights.h5")
  compare(evaluate(name, again), evaluate(name, model))


def test_a_compiled_model_is_loaded_to_be_compiled_again_without_a_warning(tmp_path):
  model = ROWS["model_published"].make("float32")
  model.compile(keras.optimizers.Adam(global_clipnorm=1.0, use_ema=True))
  model.save(tmp_path / "model.keras")
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    loaded = keras.models.load_model(tmp_path / "model.keras")
  assert not [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
  assert not loaded.compiled and loaded.config == model.config
  compare(evaluate("model_published", loaded), evaluate("model_published", model))
