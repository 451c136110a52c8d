"""Attacks, long versions: fuzzed flags, damaged files, a full disk at every write, bombs, a thousand requests.

    pytest --attack=1 -m attack -s tests/hardening/test_attacks.py

Each test prints what it tried and what came of it. A small version of each is in the test of what it attacks.
"""

import collections
import contextlib
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

import keras
import numpy as np
from PIL import Image
import pytest

import convert_imagenet
import flowpp_tf as fpp
from flowpp_tf import data, training
from flowpp_tf.core.errors import InputError
from flowpp_tf.data import load_dataset
from flowpp_tf.evaluation import read_record
from flowpp_tf.exporting import export_saved_model, load_saved_model
from support import hostile_files as hostile
from support.models import TINY, small_images
from support.programs import LIMIT, ROOT, call, finish, start_workers, wait_for
from support.runs import TINY_RUN

pytestmark = [pytest.mark.slow, pytest.mark.attack]
DATA = data.ImageDataset("small", 8, small_images(16, TINY), small_images(8, TINY, 1), small_images(8, TINY, 2))


@pytest.fixture
def rng(request):
  seed = request.config.getoption("--attack")
  return random.Random(seed)


def say(capsys, *words):
  with capsys.disabled():
    print("\n ", *words)


def train(path, steps=4):
  workdir, lines = training.Workdir(path), []
  training.run_training(
    TINY,
    training.TrainingConfig(
      steps=steps, batch_size=8, validate_every=1, checkpoint_every=1, learning_rate=3e-3, tensorboard=()
    ),
    DATA,
    workdir,
    log_fn=lines.append,
  )
  return workdir


def end_state(workdir):
  rows = [{k: v for k, v in row.items() if k not in ("images_per_second", "cpu_seconds")} for row in workdir.rows()]
  weights = [weight.tobytes() for weight in workdir.load()[0].get_weights()]
  return rows, weights, json.loads(workdir.config.read_text())


# --- Flags ----------------------------------------------------------------------------------------

SHORTEST_RUN = [*TINY_RUN, "--heads=1", "--steps=1", "--init_batch_size=16"]
NUMBERS = [
  "nan",
  "inf",
  "-inf",
  "1e400",
  "-1",
  "-0",
  "1e20",
  str(10**20),
  str(2**31),
  str(2**32),
  str(2**63),
  str(2**64),
  "0x10",
  "1_000",
  "",
  " ",
  "1.5",
  "one",
  "٣",
  "1,2",
  "[1]",
  "None",
  "True",
  "1e-400",
  "-2147483649",
  "0.0",
]
TEXTS = [
  "",
  " ",
  "/",
  "..",
  "/dev/null",
  "/dev/zero",
  "/proc/self/mem",
  "a" * 300,
  "a\nb",
  "\udcff",
  "%s%n",
  "~nobody/x",
  "--",
  "'",
  "folder:",
  "npz:/dev/zero",
  "folder:/dev",
  "tfds:",
  "tfds:../..",
  "://",
  "gs://a/b",
  "{}",
  "null",
  "x" * 5000,
  "columns:0",
  "columns:99999",
  "squeeze," * 50,
  "linear:nan@1",
  "cosine:0@-1",
  "0,0,0",
  "1,1,1",
  "-1,-1,-1",
  "9" * 50 + ",1,1",
  "float16",
  "\u202e",
]


@pytest.fixture
def small_disk(tmp_path):
  """A folder on a disk of its own, for programs that may fill it."""
  with disk_of(tmp_path / "disk", 64 << 20):
    yield tmp_path / "disk"


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
  export_saved_model(model, workdir.path / "saved_model" / "1")
  checkpoint, bits = (
    workdir.weights_info(),
    load_saved_model(workdir.path / "saved_model" / "1").bits_per_dim(DATA.test[:2], seed=0).numpy(),
  )
  files = [path for path in sorted(workdir.path.rglob("*")) if path.is_file() and path.name != "run.lock"]
  del checkpoint["sha256"]
  counts = collections.Counter()
  for i in range(1500):
    file = files[i % len(files)]
    good = file.read_bytes()
    file.write_bytes(hostile.damaged(good, rng))
    changed = file.read_bytes() != good
    try:
      if "saved_model" in file.parts:
        loaded = load_saved_model(workdir.path / "saved_model" / "1")
        np.testing.assert_array_equal(loaded.bits_per_dim(DATA.test[:2], seed=0).numpy(), bits)
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


def _restored(workdir):
  import tensorflow as tf

  from flowpp_tf.training.checkpoints import Checkpoints

  state = training.TrainState(fpp.FlowPlusPlus(TINY), training.TrainingConfig(steps=4)) if not _STATE else _STATE[0]
  _STATE[:] = [state]
  kept = Checkpoints(
    workdir.checkpoints,
    2,
    best=tf.Variable(0.0, dtype=tf.float64),
    recorded=tf.Variable(0, dtype=tf.int64),
    **state.trackables(),
  )
  return kept.restore().step


_STATE: list = []


def test_damaged_data_are_refused_or_have_their_shape(rng, tmp_path, capsys):
  """Images in PNG, npz and zip have checksums: they are refused, or as they were. JPEG and WebP have none."""
  good = np.random.RandomState(0).randint(0, 256, [12, 32, 32, 3]).astype(np.uint8)
  folder = tmp_path / "folder"
  folder.mkdir()
  for i, image in enumerate(good):
    Image.fromarray(image).save(folder / f"{i}{('.png', '.jpg', '.webp')[i % 3]}")
  hostile.npz(tmp_path / "a.npz", **dict.fromkeys(data.SPLITS, good[:4]))
  png = (folder / "0.png").read_bytes()
  hostile.tar(tmp_path / "train_32x32.tar", *((hostile.tarfile.TarInfo(f"{i}.png"), png) for i in range(3)))
  with hostile.zipfile.ZipFile(tmp_path / "train_32x32.zip", "w", hostile.zipfile.ZIP_DEFLATED) as archive:
    for i in range(3):
      archive.writestr(f"{i}.png", png)
  names = [f"{i}{('.png', '.jpg', '.webp')[i % 3]}" for i in range(12)]
  splits = {"train": names[:8], "validation": names[8:10], "test": names[10:]}
  (tmp_path / "splits.json").write_text(json.dumps(splits))
  record = {"test": {"images": 1, "bounds": [{"num_samples": 1, "bits_per_dim": 1.0}]}}
  (tmp_path / "evaluation.json").write_text(json.dumps(record))
  whole = load_dataset(f"folder:{folder}", image_shape=(32, 32, 3))
  counts = collections.Counter()
  targets = [(path, "folder") for path in sorted(folder.iterdir())[:6]] + [
    (tmp_path / "a.npz", "npz"),
    (tmp_path / "train_32x32.tar", "tar"),
    (tmp_path / "train_32x32.zip", "zip"),
    (tmp_path / "splits.json", "splits"),
    (tmp_path / "evaluation.json", "evaluation"),
  ]
  for i in range(1000):
    file, kind = targets[i % len(targets)]
    content = file.read_bytes()
    file.write_bytes(hostile.damaged(content, rng))
    try:
      if kind == "folder":
        found = load_dataset(f"folder:{folder}", image_shape=(32, 32, 3))
        same = all(np.array_equal(found.split(name), whole.split(name)) for name in data.SPLITS)
        assert same or file.suffix != ".png", "another image, without a word"
        counts[f"{file.suffix}: the image as it was" if same else f"{file.suffix}: another image (no checksum)"] += 1
      elif kind == "npz":
        found = load_dataset(f"npz:{file}")
        assert all(np.array_equal(found.split(name), good[:4]) for name in data.SPLITS)
        counts["npz: as it was"] += 1
      elif kind in ("tar", "zip"):
        target = convert_imagenet.convert(file)
        found = np.load(target)
        target.unlink()
        assert all(np.array_equal(image, good[0]) for image in found)
        counts[f"{kind}: as it was, {len(found)} of 3 images"] += 1
      elif kind == "splits":
        load_dataset(f"folder:{folder}", image_shape=(32, 32, 3), splits_file=file)
        counts["splits: read"] += 1
      else:
        read_record(file)
        counts["evaluation.json: read"] += 1
    except InputError as error:
      assert file.name in str(error) and "\n" not in str(error)
      counts["refused in one line"] += 1
    file.write_bytes(content)
  say(capsys, f"damaged data: 1000 tried, {dict(counts)}")


# --- A full disk ----------------------------------------------------------------------------------


@contextlib.contextmanager
def disk_of(path, size):
  """A file system of so many bytes at a path of its own; `grow` makes it large."""
  path.mkdir()
  subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)
  try:
    yield lambda: subprocess.run(["mount", "-o", "remount,size=64m", str(path)], check=True)
  finally:
    subprocess.run(["umount", str(path)], check=True)


def test_a_disk_that_is_full_at_any_write_loses_nothing(rng, deterministic, tmp_path, capsys):
  """A run on a disk of each size, then again with room: it ends as the run that always had room."""
  del rng, deterministic
  expected = end_state(train(tmp_path / "whole"))
  used = sum(path.stat().st_blocks * 512 for path in (tmp_path / "whole").rglob("*"))
  counts, sizes = collections.Counter(), np.linspace(4096, 1.4 * used, 60).astype(int) // 4096 * 4096
  for i, size in enumerate(sizes):
    with disk_of(tmp_path / f"disk{i}", size) as grow:
      path = tmp_path / f"disk{i}" / "run"
      try:
        train(path)
        counts["went on to the end"] += 1
      except InputError as error:
        assert "No space left" in str(error)
        counts["refused at the start"] += 1
      grow()
      found = end_state(train(path))
      for row, other in zip(found[0], expected[0], strict=True):  # validation is a sum, which may round otherwise
        assert row.pop("val_bits_per_dim") == pytest.approx(other["val_bits_per_dim"], rel=1e-6)
        assert row == {name: value for name, value in other.items() if name != "val_bits_per_dim"}, size
      assert found[1:] == expected[1:], size
      assert not list(path.rglob(".tmp.*")) and not list(path.rglob(".unfinished.*"))
  say(capsys, f"full disk: {len(sizes)} sizes up to {sizes[-1]:,} bytes, {dict(counts)}; all ended as the whole run")


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

  port = 20_000 + rng.randrange(20_000)
  Image.fromarray(np.full([32, 32], 99, np.uint8)).save(tmp_path / "a.png")
  keras.utils.set_random_seed(0)
  process = subprocess.Popen(
    [sys.executable, str(ROOT / "bin" / "demo"), "--preset=digits", f"--port={port}", "--num_samples=2"],
    stdout=subprocess.PIPE,
    text=True,
    cwd=tmp_path,
    env={**os.environ, "PYTHONPATH": ""},
  )
  try:
    assert process.stdout.readline().startswith("the page is at")
    client = Client(f"http://127.0.0.1:{port}", verbose=False, download_files=False)
    memory = lambda: (
      int(
        next(
          line
          for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines()
          if line.startswith("VmRSS")
        ).split()[1]
      )
      // 1024
    )
    curve = []
    for i in range(1000):
      if i % 3 == 0:
        client.predict(rng.randrange(1, 100), 1.0, rng.randrange(1000), api_name="/sample")
      elif i % 3 == 1:
        client.predict(handle_file(str(tmp_path / "a.png")), api_name="/score")
      else:
        file = handle_file(str(tmp_path / "a.png"))
        client.predict(file, file, rng.randrange(2, 32), api_name="/interpolate")
      if i % 100 == 99:
        curve.append(memory())
    say(capsys, f"the page, 1000 requests: MiB after each 100: {curve}")
    assert curve[-1] <= 1.05 * curve[1]
  finally:
    process.terminate()
    code = process.wait(60)
    process.stdout.close()
    client.close()
  assert code == 0


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
