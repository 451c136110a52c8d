"""A working directory has one owner, and what it holds is whole, recovered, or refused in one line."""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import pathlib
import shutil
from unittest import mock

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import models, training
from flowpp_tf.core.errors import InputError
from flowpp_tf.evaluation import pictures
from flowpp_tf.io import files
from flowpp_tf.training import loop
from flowpp_tf.training.checkpoints import Checkpoints, checkpoint_folders
from support.files import contents, flipped
from support.marks import slow
from support.models import MINIMAL, small_config
from support.refusing import refuses
from support.training_steps import small_data, small_run

DATA = small_data()


def run(path, **options):
  return small_run(path, **options)[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  return run(tmp_path_factory.mktemp("finished") / "run").path


@pytest.fixture
def workdir(finished, tmp_path):
  shutil.copytree(finished, tmp_path / "run")
  return training.Workdir(tmp_path / "run")


# --- Trained weights to begin with ----------------------------------------------------------------


@pytest.mark.parametrize("learning_rate, best", [(1.0, 0), slow(3e-3, 4)])
def test_trained_weights_are_validated_before_the_first_step_and_kept_unless_others_are_better(
  workdir, tmp_path, learning_rate, best
):
  lines = []
  begin = models.InitialWeights.find(workdir.path)
  settings = dict(steps=4, learning_rate=learning_rate, validate_every=2, ema_decay=None)
  tuned = run(tmp_path / "tuned", init_from=begin, log_fn=lines.append, **settings)
  rows = tuned.rows()
  assert [row["step"] for row in rows] == [0, 2, 4]
  assert rows[0]["val_bits_per_dim"] == pytest.approx(workdir.weights_info()["val_bits_per_dim"], rel=1e-6)
  assert np.isnan([rows[0][name] for name in ("bits_per_dim", "gradient_norm", "learning_rate")]).all()
  assert f"step 0 of 4: validation {rows[0]['val_bits_per_dim']:.4f}" in lines
  assert tuned.weights_info()["step"] == best
  same = [np.array_equal(a, b) for a, b in zip(*(w.load()[0].get_weights() for w in (tuned, workdir)), strict=True)]
  said = any(line.startswith("no validation is better than that of step 0") for line in lines)
  assert all(same) == (best == 0) == said


@pytest.mark.parametrize("name", ["add_row", slow("save_best"), slow("checkpoint")])
def test_a_run_that_is_killed_at_step_0_validates_its_trained_weights_once(workdir, tmp_path, monkeypatch, name):
  killed = mock.Mock(side_effect=RuntimeError("killed"))
  begin = models.InitialWeights.find(workdir.path)
  with monkeypatch.context() as patch:
    patch.setattr(*((Checkpoints, "save") if name == "checkpoint" else (training.Workdir, name)), killed)
    with pytest.raises(RuntimeError, match="killed"):
      run(tmp_path / "tuned", init_from=begin)
  whole, again = (run(tmp_path / path, init_from=begin) for path in ("whole", "tuned"))
  assert [row["step"] for row in again.rows()] == [0, 1, 2]
  for one, other in zip(whole.rows(), again.rows(), strict=True):
    np.testing.assert_allclose(other["val_bits_per_dim"], one["val_bits_per_dim"], rtol=1e-6)


# --- Precision ------------------------------------------------------------------------------------


def test_precision_is_a_setting_of_training(tmp_path):
  """What a run leaves computes in float32, unless less is asked for; the run itself stays what it was."""
  lines, config = [], small_config(dtype="mixed_bfloat16")
  workdir = run(tmp_path / "run", config=config, steps=1, log_fn=lines.append)
  assert any("validation" in line and " in bfloat16, gradient norm" in line for line in lines)
  assert json.loads(workdir.config.read_text())["model"]["dtype"] == "mixed_bfloat16"
  for model in (fpp.load(workdir.path), workdir.load()[0], fpp.load(workdir.path, precision="float32")):
    assert model.config == MINIMAL
  assert fpp.load(workdir.path, precision="bfloat16").config == config
  model.save_to_preset(tmp_path / "preset")
  assert fpp.FlowPlusPlus.from_preset(tmp_path / "preset", precision="float16").config.dtype == "mixed_float16"
  refuses("`precision` must be one of float32, bfloat16, float16, got 'half'", fpp.load, workdir.path, precision="half")
  run(tmp_path / "run", config=config, log_fn=lines.append)
  assert "resumed at step 1 of 2" in lines


# --- The owner ------------------------------------------------------------------------------------


def test_a_second_trainer_is_refused(workdir):
  before = contents(workdir.path)
  with workdir.sole_owner():
    refuses("in use by another process; wait until that run has ended", run, workdir.path)
  assert before.keys() == contents(workdir.path).keys()
  run(workdir.path)  # the lock is free again


def _move(path):
  path.rename(path.with_name("moved"))


def _start_another(path):
  shutil.rmtree(path)
  run(path, steps=1)


@pytest.mark.parametrize("change", [slow(shutil.rmtree), _move, slow(_start_another)])
def test_a_run_whose_directory_goes_ends_at_its_next_write_and_writes_nothing(tmp_path, change):
  left: dict[str, bytes] = {}

  def after_a_step(line):
    if line.startswith("step 1 of 3"):
      change(tmp_path / "run")
      left.update(contents(tmp_path))

  with pytest.raises(InputError, match="was moved, deleted or replaced while this run used it; the run ends"):
    run(tmp_path / "run", steps=3, log_fn=after_a_step)
  assert contents(tmp_path) == left
  assert (tmp_path / "run").exists() == (change is _start_another)
  run(tmp_path / ("moved" if change is _move else "run"), steps=3)  # where there is a run, it is resumed


def test_a_checkpoint_does_not_bring_back_the_directory_of_a_run(tmp_path):
  with pytest.raises(FileNotFoundError):
    Checkpoints(tmp_path / "gone" / "checkpoints", 3, x=tf.Variable(1.0)).save(1)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog, number):
  monkeypatch.setattr(fcntl, "flock", mock.Mock(side_effect=OSError(number, os.strerror(number))))
  with training.Workdir(tmp_path).sole_owner():
    assert "without locks" in caplog.text
  caplog.clear()
  (tmp_path / "run.lock").touch()  # as a run leaves it that is killed
  with training.Workdir(tmp_path).sole_owner():
    assert "without locks" in caplog.text


@pytest.mark.parametrize("path", ["", "a\0b", os.fsdecode(b"\xff\xfe")])
def test_a_path_that_cannot_be_one_is_refused_at_once(path):
  refuses("workdir", training.Workdir, path)


@pytest.mark.parametrize("name", ["a[0-9]*?", "back\\slash", "{x}", "leer zeichen ä"])
def test_directories_of_any_name_can_be_resumed(workdir, name):
  path = workdir.path.rename(workdir.path.parent / name)
  kept, variable = Checkpoints(path / "checkpoints", 3, x=(v := tf.Variable(1.0))), v
  kept.save(9)
  variable.assign(2.0)
  assert kept.restore().step == 9 and float(variable) == 1.0


@pytest.mark.slow
def test_only_folders_with_the_names_of_checkpoints_are_touched(workdir):
  copy = shutil.copytree(workdir.checkpoints / "step_00000002", workdir.checkpoints / "step_00000002.bak")
  shutil.copytree(copy, workdir.checkpoints / "step_mine")
  before = contents(copy)
  run(workdir.path, steps=5, keep=1)
  assert contents(copy) == before
  assert sorted(p.name for p in workdir.checkpoints.iterdir()) == ["step_00000002.bak", "step_00000005", "step_mine"]


@pytest.mark.parametrize(
  "others, message",
  [
    ([1.0], "the 2 workers have different settings, data or initial weights"),
    ([0.0, 1.0], "worker 0 finds step 2 to resume in .*, and another worker something else"),
  ],
)
def test_workers_with_different_settings_or_checkpoints_do_not_train(workdir, monkeypatch, others, message):
  class Chief(training.Workers):  # of two workers, of which the other one says in turn whether it has something else
    def __init__(self, strategy):
      super().__init__(strategy)
      self.count, flags = 2, iter(others)
      self._sum = lambda value: value if value.dtype == tf.float64 else value + next(flags)

  monkeypatch.setattr(loop, "Workers", Chief)
  before = contents(workdir.path)
  refuses(message, run, workdir.path, steps=4)
  changed = {name for name, value in contents(workdir.path).items() if value != before.get(name)}
  assert changed <= {"config.json", "run.lock"}


def test_a_run_that_has_saved_nothing_may_begin_with_other_settings(tmp_path):
  """The line about memory asks for a smaller batch."""

  def too_large(*batch):
    raise tf.errors.ResourceExhaustedError(None, None, "OOM")

  with mock.patch.object(loop, "train_step", too_large):
    with pytest.raises(tf.errors.ResourceExhaustedError):
      run(tmp_path, batch_size=16)
  workdir = run(tmp_path, steps=1, batch_size=8)
  assert json.loads(workdir.config.read_text())["training"]["batch_size"] == 8
  refuses("holds another run: batch_size is 8 there and 16 here", run, tmp_path, batch_size=16)
  workdir.metrics.unlink()
  shutil.rmtree(workdir.checkpoints)
  with pytest.raises(InputError, match="holds another run: batch_size is 8 there and 16 here"):
    run(tmp_path, batch_size=16)  # its weights are there


# --- What a run is --------------------------------------------------------------------------------


def edit(path, change):
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda run: run["model"].update(newer=1), "model settings that this version of flowpp_tf does not know: newer"),
    (lambda run: run["training"].update(newer=1), "training settings that this version of .* does not know: newer"),
    (lambda run: run.update(newer=1), "has newer, which this version of flowpp_tf does not know"),
    (lambda run: run.update(format=99), "has the format 99"),
    slow(lambda run: run.pop("format"), "has the format None"),
    (lambda run: run.pop("model"), "is not the config.json of a run"),
  ],
)
def test_what_a_newer_version_wrote_is_refused_and_stays(workdir, change, message):
  edit(workdir.config, change)
  before = contents(workdir.path)
  refuses(message, run, workdir.path, steps=4)
  assert contents(workdir.path) == before


def test_checkpoints_need_the_config_that_says_what_run_they_are_of(workdir):
  workdir.config.unlink()
  before = contents(workdir.path)
  refuses("has best.weights.safetensors, metrics.jsonl, checkpoints and no config.json", run, workdir.path)
  assert contents(workdir.path) == before


@pytest.mark.parametrize("name", ["best.weights.safetensors", "samples.png", "evaluation.json"])
def test_a_folder_with_files_that_a_run_would_replace_is_no_place_for_one(tmp_path, name):
  (tmp_path / name).write_bytes(b"of somebody")
  refuses(f"has {name} and no config.json", run, tmp_path)
  assert (tmp_path / name).read_bytes() == b"of somebody"


@pytest.mark.parametrize(
  "manifest, message",
  [
    slow("[]", "is not the manifest of a checkpoint"),
    ('{"format": 2, "files": {}}', "is not one of its files"),
    slow("not json", "Expecting value"),
    slow('{"format": 2, "files": {"../../config.json": ""}}', "is "),
  ],
)
def test_a_manifest_that_does_not_cover_the_files_is_damage(workdir, manifest, message):
  newest, _ = checkpoint_folders(workdir.checkpoints)
  (newest / "manifest.json").write_text(manifest)
  line = f"{newest}' is damaged: .*{message}.*; move it away to resume from step_00000001"
  refuses(line, run, workdir.path, steps=2)


def test_a_manifest_that_lacks_its_run_is_damage(workdir):
  edit(checkpoint_folders(workdir.checkpoints)[0] / "manifest.json", lambda manifest: manifest.pop("run"))
  refuses("is damaged: manifest.json does not say what run it is of; move it away", run, workdir.path, steps=2)


def test_a_checkpoint_of_a_newer_version_is_refused(workdir):
  edit(checkpoint_folders(workdir.checkpoints)[0] / "manifest.json", lambda manifest: manifest.update(format=3))
  refuses("has the format 3", run, workdir.path)


@pytest.mark.slow
def test_a_run_ends_at_its_last_step_and_not_at_a_whole_interval(tmp_path):
  """The learning rate of a cosine is 0 after the last step: more of them would change nothing."""
  steps = lambda workdir: [row["step"] for row in workdir.rows()]
  workdir = run(tmp_path / "cosine", steps=5, validate_every=4, schedule="cosine", steps_per_execution=3)
  assert steps(workdir) == [4, 5]
  assert checkpoint_folders(workdir.checkpoints)[0].name == "step_00000005"
  workdir = run(tmp_path / "longer", steps=2, validate_every=3)
  assert steps(workdir) == [2]
  assert steps(run(workdir.path, steps=7, validate_every=3)) == [2, 3, 6, 7]


# --- Weights and rows -----------------------------------------------------------------------------


def flip(path):
  """Flip a bit of the last value in a weights file."""
  path.write_bytes(flipped(path.read_bytes(), -1, 16))


def test_best_weights_that_are_damaged_or_gone_are_restored_by_the_run(workdir):
  good = workdir.best_weights.read_bytes()
  for spoil, message in (
    (lambda: flip(workdir.best_weights), "best.weights.safetensors' cannot be read: it is damaged"),
    (workdir.best_weights.unlink, "has no trained weights yet"),
  ):
    spoil()
    refuses(message, training.Workdir(workdir.path).load)
    run(workdir.path)
    assert workdir.best_weights.read_bytes() == good


def strip(path):
  """Delete the checksum of a weights file."""
  safetensors.numpy.save_file(safetensors.numpy.load_file(path), path)


def test_best_weights_that_lost_their_checksum_are_not_used(workdir):
  """Deleting metadata must not switch the check off."""
  strip(workdir.best_weights)
  flip(workdir.best_weights)
  refuses("has no checksum.*--accept_unchecked, in Python `unchecked=True`", fpp.load, workdir.path)
  fpp.load(workdir.path, unchecked=True)
  refuses("has no checksum", models.InitialWeights.find(workdir.path).load, fpp.FlowPlusPlus(MINIMAL))


@pytest.mark.slow
def test_a_run_that_starts_over_keeps_what_it_has_left(workdir, caplog):
  left = set()
  for _ in range(2):
    left |= {workdir.best_weights.read_bytes(), workdir.metrics.read_bytes()}
    shutil.rmtree(workdir.checkpoints)
    run(workdir.path, steps=3)
    assert "there is no checkpoint to resume from" in caplog.text
    assert left <= {path.read_bytes() for path in workdir.path.glob("*.old")}
    assert [row["step"] for row in workdir.rows()] == [1, 2, 3]


def test_a_run_that_lacks_a_setting_has_its_default(workdir):
  """As a run begun before a version that adds a setting: it is resumed, and not as another run."""

  def of_before(run):
    del run["training"]["adam_epsilon"]
    for setting in ("coupling_margin", "augment_end", "invertible_conv_stddev"):
      del run["model"][setting]

  edit(workdir.config, of_before)
  for folder in checkpoint_folders(workdir.checkpoints):
    edit(folder / "manifest.json", lambda manifest: of_before(manifest["run"]))
  with pytest.raises(InputError, match="holds another run: adam_epsilon is 1e-07 there and 1e-08 here"):
    run(workdir.path, steps=3, adam_epsilon=1e-8)
  other = small_config(invertible_conv_stddev=0.01)
  with pytest.raises(InputError, match="invertible_conv_stddev is 0.001 there and 0.01 here"):
    workdir.check(other, json.loads(workdir.config.read_text())["training"])
  assert workdir.load()[0].config == MINIMAL
  run(workdir.path, steps=3)
  settings = json.loads(workdir.config.read_text())
  assert settings["training"]["adam_epsilon"] == 1e-7 and settings["model"]["augment_end"] == "none"


def test_crops_that_are_off_are_those_that_are_not_given(workdir):
  """`fpp.train` records what `bin/train` leaves out; each resumes the other's run."""
  edit(workdir.config, lambda run: run["training"].update(crops=False))
  settings = json.loads(workdir.config.read_text())["training"]
  workdir.check(MINIMAL, {**settings, "crops": None})
  refuses("crops is False there and True here", workdir.check, MINIMAL, {**settings, "crops": True})


def test_a_config_that_is_not_that_of_the_checkpoints_is_refused(workdir):
  edit(workdir.config, lambda run: run["training"].update(seed=5))
  refuses("holds another run: seed is 0 there and 5 here", run, workdir.path, steps=3, seed=5)


def test_a_config_that_is_not_that_of_the_weights_is_refused(workdir):
  edit(workdir.config, lambda run: run["model"].update(dropout=0.25))
  message = "is damaged, or of another run: its dropout differ from those of best.weights.safetensors"
  refuses(message, workdir.load)


@pytest.mark.parametrize("damage", [b'{"step": 2, "val_b', *map(slow, [b"{}\n", b"\xff\xfe\n", b"[1]\n", b"null\n"])])
def test_rows_that_are_damaged_are_recovered(workdir, damage):
  good = workdir.metrics.read_bytes()
  workdir.metrics.write_bytes(good + damage)
  run(workdir.path)
  assert workdir.metrics.read_bytes() == good


def test_a_number_that_is_not_finite_is_null_in_the_metrics(workdir, tmp_path):
  before = workdir.rows()
  workdir.metrics.unlink()
  workdir.add_row({**before[-1], "bits_per_dim": float("nan"), "val_bits_per_dim": float("nan")})

  (line,) = workdir.metrics.read_text().splitlines()
  assert json.loads(line, parse_constant=pytest.fail)["bits_per_dim"] is None
  (row,) = training.Workdir(workdir.path).rows()
  assert np.isnan(row["bits_per_dim"]) and np.isnan(row["val_bits_per_dim"]) and row["step"] == before[-1]["step"]
  pictures.plot_curves([*before, row], tmp_path / "curves.png")


def test_damaged_rows_are_an_error_that_names_the_line(workdir):
  with workdir.metrics.open("ab") as file:
    file.write(b'{"step": true}\n{"step": 1.5, "val_bits_per_dim": 2.0}\n')
  refuses("metrics.jsonl' cannot be read: its line 3 is not the row of a validation", workdir.rows)


def test_what_a_full_disk_has_no_room_for_is_written_later(workdir, monkeypatch, caplog):
  """The third validation cannot be written at all, the fourth can: nothing of both is missing."""
  real, full = files.replace_file, []

  def replace_file(path, write):
    if pathlib.Path(path).name != "config.json" and len(full) < 3:
      full.append(path)
      raise OSError(28, "No space left on device")
    real(path, write)

  monkeypatch.setattr(files, "replace_file", replace_file)
  run(workdir.path, steps=4)
  assert [pathlib.Path(path).name for path in full] == ["best.weights.safetensors", "metrics.jsonl", "manifest.json"]
  for what in ("best weights", "metrics", "checkpoint"):
    assert f"the {what} of step 3 could not be written, the run goes on" in caplog.text
  assert [row["step"] for row in workdir.rows()] == [1, 2, 3, 4]
  assert [folder.name for folder in checkpoint_folders(workdir.checkpoints)] == ["step_00000004", "step_00000002"]


# --- Targets of other programs --------------------------------------------------------------------


def test_what_is_no_regular_file_is_not_replaced(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  (tmp_path / "file").write_text("old")
  (tmp_path / "link").symlink_to("file")
  with pytest.raises(OSError, match="not a regular file"):
    files.write_file(tmp_path / "pipe", "new")
  files.write_file(tmp_path / "link", "new")
  assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"
  with contextlib.suppress(PermissionError), pytest.raises(OSError):
    files.write_file("/dev/null", "new")
  assert not pathlib.Path("/dev/null").is_file()


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
  for settings in (dict(batch_size=17), dict(batch_size=8, accumulate=3)):
    refuses("must be at most the 16 training images, got", run, tmp_path / "run", **settings)
  assert not (tmp_path / "run").exists()


def test_the_layout_of_the_manifest(workdir):
  folder = checkpoint_folders(workdir.checkpoints)[0]
  manifest = json.loads((folder / "manifest.json").read_text())
  assert manifest["format"] == 2 and manifest["step"] == 2
  assert manifest["run"]["model"] == json.loads(json.dumps(dataclasses.asdict(MINIMAL)))
  assert manifest["run"]["training"]["fingerprint"] == DATA.fingerprint()
  assert {*manifest["files"]} == {path.name for path in folder.iterdir()} - {"manifest.json"}
