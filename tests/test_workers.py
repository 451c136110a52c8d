"""Two processes of one run on loopback: the same steps as one device, and an end without the other."""

import functools
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
COMMAND = [sys.executable, str(ROOT / "bin" / "train"), *(
    "--config=digits --filters=4 --blocks=1 --components=2 --dequant_filters=4 --context_channels=4 "
    "--structure=columns:1 --dequant_structure=columns:1 --dropout=0.2 --batch_size=16 "
    "--steps=20 --validate_every=1 --num_samples=1 --eval_images=4 --tensorboard=").split()]


def start(workdir, tf_config=None, *args):
  env = {**os.environ, "PYTHONPATH": ""}
  if tf_config:
    env["TF_CONFIG"] = json.dumps(tf_config)
  return subprocess.Popen([*COMMAND, f"--workdir={workdir}", *args], text=True, env=env,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def free_addresses(count):
  sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
  addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
  for s in sockets:
    s.close()
  return addresses


def start_two_workers(argument, workdir):
  addresses = free_addresses(2)
  return [start(workdir, {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}}, argument)
          for i in range(2)]


@pytest.fixture(scope="module", params=["sgd", pytest.param("adam", marks=pytest.mark.slow)])
def runs(tmp_path_factory, request):
  """One run on one device, and one of two workers, of which one is killed half-way, and both resumed."""
  one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
  start_two = functools.partial(start_two_workers, f"--optimizer={request.param}")
  workers = start_two(two)
  deadline = time.monotonic() + 300
  while not list((two / "checkpoints").glob("step_0000000[5-9]")) and time.monotonic() < deadline:
    time.sleep(0.05)
  workers[1].kill()
  killed = time.monotonic()
  survivor = workers[0].communicate(timeout=60)[0], workers[0].returncode, time.monotonic() - killed
  workers[1].communicate()
  workers = start_two(two)
  single = start(one, None, "--strategy=one", f"--optimizer={request.param}")
  resumed = [w.communicate(timeout=300)[0] for w in workers]
  out = single.communicate(timeout=300)[0]
  assert [w.returncode for w in (*workers, single)] == [0, 0, 0], "\n".join([*resumed, out])
  return one, two, survivor, resumed


def test_the_survivor_of_a_killed_worker_ends_with_a_clear_message(runs):
  out, code, seconds = runs[2]
  assert code == 1 and seconds < 60
  assert out.strip().splitlines()[-1] == (
      "train: error: worker 0 of 2 has lost another one (UnavailableError); the same command on all hosts "
      "goes on from what is saved")


def test_both_workers_go_on_and_only_the_chief_speaks(runs):
  chief, other = runs[3]
  assert "resumed at step " in chief and "devices: 2 in 2 worker(s)" in chief and "next:" in chief
  assert "model:" not in other and "bits/dim" not in other


def test_two_workers_take_the_same_steps_as_one_device(runs):
  one, two = ([json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
              for path in runs[:2])
  assert [row["step"] for row in two] == list(range(1, 21))
  for a, b in zip(one, two):
    for name in ("bits_per_dim", "val_bits_per_dim"):
      np.testing.assert_allclose(b[name], a[name], rtol=1e-5)
    np.testing.assert_allclose(b["gradient_norm"], a["gradient_norm"], rtol=1e-4)
  assert min(row["gradient_norm"] for row in one) > 1.0  # else nothing was clipped
  import flowpp_tf.training as training  # here: the processes above need no TensorFlow of ours
  for a, b in zip(*(training.Workdir(path).load()[0].get_weights() for path in runs[:2])):
    np.testing.assert_allclose(b, a, rtol=0, atol=1e-5)
