"""The cores that a process may use."""

import os
import subprocess
import sys

import pytest

from flowpp_tf.core import environment
from support.programs import ROOT


def test_without_affinities_all_cores_are_usable(monkeypatch):
  monkeypatch.delattr(os, "sched_getaffinity", raising=False)
  assert environment.usable_cores() == [*range(os.cpu_count())]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux binds a process to cores")
def test_a_process_on_one_core_codes_on_one_thread():
  # as `taskset` does; the codec had a thread for each core of the machine
  code = (
    "import os; os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])\n"
    "from flowpp_tf.compression import threads; print(threads.CORES)"
  )
  out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
  assert out == "1\n"
