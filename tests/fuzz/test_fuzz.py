"""The fuzzer's short form: earlier findings, and some mutations of each target, always the same.

pytest --fuzz=100000 tests/fuzz runs so many of each; `python tests/fuzz/fuzz.py TARGET` is guided by coverage.
"""

import warnings

import pytest

from fuzz import fuzz
from fuzz.targets import TARGETS
from support.marks import slow

# A second each.
SHORT = {"archive": 10, "weights": 50, "config": 50, "images": 100, "metadata": 100, "flags": 10}
# In CI, with the slow tests: a minute in all.
LONG = {"archive": 500, "weights": 1500, "config": 1500, "images": 3000, "metadata": 3000, "flags": 300}


@pytest.fixture(autouse=True)
def warnings_are_allowed():
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of Pillow, of damaged files
    yield


@pytest.mark.parametrize("counts", [pytest.param(SHORT, id="short"), slow(LONG, id="long")])
@pytest.mark.parametrize("name", [*TARGETS])
def test_damaged_files_are_refused_in_one_line_within_the_budget(name, counts, request):
  more = request.config.getoption("--fuzz")
  failures = []
  with fuzz.Guard(TARGETS[name]()) as guard:
    fuzz.mutations(guard, more or counts[name], seed=more, failed=lambda data, error: failures.append((error, data)))
  assert not failures, f"{len(failures)} of {guard.executions}, the first: {failures[0]}"
  assert guard.accepted  # the seeds
