"""Every clause of TFP's bijector contract, for every bijector that it is about."""

import inspect

import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.base import COMPOSITE
from support.bijector_cases import CASES
from support.bijector_checks import CHECKS

ROWS = {name: case.make("float64") for name, case in CASES.items()}
# The clauses whose check takes seconds, and the rows that stand for the others in the quick tests.
FEW = {"check_vectorized_map_gives_the_same_as_a_loop": ("bounded_affine", "conv_lu")}
PAIRS = [
  pytest.param(
    check,
    CASES[name],
    id=f"{check.__name__[len('check_') :]}-{name}",
    marks=[pytest.mark.slow] if name not in FEW.get(check.__name__, ROWS) else [],
  )
  for check in CHECKS
  for name, bijector in ROWS.items()
  if getattr(check, "applies", lambda b: True)(bijector)
]


@pytest.mark.parametrize("check, row", PAIRS)
def test_bijectors_keep_the_contract(check, row):
  check(row)


def test_no_clause_is_about_nothing():
  assert {values[0] for values, *_ in PAIRS} == set(CHECKS)


def test_the_composite_tensors_of_tfp_are_known():
  for module in (tfp.bijectors, tfp.distributions, tfp.experimental.bijectors, tfp.experimental.distributions):
    for name, kind in inspect.getmembers(module, inspect.isclass):
      assert issubclass(kind, COMPOSITE) == issubclass(kind, tf.__internal__.CompositeTensor), name
