"""Scores of single images: their formulas, their directions, alarms that are conformal, and the program on a folder."""

import csv
import io
import json
import math
import os
import shutil
import types
import zlib

import numpy as np
from PIL import Image
import pytest
import sklearn.metrics
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import data, evaluation
from flowpp_tf.evaluation import conformal_p_value, conformal_threshold
from support.files import encoded, png_chunks
from support.models import SMALL, perturbed, small_config, small_images
from support.programs import call, refusal, times_of_files
from support.refusing import refuses
from support.training_steps import stored_run


@pytest.mark.parametrize("shape, chunks", [((8, 8, 1), 1), ((5, 7, 3), 1), ((300, 300, 3), 5)])
def test_png_bytes_are_those_of_the_deflate_stream_alone(shape, chunks):
  image = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
  file = encoded("PNG", image.squeeze(), optimize=True)
  parts = [content for kind, content in png_chunks(file) if kind == b"IDAT"]
  assert len(parts) == chunks
  # Inflate without zlib's frame: what is left over after the stream is its checksum.
  inflate = zlib.decompressobj(wbits=-15)
  stream = b"".join(parts)[2:]
  rows = inflate.decompress(stream)
  assert len(rows) == shape[0] * (1 + shape[1] * shape[2]) and len(inflate.unused_data) == 4
  assert evaluation.png_bytes(image) == len(stream) - 4
  if chunks == 1:
    assert evaluation.png_bytes(image) == len(file) - 63


def test_png_bytes_of_channels_that_png_has_not_are_an_error():
  refuses("`image` must have 1 to 4 channels .*, got 5", evaluation.png_bytes, np.zeros([4, 4, 5], np.uint8))


@pytest.fixture(scope="module")
def scorer():
  model = perturbed(SMALL, dtype="float64")
  return evaluation.Scorer(model, num_samples=3, seed=5, typical=3.5), model


def test_scores_are_their_formulas_with_the_same_noise_for_each_image(scorer):
  score, model = scorer
  images = small_images(6)
  noise = model.sample_noise([3], np.array([0, 5])).numpy()
  bounds = np.stack([model.log_prob_bound(images, noise=np.repeat(draw[None], 6, axis=0)) for draw in noise])
  log_likelihood = np.log(np.mean(np.exp(bounds), axis=0))
  bits = -log_likelihood / (32 * math.log(2))
  sizes = [evaluation.png_bytes(image) for image in images]
  result = score(images)
  assert tuple(result) == evaluation.SCORES
  np.testing.assert_allclose(result["log_likelihood"], log_likelihood, rtol=1e-10)
  np.testing.assert_allclose(result["bits_per_dim"], bits, rtol=1e-10)
  np.testing.assert_allclose(result["typicality"], np.abs(bits - 3.5), rtol=1e-8)
  np.testing.assert_allclose(result["complexity_corrected"], bits - np.array(sizes) * 8 / 32, rtol=1e-8)
  assert list(result["png_bytes"]) == sizes


def test_an_image_has_the_same_scores_in_any_batch_and_at_any_place_in_it(scorer):
  score, _ = scorer
  images = small_images(6)
  together = score(images)
  order = np.array([3, 0, 5, 1, 4, 2])
  for batch_size in (1, 4):
    apart = score(images[order], batch_size)
    for name in evaluation.SCORES:
      np.testing.assert_allclose(apart[name], together[name][order], rtol=1e-10, err_msg=name)


def test_a_scorer_reads_one_batch_at_a_time(scorer, monkeypatch):
  score, model = scorer
  sizes, check_images = [], model.check_images
  monkeypatch.setattr(model, "check_images", lambda images: sizes.append(len(images)) or check_images(images))
  score.bits_per_dim(small_images(5), 2)
  assert sizes == [2, 2, 1]


def test_a_model_without_classes_has_no_likelihoods_of_these(scorer):
  refuses("^the model must be one of images given a class$", scorer[0].class_log_likelihoods, small_images())


class IndependentPixels:
  """A model that is known: pixels are independent, of value v with probability 2**-(v + 1)."""

  config = types.SimpleNamespace(
    image_shape=(32, 32, 1), levels=8, pixel_levels=8, num_classes=0, label_dropout=0.0, filters=1
  )
  distribute_strategy = tf.distribute.get_strategy()
  image_dtype = tf.uint8

  def sample_noise(self, shape, seed):
    return tf.random.stateless_uniform([*shape, *self.config.image_shape], seed, dtype=tf.float64)

  def check_images(self, images):
    return tf.convert_to_tensor(images)

  def log_prob_bound(self, images, noise, seed, labels):
    del noise, seed, labels
    return -math.log(2) * tf.reduce_sum(tf.cast(images, tf.float64) + 1, axis=[1, 2, 3])

  def to_bits_per_dim(self, log_prob):
    return -log_prob / (1024 * math.log(2))


def test_likelihood_prefers_images_that_are_too_simple_and_both_other_scores_do_not():
  rng = np.random.RandomState(0)
  draw = lambda count: np.minimum(rng.geometric(0.5, [count, 32, 32, 1]) - 1, 7).astype(np.uint8)
  score = evaluation.Scorer(IndependentPixels(), num_samples=1)
  score.typical = evaluation.measure_typical(score, draw(50), most_images=50).mean
  assert abs(score.typical - 2) < 0.03  # the entropy of a pixel is 2 bits
  own, too_simple = score(draw(20)), score(np.zeros([20, 32, 32, 1], np.uint8))
  auroc = {
    name: sklearn.metrics.roc_auc_score([0] * 20 + [1] * 20, np.r_[own[name], too_simple[name]])
    for name in ("bits_per_dim", "typicality", "complexity_corrected")
  }
  assert auroc == {"bits_per_dim": 0, "typicality": 1, "complexity_corrected": 1}


def test_without_what_is_typical_there_is_no_typicality():
  scores = evaluation.Scorer(IndependentPixels())(np.zeros([2, 32, 32, 1], np.uint8))
  assert np.all(np.isnan(scores["typicality"]))
  np.testing.assert_allclose(scores["bits_per_dim"], 1, rtol=1e-12)


def test_typical_images_are_spread_over_the_split():
  # Image i has i/1024 bits/dim more than the first: their mean says which were taken.
  images = np.zeros([10, 32, 32, 1], np.uint8)
  for i, image in enumerate(images):
    image.reshape(-1)[:i] = 1
  score = evaluation.Scorer(IndependentPixels())
  typical = evaluation.measure_typical(score, images, 4, batch_size=3)
  taken = 1 + np.array([0, 2, 5, 7]) / 1024
  assert typical.images == 4
  np.testing.assert_allclose([typical.mean, typical.std], [taken.mean(), taken.std(ddof=1)], rtol=1e-6)
  assert evaluation.measure_typical(score, images, 1).std is None


def test_what_is_typical_is_kept_for_the_very_same_question(tmp_path):
  path, key = tmp_path / "typicality.json", {"weights": "a", "seed": 0}
  assert evaluation.load_typical(path, key) is None
  typical = evaluation.ValidationStatistics(images=3, mean=1.5, std=None)
  typical.save(path, key)
  assert evaluation.load_typical(path, key) == typical
  assert evaluation.load_typical(path, {**key, "weights": "b"}) is None
  for text in ("", "[]", "{}", '{"key": {"weights": "a", "seed": 0}, "bits_per_dim": {"mean": 1}}'):
    path.write_text(text)
    assert evaluation.load_typical(path, key) is None


# --- The program --------------------------------------------------------------------------------------


DIGITS = data.load_dataset("digits")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A folder to work in, with two small runs and images of every kind."""
  cwd = tmp_path_factory.mktemp("scores")
  config = small_config(SMALL, image_shape=(8, 8, 1), levels=17, structure="columns:1", dequant_structure="columns:1")
  model = fpp.FlowPlusPlus(config)
  stored_run(cwd / "run", model, dataset="digits", fingerprint=DIGITS.fingerprint())
  stored_run(cwd / "moved", model, dataset=f"folder:{cwd}/gone")
  for folder in ("mixed/deep", "empty"):
    (cwd / folder).mkdir(parents=True)
  for i in range(3):
    evaluation.image_grid(DIGITS.test[i : i + 1], 17, gap=0).resize((8, 8), 0).save(cwd / "mixed/deep" / f"{i}.png")
  rng = np.random.RandomState(0)
  Image.fromarray(rng.randint(0, 256, [8, 8, 4]).astype(np.uint8)).save(cwd / "mixed/rgba.png")
  Image.fromarray(rng.randint(0, 256, [20, 30, 3]).astype(np.uint8)).save(cwd / "mixed/large.webp")
  Image.new("L", (5, 5)).save(os.fsencode(cwd / "mixed") + b"/small\xe9.png")
  (cwd / "mixed/damaged.png").write_bytes((cwd / "mixed/rgba.png").read_bytes()[:99])
  (cwd / "mixed/notes.txt").write_text("no image")
  np.savez(cwd / "other.npz", **{split: np.zeros([2, 4, 4, 1], np.uint8) for split in data.SPLITS})
  return cwd


GOOD = [
  ["--workdir=run", "--images=mixed", "--output=scores.csv"],
  ["--workdir=run", "--images=mixed", "--batch_size=2"],
  ["--workdir=run", "--limit=3", "--batch_size=2"],
  ["--workdir=moved", "--images=mixed/deep", "--num_samples=1"],
]
BAD = [
  (["--workdir=run", "--images=empty"], "folder 'empty' has no image: looked for .png"),
  (["--workdir=run", "--images=mixed", "--dataset=digits"], "`images` must be left out with --dataset or --split"),
  (["--workdir=run", "--images=mixed", "--split=train"], "`images` must be left out with --dataset or --split"),
  (["--workdir=run", "--images=mixed", "--output=none/a.csv"], "cannot write 'none/a.csv': there is no folder 'none'"),
  (["--workdir=run", "--images=mixed", "--output=empty"], "cannot write 'empty': it is a folder"),
  (["--workdir=run", "--dataset=npz:other.npz"], "has image_shape (4, 4, 1), the model's config"),
  (["--workdir=moved"], "gone' is not there"),
  (["--workdir=run", "--num_samples=0"], "num_samples"),
]


@pytest.fixture(scope="module")
def results(place):
  """Of each good call: exit code, stdout, stderr, and the times of all files after it."""
  calls = [[*arguments, "--num_samples=2", "--typical_images=20"] for arguments in GOOD[:3]] + GOOD[3:]
  return [(*call("score", *arguments, cwd=place), times_of_files(place)) for arguments in calls]


def table(text):
  return list(csv.DictReader(io.StringIO(text)))


def test_whole_pictures_have_maps_and_p_values(place):
  """Large pictures are scored in their own size; the maps have it, and p-values are those of the sound images' bits."""
  arguments = ["--workdir=run", "--images=mixed/deep", "--num_samples=1", "--typical_images=4", "--tiles"]
  _, out, error = call("score", *arguments, "--maps=maps", "--calibrate=mixed/deep", cwd=place).ok()
  rows = table(out)
  bits = np.array([float(row["bits_per_dim"]) for row in rows])
  np.testing.assert_allclose(
    [float(row["p_value"]) for row in rows], evaluation.conformal_p_value(bits, bits, True), atol=1e-6
  )
  assert f"{len(rows)} of {len(rows)} images are among those of --calibrate too" in error
  for row in rows:
    with Image.open(place / "maps" / row["image"]) as picture:
      assert picture.size == (8, 8)
  (place / "wide").mkdir()
  Image.fromarray(np.zeros([9, 20], np.uint8)).save(place / "wide/a.png")
  result = call("score", *arguments[:1], "--images=wide", *arguments[2:], "--maps=wide_maps", cwd=place)
  (row,) = table(result.ok().out)
  with Image.open(place / "wide_maps/a.png") as picture:
    assert picture.size == (20, 9)
  assert float(row["log_likelihood"]) == pytest.approx(-float(row["bits_per_dim"]) * 180 * math.log(2), abs=1e-3)
  shutil.copytree(place / "wide", place / "alike")
  Image.fromarray(np.zeros([9, 20], np.uint8)).save(place / "alike/a.jpg")
  shutil.copy(place / "alike/a.png", place / "alike/a.jpg.png")
  result = call("score", *arguments[:1], "--images=alike", *arguments[2:], "--maps=alike_maps", cwd=place)
  assert result.code == 2 and "'alike_maps/a.jpg.png' is the map of two images; rename" in result.error
  for bad, words in (
    (["--calibrate=mixed"], "--calibrate: 'damaged.png' cannot be read"),
    (["--maps=maps"], "'maps' exists already"),
    (["--output=both", "--maps=./both"], "`maps` must be another name than --output, got './both'"),
    (["--calibrate=empty"], "has no image"),
  ):
    result = call("score", *arguments, *bad, cwd=place)
    assert result.code == 2 and words in result.error, result.error
  assert "`tiles` must be left out without --images" in refusal("score", "--workdir=run", "--tiles", cwd=place)


def test_no_image_that_is_read_is_overwritten(place):
  for arguments in (
    ["--images=mixed", "--output=mixed/deep/0.png"],
    ["--calibrate=mixed", "--output=mixed/rgba.png"],
    ["--dataset=npz:other.npz", "--output=./other.npz"],
    ["--dataset=folder:mixed", "--splits_file=mixed/notes.txt", "--output=mixed/notes.txt"],
  ):
    assert "it is one of the files that are read" in refusal("score", "--workdir=run", *arguments, cwd=place)


@pytest.mark.parametrize("name", ["config.json", "best.weights.safetensors", "link.csv"])
def test_no_file_of_a_run_is_overwritten(place, name):
  (place / "run/link.csv").unlink(missing_ok=True)
  (place / "run/link.csv").symlink_to("config.json")
  line = refusal("score", "--workdir=run", "--images=mixed", f"--output=run/{name}", cwd=place)
  assert f"cannot write 'run/{name}': it belongs to a run or a preset" in line


@pytest.mark.slow
def test_an_array_of_integer_images_is_scored_as_its_split(place):
  np.save(place / "digits.npy", DIGITS.test[:3, ..., 0])
  arguments = ["--workdir=moved", "--num_samples=1", "--limit=2"]
  found = call("score", *arguments, "--images=digits.npy", cwd=place).ok().out
  assert table(found) == table(call("score", *arguments, "--dataset=digits", cwd=place).out)
  for wrong, message in (
    (DIGITS.test + 9, "'digits.npy': `images` must lie in 0 .. 16 (17 levels), got values from 9 to 25"),
    (DIGITS.test / 16, "'digits.npy': `images` must hold integers, got float64"),
    (DIGITS.test[:, :4], "'digits.npy': `images` must be of shape [N, 8, 8, 1], got (180, 4, 8, 1)"),
  ):
    np.save(place / "digits.npy", wrong)
    assert message in refusal("score", *arguments, "--images=digits.npy", cwd=place)
  np.savez(place / "two.npz", a=DIGITS.test, b=DIGITS.test)
  line = refusal("score", *arguments, "--images=two.npz", cwd=place)
  assert "'two.npz' must hold one array, got 'a', 'b'" in line


def test_a_folder_gives_a_row_for_each_file_and_says_what_is_wrong_with_it(place, results):
  code, out, error, files = results[0]
  assert code == 0 and out == "wrote scores.csv\n", error
  rows = table((place / "scores.csv").read_text(encoding="utf-8"))
  assert [row["image"] for row in rows] == [
    "damaged.png",
    "deep/0.png",
    "deep/1.png",
    "deep/2.png",
    "large.webp",
    "rgba.png",
    "small\\xe9.png",
  ]
  assert list(rows[0]) == ["image", *evaluation.SCORES, "error"]
  damaged, *good = rows
  assert damaged["error"] and not any(damaged[name] for name in evaluation.SCORES)
  typical = json.loads((place / "run/typicality.json").read_text())["bits_per_dim"]
  assert typical["images"] == 20
  for row in good:
    bits = float(row["bits_per_dim"])
    assert not row["error"]
    assert float(row["log_likelihood"]) == pytest.approx(-bits * 64 * math.log(2), abs=1e-3)
    assert float(row["typicality"]) == pytest.approx(abs(bits - typical["mean"]), abs=2e-6)
    assert float(row["complexity_corrected"]) == pytest.approx(bits - int(row["png_bytes"]) * 8 / 64, abs=2e-6)
  lines = error.splitlines()
  assert "typical of the run: mean" in lines[0] and "over 20 images" in lines[0]
  assert "2 of 7 files had to be cropped or resized to 8x8" in lines[1]
  assert "1 of 7 files had to be enlarged, which makes their bits/dim low" in lines[2]
  assert f"warning: cannot be read: damaged.png ({damaged['error']})" in lines[3] and len(lines) == 4


def test_images_and_frames_that_get_no_row_are_told(place, tmp_path):
  still, film = Image.new("L", (8, 8)), dict(save_all=True, append_images=[Image.new("L", (8, 8), 9)])
  for name in ("a.png", "a.BMP", "a.gif", "film.png", "pages.tif", "b.tiff"):
    still.save(tmp_path / name, **(film if name in ("film.png", "pages.tif") else {}))
  code, out, error = call(
    "score", "--workdir=moved", f"--images={tmp_path}", f"--calibrate={tmp_path}", "--num_samples=1", cwd=place
  )
  assert code == 0 and [row["image"] for row in table(out)] == ["a.png", "film.png"], error
  left_out = "left out: 4 (.bmp, .gif, .tif, .tiff), as the model reads .png, .jpg, .jpeg, .webp; convert them"
  assert error.count(f"warning: {tmp_path}: {left_out}\n") == 2
  assert "warning: 1 of 2 files have several frames, of which a model gets the first\n" in error


def test_batches_and_source_do_not_change_a_score_and_typicality_is_measured_once(place, results):
  first = table((place / "scores.csv").read_text(encoding="utf-8"))
  (_, _, _, before), (code, out, error, after), (split_code, split_out, _, last) = results[:3]
  assert code == 0 and split_code == 0, error
  in_twos, of_split = table(out), table(split_out)  # on stdout there is nothing but the CSV
  assert [row["image"] for row in of_split] == ["0", "1", "2"]
  for rows, others in ((first, in_twos), (first[1:4], of_split)):  # the files are those of the split
    for row, other in zip(rows, others, strict=True):
      for name in evaluation.SCORES:
        assert float(row[name] or -1) == pytest.approx(float(other[name] or -1), abs=1e-3), name
  assert before["run/typicality.json"] == after["run/typicality.json"] == last["run/typicality.json"]


def test_a_run_whose_data_are_gone_gives_the_other_scores(results):
  code, out, error, files = results[3]
  assert code == 0 and "no typicality" in error and "gone' is not there" in error
  for row in table(out):
    assert row["typicality"] == "" and row["bits_per_dim"] and row["complexity_corrected"]
  assert "moved/typicality.json" not in files


@pytest.mark.parametrize("arguments, message", BAD)
def test_bad_input_is_one_clear_line_and_exit_code_2_and_changes_nothing(place, arguments, message):
  assert message in refusal("score", *arguments, cwd=place)


@pytest.mark.parametrize("count, share", [(19, 0.05), (20, 0.05), (99, 0.01), (100, 0.1), (7, 0.3)])
def test_the_share_of_false_alarms_over_all_ranks_of_the_new_score(count, share):
  """The new score has each rank among count + 1 distinct ones equally often, so the probability is a count."""
  scores = np.arange(count + 1.0)
  rests = [np.delete(scores, i)[::-1] for i in range(count + 1)]
  above = np.mean([new > conformal_threshold(rest, share) for new, rest in zip(scores, rests)])
  assert share - 1 / (count + 1) < above <= share
  p_values = np.concatenate([conformal_p_value(rest, scores[[i]]) for i, rest in enumerate(rests)])
  np.testing.assert_allclose(np.sort(p_values), np.arange(1, count + 2) / (count + 1))


@pytest.mark.parametrize("count", [19, 20, 99])
def test_two_sided_p_values_are_at_most_p_with_at_most_that_probability(count):
  """Over all ranks of the new score; both ends are as far out."""
  scores = np.arange(count + 1.0)
  rests = [np.delete(scores, i) for i in range(count + 1)]
  p_values = np.concatenate([conformal_p_value(rest, scores[[i]], True) for i, rest in enumerate(rests)])
  for share in np.unique(p_values):
    assert np.mean(p_values <= share) <= share + 1e-9
  assert p_values[0] == p_values[-1] == p_values.min() == 2 / (count + 1) and p_values.max() == 1


def test_equal_scores_raise_no_more_alarms():
  calibration = np.repeat([1.0, 2.0], [10, 9])
  assert conformal_threshold(calibration, 0.1) == 2.0
  np.testing.assert_allclose(conformal_p_value(calibration, np.array([2.0, 1.0, 2.5, 0.0])), [0.5, 1, 0.05, 1])


def test_too_few_scores_raise_no_alarm_and_none_are_refused():
  assert conformal_threshold(np.arange(18.0), 0.05) == np.inf
  assert conformal_threshold(np.arange(18.0), 1 - 1e-12) == 0.0  # any but the smallest score may be an alarm
  refuses("^`calibration` must have at least one score", conformal_threshold, np.zeros([0]), 0.05)
  refuses("^`false_alarms` must be between 0 and 1, got 1.0", conformal_threshold, np.arange(18.0), 1.0)
