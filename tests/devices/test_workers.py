"""Two processes of one run on loopback: the same steps as one device, and an end without the other."""

import json

import numpy as np
import pytest

from support.marks import exhaustive
from support.programs import LIMIT, finish, start, start_workers, wait_for
from support.runs import TINY_RUN

pytestmark = [pytest.mark.slow, pytest.mark.workers]
RUN = [*TINY_RUN, "--dropout=0.2", "--steps=20", "--validate_every=1"]


@pytest.fixture(scope="module", params=["sgd", exhaustive("adam")])
def runs(tmp_path_factory, request):
  """One run on one device, and one of two workers, of which one is killed half-way, and both resumed."""
  one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
  command = [*RUN, f"--optimizer={request.param}"]
  workers = start_workers("train", *command, f"--workdir={two}")
  wait_for(lambda: list((two / "checkpoints").glob("step_0000000[5-9]")), workers[0])
  workers[1].kill()
  survivor = workers[0].communicate(timeout=LIMIT)[0], workers[0].returncode
  workers[1].communicate()
  workers = start_workers("train", *command, f"--workdir={two}")
  single = start("train", *command, f"--workdir={one}", "--strategy=one")
  resumed = [finish(worker) for worker in workers]
  finish(single)
  return one, two, survivor, resumed


def test_the_survivor_of_a_killed_worker_ends_with_a_clear_message(runs):
  out, code = runs[2]
  assert code == 1
  assert out.strip().splitlines()[-1] == (
    "train: error: worker 0 of 2 has lost another one (UnavailableError); the same command on all hosts "
    "goes on from what is saved"
  )


def test_both_workers_go_on_and_only_the_chief_speaks(runs):
  chief, other = runs[3]
  assert "resumed at step " in chief and "devices: 2 in 2 worker(s)" in chief and "wrote " in chief
  assert "model:" not in other and "bits/dim" not in other


def test_two_workers_take_the_same_steps_as_one_device(runs):
  one, two = ([json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()] for path in runs[:2])
  assert [row["step"] for row in two] == list(range(1, 21))
  for a, b in zip(one, two):
    for name in ("bits_per_dim", "val_bits_per_dim"):
      np.testing.assert_allclose(b[name], a[name], rtol=1e-5)
    np.testing.assert_allclose(b["gradient_norm"], a["gradient_norm"], rtol=1e-4)
  assert min(row["gradient_norm"] for row in one) > 1.0  # else nothing was clipped
  import flowpp_tf.training as training  # here: the processes above need no TensorFlow of ours

  for a, b in zip(*(training.Workdir(path).load()[0].get_weights() for path in runs[:2])):
    np.testing.assert_allclose(b, a, rtol=0, atol=1e-5)
