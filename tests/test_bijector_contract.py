"""Every clause of TFP's bijector contract, for every bijector that it is about."""

import pytest

from bijector_cases import CASES
from bijector_checks import CHECKS

BROADCAST = "the inverse's loop starts with the shape of `loc`, not with that of all parameters"
DEFECTS = {  # known ones, by clause and row
    ("each_parameter_may_have_a_batch_that_the_others_lack", "logit_mixture"): BROADCAST,
    ("each_parameter_may_have_a_batch_that_the_others_lack", "mixture_cdf"): BROADCAST,
}


def pair(check, name):
  clause = check.__name__[len("check_"):]
  reason = DEFECTS.get((clause, name))
  marks = [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
  return pytest.param(check, CASES[name], id=f"{clause}-{name}", marks=marks)


ROWS = {name: case.make("float64") for name, case in CASES.items()}
PAIRS = [pair(check, name) for check in CHECKS for name, bijector in ROWS.items()
         if getattr(check, "applies", lambda b: True)(bijector)]


@pytest.mark.parametrize("check, row", PAIRS)
def test_bijectors_keep_the_contract(check, row):
  check(row)


def test_no_clause_is_about_nothing():
  assert {values[0] for values, *_ in PAIRS} == set(CHECKS)
