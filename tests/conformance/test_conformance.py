"""The conformance suite: each promise a test, every bijector, distribution and model a row of it.

Here are graph mode, XLA, precision and devices; saving is in test_conformance_saving.py.
"""

import functools
import inspect

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


def compare(actual, expected, **tolerance):
  assert actual.keys() == expected.keys()
  for key, value in actual.items():
    np.testing.assert_allclose(value, expected[key], err_msg=key, **tolerance)


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


def test_every_public_layer_has_a_row():
  assert not public(fpp.layers, keras.layers.Layer) - {type(row.make("float32")) for row in LAYER_ROWS.values()}


def test_every_public_distribution_has_a_row():
  rows = {type(ROWS[name].make("float32")) for name in ("flow", "images")}
  rows |= {
    type(ROWS[name].make("float32").posterior(ROWS[name].inputs("float32")[0]))
    for name in ("uniform_dequantizer", "variational_dequantizer")
  }
  assert not public(fpp.distributions, tfp.distributions.Distribution) - rows
