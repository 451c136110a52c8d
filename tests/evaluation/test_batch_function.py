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
from support.programs import LIMIT, call, start_workers


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
