"""Evaluation on several devices: the numbers of one device, on two mirrored ones and on two workers."""

import contextlib
import re
import shutil
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import evaluation, training
from support.models import TINY, perturb, small_images
from support.programs import LIMIT, call, start_workers, wait_for


def model_on(name):
  with training.get_strategy(name).scope():
    keras.utils.set_random_seed(0)
    model = fpp.FlowPlusPlus(TINY)
  perturb(model)
  return model


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
def test_an_evaluation_of_two_devices_resumes_that_of_one(tmp_path):
  images, partial = small_images(6, TINY), tmp_path / "partial.npy"
  evaluate = lambda name, path=None: evaluation.evaluate_bits_per_dim(
    model_on(name), images, 2, batch_size=2, partial=path
  )
  expected = evaluate("one")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr("flowpp_tf.evaluation.likelihood._summarize", _stop)
    with pytest.raises(InterruptedError):
      evaluate("one", partial)
  draws = np.lib.format.open_memmap(partial, mode="r+")
  kept = draws[:3].copy()
  draws[3:] = np.nan  # as if it had been killed half-way
  draws.flush()
  found = evaluate("mirrored", partial)
  np.testing.assert_allclose(found.best.bits_per_dim, expected.best.bits_per_dim, rtol=1e-5)
  assert np.isfinite(kept).all() and not partial.exists()


def _stop(*arguments):
  raise InterruptedError


@pytest.mark.slow
@pytest.mark.workers
def test_two_workers_resume_with_the_numbers_of_one_process_and_only_the_chief_writes(trained, tmp_path):
  flags = ["--num_samples=3", "--limit=21", "--batch_size=8"]
  run = trained / "runs" / "digits"
  evaluate = lambda: call("evaluate", f"--workdir={run}", *flags, f"--output={tmp_path}/alone.json", cwd=tmp_path)
  workdirs = [tmp_path / "chief", tmp_path / "other"]
  for workdir in workdirs:
    shutil.copytree(run, workdir)
  with pytest.MonkeyPatch.context() as patch, contextlib.suppress(InterruptedError):
    patch.setattr("flowpp_tf.evaluation.likelihood._summarize", _stop)
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


@pytest.mark.exhaustive
@pytest.mark.slow  # test_workers.py has the same of a training run
@pytest.mark.workers
def test_the_survivor_of_a_killed_worker_ends_with_a_clear_message_and_keeps_its_draws(trained, tmp_path):
  run = trained / "runs" / "digits"
  chief, other = start_workers(
    "evaluate", f"--workdir={run}", "--num_samples=100000", "--batch_size=8", cwd=tmp_path, stderr=subprocess.PIPE
  )
  wait_for(
    lambda: any(np.isfinite(np.load(path, mmap_mode="r")[0, 0]).all() for path in run.glob("evaluation-*.npy")), chief
  )  # both are in the middle of it
  other.kill()
  _, error = chief.communicate(timeout=LIMIT)
  other.communicate()
  assert chief.returncode == 1 and "Traceback" not in error
  assert error.strip().splitlines()[-1].startswith("evaluate: error: worker 0 of 2 has lost another one")
  assert list(run.glob("evaluation-*.npy"))
