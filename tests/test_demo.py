"""The page of bin/demo: its functions, and all of it in a browser."""

import dataclasses
import importlib.util
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import types

import numpy as np
from PIL import Image
import pytest

from conftest import SMALL
from conftest import perturb
import flowpp_tf as fpp
from flowpp_tf import evaluation
from flowpp_tf.demo.about import about
from flowpp_tf.demo.answers import Answers
from flowpp_tf.demo.engine import Engine
from flowpp_tf.demo.engine import SavedModelEngine
from flowpp_tf.demo.uploads import read_upload
from flowpp_tf.errors import InputError
from flowpp_tf.training import Workdir

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = dataclasses.replace(  # short: every function of it is traced, by the program too
    SMALL, image_shape=(4, 4, 1), structure="columns:1,squeeze,channels:1", dequant_structure="columns:1")
NAN = float("nan")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A finished run, whose data are gone."""
  model = fpp.FlowPlusPlus(CONFIG)
  perturb(model, 0.3)
  workdir = Workdir(tmp_path_factory.mktemp("run"))
  workdir.open(CONFIG, {"dataset": "folder:/nowhere"})
  model.save_weights(workdir.best_weights)
  return workdir


@pytest.fixture(scope="module")
def model(workdir):
  return workdir.load()[0]


@pytest.fixture(scope="module")
def answers(model, tmp_path_factory):
  return Answers(Engine(model, num_samples=3, typical=2.0), tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
  """A folder of files of all kinds, good ones and others."""
  folder = tmp_path_factory.mktemp("uploads")
  rng = np.random.RandomState(0)
  pixels = rng.randint(0, 256, [20, 30, 3]).astype(np.uint8)
  Image.fromarray(pixels).save(folder / "good.png")
  Image.fromarray(pixels[::-1]).save(folder / "other.jpg")
  Image.fromarray(pixels.astype(np.uint16)[..., 0] * 257).save(folder / "sixteen.png")
  frames = [Image.fromarray(pixels[..., i]) for i in range(3)]
  frames[0].save(folder / "film.gif", save_all=True, append_images=frames[1:])
  (folder / "text.png").write_text("no image\n")
  (folder / "empty.png").write_bytes(b"")
  (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:900])
  (folder / "drawing.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
  Image.new("L", (10_000, 5_000), 255).save(folder / "large.png")
  Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
  return folder


# --- What is uploaded -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["good.png", "other.jpg", "sixteen.png", "film.gif", "large.png"])
def test_images_of_all_kinds_are_fitted(uploads, name):
  start = time.monotonic()
  image = read_upload(uploads / name, CONFIG)
  assert time.monotonic() - start < 10
  assert image.shape == (4, 4, 1) and image.dtype == np.uint8 and image.max() <= 7
  if name == "large.png":
    assert image.min() == 7


@pytest.mark.parametrize("name, message", [
    ("text.png", "'text.png' is no image: expected one of PNG, JPEG, WEBP, GIF, BMP, TIFF"),
    ("drawing.eps", "'drawing.eps' is no image"),  # Pillow knows it, and would start Ghostscript
    ("empty.png", "'empty.png' is empty"), ("cut.png", "'cut.png' cannot be read: "),
    ("bomb.png", "'bomb.png' cannot be read: Image size .* exceeds limit"), ("gone.png", "cannot be read: ")])
def test_other_files_are_refused_with_a_line_that_says_why(uploads, name, message):
  with pytest.raises(InputError, match=message):
    read_upload(uploads / name, CONFIG)


def test_too_many_pixels_are_refused_unread(uploads, monkeypatch):
  monkeypatch.setattr("flowpp_tf.demo.uploads.MOST_PIXELS", 40_000_000)
  with pytest.raises(InputError, match="'large.png' is too large: it has 10000x5000 pixels, 50 million, "
                                       "expected at most 40"):
    read_upload(uploads / "large.png", CONFIG)


# --- Answers --------------------------------------------------------------------------------------


def test_samples_are_those_of_bin_sample(answers, model):
  images = evaluation.Batched(model, 100).sample(6, 0.7, seed=3)
  expected = evaluation.image_grid(images, 8)
  np.testing.assert_array_equal(answers.samples(6, 0.7, 3.0), expected)
  assert np.any(np.asarray(answers.samples(6, 0.7, 4)) != expected)


def test_interpolation_has_the_uploads_at_its_ends(answers, uploads):
  grid, animation, text = answers.interpolation(uploads / "good.png", uploads / "other.jpg", 5)
  first, last = (read_upload(uploads / name, CONFIG) for name in ("good.png", "other.jpg"))
  ends = evaluation.to_shades(np.stack([first, last]), 8)[..., 0]
  scale = grid.width // 24  # five images of 4 pixels and the gaps
  pixels = np.asarray(grid)[::scale, ::scale]
  differ = int(re.fullmatch(r"Both ends as decoded: (\d) of 32 pixel values differ.*", text)[1])
  assert np.count_nonzero(pixels[:, :4] != ends[0]) + np.count_nonzero(pixels[:, 20:] != ends[1]) == differ
  with Image.open(animation) as film:
    assert film.n_frames == 8


def test_scores_are_those_of_bin_score(answers, uploads, model):
  seen, decoded, difference, text = answers.score(uploads / "good.png")
  image = read_upload(uploads / "good.png", CONFIG)
  scores = evaluation.Scorer(model, 3, typical=2.0)(image[np.newaxis])
  for name, form in (("bits_per_dim", ".4f"), ("log_likelihood", ".2f"), ("complexity_corrected", ".4f"),
                     ("typicality", ".4f")):
    assert f" {scores[name][0]:{form}} |" in text
  assert "bound of 3 samples" in text and "30x20 pixels and was fitted to 4x4" in text
  assert "Likelihood is no score of being like the training images" in text
  np.testing.assert_array_equal(seen, evaluation.image_grid(image[np.newaxis], 8))
  assert seen.size == decoded.size == difference.size


def test_no_function_is_traced_twice(answers, uploads):
  batched, scorer = answers.engine.sample.__self__, answers.engine.scores
  for n, name in ((1, "good.png"), (9, "film.gif")):
    answers.samples(n, 1, n)
    answers.score(uploads / name)
    answers.interpolation(uploads / name, uploads / "good.png", 2 + n)
  for function in (batched._encode, batched._decode, scorer._bound):
    assert function.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("arguments, message", [
    ((10**9, 1, 0), "the number of images must be from 1 to 100, got 1000000000"),
    ((0, 1, 0), "number of images"), ((NAN, 1, 0), "number of images .* got nan"),
    ((2.5, 1, 0), "must be a whole number, got 2.5"), ((None, 1, 0), "got nothing"),
    (("9" * 1000, 1, 0), r"got 9{40}\.\.\.$"), (([1], 1, 0), "number of images"),
    ((4, -1, 0), "the temperature must be from 0 to 2.0, got -1"), ((4, NAN, 0), "temperature .* got nan"),
    ((4, float("inf"), 0), "temperature .* got inf"), ((4, True, 0), "temperature .* got True"),
    ((4, 1, -1), "seed"), ((4, 1, 10**30), "seed"), ((4, 1, None), "seed")])
def test_absurd_numbers_are_refused(answers, arguments, message):
  with pytest.raises(InputError, match=message):
    answers.samples(*arguments)


def test_what_is_missing_is_said(answers, uploads):
  with pytest.raises(InputError, match="there is no image yet"):
    answers.interpolation(uploads / "good.png", None, 4)
  with pytest.raises(InputError, match="the number of frames must be from 2 to 32, got 1"):
    answers.interpolation(uploads / "good.png", uploads / "good.png", 1)


def test_a_saved_model_gives_the_same_answers(answers, model, uploads, tmp_path):
  fpp.export_saved_model(model, tmp_path / "1", max_batch=6)
  loaded = fpp.load_saved_model(tmp_path / "1")
  engine = SavedModelEngine(loaded, num_samples=3)
  assert engine.parameters == answers.engine.parameters == model.count_params()
  saved = Answers(engine, tmp_path)
  np.testing.assert_array_equal(saved.samples(6, 0.7, 3), answers.samples(6, 0.7, 3))
  ends = uploads / "good.png", uploads / "other.jpg"
  np.testing.assert_array_equal(saved.interpolation(*ends, 9)[0], answers.interpolation(*ends, 9)[0])
  assert "Typicality" not in saved.score(ends[0])[-1] and "Bits/dim" in saved.score(ends[0])[-1]
  with pytest.raises(InputError, match="the number of images must be from 1 to 6, got 7"):
    saved.samples(7, 1, 0)
  with pytest.raises(InputError, match="`num_samples` must be from 1 to 6, the `max_batch` of .*, got 16"):
    SavedModelEngine(loaded)


def test_the_top_of_the_page_says_what_was_measured(answers):
  count = f"{answers.engine.parameters:,}"
  assert about("a", answers.engine, {}) == (
      f"`a`, {count} parameters  \nTrained on images of 4x4x1, 8 levels; which is not recorded  \n"
      "Its bits/dim have not been measured")
  data = {"name": "noise", "version": "", "splits": {"train": 7, "validation": 1, "test": 2}, "levels": 8,
          "image_shape": [4, 4, 1], "digest": "0f"}
  bounds = [{"num_samples": 1, "bits_per_dim": 2.5}, {"num_samples": 16, "bits_per_dim": 2.4375}]
  text = about("a", answers.engine, {"data": data, "evaluation": {
      "train": {"images": 2, "bounds": bounds[:1]}, "test": {"images": 2, "bounds": bounds}}})
  assert text.endswith("Trained on noise, 7 / 1 / 2 images of 4x4x1, 8 levels (data 0f)  \nBits/dim of 2 test "
                       "images: 2.438 importance-weighted, 16 samples; 2.500 single-sample")
  text = about("a", answers.engine, {"validation": {"bits_per_dim": 2.5, "step": 3}})
  assert text.endswith("Bits/dim of validation: 2.500 single-sample, as measured in training")


@pytest.mark.parametrize("levels", [2, 3, 8, 17, 32, 256])
def test_examples_are_read_back_as_they_are(levels, tmp_path):
  config = types.SimpleNamespace(image_shape=(1, levels, 1), levels=levels)
  Image.fromarray(evaluation.to_shades(np.arange(levels)[np.newaxis], levels)).save(tmp_path / "a.png")
  np.testing.assert_array_equal(read_upload(tmp_path / "a.png", config)[0, :, 0], np.arange(levels))


# --- The program ----------------------------------------------------------------------------------


def _demo(*args, **env):
  return subprocess.Popen(
      [sys.executable, str(ROOT / "bin" / "demo"), *map(str, args)], text=True, stdout=subprocess.PIPE,
      stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": "", **env})
