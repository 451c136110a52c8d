"""What all tests share: an environment of their own, marks, options, and the plugins in support/.

Where pytest-xdist runs the tests in workers, the process that starts them imports no TensorFlow: it takes seconds.
"""

# ruff: noqa: E402 (the environment is set before anything else is imported)
from support import environment

environment.isolate()

import collections
import os

import hypothesis
import hypothesis.configuration
import pytest

pytest_plugins = ["support.summary", "support.durations"]

# Each run draws the same few examples; `--hypothesis-profile=full` draws many, others each time.
hypothesis.configuration.set_hypothesis_home_dir(os.path.join(os.environ["HOME"], "hypothesis"))
hypothesis.settings.register_profile("quick", max_examples=25, deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("full", max_examples=10_000, deadline=None, print_blob=True)
hypothesis.settings.load_profile("quick")


def pytest_addoption(parser):
  parser.addoption(
    "--kills", type=int, default=2, help="How often test_kills.py kills a run; more take half a minute each."
  )
  parser.addoption(
    "--attack",
    type=int,
    default=0,
    metavar="SEED",
    help="Also the long attacks of test_attacks.py, half an hour, drawn from a seed other than 0.",
  )
  parser.addoption(
    "--faults", choices=("some", "all"), default="some", help="At which calls test_faults.py lets writers fail."
  )
  parser.addoption(
    "--fuzz", type=int, default=0, metavar="N", help="How many executions of each target test_fuzz.py has."
  )
  parser.addoption(
    "--every", type=int, default=1, metavar="N", help="Run the first test of each file, and every N-th after it."
  )
  parser.addoption("--exhaustive", action="store_true", help="Also tests of which the slow ones have a shorter form.")
  parser.addoption("--damages", type=int, default=100, help="How many damaged archives test_archive.py decodes.")


def pytest_configure(config):
  if hasattr(config, "workerinput") or not getattr(config.option, "numprocesses", None):
    for name in ("repeatable", "fixtures", "runs", "shape_checks"):
      config.pluginmanager.import_plugin(f"support.{name}")


@pytest.hookimpl(trylast=True)  # after -m and -k
def pytest_collection_modifyitems(config, items):
  """Leave out what is longer than CI, unless it is asked for, and what `--every` leaves out."""
  too_long = {mark for mark in ("attack", "exhaustive") if not config.getoption(f"--{mark}")}
  count = collections.Counter()
  left_out, chosen = [], []
  for item in items:
    longer = any(item.get_closest_marker(mark) for mark in too_long)
    is_chosen = not longer and count[item.path] % config.getoption("--every") == 0
    count[item.path] += not longer
    (chosen if is_chosen else left_out).append(item)
  if left_out:
    config.hook.pytest_deselected(items=left_out)
    items[:] = chosen
