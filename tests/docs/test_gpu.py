"""The measurements of a GPU: the table, and a tiny run without one."""

import subprocess
import sys

import pytest

import gpu
import scaling
from support.programs import ROOT

pytestmark = pytest.mark.docs


def test_a_step_on_a_gpu_stands_beside_what_paper_says():
  stored = {
    "counted": {"cifar10": {policy: dict(COUNTS) for policy in scaling.POLICIES}},
    "compiled": dict(batch=64, traced=[20_000, 640e9], compiled=[10_000, 64e9]),
  }
  row = dict(config="cifar10", what="train", batch=64, precision="float32", jit="blocks", out_of_memory=False)
  expected = lambda name="NVIDIA H100 80GB HBM3", **changes: gpu.expected_ms(row | changes, name, stored)
  assert expected() == pytest.approx(1e3 * (10_000 + 2_000) * 5e-6)  # launches bound it
  assert expected(jit="off") == pytest.approx(1e3 * 640e9 / 3350e9)  # traffic does
  assert expected(precision="bfloat16", jit="off") == pytest.approx(1e3 * (30_000 + 2_000) * 5e-6)
  for unknown in (dict(name="a GPU"), dict(name=None), dict(what="sample"), dict(precision="bfloat16")):
    assert expected(**unknown) is None
  measured = row | dict(
    ms=70.0, spread_percent=3.0, images_s=914.3, kernels=12345, busy_percent=80.0, peak_gib=9.5, first_s=40.0
  )
  head, full, none = gpu.table([measured, row | dict(batch=512, out_of_memory=True)], "NVIDIA H100 80GB HBM3", stored)
  figures = "70.0", "3 %", "60.0", "914.3", "12,345", "12,000", "80 %", "9.50", "40"
  assert full == ("cifar10", "train", "64", "float32", "blocks", *figures)
  unseen = dict(zip(head, list(gpu.table([measured | dict(kernels=0)], None, stored))[1]))
  assert (unseen["kernels"], unseen["a kernel runs"], unseen["on paper, ms"]) == ("not seen", "", "")
  assert none[5] == "out of memory" and len(none) == len(full) == len(head)


COUNTS = dict(
  parameters=10,
  gradients=8,
  training_flops_image=1e9,
  saved_bytes_image=1e8,
  saved_bytes_pass=0,
  traffic_bytes_image=1e8,
  traffic_bytes_pass=0,
  traffic_bytes_update=0,
  kernels_pass=30_000,
  kernels_update=2_000,
)


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
