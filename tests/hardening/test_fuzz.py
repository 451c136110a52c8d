"""The fuzzer's short form: earlier findings, and some mutations of each target, always the same.

pytest --fuzz=100000 -m slow tests/hardening/test_fuzz.py    # so many of each

`python tests/hardening/fuzz.py TARGET` is guided by coverage.
"""

import warnings

import pytest

from hardening import fuzz
from hardening.targets import TARGETS

# A minute in all.
COUNTS = {"archive": 500, "weights": 1500, "config": 1500, "images": 3000, "metadata": 3000, "flags": 300}


@pytest.fixture(autouse=True)
def warnings_are_allowed():
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of Pillow, of damaged files
    yield


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TARGETS])
def test_damaged_files_are_refused_in_one_line_within_the_budget(name, request):
  more = request.config.getoption("--fuzz")
  failures = []
  with fuzz.Guard(TARGETS[name]()) as guard:
    fuzz.mutations(guard, more or COUNTS[name], seed=more, failed=lambda data, error: failures.append((error, data)))
  assert not failures, f"{len(failures)} of {guard.executions}, the first: {failures[0]}"
  assert guard.accepted  # the seeds
