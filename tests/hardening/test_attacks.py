"""Attacks, long versions: fuzzed flags, damaged files of a run, bombs, a thousand requests, killed workers.

    pytest --attack=1 -m attack -s tests/hardening/test_attacks.py

Each test prints what it tried and what came of it. A small version of each is in the test of what it attacks. Damaged
images, archives and descriptions are what test_fuzz.py makes; a disk that is full at any write is in test_faults.py.
"""

import collections
import functools
import json
import pathlib
import random
import re
import shutil
import subprocess
import sys
import time

import numpy as np
from PIL import Image
import pytest

import flowpp_tf as fpp
from flowpp_tf import data, training
from flowpp_tf.core.errors import InputError
from flowpp_tf.exporting import export, load_saved_model
from hardening.mutations import mutate_bytes
from support import hostile_files as hostile
from support.models import TINY, small_images
from support.programs import LIMIT, ROOT, call, finish, served, start_workers, wait_for
from support.runs import TINY_RUN
from support.training_steps import small_run, without_times

pytestmark = [pytest.mark.slow, pytest.mark.attack]


@pytest.fixture
def rng(request):
  seed = request.config.getoption("--attack")
  return random.Random(seed)


def say(capsys, *words):
  with capsys.disabled():
    print("\n ", *words)


def train(path, steps=4):
  return small_run(path, TINY, steps=steps, checkpoint_every=1)[0]


def end_state(workdir):
  weights = [weight.tobytes() for weight in workdir.load()[0].get_weights()]
  return without_times(workdir.rows()), weights, json.loads(workdir.config.read_text())


# --- Flags ----------------------------------------------------------------------------------------

SHORTEST_RUN = [*TINY_RUN, "--heads=1", "--steps=1", "--init_batch_size=16"]
NUMBERS = ["", " ", str(10**20), *(str(2**bits) for bits in (31, 32, 63, 64)), "\u0663", "1,2", "[1]", "None", "True"]
NUMBERS += "nan inf -inf 1e400 -1 -0 1e20 0x10 1_000 1.5 one 1e-400 -2147483649 0.0".split()
TEXTS = ["", " ", "a\nb", "\udcff", "\u202e", "a" * 300, "x" * 5000, "squeeze," * 50, "9" * 50 + ",1,1", "~nobody/x"]
TEXTS += "/ .. /dev/null /dev/zero /proc/self/mem %s%n -- ' :// gs://a/b {} null float16 0,0,0 1,1,1 -1,-1,-1".split()
TEXTS += "folder: folder:/dev npz:/dev/zero tfds: tfds:../.. columns:0 columns:99999 linear:nan@1 cosine:0@-1".split()


@pytest.fixture
def small_disk(tmp_path):
  """A folder on a disk of its own, for programs that may fill it."""
  path = tmp_path / "disk"
  path.mkdir()
  subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={64 << 20}", "tmpfs", str(path)], check=True)
  yield path
  subprocess.run(["umount", str(path)], check=True)


def test_fuzzed_flags_end_in_one_line(rng, small_disk, capsys):
  """A value is used or refused: an exception of any other kind is raised by `call`, and fails the test."""
  tmp_path = small_disk
  assert call("train", *SHORTEST_RUN, "--workdir=run", cwd=tmp_path).code == 0
  programs = {
    "train": [*SHORTEST_RUN],
    "evaluate": ["--workdir=run", "--limit=4"],
    "sample": ["--workdir=run", "--n=1"],
    "score": ["--workdir=run", "--limit=2", "--num_samples=1"],
    "compress": ["--workdir=run", "--limit=2", "--estimate"],
    "decompress": ["nothing.fpp", "--list"],
    "export": ["--workdir=/nowhere"],
    "demo": ["--workdir=/nowhere"],
  }
  names = {name: _flags_of(name, tmp_path) for name in programs}
  tried, codes = 0, collections.Counter()
  while tried < 1000:
    program = rng.choice(["train"] * 5 + [*programs])
    name = rng.choice(names[program])
    value = rng.choice(NUMBERS if rng.random() < 0.6 else TEXTS)
    if name in ("strategy", "tpu", "num_virtual_cpus", "jit", "deterministic", "flagfile", "port", "host"):
      continue  # these change the process of the tests
    arguments = [*programs[program], f"--workdir=w{tried}" if program == "train" else "", f"--{name}={value}"]
    try:
      result = call(program, *filter(None, arguments), cwd=tmp_path)
    except Exception as error:
      pytest.fail(f"{program} --{name}={value!r}: {type(error).__name__}: {error}")
    errors = [line for line in result.error.splitlines() if ": error: " in line]
    assert result.code in (0, 1, 2) and len(errors) == (result.code != 0), (program, name, value, result)
    codes[result.code] += 1
    tried += 1
    if tried % 100 == 0:
      say(capsys, tried, dict(codes))
    shutil.rmtree(tmp_path / f"w{tried - 1}", ignore_errors=True)
  say(
    capsys,
    f"fuzzed flags: {tried} tried, {codes[2]} refused in one line, {codes[1]} in one line of the system, "
    f"{codes[0]} used, no traceback",
  )


def _flags_of(program, cwd):
  text = call(program, "--helpfull", cwd=cwd).out
  return [
    line.split("--", 1)[1].split(":")[0].removeprefix("[no]") for line in text.splitlines() if line.startswith("  --")
  ]


# --- Damaged files --------------------------------------------------------------------------------


def same_weights(a, b):
  return all(np.array_equal(x, y) for x, y in zip(a.get_weights(), b.get_weights(), strict=True))


def test_damaged_files_are_refused_or_do_no_harm(rng, tmp_path, capsys):
  """Whatever is read from a damaged file of a run or of a SavedModel is what it was, or an `InputError`."""
  workdir = train(tmp_path / "run")
  model, settings = workdir.load()
  export(model, workdir.path / "saved_model" / "1")
  checkpoint = workdir.weights_info()
  bits = load_saved_model(workdir.path / "saved_model" / "1").bits_per_dim(small_images(2), seed=0).numpy()
  files = [path for path in sorted(workdir.path.rglob("*")) if path.is_file() and path.name != "run.lock"]
  del checkpoint["sha256"]
  counts = collections.Counter()
  for i in range(1500):
    file = files[i % len(files)]
    good = file.read_bytes()
    file.write_bytes(mutate_bytes(good, rng))
    changed = file.read_bytes() != good
    try:
      if "saved_model" in file.parts:
        loaded = load_saved_model(workdir.path / "saved_model" / "1")
        np.testing.assert_array_equal(loaded.bits_per_dim(small_images(2), seed=0).numpy(), bits)
      elif "checkpoints" in file.parts:
        state = _restored(workdir)
        assert state in (3, 4)
      else:
        again = training.Workdir(workdir.path)
        read, found = again.load()
        about = again.weights_info()
        del about["sha256"]  # of the file, whose padding may be damaged
        assert same_weights(read, model) and about == checkpoint
        if file.name == "config.json" and found != settings:
          try:
            train(workdir.path)
            counts["a description in config.json that reads well: written again on resume"] += 1
            assert file.read_bytes() == good
          except InputError:
            counts["a setting of config.json that reads well: found on resume"] += 1
      counts["harmless" if changed else "unchanged"] += 1
    except InputError:
      counts["refused"] += 1
    file.write_bytes(good)
  say(capsys, f"damaged files of a run: 1500 tried, {dict(counts)}")


@functools.cache
def _state():
  return training.TrainState(fpp.FlowPlusPlus(TINY), training.TrainingConfig(steps=4))


def _restored(workdir):
  import tensorflow as tf

  from flowpp_tf.training.checkpoints import Checkpoints

  kept = Checkpoints(
    workdir.checkpoints,
    2,
    best=tf.Variable(0.0, dtype=tf.float64),
    recorded=tf.Variable(0, dtype=tf.int64),
    **_state().trackables(),
  )
  return kept.restore().step


# --- Memory ---------------------------------------------------------------------------------------


def peak(*arguments):
  """Peak memory of a program in MiB, its exit code, and its last line."""
  code = (
    "import resource, subprocess, sys; r = subprocess.run(sys.argv[1:], capture_output=True, text=True); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024, r.returncode, "
    "(r.stderr or r.stdout).strip().splitlines()[-1][-160:])"
  )
  out = subprocess.run(
    [sys.executable, "-c", code, sys.executable, *map(str, arguments)],
    text=True,
    check=True,
    capture_output=True,
    timeout=LIMIT,
  ).stdout
  memory, exit_code, line = out.split(" ", 2)
  return int(memory), int(exit_code), line.strip()


def test_bombs_take_less_than_a_gigabyte_more(rng, tmp_path, capsys):
  del rng
  good = tmp_path / "good"
  good.mkdir()
  for i in range(4):
    Image.fromarray(np.full([32, 32, 3], i, np.uint8)).save(good / f"{i}.png")
  score = [
    ROOT / "bin" / "score",
    "--preset=photos",
    "--num_samples=1",
    "--typical_images=2",
    f"--output={tmp_path}/o.csv",
  ]
  train_on = [ROOT / "bin" / "train", "--config=photos", "--steps=1"]
  usual, code, _ = peak(*score, f"--images={good}")
  assert code == 0
  bombs = tmp_path / "bombs"
  bombs.mkdir()
  (bombs / "rgb.png").write_bytes(hostile.png(13_000, 13_000))
  (bombs / "largest.png").write_bytes(hostile.png(8_000, 7_990, colour=6))
  (bombs / "deep.png").write_bytes(hostile.png(7_900, 7_900, depth=16))
  Image.new("1", (20_000, 20_000)).save(bombs / "bits.png")
  Image.new("RGB", (7_990, 7_990)).save(bombs / "large.jpg", quality=1)
  hostile.npz(tmp_path / "bomb.npz", **dict.fromkeys(data.SPLITS, bytes(1 << 30)))
  hostile.npz(tmp_path / "claims.npz", **dict.fromkeys(data.SPLITS, hostile.npy_header((1 << 40, 32, 32, 3))))
  results = {"score, good images": (usual, 0, "")}
  results["score, five bombs"] = peak(*score, f"--images={bombs}")
  for name in ("bomb", "claims"):
    results[f"train on {name}.npz"] = peak(*train_on, f"--dataset=npz:{tmp_path}/{name}.npz", f"--workdir={tmp_path}/w")
  results["train on a folder of bombs"] = peak(*train_on, f"--dataset=folder:{bombs}", f"--workdir={tmp_path}/w")
  for name, (memory, code, line) in results.items():
    say(capsys, f"{name}: peak {memory} MiB, {memory - usual:+d}; exit code {code} {line}")
  assert all(memory < usual + 1000 and code in (0, 2) for memory, code, _ in results.values())


# --- The page -------------------------------------------------------------------------------------


def test_a_thousand_requests_leave_the_memory_flat(rng, tmp_path, capsys):
  from gradio_client import Client, handle_file

  Image.fromarray(np.full([32, 32], 99, np.uint8)).save(tmp_path / "a.png")
  with served("--preset=digits", "--num_samples=2", cwd=tmp_path, stderr=subprocess.DEVNULL) as (url, process):
    client, curve = Client(url, verbose=False, download_files=False), []
    for i in range(1000):
      if i % 3 == 0:
        client.predict(rng.randrange(1, 100), 1.0, rng.randrange(1000), api_name="/sample")
      elif i % 3 == 1:
        client.predict(handle_file(str(tmp_path / "a.png")), api_name="/score")
      else:
        file = handle_file(str(tmp_path / "a.png"))
        client.predict(file, file, rng.randrange(2, 32), api_name="/interpolate")
      if i % 100 == 99:
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        curve.append(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024)
    client.close()
    say(capsys, f"the page, 1000 requests: MiB after each 100: {curve}")
    assert curve[-1] <= 1.05 * curve[1]
    process.terminate()
    assert process.wait(60) == 0


# --- Two workers ----------------------------------------------------------------------------------


def test_workers_of_which_one_is_killed_again_and_again_end_as_the_run_that_was_not(rng, tmp_path, capsys, request):
  """Both workers start again each time, from the newest checkpoint, and end with the same weights to the last bit."""
  kills = max(5, request.config.getoption("--kills"))

  def start_both(path):
    return start_workers(
      "train",
      *TINY_RUN,
      "--dropout=0.2",
      f"--steps={4 * kills}",
      "--validate_every=1",
      "--optimizer=sgd",
      "--deterministic",
      "--checkpoint_every=1",
      f"--workdir={path}",
    )

  for worker in start_both(tmp_path / "whole"):
    finish(worker)
  for kill in range(kills):
    workers, victim = start_both(tmp_path / "killed"), kill % 2  # the chief first
    if kill:
      time.sleep(rng.uniform(0, 20))
    else:
      wait_for(lambda: list((tmp_path / "killed" / "checkpoints").glob("step_*")), workers[0])
    workers[victim].kill()
    outs = [worker.communicate(timeout=LIMIT)[0] for worker in workers]
    assert workers[1 - victim].returncode in (0, 1), outs[1 - victim]
    assert "Traceback" not in outs[1 - victim], outs[1 - victim]
  for worker in start_both(tmp_path / "killed"):
    finish(worker)
  whole, killed = (end_state(training.Workdir(tmp_path / name)) for name in ("whole", "killed"))
  assert whole[1:] == killed[1:]
  say(
    capsys, f"one of two workers killed {kills} times: the weights are those of the run that was not, to the last bit"
  )
