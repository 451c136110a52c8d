"""The programs as a user runs them: a small job from start to end, and bad input."""

import ast
import json
import os

import numpy as np
from PIL import Image
import pytest

from flowpp_tf.evaluation import features
from support.marks import slow
from support.programs import ROOT, call, refusal, run
from support.runs import TINY_RUN, TRAINED


@pytest.mark.parametrize("start", [call, slow(run)], ids=["here", "processes"])
def test_train_leaves_figures_pictures_and_a_run_for_the_next_commands(start, trained, tmp_path):
  if start is call:
    cwd, out = trained, (trained / "out.txt").read_text()
  else:
    cwd, result = tmp_path, run("train", *TRAINED, cwd=tmp_path)
    assert result.code == 0, result.error
    out = result.out
  workdir = cwd / "runs" / "digits"
  assert "importance-weighted bound, 2 samples" in out and "single-sample bound" in out
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  assert [row["step"] for row in rows] == [2, 4]
  for row in rows:
    assert set(row) >= {"bits_per_dim", "val_bits_per_dim", "gradient_norm", "learning_rate", "images_per_second"}
  for name in ("samples.png", "curves.png"):
    with Image.open(workdir / name) as picture:
      assert min(picture.size) > 100
  for program, *more in (
    ["sample", "--n=100", "--temperature=0.8"],
    ["evaluate", "--num_samples=1,2", "--limit=10", "--gap"],
  ):
    result = start(program, "--workdir=runs/digits", *more, cwd=cwd)
    assert result.code == 0, result.error
  assert "gap, test - train: " in result.out
  record = json.loads((workdir / "evaluation.json").read_text())
  assert record["test"]["images"] == 20  # the measurement at the end of training stays beside that of fewer images
  for split in ("test[:10]", "train"):
    assert record[split]["images"] == 10
    assert [bound["num_samples"] for bound in record[split]["bounds"]] == [1, 2]
    assert record[split]["data"]["name"] == "digits" and record[split]["checkpoint"]["step"] in (2, 4)
  assert not list(workdir.glob("evaluation-*.npy"))


@pytest.mark.exhaustive
@pytest.mark.slow  # test_float16.py takes steps in float16
def test_a_run_in_float16_trains_and_is_gone_on_with(tmp_path):
  command = ["train", *TRAINED, "--precision=float16", "--flow_dtype=float64", "--ema_warmup"]
  assert call(*command, cwd=tmp_path).code == 0
  model = json.loads((tmp_path / "runs" / "digits" / "config.json").read_text())["model"]
  assert (model["dtype"], model["flow_dtype"]) == ("mixed_float16", "float64")
  again = call(*command, "--steps=6", cwd=tmp_path)
  assert again.code == 0, again.error
  assert "resumed at step 4 of 6" in again.out


def test_sample_writes_the_same_images_for_the_same_seed(trained):
  for name in ("a", "b"):
    result = call(
      "sample",
      "--workdir=runs/digits",
      "--n=5",
      "--seed=3",
      "--temperature=0.7",
      f"--output={name}.png",
      f"--npy={name}.npy",
      cwd=trained,
    )
    assert result.code == 0, result.error
  images = np.load(trained / "a.npy")
  assert images.shape == (5, 8, 8, 1) and images.dtype == np.uint8 and images.max() <= 16
  np.testing.assert_array_equal(images, np.load(trained / "b.npy"))
  assert (trained / "a.png").read_bytes() == (trained / "b.png").read_bytes()


@pytest.mark.parametrize(
  "program, name, more",
  [
    ("evaluate", "a.json", ["--limit=2", "--num_samples=1"]),
    ("sample", "a.png", ["--n=1"]),
    ("export", "a", ["--format=preset"]),
  ],
)
def test_a_run_in_a_read_only_folder_asks_for_an_output_elsewhere(program, name, more, trained, monkeypatch):
  folder, access = trained / "runs" / "digits", os.access
  read_only = lambda path, mode: access(path, mode) and not (mode & os.W_OK and os.path.samefile(path, folder))
  monkeypatch.setattr(os, "access", read_only)  # as for a user who is not root, or on such a disk
  line = refusal(program, "--workdir=runs/digits", *more, cwd=trained)
  assert "no file can be written in 'runs/digits'; --output names another place for the result" in line
  result = call(program, "--workdir=runs/digits", *more, f"--output={name}", cwd=trained)
  assert result.code == 0 and (trained / name).exists(), result.error


def test_a_run_that_diverges_names_the_cause_and_the_flags(tmp_path):
  result = call("train", *TINY_RUN, "--learning_rate=1e30", "--steps=4", "--max_skipped=2", cwd=tmp_path)
  assert result.code == 1
  assert (
    "up to step 3, were not finite; steps before were finite: probably the learning rate is too high" in result.error
  )
  assert "try a lower --learning_rate or --clip_norm, or a longer --warmup_steps, and --debug_numerics" in result.error


def test_samples_have_figures_beside_those_of_real_images(trained, monkeypatch):
  monkeypatch.setattr(features, "_MOST_STEPS", 2)
  before = json.loads((trained / "runs" / "digits" / "evaluation.json").read_text())
  command = ["--workdir=runs/digits", "--samples=30", "--temperature=0.5,1.0", "--cache_dir=features"]
  result = call("evaluate", *command, cwd=trained)
  assert result.code == 0, result.error
  assert ": 180 images, 30 samples" in result.out and "features of a classifier of classes" in result.out
  rows = [line.split() for line in result.out.splitlines() if " +- " in line]
  assert [row[:2] for row in rows] == [["real,", "30"], ["temperature", "0.5"], ["temperature", "1.0"]]
  record = json.loads((trained / "runs" / "digits" / "evaluation.json").read_text())
  entry = record.pop("test samples")
  assert record == before and entry["checkpoint"] == before["test"]["checkpoint"]
  for row, quality in zip(rows, [entry["real"], *entry["temperatures"].values()], strict=True):
    assert quality["images"] == 30 and f"{quality['frechet_distance']:.2f}" in row
    assert sum(quality["class_shares"]) == pytest.approx(1)


@pytest.mark.parametrize(
  "program, args, message",
  [
    ("train", ["--dataset=photos", "--steps=1"], "data set 'photos' has image_shape (32, 32, 3)"),
    ("train", ["--image_shape=a,8,1", "--steps=1"], "`image_shape` must be three positive integers"),
    ("train", ["--filters=5", "--steps=1"], "`filters` must be a multiple of the 4 heads, got 5"),
    ("train", ["--learning_rate=fast", "--steps=1"], "learning_rate"),
    ("train", ["--precision=half", "--steps=1"], "precision"),
    (
      "train",
      ["--precision=float16", "--dtype=float32", "--steps=1"],
      "give the precision as --precision or as --dtype, one of them",
    ),
    ("train", ["--labels", "--num_classes=5", "--steps=1"], "`labels` must be left out with --num_classes, got True"),
    ("train", ["--stepz=1"], "Unknown command line flag 'stepz'"),
    ("train", ["extra", "--steps=1"], "unexpected argument 'extra'"),
    ("train", ["--steps=1", "--epochs=1"], "give the length of the run as --steps or as --epochs"),
    ("train", [*TRAINED, "--batch_size=8"], "holds another run: batch_size is 16 there and 8 here"),
    ("train", ["--steps=1", "--workdir=/proc/runs"], "workdir '/proc/runs' cannot be written"),
    ("train", ["--steps=1", "--workdir=new", "--learning_rate=-1"], "`learning_rate` must be positive"),
    ("train", ["--flagfile=nothing.flags"], "nothing.flags"),
    ("evaluate", ["--workdir=runs/digits", "--num_samples=0,2"], "`num_samples` must be positive"),
    ("evaluate", ["--workdir=runs/digits", "--output=no/such/folder.json"], "cannot write"),
    ("evaluate", ["--workdir=runs/digits", "--samples=30", "--gap"], "`gap` must be left out with --samples"),
    ("evaluate", ["--workdir=runs/digits", "--split=train", "--gap"], "`gap` must be left out with --split=train"),
    ("evaluate", ["--workdir=runs/digits", "--temperature=0.8"], "`temperature` must be left out without --samples"),
    ("sample", ["--workdir=runs/digits", "--temperature=-1"], "temperature"),
    ("sample", ["--workdir=runs/digits", "--n=0"], "`n` must be at least 1"),
    ("sample", ["--workdir=runs/digits", "--reconstruct=cat.png"], "there is no image 'cat.png'"),
  ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(trained_once, program, args, message):
  assert message in refusal(program, *args, cwd=trained_once)


@pytest.mark.slow
@pytest.mark.parametrize(
  "program, args, message",
  [
    ("train", ["--stepz=1"], "Unknown command line flag 'stepz'"),
    ("sample", ["--workdir=runs/digits", "--temperature=-1"], "temperature"),
  ],
)
def test_a_process_with_bad_input_ends_in_the_same_way(trained_once, program, args, message):
  assert message in refusal(program, *args, cwd=trained_once, by=run)


def test_help_lists_the_flags_of_the_program(tmp_path):
  out = call("train", "--help", cwd=tmp_path).out
  assert "Trains Flow++" in out and all(flag in out for flag in ("--batch_size", "--dataset", "cifar10_vflow"))
  full = call("train", "--helpfull", cwd=tmp_path).out
  assert all(flag in full for flag in ("--filters", "--[no]crops", "--max_pixels")) and "--verbosity" not in full


def test_commands_take_options_and_read_no_flags():
  """A test or a notebook calls `run(options)`; only what makes options of flags reads them."""
  for path in (ROOT / "flowpp_tf" / "programs").glob("*.py"):
    for node in ast.parse(path.read_text()).body if path.name not in ("command.py", "options.py") else ():
      assert "FLAGS" not in ast.unparse(node), path.name
