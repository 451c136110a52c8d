"""Measured bits/dim and pictures, on one device, on two mirrored ones and on two workers."""

import concurrent.futures
import contextlib
import json
import math
import re
import shutil
import subprocess
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from flowpp_tf import evaluation, training
from flowpp_tf.core.context import fold_in
from flowpp_tf.evaluation import likelihood, record
from support.models import SMALL, TINY, perturbed, small_images
from support.programs import LIMIT, call, start_workers


@pytest.fixture(scope="module")
def model():
  return perturbed(SMALL, dtype="float64", structure="columns:2", dequant_structure="columns:1")


def test_bits_per_dim_are_those_of_the_bounds_of_every_image(model):
  images = small_images(7)
  result = evaluation.evaluate_bits_per_dim(model, images, num_samples=[4, 2], batch_size=4, seed=5)
  seed = np.array([0, 5])
  bounds = np.concatenate(
    [
      np.stack([model.log_prob_bound(images[4 * i : 4 * i + 4], seed=fold_in(fold_in(seed, i), k)) for k in range(4)])
      for i in range(2)
    ],
    axis=1,
  )
  log_mean_exp = lambda b: np.log(np.mean(np.exp(b), axis=0))
  expected = {
    1: bounds.mean(axis=0),
    4: log_mean_exp(bounds),
    2: (log_mean_exp(bounds[:2]) + log_mean_exp(bounds[2:])) / 2,
  }
  assert result.images == 7 and [b.num_samples for b in result.bounds] == [1, 2, 4]
  for bound in result.bounds:
    bits = -expected[bound.num_samples] / (32 * math.log(2))
    np.testing.assert_allclose(bound.bits_per_dim, bits.mean(), rtol=1e-10)
    np.testing.assert_allclose(bound.standard_error, bits.std(ddof=1) / math.sqrt(7), rtol=1e-10)
  assert result.bounds[0].bits_per_dim > result.bounds[1].bits_per_dim > result.best.bits_per_dim
  np.testing.assert_allclose(sum(result.terms.values()), result.bounds[0].bits_per_dim, rtol=1e-12)
  assert "importance-weighted bound, 4 samples" in str(result)


def test_terms_are_those_of_the_distributions(model):
  images = small_images(2)
  noise = model.sample_noise([2], np.array([0, 1]))
  terms = model.bound_terms(images, noise=noise)
  u, log_q = model.dequantizer.posterior(tf.cast(images, tf.float64)).transform(noise)
  z = model.flow.bijector.inverse(images + u)
  np.testing.assert_allclose(terms.dequantization[0], -log_q, rtol=1e-12)
  np.testing.assert_allclose(terms.prior[0], -0.5 * np.sum(z**2 + np.log(2 * np.pi), axis=(1, 2, 3)), rtol=1e-12)
  np.testing.assert_allclose(terms.log_det[0], model.flow.bijector.inverse_log_det_jacobian(images + u, 3), rtol=1e-12)


@pytest.mark.slow
def test_an_evaluation_goes_on_where_it_was_stopped(model, tmp_path, monkeypatch):
  arguments = dict(images=small_images(7), num_samples=2, batch_size=3)
  whole = evaluation.evaluate_bits_per_dim(model, **arguments)
  original, calls = model.check_images, []

  def stop_at_third_batch(images):  # the first call is of the arguments
    calls.append(tf.executing_eagerly())
    if sum(calls) == 4:
      raise KeyboardInterrupt
    return original(images)

  monkeypatch.setattr(model, "check_images", stop_at_third_batch)
  with pytest.raises(KeyboardInterrupt):
    evaluation.evaluate_bits_per_dim(model, **arguments, partial=tmp_path)
  monkeypatch.undo()
  (partial,) = tmp_path.iterdir()
  done = np.lib.format.open_memmap(partial, mode="r+")
  assert np.all(np.isfinite(done[:6])) and np.all(np.isnan(done[6:]))
  done[:6] = 100.0  # to be seen in the end, if it is used
  done.flush()
  resumed = evaluation.evaluate_bits_per_dim(model, **arguments, partial=tmp_path)
  assert not partial.exists()
  last = evaluation.evaluate_bits_per_dim(model, **{**arguments, "images": arguments["images"][:6]})
  as_last = lambda mean: (7 * whole.terms["prior"] - 6 * mean) / 7
  np.testing.assert_allclose(
    resumed.terms["prior"] - 6 / 7 * model.to_bits_per_dim(100.0), as_last(last.terms["prior"])
  )

  np.save(partial, np.zeros([2, 2, 3]))
  with pytest.raises(ValueError, match="npy' is of another evaluation; delete it"):
    evaluation.evaluate_bits_per_dim(model, **arguments, partial=tmp_path)


def test_partial_results_of_another_evaluation_are_not_taken(model, tmp_path, monkeypatch):
  """All that has as many draws: they would be averaged with those of this one."""
  images = small_images(3)

  def files(**changes):
    """The files that are there after an evaluation was stopped."""
    with pytest.raises(KeyboardInterrupt):
      evaluation.evaluate_bits_per_dim(model, **{"images": images, "batch_size": 2, "partial": tmp_path, **changes})
    return {*tmp_path.iterdir()}

  monkeypatch.setattr(likelihood, "_measure", mock.Mock(side_effect=KeyboardInterrupt))
  found = files()
  assert len(found) == 1 == len(files(images=np.asfortranarray(images), seed=np.int64(0)))  # the same one
  weight = model.trainable_variables[-1]
  before = np.array(weight)
  for i, changes in enumerate((dict(seed=1), dict(images=small_images(3, seed=1)), dict(batch_size=3), {}), 2):
    weight.assign(before if changes else before + 1)
    assert len(files(**changes)) == i
  weight.assign(before)
  assert len(files(seed=None)) == 6 == len(files(seed=None))


def test_two_evaluations_that_share_partial_results_both_end(model, tmp_path, monkeypatch):
  summarize = likelihood._summarize
  unlink = lambda: [path.unlink() for path in tmp_path.iterdir()]
  monkeypatch.setattr(likelihood, "_summarize", lambda *args: unlink() and summarize(*args))  # by the other
  result = evaluation.evaluate_bits_per_dim(model, small_images(2), partial=tmp_path)
  assert result.images == 2 and not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_the_bound_converges_to_the_likelihood_and_that_adds_up_to_one():
  """Two pixels of four levels: P(x) is an integral over a unit square, by Gauss-Legendre."""
  pixels = dict(image_shape=(1, 2, 1), levels=4)
  model = perturbed(SMALL, 0.05, dtype="float64", structure="columns:3", dequant_structure="columns:1", **pixels)
  # As wide as the logistic distribution, which is the logit of uniform noise; else the weights of the
  # draws have tails in which standard errors mean nothing.
  scale = model.dequantizer.coupling_flow.steps[-1].scale
  scale.assign(2.2 * scale)
  # The flow's domain is wider than [0, 4), as published: its logit is of 0.05 + 0.9 x / 4.
  logit = lambda p: np.log(p) - np.log1p(-p)
  edges = [-20, *logit(0.05 + 0.9 * np.arange(5) / 4), 20]
  nodes, weights = np.polynomial.legendre.leggauss(40)
  y = np.concatenate([a + (b - a) * (nodes + 1) / 2 for a, b in zip(edges, edges[1:])])
  p = 1 / (1 + np.exp(-y))
  x = (p - 0.05) * 4 / 0.9
  weights = np.concatenate([weights * (b - a) / 2 for a, b in zip(edges, edges[1:])]) * p * (1 - p) * 4 / 0.9
  grid = np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1).reshape(-1, 1, 2, 1)
  density = np.reshape(tf.exp(tf.function(model.flow.log_prob)(grid)), [240, 240])
  cells = (density * np.outer(weights, weights)).reshape(6, 40, 6, 40).sum(axis=(1, 3))
  np.testing.assert_allclose(cells.sum(), 1, atol=1e-6)
  images = np.stack(np.meshgrid(range(4), range(4), indexing="ij"), axis=-1).astype(np.uint8)
  images, likelihood = images.reshape(16, 1, 2, 1), cells[1:5, 1:5].ravel()
  outside = 1 - likelihood.sum()
  assert likelihood.max() > 3 * likelihood.min()  # the model has something to say

  bound_terms = tf.function(model.bound_terms)
  estimates = np.exp(np.sum(bound_terms(images, num_samples=8192, seed=1), axis=0))  # [8192, 16]
  errors = estimates.std(axis=0, ddof=1) / math.sqrt(len(estimates))
  deviations = (estimates.mean(axis=0) - likelihood) / errors
  assert np.abs(deviations).max() < 3.5 and 0.6 < np.sqrt(np.mean(deviations**2)) < 1.5, deviations
  np.testing.assert_allclose(np.exp(model.log_prob_bound(images, num_samples=8192, seed=1)), estimates.mean(axis=0))
  assert np.all(np.exp(np.log(estimates).mean(axis=0)) < likelihood)  # the bound of one sample

  # Normal draws that are spread evenly, and so give the sum of all probabilities in fewer.
  spread = tf.math.ndtri(tf.math.sobol_sample(2, 8192, skip=1, dtype=tf.float64))
  noise = tf.broadcast_to(tf.reshape(spread, [-1, 1, 1, 2, 1]), [8192, *images.shape])
  estimates = np.exp(np.sum(bound_terms(images, noise=noise), axis=0))
  np.testing.assert_allclose(estimates.mean(axis=0), likelihood, rtol=5e-3)
  np.testing.assert_allclose(estimates.mean(axis=0).sum() + outside, 1, atol=1e-3)


def test_each_number_of_samples_must_be_positive(model):
  with pytest.raises(ValueError, match="`num_samples` must be at least 1, got -1"):
    evaluation.evaluate_bits_per_dim(model, small_images(), num_samples=[2, -1])


def test_a_record_keeps_other_splits_and_refuses_other_files(tmp_path):
  path = tmp_path / "evaluation.json"
  result = evaluation.BitsPerDim(1, (evaluation.Bound(1, 2.5, math.nan),), {"prior": 2.5})
  for split in ("test", "train", "test"):
    evaluation.write_record(path, split, result, {"name": "digits"}, {"step": 3}, seed=0)
  written = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
  assert list(written) == ["test", "train"]
  assert written["test"]["bounds"] == [{"num_samples": 1, "bits_per_dim": 2.5, "standard_error": None}]
  path.write_text(path.read_text().replace("null", "NaN"))  # which Python's reader takes
  evaluation.write_record(path, "validation", result, {}, {}, seed=0)
  assert json.loads(path.read_text())["train"]["bounds"][0]["standard_error"] is None
  path.write_text("notes")
  with pytest.raises(ValueError, match="evaluation.json' cannot be read"):
    evaluation.write_record(path, "test", result, {}, {}, seed=0)
  assert path.read_text() == "notes"


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**63 - 1])
def test_a_record_takes_each_seed_of_the_programs(tmp_path, seed):
  """It is written after the evaluation, whose time an error would waste."""
  result = evaluation.BitsPerDim(1, (evaluation.Bound(1, 2.5, 0.1),), {"prior": 2.5})
  evaluation.write_record(tmp_path / "evaluation.json", "test", result, {}, {}, seed)
  assert evaluation.read_record(tmp_path / "evaluation.json")["test"]["seed"] == seed


def test_a_record_that_several_write_at_once_has_the_entries_of_all(tmp_path):
  path = tmp_path / "evaluation.json"
  with concurrent.futures.ThreadPoolExecutor(4) as threads:
    written = [threads.submit(record.write_entry, path, f"split {i}", {"images": i}) for i in range(40)]
  assert not [future.exception() for future in written if future.exception()]
  assert len(evaluation.read_record(path)) == 40


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB")])
def test_grid_has_each_image_in_its_place_from_black_to_white(channels, mode):
  images = np.zeros([5, 2, 2, channels], np.uint8)
  images[3] = 16
  picture = evaluation.image_grid(images, levels=17)
  assert picture.mode == mode
  scale = picture.size[0] // 8  # three columns of two pixels, two gaps
  pixels = np.asarray(picture)[::scale, ::scale].reshape(5, 8, channels)
  assert np.all(pixels[3:, :2] == 255) and np.all(pixels[:2, :2] == 0)


def model_on(name):
  with training.get_strategy(name).scope():
    return perturbed(TINY)


@pytest.mark.slow
def test_two_mirrored_devices_give_the_numbers_of_one():
  images = small_images(5, TINY)  # the last batch is not a multiple of the devices

  def results(model):
    batched = evaluation.BatchedModel(model, batch_size=4)
    bits = evaluation.evaluate_bits_per_dim(model, images, [1, 2], batch_size=4)
    return [
      batched.sample(5, seed=1),
      batched.encode(images, seed=2),
      evaluation.Scorer(model, 2)(images),
      [b.bits_per_dim for b in bits.bounds],
      bits.terms,
    ]

  one, two = (tf.nest.flatten(results(model_on(name))) for name in ("one", "mirrored"))
  for ours, theirs in zip(two, one, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.workers
def test_two_workers_resume_with_the_numbers_of_one_process_and_only_the_chief_writes(trained, tmp_path):
  flags = ["--num_samples=3", "--limit=21", "--batch_size=8"]
  run = trained / "runs" / "digits"
  evaluate = lambda: call("evaluate", f"--workdir={run}", *flags, f"--output={tmp_path}/alone.json", cwd=tmp_path)
  workdirs = [tmp_path / "chief", tmp_path / "other"]
  for workdir in workdirs:
    shutil.copytree(run, workdir)
  with mock.patch.object(likelihood, "_summarize", side_effect=InterruptedError), contextlib.suppress(InterruptedError):
    evaluate()
  (partial,) = tmp_path.glob("evaluation-*.npy")
  draws = np.lib.format.open_memmap(partial, mode="r+")
  draws[:8] += 1  # to be seen in the end
  draws[8:] = np.nan
  draws.flush()
  shutil.copy(partial, workdirs[0])
  alone = evaluate()
  processes = start_workers(
    "evaluate",
    *flags,
    stderr=subprocess.PIPE,
    each=[(f"--workdir={workdir}", f"--output={workdir}/new.json") for workdir in workdirs],
  )
  (chief, error), (other, _) = (process.communicate(timeout=LIMIT) for process in processes)
  assert [process.returncode for process in processes] == [0, 0], error
  numbers = lambda text: [float(number) for number in re.findall(r"\d+\.\d+", text)]
  np.testing.assert_allclose(numbers(chief), numbers(alone.out), atol=2e-4)
  assert other == "" and (workdirs[0] / "new.json").exists() and not (workdirs[1] / "new.json").exists()
  assert not [*tmp_path.rglob("evaluation-*.npy")]
