"""A run that is stopped at any moment ends as the run that was not."""

import random
import resource
import shutil
import signal
import time

import numpy as np
import pytest
import tensorflow as tf

from flowpp_tf.core.errors import InputError
from flowpp_tf.training import Workdir
from flowpp_tf.training.checkpoints import Checkpoints
from support.programs import finish, start, wait_for
from support.runs import TINY_RUN
from support.training_steps import without_times


def start_run(workdir):
  return start(
    "train",
    *TINY_RUN,
    "--steps=12",
    "--validate_every=4",
    "--checkpoint_every=1",
    "--deterministic",
    f"--workdir={workdir}",
  )


def finish_run(workdir):
  return finish(start_run(workdir))


def end_state(workdir):
  """Everything that a run leaves: tensors of its checkpoint, weights, rows of metrics."""
  newest = max((workdir / "checkpoints").glob("step_*")) / "state"
  reader = tf.train.load_checkpoint(str(newest))
  tensors = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
  return tensors, (workdir / "best.weights.safetensors").read_bytes(), without_times(Workdir(workdir).rows())


def assert_same_end(a, b):
  assert a[0].keys() == b[0].keys()
  for name in a[0]:
    np.testing.assert_array_equal(a[0][name], b[0][name], err_msg=name)
  assert a[1:] == b[1:]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """The end of a run that is never stopped, and how long it took, from which moments for kills are drawn."""
  workdir = tmp_path_factory.mktemp("whole")
  began = time.monotonic()
  finish_run(workdir)
  return end_state(workdir), time.monotonic() - began


def kill_at(process, workdir, moment):
  """Kill a run after so many seconds, or as soon as it is seen to write a checkpoint."""
  if moment == "writing":
    while process.poll() is None and not list((workdir / "checkpoints").glob(".unfinished*")):
      time.sleep(0.001)
  else:
    time.sleep(moment)
  process.kill()
  process.wait()
  process.stdout.close()


@pytest.mark.slow
def test_a_killed_run_ends_bitwise_as_the_run_that_was_not(whole, tmp_path, request):
  state, seconds = whole
  rng = random.Random(0)
  for i in range(request.config.getoption("--kills")):
    moment = "writing" if i % 3 == 0 else rng.uniform(0.3, 1.0) * seconds
    kill_at(start_run(tmp_path), tmp_path, moment)
    if i % 4 == 3:  # it may have ended: let it end, look, and begin another
      finish_run(tmp_path)
      assert_same_end(end_state(tmp_path), state)
      shutil.rmtree(tmp_path)
  finish_run(tmp_path)
  assert_same_end(end_state(tmp_path), state)


@pytest.mark.slow
def test_sigterm_saves_at_the_next_step_and_the_exit_code_says_so(whole, tmp_path):
  process = start_run(tmp_path)
  wait_for(lambda: list((tmp_path / "checkpoints").glob("step_*")), process)
  process.send_signal(signal.SIGTERM)
  out = finish(process, code=3)
  stopped = int(out.split("stopped after step ")[1].split()[0])
  newest = max((tmp_path / "checkpoints").glob("step_*")).name
  assert newest == f"step_{stopped:08d}" and stopped < 12
  assert f"resumed at step {stopped} of 12" in finish_run(tmp_path)
  assert_same_end(end_state(tmp_path), whole[0])


@pytest.mark.slow
def test_a_run_whose_directory_is_deleted_is_bad_input_in_one_line(tmp_path):
  process = start("train", *TINY_RUN, "--steps=300", "--checkpoint_every=1", f"--workdir={tmp_path / 'run'}")
  wait_for(lambda: list((tmp_path / "run" / "checkpoints").glob("step_*")), process)
  (tmp_path / "run").rename(tmp_path / "bin")  # in one step, as a checkpoint may be written just now
  shutil.rmtree(tmp_path / "bin")
  last = finish(process, code=2).splitlines()[-1]
  assert last.startswith(f"train: error: workdir '{tmp_path / 'run'}' was moved, deleted or replaced")
  assert not list(tmp_path.iterdir())


def checkpoints(folder, value=0.0):
  variable = tf.Variable(value * tf.ones([1000]))
  return Checkpoints(folder, 3, variable=variable), variable


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_a_damaged_checkpoint_is_an_error_that_says_what_to_do(tmp_path, damage):
  kept, variable = checkpoints(tmp_path)
  for step in (1, 2):
    variable.assign(tf.fill([1000], float(step)))
    kept.save(step)
  names = sorted(p.name for p in (tmp_path / "step_00000002").iterdir())
  assert names == ["manifest.json", "state.data-00000-of-00001", "state.index"]
  for name in names:
    copy = tmp_path / "copy" / name
    shutil.copytree(tmp_path, copy, ignore=shutil.ignore_patterns("copy"))
    newest = copy / "step_00000002"
    content = bytearray((newest / name).read_bytes())
    if damage == "delete":
      (newest / name).unlink()
    else:
      content[len(content) // 2] ^= 1
      (newest / name).write_bytes(content if damage == "flip" else content[: len(content) // 2])
    again, restored = checkpoints(copy)
    with pytest.raises(InputError, match="step_00000002' is damaged: .*; move it away to resume from step_00000001"):
      again.restore()
    newest.rename(copy / "away")
    assert again.restore().step == 1 and np.all(restored.numpy() == 1.0)


def test_without_another_checkpoint_the_run_does_not_silently_start_over(tmp_path):
  kept, _ = checkpoints(tmp_path)
  assert kept.restore() is None  # none at all is a new run
  kept.save(1)
  (tmp_path / "step_00000001" / "state.index").unlink()
  with pytest.raises(InputError, match="is damaged: state.index is missing; give another --workdir to start over"):
    kept.restore()


def test_a_checkpoint_of_a_step_may_be_written_again(tmp_path):
  """A run that is shortened to the step of its newest checkpoint validates it, and saves it with that."""
  kept, variable = checkpoints(tmp_path)
  kept.save(1)
  variable.assign(tf.ones([1000]))
  kept.save(1)
  variable.assign(tf.zeros([1000]))
  assert kept.restore().step == 1 and np.all(variable.numpy() == 1.0)


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path):
  kept, variable = checkpoints(tmp_path, 1.0)
  kept.save(1)
  variable.assign(tf.zeros([1000]))
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # as a disk with 2000 bytes left
  try:
    with pytest.raises(OSError, match="File too large"):
      kept.save(2)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert [p.name for p in tmp_path.iterdir()] == ["step_00000001"]
  assert kept.restore().step == 1 and np.all(variable.numpy() == 1.0)


def test_only_the_newest_are_kept(tmp_path):
  kept, _ = checkpoints(tmp_path)
  for step in range(1, 12):
    kept.save(step)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000009", "step_00000010", "step_00000011"]
