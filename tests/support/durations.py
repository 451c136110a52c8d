"""Plugin: files of tests in the order of their durations, longest first, so that two workers end together.

    python -m pytest -n 2 --dist loadfile --store-durations tests

writes tests/durations.json: seconds of each file in the quick tests and in the slow ones. A run under xdist takes its
order from there; one in a single process keeps the order of the files, and pytest-randomly its own.
"""

import collections
import json
import pathlib

TESTS = pathlib.Path(__file__).parent.parent
_FILE = TESTS / "durations.json"
_UNKNOWN = 10.0  # seconds of a file that has not been measured
_seconds: collections.Counter = collections.Counter()


def pytest_addoption(parser):
  parser.addoption("--store-durations", action="store_true", help="Write tests/durations.json from this run.")


def pytest_configure(config):
  if hasattr(config.option, "loadscopereorder"):
    config.option.loadscopereorder = False  # which would be by the number of tests


def pytest_collection_modifyitems(config, items):
  if hasattr(config, "workerinput") and not config.pluginmanager.has_plugin("randomly"):
    stored = json.loads(_FILE.read_text()) if _FILE.exists() else {}
    parts = collections.defaultdict(set)
    for item in items:
      parts[item.path].add("slow" if item.get_closest_marker("slow") else "quick")
    seconds = {
      path: sum(stored.get(path.relative_to(TESTS).as_posix(), {}).get(part, _UNKNOWN) for part in found)
      for path, found in parts.items()
    }
    items.sort(key=lambda item: -seconds[item.path])


def pytest_runtest_logreport(report):
  part = "slow" if "slow" in report.keywords else "quick"
  path = report.nodeid.partition("::")[0].partition("tests/")[2]
  _seconds[path, part] += report.duration


def pytest_sessionfinish(session):
  if session.config.getoption("--store-durations") and not hasattr(session.config, "workerinput"):
    stored = json.loads(_FILE.read_text()) if _FILE.exists() else {}
    for (path, part), seconds in _seconds.items():
      stored.setdefault(path, {})[part] = round(seconds, 1)
    kept = {path: stored[path] for path in sorted(stored) if (TESTS / path).exists()}
    _FILE.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
