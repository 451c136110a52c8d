"""The measurements of a GPU: the table, and a tiny run without one."""

import subprocess
import sys

import pytest

import gpu
from support.programs import ROOT

pytestmark = pytest.mark.docs


def test_a_step_on_a_gpu_stands_with_the_rate_of_its_products():
  costs = [dict(config="cifar10", training_flops_image=80e9)]
  row = dict(config="cifar10", what="train", batch=64, precision="float32", jit="blocks", out_of_memory=False)
  row |= dict(ms=70.0, spread_percent=3.0, images_s=900.0, peak_gib=9.5, first_s=40.0)
  head, full, sample, none = gpu.table([row, row | dict(what="sample"), row | dict(out_of_memory=True)], costs)
  assert full == ("cifar10", "train", "64", "float32", "blocks", "70.0", "3 %", "900.0", "72.00", "9.50", "40")
  assert dict(zip(head, sample))["TFLOP/s"] == ""
  assert none[5] == "out of memory" and len(none) == len(full) == len(head)


def test_what_begins_too_late_is_named_and_left_out(capsys):
  assert list(gpu.within(1, dict(a=lambda: 1, b=lambda: 2))) == [1, 2]
  assert list(gpu.within(0, dict(a=lambda: 1, b=lambda: 2))) == []
  assert capsys.readouterr().err == "no time left for: a\nno time left for: b\n"


@pytest.mark.slow
def test_a_quick_run_without_a_gpu_says_that_its_figures_mean_nothing(tmp_path):
  found = subprocess.run(
    [sys.executable, ROOT / "benchmarks" / "gpu.py", "--quick", "--minutes=60", f"--output={tmp_path}/gpu.json"],
    capture_output=True,
    text=True,
  )
  assert found.stdout.count(gpu.NO_GPU) == 2, found.stderr
  assert found.stdout.count("| digits |") == len(gpu.cases(True, 1))
