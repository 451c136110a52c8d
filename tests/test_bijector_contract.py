"""Every clause of TFP's bijector contract, for every bijector that it is about."""

import pytest

from bijector_cases import CASES
from bijector_checks import CHECKS

ROWS = {name: case.make("float64") for name, case in CASES.items()}
PAIRS = [pytest.param(check, CASES[name], id=f"{check.__name__[len('check_'):]}-{name}")
         for check in CHECKS for name, bijector in ROWS.items()
         if getattr(check, "applies", lambda b: True)(bijector)]


@pytest.mark.parametrize("check, row", PAIRS)
def test_bijectors_keep_the_contract(check, row):
  check(row)


def test_no_clause_is_about_nothing():
  assert {values[0] for values, *_ in PAIRS} == set(CHECKS)
