"""The programs as a user runs them: a small job from start to end, and bad input."""

import ast
import dataclasses
import json
import os

import numpy as np
from PIL import Image
import pytest

import flowpp_tf as fpp
from flowpp_tf import evaluation
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.settings import value_type
from flowpp_tf.evaluation import features
from flowpp_tf.programs import demo, train
from flowpp_tf.programs.command import options_of
from flowpp_tf.programs.commands import COMMANDS
from support.marks import slow
from support.models import MINIMAL, small_config
from support.programs import ROOT, call, refusal, run
from support.runs import TINY_RUN, TRAINED


@pytest.mark.parametrize("start", [call, slow(run)], ids=["here", "processes"])
def test_train_leaves_figures_pictures_and_a_run_for_the_next_commands(start, trained, tmp_path):
  if start is call:
    cwd, out = trained, (trained / "out.txt").read_text()
  else:
    cwd, out = tmp_path, run("train", *TRAINED, cwd=tmp_path).ok().out
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
    result = start(program, "--workdir=runs/digits", *more, cwd=cwd).ok()
  assert "gap, test - train: " in result.out
  record = json.loads((workdir / "evaluation.json").read_text())
  assert record["test"]["images"] == 20  # the measurement at the end of training stays beside that of fewer images
  for split in ("test[:10]", "train"):
    assert record[split]["images"] == 10
    assert [bound["num_samples"] for bound in record[split]["bounds"]] == [1, 2]
    assert record[split]["data"]["name"] == "digits" and record[split]["checkpoint"]["step"] in (2, 4)
  assert not list(workdir.glob("evaluation-*.npy"))


@pytest.mark.slow
def test_training_ends_with_a_warning_if_images_do_not_come_back(trained, monkeypatch):
  assert "is not exact" not in (trained / "out.txt").read_text()
  monkeypatch.setattr(evaluation, "reconstruct", lambda model, images: evaluation.Reconstruction(images, images ^ 1))
  again = call("train", *TRAINED, cwd=trained)
  assert again.code == 0 and "resumed at step 4 of 4" in again.out
  assert "decode(encode(image)) is not exact: 1,280 of 1,280 pixel values differ" in again.error


@pytest.mark.exhaustive
@pytest.mark.slow  # test_float16.py takes steps in float16
def test_a_run_in_float16_trains_and_is_gone_on_with(tmp_path):
  command = ["train", *TRAINED, "--precision=float16", "--flow_dtype=float64", "--ema_warmup"]
  assert call(*command, cwd=tmp_path).code == 0
  model = json.loads((tmp_path / "runs" / "digits" / "config.json").read_text())["model"]
  assert (model["dtype"], model["flow_dtype"]) == ("mixed_float16", "float64")
  assert "resumed at step 4 of 6" in call(*command, "--steps=6", cwd=tmp_path).ok().out


@pytest.mark.parametrize(
  "program, name, more",
  [
    ("evaluate", "a.json", ["--limit=2", "--num_samples=1"]),
    slow("sample", "a.png", ["--n=1"]),
    slow("export", "a", ["--format=preset"]),
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
  cause = "up to step 3, were not finite; steps before were finite: probably the learning rate is too high"
  assert cause in result.error
  assert "try a lower --learning_rate or --clip_norm, or a longer --warmup_steps, and --debug_numerics" in result.error


@pytest.mark.slow
def test_samples_have_figures_beside_those_of_real_images(trained, monkeypatch):
  monkeypatch.setattr(features, "_MOST_STEPS", 2)
  before = json.loads((trained / "runs" / "digits" / "evaluation.json").read_text())
  command = ["--workdir=runs/digits", "--samples=30", "--temperature=0.5,1.0", "--cache_dir=features"]
  result = call("evaluate", *command, cwd=trained).ok()
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
    ("train", ["--filters=5", "--steps=1"], "`filters` must be a multiple of the 4 heads, got 5"),
    ("train", ["--learning_rate=fast", "--steps=1"], "learning_rate"),
    ("train", ["--precision=half", "--steps=1"], "precision"),
    ("train", ["--labels", "--num_classes=5", "--steps=1"], "`labels` must be left out with --num_classes, got True"),
    ("train", ["--stepz=1"], "Unknown command line flag 'stepz'"),
    ("train", ["--flagfile=runs/digits/samples.png"], "--flagfile must be a file of text in UTF-8: "),
    ("sample", ["--workdir=runs/digits", "--temperature=1,nan"], "`temperature` must be numbers of at least 0, such"),
    ("train", [*TRAINED, "--batch_size=8"], "holds another run: batch_size is 16 there and 8 here"),
    ("train", ["--steps=1", "--workdir=/proc/runs"], "workdir '/proc/runs' cannot be written"),
    ("evaluate", ["--workdir=runs/digits", "--output=no/such/folder.json"], "cannot write"),
    ("evaluate", ["--workdir=runs/digits", "--samples=30", "--gap"], "`gap` must be left out with --samples"),
    ("evaluate", ["--workdir=runs/digits", "--split=train", "--gap"], "`gap` must be left out with --split=train"),
    ("evaluate", ["--workdir=runs/digits", "--temperature=0.8"], "`temperature` must be left out without --samples"),
    ("sample", ["--workdir=runs/digits", "--n=0"], "`n` must be at least 1"),
    ("sample", ["--workdir=runs/digits", "--reconstruct=cat.png"], "there is no image 'cat.png'"),
  ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(trained_once, program, args, message):
  assert message in refusal(program, *args, cwd=trained_once)


def test_commands_take_options_and_read_no_flags():
  """A test or a notebook calls `run(options)`; only what makes options of flags reads them."""
  for path in (ROOT / "flowpp_tf" / "programs").glob("*.py"):
    for node in ast.parse(path.read_text()).body if path.name not in ("command.py", "options.py") else ():
      assert "FLAGS" not in ast.unparse(node), path.name


TINY = [*TINY_RUN, "--config=photos", "--batch_size=8", "--steps=2", "--eval_images=3"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
  """A folder to work in: `cats` with images, `bad` with a damaged one, `empty`, `other.npz`."""
  cwd = tmp_path_factory.mktemp("images")
  rng = np.random.RandomState(0)
  for folder, count in (("cats", 40), ("bad", 10), ("empty", 0)):
    (cwd / folder).mkdir()
    for i in range(count):
      Image.fromarray(rng.randint(0, 256, [20, 24, 3]).astype(np.uint8)).save(cwd / folder / f"{i}.png")
  (cwd / "bad" / "3.png").write_bytes(b"not an image")
  np.savez(
    cwd / "other.npz",
    **{split: rng.randint(0, 256, [6, 16, 16, 3]).astype(np.uint8) for split in ("train", "validation", "test")},
  )
  return cwd


BAD = [
  (["--dataset=folder:nowhere"], "/nowhere' is not there"),
  (["--dataset=folder:nowhere", "--init_from=digits"], "the weights of `init_from` 'digits' do not fit the model: "),
  (["--dataset=folder:bad"], "1 image file cannot be read, more than --max_bad_files=0: "),
  (["--dataset=folder:cats", "--max_bad_files=-1"], "max_bad_files"),
  (["--dataset=folder:cats", "--bits=9"], "bits"),
  (
    ["--dataset=folder:cats", "--image_size=16", "--image_shape=8,8,3"],
    "`image_size` must be left out with --image_shape",
  ),
  (["--dataset=folder:cats", "--image_size=31"], "is 31, which cannot be halved"),
  (["--dataset=npz:other.npz"], "has image_shape (16, 16, 3), the model's config (32, 32, 3)"),
  (["--dataset=photos", "--workdir=runs/cats"], "holds another run: "),
]


@pytest.fixture(scope="module")
def on_cats(images):
  """Output of a run of 5 bits at 16x16, in `runs/cats`."""
  shape = ["--image_size=16", "--bits=5", "--levels=32"]
  return call("train", *TINY, "--dataset=folder:cats", *shape, "--flip", "--workdir=runs/cats", cwd=images).ok().out


def test_a_run_on_a_folder_says_everywhere_what_it_was_on(images, on_cats):
  config = json.loads((images / "runs/cats/config.json").read_text())
  assert config["model"]["image_shape"] == [16, 16, 3] and config["model"]["levels"] == 32
  fingerprint = config["training"]["fingerprint"]
  assert fingerprint["name"] == "folder:cats" and fingerprint["levels"] == 32
  assert sum(fingerprint["splits"].values()) == 40
  assert config["training"]["flip"] and config["training"]["bits"] == 5
  rows = [json.loads(line) for line in (images / "runs/cats/metrics.jsonl").read_text().splitlines()]
  assert rows and {row["data"] for row in rows} == {fingerprint["digest"]}
  lines = on_cats.splitlines()
  assert any(line.startswith("data: folder:cats, ") and fingerprint["digest"] in line for line in lines)
  assert any(line.startswith(f"test, data {fingerprint['digest']}: ") for line in lines)


def test_evaluation_finds_the_runs_data_and_warns_of_others(images, on_cats):
  del on_cats
  config = json.loads((images / "runs/cats/config.json").read_text())
  digest = config["training"]["fingerprint"]["digest"]
  elsewhere = images / "empty"
  evaluate = lambda *more: call("evaluate", "--workdir=../runs/cats", "--limit=2", *more, cwd=elsewhere)
  code, out, error = evaluate()
  assert code == 0 and out.startswith(f"folder:cats test, data {digest}: 2 images\n")
  assert "warning" not in error
  code, out, error = evaluate("--dataset=npz:../other.npz")
  assert code == 0 and out.startswith("npz:other.npz test, data ") and digest not in out
  (warning,) = error.splitlines()
  assert "warning: the model was trained on folder:cats, " in warning and digest in warning


@pytest.mark.parametrize("arguments, message", BAD)
def test_bad_input_is_one_clear_line_and_exit_code_2_and_changes_nothing(images, on_cats, arguments, message):
  del on_cats
  assert message in refusal("train", *TINY, "--workdir=new", *arguments, cwd=images)


def test_a_preset_that_does_not_name_its_data_asks_for_them(tmp_path):
  fpp.FlowPlusPlus(MINIMAL).save_to_preset(tmp_path / "mine", "a model")
  line = refusal("evaluate", "--workdir=mine", cwd=tmp_path)
  assert "does not name the data it was trained on; --dataset names images" in line


def test_a_preset_that_does_not_name_its_data_scores_others_without_typicality(images):
  config = small_config(image_shape=(16, 16, 3), levels=256)
  fpp.FlowPlusPlus(config).save_to_preset(images / "nameless", "a model")
  result = call("score", "--workdir=nameless", "--dataset=npz:other.npz", "--limit=2", "--num_samples=1", cwd=images)
  assert result.code == 0 and len(result.out.splitlines()) == 3 and "no typicality" in result.error
  assert demo._dataset({}, config) is None


def test_a_stopped_evaluation_is_kept_beside_its_output(images, on_cats, monkeypatch):
  """The directory of the run may be one that cannot be written."""
  del on_cats

  def stop(*arguments, partial, **settings):
    raise InputError(f"kept in {partial}")

  monkeypatch.setattr(evaluation, "evaluate_bits_per_dim", stop)
  result = call("evaluate", "--workdir=runs/cats", "--output=cats/new.json", cwd=images)
  assert "error: kept in cats\n" in result.error


# Of each command what a call takes beside the flag that is tried.
CALLS = {
  "train": [*TRAINED, "--workdir=runs/other"],
  "evaluate": ["--limit=1", "--num_samples=1"],
  "sample": ["--n=1"],
  "score": ["--limit=1", "--num_samples=1", "--typical_images=2"],
  "export": ["--format=preset", "--overwrite"],
  "demo": [],
  "compress": ["--dataset=digits", "--limit=1", "--output=new.fpp"],
  "decompress": ["archive.fpp", "--output=new"],
}
WRITTEN_INTO_RUNS = {"evaluate": {"evaluation.json"}, "score": {"typicality.json"}}  # by their commands
TEXTS = [
  (name, field.name)
  for name in COMMANDS
  for field in dataclasses.fields(options_of(name))
  if value_type(field) in (str, tuple[str, ...]) and not field.metadata["range"] and field.name != "archive"
]
OWN = ["config.json", "best.weights.safetensors", "metrics.jsonl", "evaluation.json", "typicality.json", "run.lock"]
OWN += ["curves.png", "samples.png", "codec_model.0.npz", "evaluation-0.npy", "preset.json", "card.md", "link.png"]
FOREIGN = ["thesis.txt", "table.csv", "notes.json", "notes.png", "notes.npy", "notes.fpp", "project/main.py"]


@pytest.mark.slow
@pytest.mark.parametrize("program, flag", TEXTS)
def test_whatever_file_a_flag_names_it_stays_as_it_is(program, flag, trained, monkeypatch):
  """Each flag that takes a text is given files of a run, and of the user, and folders that hold them."""

  def refuse(*arguments):
    raise InputError("no page, and no training but for the folder of a run")

  monkeypatch.setattr(demo, "_check_can_serve", refuse)
  if flag != "workdir":
    monkeypatch.setattr(train, "_train", refuse)
  run = trained / "runs/digits"
  Image.new("L", [2, 2]).save(trained / "picture.png")
  for name in (*OWN, *FOREIGN):
    path = (run if name in OWN else trained) / name
    path.parent.mkdir(exist_ok=True)
    if name == "link.png":
      path.symlink_to("samples.png")
    elif not path.exists():
      path.write_bytes(b"\x93NUMPY" if name == "evaluation-0.npy" else b'{"a": {"b": 1}}')
  (trained / "project/saved_model.pb").touch()
  (trained / "project/preset.json").write_text("{}")
  names = [*(f"runs/digits/{name}" for name in OWN), *FOREIGN, "runs/digits", "runs", "project"]
  paths = [path for path in trained.rglob("*") if path.is_file() and "t1.0" not in path.name]
  before = {path: path.read_bytes() for path in paths}
  base = [] if program == "train" else ["--workdir=runs/digits"]
  for name in names:
    call(program, *base, *CALLS[program], f"--{flag}={name}", cwd=trained)
    changed = [path for path in paths if not path.is_file() or path.read_bytes() != before[path]]
    is_own = program == "train" and flag == "workdir" and name == "runs/digits"
    assert is_own or {path.name for path in changed} <= WRITTEN_INTO_RUNS.get(program, set()), name
