"""A run that is stopped at any moment ends as the run that was not."""

import dataclasses
import functools
import json
import random
import resource
import shutil
import signal
import time

import numpy as np
import pytest
import tensorflow as tf

from flowpp_tf import training
from flowpp_tf.data import load_dataset
from flowpp_tf.evaluation import evaluate_bits_per_dim
from flowpp_tf.models import FlowPlusPlusConfig
from flowpp_tf.training.checkpoints import Checkpoints
from support.marks import slow
from support.models import SMALL
from support.programs import REFERENCE, finish, start, wait_for
from support.runs import TINY_RUN
from support.training_steps import train_state


def start_run(workdir, *arguments):
  return start(
    "train",
    *TINY_RUN,
    "--steps=12",
    "--validate_every=4",
    "--checkpoint_every=1",
    "--deterministic",
    f"--workdir={workdir}",
    *arguments,
  )


def finish_run(workdir, *arguments):
  return finish(start_run(workdir, *arguments))


def end_state(workdir):
  """Everything that a run leaves: tensors of its checkpoint, weights, rows of metrics."""
  newest = max((workdir / "checkpoints").glob("step_*")) / "state"
  reader = tf.train.load_checkpoint(str(newest))
  tensors = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  for row in rows:
    del row["images_per_second"]
  return tensors, (workdir / "best.weights.h5").read_bytes(), rows


def assert_same_end(a, b):
  assert a[0].keys() == b[0].keys()
  for name in a[0]:
    np.testing.assert_array_equal(a[0][name], b[0][name], err_msg=name)
  assert a[1:] == b[1:]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """The end of a run that is never stopped, and how long it took, from which moments for kills are drawn."""

  @functools.cache
  def end_of_run(*arguments):
    workdir = tmp_path_factory.mktemp("whole")
    began = time.monotonic()
    finish_run(workdir, *arguments)
    return end_state(workdir), time.monotonic() - began

  return end_of_run


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


@pytest.mark.parametrize(
  "kills, arguments", [(1, ("--dequantization=uniform", "--noattention")), slow(None, ())], ids=["once", "more"]
)
def test_a_killed_run_ends_bitwise_as_the_run_that_was_not(whole, tmp_path, request, kills, arguments):
  state, seconds = whole(*arguments)
  rng = random.Random(0)
  for i in range(kills or request.config.getoption("--kills")):
    moment = "writing" if i % 3 == 0 else rng.uniform(0.3, 1.0) * seconds
    kill_at(start_run(tmp_path, *arguments), tmp_path, moment)
    if i % 4 == 3:  # it may have ended: let it end, look, and begin another
      finish_run(tmp_path, *arguments)
      assert_same_end(end_state(tmp_path), state)
      shutil.rmtree(tmp_path)
  finish_run(tmp_path, *arguments)
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
  assert_same_end(end_state(tmp_path), whole()[0])


def checkpoints(folder, value=0.0):
  variable = tf.Variable(value * tf.ones([1000]))
  return Checkpoints(folder, 3, variable=variable), variable


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(tmp_path, damage, caplog):
  kept, variable = checkpoints(tmp_path)
  for step in (1, 2):
    variable.assign(tf.fill([1000], float(step)))
    kept.save(step)
  names = sorted(p.name for p in (tmp_path / "step_00000002").iterdir())
  assert names == ["manifest.json", "state.data-00000-of-00001", "state.index"]
  for name in names:
    copy = tmp_path / "copy" / name
    shutil.copytree(tmp_path, copy, ignore=shutil.ignore_patterns("copy"))
    file = copy / "step_00000002" / name
    content = bytearray(file.read_bytes())
    if damage == "delete":
      file.unlink()
    else:
      content[len(content) // 2] ^= 1
      file.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    again, restored = checkpoints(copy)
    assert again.restore().step == 1 and np.all(restored.numpy() == 1.0)
    assert "step_00000002 is passed over" in caplog.text
    caplog.clear()
    assert (copy / "step_00000002").exists()  # nothing is thrown away unasked


def test_when_no_checkpoint_is_whole_the_run_does_not_silently_start_over(tmp_path):
  kept, _ = checkpoints(tmp_path)
  assert kept.restore() is None  # none at all is a new run
  kept.save(1)
  (tmp_path / "step_00000001" / "state.index").unlink()
  with pytest.raises(ValueError, match="no checkpoint in .* is whole"):
    kept.restore()


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path, caplog):
  kept, variable = checkpoints(tmp_path, 1.0)
  assert kept.save(1)
  variable.assign(tf.zeros([1000]))
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # as a disk with 2000 bytes left
  try:
    assert not kept.save(2)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert "checkpoint of step 2 could not be written" in caplog.text
  assert [p.name for p in tmp_path.iterdir()] == ["step_00000001"]
  assert kept.restore().step == 1 and np.all(variable.numpy() == 1.0)


def test_only_the_newest_are_kept(tmp_path):
  kept, _ = checkpoints(tmp_path)
  for step in range(1, 12):
    kept.save(step)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000009", "step_00000010", "step_00000011"]


@pytest.fixture
def first_format(tmp_path):
  """A run of the first version, stopped at step 5 of 6, its row of step 6, and figures of its best weights."""
  shutil.unpack_archive(REFERENCE / "first_format.zip", tmp_path)
  return (
    training.Workdir(tmp_path),
    json.loads((tmp_path / "row_at_6.json").read_text()),
    json.loads((tmp_path / "evaluation.json").read_text())["test"],
  )


def test_weights_of_the_first_version_give_its_figures(first_format):
  workdir, _, measured = first_format
  model, settings = workdir.load()
  result = evaluate_bits_per_dim(model, load_dataset(settings["dataset"]).test, 2)
  for bound, expected in zip(result.bounds, measured["bounds"], strict=True):
    np.testing.assert_allclose(bound.bits_per_dim, expected["bits_per_dim"], rtol=1e-6)


@pytest.mark.slow
def test_a_run_of_the_first_version_resumes_as_if_it_had_not_been_stopped(first_format):
  workdir, expected, _ = first_format
  run = json.loads(workdir.config.read_text())
  config = training.TrainingConfig(
    **{
      name: value
      for name, value in run["training"].items()
      if name in {field.name for field in dataclasses.fields(training.TrainingConfig)}
    },
    tensorboard=(),
  )
  lines = []
  training.run_training(
    FlowPlusPlusConfig(**run["model"]),
    config,
    load_dataset("digits"),
    workdir,
    log_fn=lines.append,
    extra_metadata={k: v for k, v in run["training"].items() if k not in config.identity()},
  )
  assert "resumed at step 5 of 6" in lines
  row = json.loads(workdir.metrics.read_text().splitlines()[-1])
  assert row["data"] == expected["data"]
  for name in ("step", "bits_per_dim", "gradient_norm", "val_bits_per_dim", "learning_rate"):
    assert row[name] == pytest.approx(expected[name], rel=1e-5), name


def test_a_checkpoint_of_another_model_is_one_clear_error(first_format):
  workdir, *_ = first_format
  state = train_state(SMALL)
  kept = Checkpoints(workdir.checkpoints, 1, **state.trackables())
  with pytest.raises(ValueError, match="step_00000005' is not one of this model and these settings"):
    kept.restore(first_format=state.restore_first_format)
