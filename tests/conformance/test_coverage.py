"""Every public bijector, layer and distribution has a row in the conformance suite."""

import inspect

import keras
import pytest
import tensorflow_probability as tfp

import flowpp_tf as fpp
from support.bijector_cases import CASES
from support.conformance_rows import LAYER_ROWS, ROWS, WITHOUT_VARIABLES, variables


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
