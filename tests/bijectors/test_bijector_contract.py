"""Every clause of TFP's bijector contract, for every bijector that it is about."""

import inspect

import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.base import COMPOSITE
from support.bijector_cases import CASES, OTHER_FORMS
from support.bijector_checks import CHECKS

ROWS = {name: case.make("float64") for name, case in CASES.items()}
# The clauses whose check takes seconds, and the rows that stand for the others in the quick tests.
_FEW = ("logit_mixture", "conv_lu", "coupling_mixture", "chain")
FEW = {
  "check_vectorized_map_gives_the_same_as_a_loop": ("bounded_affine", "conv_lu"),
  "check_a_copy_is_the_same_function_of_the_same_variables": _FEW,
  "check_a_composite_goes_through_nest_and_tf_function": _FEW,
  "check_each_parameter_may_have_a_batch_that_the_others_lack": _FEW,
  "check_a_slice_evaluates_to_the_slice_of_the_values": _FEW,
  "check_dtypes_are_kept_and_not_mixed": _FEW,
}
PAIRS = [
  pytest.param(
    check,
    CASES[name],
    id=f"{check.__name__[len('check_') :]}-{name}",
    marks=[pytest.mark.slow] if name in OTHER_FORMS or name not in FEW.get(check.__name__, ROWS) else [],
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
