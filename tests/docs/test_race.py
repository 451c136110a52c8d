"""The race with the release, and measurements of a GPU: what is not timing."""

import importlib
import sys

import pytest

import first_step
import gpu
import processes
import race
import release
from support.programs import ROOT, run

pytestmark = pytest.mark.docs


def test_imports_of_tensorflow_1_are_rewritten_and_nothing_else():
  source = (
    '"""import tensorflow as tf, in a docstring."""\n'
    "import tensorflow as tf\n"
    "from tensorflow.distributions import Normal\n"
    "from tensorflow import keras\n"
    "from tensorflow.core.util import event_pb2\n"
    "def late():\n"
    "  import tensorflow as v1\n"
    "  from tensorflow.python.util import compat\n"
    "from tensorflow_probability import distributions\n"
  )
  assert release.rewritten(source) == (
    '"""import tensorflow as tf, in a docstring."""\n'
    "import tensorflow.compat.v1 as tf\n"
    "from tensorflow.compat.v1.distributions import Normal\n"
    "from tensorflow.compat.v1 import keras\n"
    "from tensorflow.core.util import event_pb2\n"
    "def late():\n"
    "  import tensorflow.compat.v1 as v1\n"
    "  from tensorflow.python.util import compat\n"
    "from tensorflow_probability import distributions\n"
  )


# As the release is built: modules that import each other, TensorFlow 1, and what is not installed here.
RELEASE = {
  "flows": "import tensorflow as tf\nfrom tqdm import tqdm\nZERO = tf.placeholder\n",
  "logistic": "",
  "utils": "from tensorflow.core.util import event_pb2\n",
  "flow_training": """
from tqdm import trange
from .utils import event_pb2

def train(*, lr_schedule, steps_per_log, logdir, total_bs, init_bs, epochs_per_val, dropout_p):
  import horovod.tensorflow as hvd
  from mpi4py import MPI
  hvd.init()
  assert hvd.size() == MPI.COMM_WORLD.Get_size() == 1 and MPI.COMM_WORLD.gather("a", root=0) == ["a"]
  images, _ = load_data(dataset="cifar10", dtype="float32")
  assert images.shape == (init_bs, 32, 32, 3) and dropout_p == 0.2
  logger = TensorBoardOutput(logdir)
  for step in trange(9):
    assert step % epochs_per_val
    rate = lr_schedule(step)
    logger.writekvs([("iter", step), ("bpd", rate * total_bs)], step)
""",
  "run_cifar": """
from .flow_training import train
from .flows import ZERO

def main():
  import argparse
  argparse.ArgumentParser().parse_args()
  train(lr_schedule=None, steps_per_log=100, logdir="~/logs", total_bs=64, init_bs=128, epochs_per_val=1, dropout_p=0.2)
""",
}
TRAIN = """
import sys, release
def before(step):
  if step == 3: raise SystemExit
  return 0.5
release.train(sys.argv[1], 4, 8, before, lambda values: print(values["iter"], values["bpd"], flush=True))
"""


@pytest.mark.slow
def test_the_loop_of_a_release_runs_with_its_own_settings_and_our_batches(tmp_path):
  """In a process of its own: the mode of TensorFlow 1 is for all of it."""
  (tmp_path / "flows").mkdir()
  for name, source in RELEASE.items():
    (tmp_path / "flows" / f"{name}.py").write_text(source)
  before = sorted(tmp_path.rglob("*"))
  found = run(["-c", TRAIN], tmp_path, PYTHONPATH=str(ROOT / "benchmarks"))
  assert found.out.split("\n")[:-1] == ["0 2.0", "1 2.0", "2 2.0"], found.error
  assert sorted(tmp_path.rglob("*")) == before  # nothing is written beside the release


def turn(seconds, **changes):
  return dict(seconds=seconds, cpu_s=2 * seconds, others=0.5, peak_bytes=2**30) | changes


def test_rows_of_a_race_are_medians_relative_to_those_of_the_rival():
  turns = {
    "": [turn(2.0), turn(4.0), turn(3.0, peak_bytes=2**31)],
    "float32": [turn(1.0), turn(1.5), turn(9.0)],
    "bfloat16": [turn(6.0)] * 3,
  }
  ours, low = race.rows("cifar10 evaluate 4 2", turns)
  assert (ours["ratio"], ours["ms_image"], ours["spread_percent"]) == (0.5, 375.0, pytest.approx(100 * 8 / 1.5))
  assert (ours["cpu_ratio"], ours["before_peak_gib"], ours["turns"]) == (0.5, 2.0, 3)
  assert (low["precision"], low["ratio"]) == ("bfloat16", 2.0)
  head, first, second = race.table([ours, low])
  assert dict(zip(head, first)) == {
    "model": "cifar10",
    "": "evaluate",
    "batch": "4",
    "cores": "2",
    "precision": "float32",
    "time, ratio": "0.50",
    "seconds": "1.5; 3",
    "spread": "533 %; 67 %",
    "CPU time, ratio": "0.50",
    "peak GiB": "1.00; 2.00",
    "memory, ratio": "0.50",
    "turns": "3",
    "other processes' cores": "0.5",
  }
  assert second[4] == "bfloat16"


def test_ours_is_raced_in_each_precision_and_a_start_in_one():
  names = lambda case: list(race.contestants(case, "rival", ["float32", "bfloat16"], 32))
  assert names("cifar10 evaluate 4 2") == ["", "float32", "bfloat16"]
  assert names("cifar10 start 4 2") == ["", "float32"]
  rival, ours = race.contestants("digits train 64 2", "rival", ["bfloat16"], 32).values()
  assert (rival.folder, rival.case.precision, rival.init_batch) == ("rival", "float32", 64)
  assert (ours.folder, ours.case.precision, ours.case.batch) == (race.ROOT, "bfloat16", 64)


TURNS = """
import os
def two(turns, parameters):
  print("what a library prints")
  os.system("echo what another process prints")
  turns.ready(parameters=parameters)
  for _ in range(2):
    turns.begin()
    turns.end()
  raise ValueError("the third turn")
"""


def test_a_process_takes_turns_and_says_why_it_ended(monkeypatch, tmp_path, capfd):
  (tmp_path / "taken_turns.py").write_text(TURNS)
  monkeypatch.syspath_prepend(tmp_path)
  process = processes.TakesTurns(importlib.import_module("taken_turns").two, 7)
  assert process.content == dict(parameters=7)
  names = {"seconds", "cpu_s", "peak_bytes", "others"}
  assert [set(process.turn()) for _ in range(2)] == [names] * 2
  with pytest.raises(RuntimeError, match="(?s)another process prints.*the third turn"):
    process.turn()
  process.end()  # ends nothing twice
  assert capfd.readouterr() == ("", "")


def test_a_command_runs_until_its_line_is_there():
  program = "import signal; print('step 0: 8.3', flush=True); print('done', flush=True); signal.pause()"
  found, taken = first_step.arrivals([sys.executable, "-c", program], {"first": "step 0", "last": "done"})
  assert 0 < found["first"] <= found["last"] <= taken["seconds"]
  assert set(taken) == {"seconds", "cpu_s", "peak_bytes", "others"}
  assert taken["peak_bytes"] > 2**20 and taken["cpu_s"] > 0
  with pytest.raises(RuntimeError, match="ended before its first step:\nwhy"):
    first_step.arrivals([sys.executable, "-c", "print('why')"], {"first": "step 0"})


def test_a_step_on_a_gpu_stands_with_the_rate_of_its_products():
  costs = [dict(config="cifar10", training_flops_image=80e9)]
  row = dict(config="cifar10", what="train", batch=64, precision="float32", jit="blocks", out_of_memory=False)
  row |= dict(ms_image=1.25, spread_percent=3.0, peak_gib=9.5, first_s=40.0)
  head, full, sample, none = gpu.table([row, row | dict(what="sample"), row | dict(out_of_memory=True)], costs)
  assert full == ("cifar10", "train", "64", "float32", "blocks", "80.0", "3 %", "800.0", "64.00", "9.50", "40")
  assert dict(zip(head, sample))["TFLOP/s"] == ""
  assert none[5] == "out of memory" and len(none) == len(full) == len(head)


def test_what_begins_too_late_is_named_and_left_out(capsys):
  assert list(gpu.within(1, dict(a=lambda: 1, b=lambda: 2))) == [1, 2]
  assert list(gpu.within(0, dict(a=lambda: 1, b=lambda: 2))) == []
  assert capsys.readouterr().err == "no time left for: a\nno time left for: b\n"


@pytest.mark.slow
def test_a_quick_run_without_a_gpu_says_that_its_figures_mean_nothing(tmp_path):
  found = run([ROOT / "benchmarks" / "gpu.py"], "--quick", "--minutes=60", f"--output={tmp_path}/gpu.json")
  assert found.out.count(gpu.NO_GPU) == 2, found.error
  assert found.out.count("| digits |") == len(gpu.cases(True, 1))
