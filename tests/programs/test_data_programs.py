"""The programs on a user's own images: a small run, evaluations, and every bad input."""

import json

import numpy as np
from PIL import Image
import pytest

import flowpp_tf as fpp
from flowpp_tf import evaluation
from flowpp_tf.core.errors import InputError
from flowpp_tf.programs import demo
from support.models import MINIMAL, small_config
from support.programs import call, refusal
from support.runs import TINY_RUN

TINY = [*TINY_RUN, "--config=photos", "--batch_size=8", "--steps=2", "--eval_images=3"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
  """A folder to work in: `cats` with images, `bad` with a damaged one, `empty`, `one`, `other.npz`."""
  cwd = tmp_path_factory.mktemp("images")
  rng = np.random.RandomState(0)
  for folder, count in (("cats", 40), ("bad", 10), ("one", 1), ("empty", 0)):
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
  (
    ["--dataset=folder:nowhere", "--init_from=elsewhere"],
    "unknown `init_from` (a preset, the directory of a run, or an .npz file) 'elsewhere'; known: ",
  ),
  (["--dataset=folder:nowhere", "--init_from=digits"], "the weights of `init_from` 'digits' do not fit the model: "),
  (["--dataset=folder:empty"], "has no image: looked for .png, .jpg, .jpeg, .webp"),
  (["--dataset=folder:one"], "must have at least 3 images, one for each split, got 1"),
  (["--dataset=folder:bad"], "1 image file cannot be read, more than --max_bad_files=0: "),
  (["--dataset=folder:bad"], "3.png (it is not an image: expected one of PNG"),
  (["--dataset=folder:cats", "--splits_file=none.csv"], "none.csv' cannot be read"),
  (["--dataset=folder:cats", "--max_bad_files=-1"], "max_bad_files"),
  (["--dataset=folder:cats", "--bits=9"], "bits"),
  (["--dataset=folder:cats", "--bits=5"], "`bits` 5 gives 32 levels, the model's config has 256"),
  (["--dataset=folder:cats", "--levels=32"], "--bits=5 reduces its images to that"),
  (
    ["--dataset=folder:cats", "--image_size=16", "--image_shape=8,8,3"],
    "`image_size` must be left out with --image_shape",
  ),
  (["--dataset=folder:cats", "--image_size=31"], "is 31, which cannot be halved"),
  (["--dataset=npz:none.npz"], "none.npz' cannot be read: No such file"),
  (["--dataset=npz:other.npz"], "has image_shape (16, 16, 3), the model's config (32, 32, 3)"),
  (["--dataset=cifar10", "--nodownload", "--data_dir=data"], "data/cifar10/"),
  (["--dataset=cifar10", "--nodownload", "--data_dir=data"], "prepare it by: tfds build cifar10 --data_dir="),
  (["--dataset=imagenet32_old", "--data_dir=data"], "train_32x32.npy and valid_32x32.npy"),
  (["--dataset=tfds:nothing"], "TensorFlow Datasets has no 'nothing'"),
  (["--dataset=imagenet32"], "did you mean imagenet32_old or imagenet32_new"),
  (["--dataset=photos", "--workdir=runs/cats"], "holds another run: "),
]


@pytest.fixture(scope="module")
def trained(images):
  """Output of a run of 5 bits at 16x16, in `runs/cats`."""
  result = call(
    "train",
    *TINY,
    "--dataset=folder:cats",
    "--image_size=16",
    "--bits=5",
    "--levels=32",
    "--flip",
    "--workdir=runs/cats",
    cwd=images,
  )
  assert result.code == 0, result.error
  return result.out


def test_a_run_on_a_folder_says_everywhere_what_it_was_on(images, trained):
  config = json.loads((images / "runs/cats/config.json").read_text())
  assert config["model"]["image_shape"] == [16, 16, 3] and config["model"]["levels"] == 32
  fingerprint = config["training"]["fingerprint"]
  assert fingerprint["name"] == "folder:cats" and fingerprint["levels"] == 32
  assert sum(fingerprint["splits"].values()) == 40
  assert config["training"]["flip"] and config["training"]["bits"] == 5
  rows = [json.loads(line) for line in (images / "runs/cats/metrics.jsonl").read_text().splitlines()]
  assert rows and {row["data"] for row in rows} == {fingerprint["digest"]}
  lines = trained.splitlines()
  assert any(line.startswith("data: folder:cats, ") and fingerprint["digest"] in line for line in lines)
  assert any(line.startswith(f"test, data {fingerprint['digest']}: ") for line in lines)


def test_evaluation_finds_the_runs_data_and_warns_of_others(images, trained):
  del trained
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
def test_bad_input_is_one_clear_line_and_exit_code_2_and_changes_nothing(images, trained, arguments, message):
  del trained
  ways = 2 if "--nodownload" in arguments else 0  # to get the data
  assert message in refusal("train", *TINY, "--workdir=new", *arguments, cwd=images, ways=ways)


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


def test_a_stopped_evaluation_is_kept_beside_its_output(images, trained, monkeypatch):
  """The directory of the run may be one that cannot be written."""
  del trained

  def stop(*arguments, partial, **settings):
    raise InputError(f"kept in {partial}")

  monkeypatch.setattr(evaluation, "evaluate_bits_per_dim", stop)
  result = call("evaluate", "--workdir=runs/cats", "--output=cats/new.json", cwd=images)
  assert "error: kept in cats\n" in result.error
