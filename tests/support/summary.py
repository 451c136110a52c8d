"""Plugin: what the last lines of a run of the tests say of it.

not tested (36): needs chromium, which is not installed: apt-get install chromium
peak memory of a process that ran tests: 3.1 GiB, in tests/layers/test_remat.py
"""

import collections
import importlib.util
import os
import resource
import shutil
import sys

import pytest

MOST_MEMORY = 4.0  # GiB of a process that runs tests
# What some tests need, how to look whether it is there, and how to get it.
COMPONENTS = {
  "chromium": (lambda: shutil.which("chromium"), "apt-get install chromium"),
  "playwright": (lambda: importlib.util.find_spec("playwright"), "pip install -e '.[test]'"),
  "gradio": (lambda: importlib.util.find_spec("gradio"), "pip install -e '.[demo]'"),
  "constriction": (lambda: importlib.util.find_spec("constriction"), "pip install -e '.[compression]'"),
  "numba": (lambda: importlib.util.find_spec("numba"), "pip install -e '.[compression]'"),
  "onnx": (lambda: importlib.util.find_spec("onnx"), "pip install -e '.[onnx]'"),
  "openvino": (lambda: importlib.util.find_spec("openvino"), "pip install -e '.[openvino]'"),
  "onnxruntime": (lambda: importlib.util.find_spec("onnxruntime"), "pip install -e '.[test]'"),
  "cc": (lambda: shutil.which("cc"), "apt-get install gcc libc6-dev"),
  "imagecodecs": (lambda: importlib.util.find_spec("imagecodecs"), "pip install -e '.[codecs]'"),
}
_MISSING = "needs {}, which is not installed: {}"
_peak = (0.0, "")  # the most memory that this process had at once, in GiB, and the file of tests that needed it


def need(*components):
  """Skip a test where a component of `COMPONENTS` is not installed; with CI in the environment, fail it."""
  for name in components:
    is_there, command = COMPONENTS[name]
    if not is_there():
      (pytest.fail if os.environ.get("CI") else pytest.skip)(_MISSING.format(name, command))


def pytest_runtest_setup(item):
  for mark in item.iter_markers("needs"):
    need(*mark.args)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item):
  global _peak
  most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
  if most > _peak[0]:
    _peak = most, item.nodeid.partition("::")[0]


def pytest_sessionfinish(session):
  if hasattr(session.config, "workeroutput"):
    session.config.workeroutput["peak"] = _peak


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
  global _peak
  _peak = max(_peak, tuple(getattr(node, "workeroutput", {}).get("peak", (0.0, ""))))


def pytest_terminal_summary(terminalreporter):
  skipped = collections.Counter(
    report.longrepr[2].removeprefix("Skipped: ")
    for report in terminalreporter.stats.get("skipped", [])
    if isinstance(report.longrepr, tuple)
  )
  for reason, count in sorted(skipped.items()):
    terminalreporter.write_line(f"not tested ({count}): {reason}", yellow=True)
  most, file = _peak
  too_much = f", more than {MOST_MEMORY:g} GiB" if most > MOST_MEMORY else ""
  terminalreporter.write_line(
    f"peak memory of a process that ran tests: {most:.1f} GiB{too_much}, in {file}", red=bool(too_much)
  )
