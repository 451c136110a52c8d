"""The fuzzer: earlier findings, and mutations of the seeds of each target.

    pytest --fuzz=100000 -m slow tests/hardening/test_fuzz.py    # so many of each; another number draws others

An input that is answered wrongly, hangs, or takes more than its budget of memory is kept in tests/data/fuzz/TARGET, and
is run from then on.
"""

import hashlib
import pathlib
import random
import resource
import warnings

import pytest

from hardening.faults import ends_within
from hardening.targets import KEPT, TARGETS

MOST_SECONDS = 10
MOST_GROWTH = 256 << 10  # KiB by which an execution may raise the peak memory of the process
MOST_MEMORY = 1 << 30  # bytes of addresses beyond those in use when the run begins
# A minute in all.
COUNTS = {"archive": 500, "weights": 1500, "config": 1500, "images": 3000, "metadata": 3000, "flags": 300}


class Guard:
  """Runs a target on inputs, and turns hangs and memory beyond the budget into failures."""

  def __init__(self, target):
    self.target, self.accepted, self.executions, self.failures = target, 0, 0, []
    for data in target.corpus[: len(target.seeds())]:  # what is made once, or grows once, does so now
      target(data)
    size = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    self._limit = size + MOST_MEMORY

  def __enter__(self):
    self._before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (self._limit, self._before[1]))
    return self

  def __exit__(self, *error):
    resource.setrlimit(resource.RLIMIT_AS, self._before)

  def __call__(self, data):
    self.executions += 1
    try:
      self._run(data)
    except KeyboardInterrupt:
      raise
    except BaseException as error:  # of any kind: that is what is looked for
      path = KEPT / self.target.name / hashlib.sha256(data).hexdigest()[:16]
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(data)
      self.failures.append(f"{path}: {type(error).__name__}: {error}")

  def _run(self, data):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with ends_within(MOST_SECONDS):
      self.accepted += self.target(data)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    if grown > MOST_GROWTH:
      raise RuntimeError(f"{grown >> 10} MiB more memory")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TARGETS])
def test_damaged_files_are_refused_in_one_line_within_the_budget(name, request):
  more = request.config.getoption("--fuzz")
  rng = random.Random(more)
  with warnings.catch_warnings(), Guard(TARGETS[name]()) as guard:
    warnings.simplefilter("ignore")  # of Pillow, of damaged files
    corpus = guard.target.corpus
    for data in corpus:
      guard(data)
    for _ in range(more or COUNTS[name]):
      data = rng.choice(corpus)
      for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = guard.target.mutate(data, rng)
      guard(data)
  assert not guard.failures, f"{len(guard.failures)} of {guard.executions}, the first: {guard.failures[0]}"
  assert guard.accepted  # the seeds
