"""Runs of versions before 0.2.0: read as they are, and converted to be resumed."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import convert_run
from flowpp_tf import training
from flowpp_tf.core.errors import InputError
from flowpp_tf.data import load_dataset
from flowpp_tf.evaluation import evaluate_bits_per_dim
from flowpp_tf.models import FlowPlusPlusConfig
from flowpp_tf.training.checkpoints import Checkpoints, checkpoint_folders
from support.models import SMALL
from support.programs import REFERENCE
from support.training_steps import train_state


@pytest.fixture
def first_format(tmp_path):
  """A run of the first version, stopped at step 5 of 6, its row of step 6, and figures of its best weights."""
  shutil.unpack_archive(REFERENCE / "first_format.zip", tmp_path)
  return (
    training.Workdir(tmp_path),
    json.loads((tmp_path / "row_at_6.json").read_text()),
    json.loads((tmp_path / "evaluation.json").read_text())["test"],
  )


def resume(workdir, log_fn=lambda line: None):
  run = json.loads(workdir.config.read_text())
  config = training.TrainingConfig(
    **{
      name: value
      for name, value in run["training"].items()
      if name in {field.name for field in dataclasses.fields(training.TrainingConfig)}
    },
    tensorboard=(),
  )
  training.run_training(
    FlowPlusPlusConfig(**run["model"]),
    config,
    load_dataset("digits"),
    workdir,
    log_fn=log_fn,
    extra_metadata={k: v for k, v in run["training"].items() if k not in config.identity()},
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
  script = [sys.executable, convert_run.__file__, str(workdir.path)]
  assert "1 checkpoints converted" in subprocess.run(script, check=True, capture_output=True, text=True).stdout
  lines = []
  resume(workdir, lines.append)
  assert "resumed at step 5 of 6" in lines
  row = json.loads(workdir.metrics.read_text().splitlines()[-1])
  assert row["data"] == expected["data"]
  for name in ("step", "bits_per_dim", "gradient_norm", "val_bits_per_dim", "learning_rate"):
    assert row[name] == pytest.approx(expected[name], rel=1e-5), name


def test_resuming_without_conversion_is_one_error_that_names_the_script(first_format):
  workdir, *_ = first_format
  kept = Checkpoints(workdir.checkpoints, 1, **train_state(SMALL).trackables())
  message = "step_00000005' is of a version before 0.2.0; `python tools/convert_run.py RUN`"
  with pytest.raises(InputError, match=message):
    kept.restore()
  config = workdir.config.read_text()
  with pytest.raises(InputError, match=message):
    resume(workdir)
  assert workdir.config.read_text() == config  # nothing is written before the error
  workdir.config.unlink()
  with pytest.raises(InputError, match=message):
    workdir.check(FlowPlusPlusConfig(**json.loads(config)["model"]), {})


def state_of(folder):
  reader = tf.train.load_checkpoint(str(folder / "state"))
  names = {*reader.get_variable_to_shape_map()} - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
  return {name: np.asarray(reader.get_tensor(name)) for name in names}


def test_conversion_keeps_each_value_and_is_for_old_checkpoints_only(first_format, caplog):
  workdir, *_ = first_format
  (folder,) = checkpoint_folders(workdir.checkpoints)
  before = state_of(folder)
  weights, rows = workdir.best_weights.read_bytes(), workdir.metrics.read_bytes()
  assert convert_run.convert(workdir.path) == 1
  after = state_of(folder)
  assert workdir.best_weights.read_bytes() == weights and workdir.metrics.read_bytes() == rows
  values = sorted(value.tobytes() for value in after.values())
  for name, value in before.items():
    assert "metric_" in name or value.tobytes() in values, name  # means become totals of the finite steps
  assert convert_run.convert(workdir.path) == 0  # it is today's now

  # Of the versions between: today's state, without a manifest.
  manifest = json.loads((folder / "manifest.json").read_text())
  for name in ("manifest.json", "best.weights.h5", "metrics.jsonl"):
    (folder / name).unlink()
  digests = {name: digest for name, digest in manifest["files"].items() if name.startswith("state.")}
  (folder / "digests.json").write_text(json.dumps(digests))
  assert convert_run.convert(workdir.path) == 1
  for name, value in state_of(folder).items():
    np.testing.assert_array_equal(value, after[name], err_msg=name)


def test_a_damaged_checkpoint_is_not_converted(first_format, caplog):
  workdir, *_ = first_format
  (folder,) = checkpoint_folders(workdir.checkpoints)
  with open(folder / "state.index", "ab") as file:
    file.write(b"x")
  assert convert_run.convert(workdir.path) == 0
  assert f"{folder} is damaged, and not converted: state.index changed since it was written; move " in caplog.text


def test_a_checkpoint_of_another_model_is_one_clear_error(first_format):
  workdir, *_ = first_format
  run = json.loads(workdir.config.read_text())
  run["model"]["filters"] = 8
  workdir.config.write_text(json.dumps(run))
  with pytest.raises(InputError, match="step_00000005' is not one of this model and these settings"):
    convert_run.convert(workdir.path)
  with pytest.raises(InputError, match="config.json' cannot be read"):
    convert_run.convert(workdir.path / "nowhere")
