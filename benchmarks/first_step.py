"""Time a training from the command to its first finished step, and where that time goes.

python benchmarks/first_step.py --config=cifar10 --batch_size=4 --output=first_step.json

Runs bin/train as a user does, on random images of the model's shape, and stops it after the first step. The
parts are the times at which it prints its lines: model and data are built, weights initialised by the data,
the step traced and taken. Its imports are timed beforehand, in a process of their own. Linux only.
"""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from absl import app, flags
import numpy as np

from processes import busy_seconds, limit_cores
from tables import print_table, write_json

ROOT = pathlib.Path(__file__).resolve().parent.parent
FLAGS = flags.FLAGS
# What the line begins with that ends a part.
PARTS = {"build_s": "versions: ", "initialise_s": "initialised ", "first_step_s": "first step"}


def import_seconds():
  """Return the seconds of a process that imports what bin/train does."""
  start = time.perf_counter()
  code = "from flowpp_tf.programs.imports import import_tensorflow; import_tensorflow()"
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
  return time.perf_counter() - start


def train_command(root, config, data, workdir, batch_size, init_batch_size):
  """Return the command that trains a config of the version in `root` on `write_images`."""
  return [
    sys.executable,
    f"{root}/bin/train",
    f"--config={config}",
    f"--dataset=npz:{data}",
    f"--workdir={workdir}",
    f"--batch_size={batch_size}",
    f"--init_batch_size={init_batch_size}",
    "--steps=1000",
    "--validate_every=1000",
  ]


def arrivals(command, parts):
  """Run a command until it has printed the line that ends each part; then kill it.

  Args:
    command: its arguments.
    parts: what the lines begin with, by name.

  Returns:
    Seconds from the start to each line, by name, and what the process took, as `Turns.end` says it.

  Raises:
    RuntimeError: if it ends before, with what it printed.
  """
  found, printed = {}, []
  start, busy = time.perf_counter(), busy_seconds()
  with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
    try:
      for line in process.stdout:
        printed.append(line)
        for name, beginning in parts.items():
          if line.startswith(beginning):
            found[name] = time.perf_counter() - start
        if len(found) == len(parts):
          break
      seconds, busy = time.perf_counter() - start, busy_seconds() - busy
    finally:  # of Ctrl-C too
      os.kill(process.pid, signal.SIGKILL)  # `process.kill` would reap one that has ended, and with it what it took
      _, process.returncode, of = os.wait4(process.pid, 0)
  if len(found) < len(parts):
    raise RuntimeError(f"{' '.join(command)} ended before its first step:\n{''.join(printed)[-3000:]}")
  cpu = of.ru_utime + of.ru_stime
  others = max(0.0, busy - cpu) / seconds
  return found, dict(seconds=seconds, cpu_s=cpu, peak_bytes=1024 * of.ru_maxrss, others=others)


def measure(config, batch_size, init_batch_size, threads):
  """Return the row of a config, as a dict."""
  limit_cores(threads)  # of the commands too
  imported = import_seconds()
  with tempfile.TemporaryDirectory() as folder:
    data = pathlib.Path(folder) / "images.npz"
    write_images(data, config, init_batch_size)
    found, _ = arrivals(train_command(ROOT, config, data, f"{folder}/run", batch_size, init_batch_size), PARTS)
  lengths = np.diff([0, imported, *found.values()]).tolist()
  return dict(
    config=config,
    batch=batch_size,
    init_batch=init_batch_size,
    threads=threads,
    total_s=found["first_step_s"],
    **dict(zip(["import_s", *PARTS], lengths)),
  )


def write_images(path, config, count):
  """Write random images for a config, as `--dataset=npz:` takes them."""
  sys.path.insert(0, str(ROOT))
  import flowpp_tf as fpp

  config = fpp.get_config(config)
  rng = np.random.RandomState(0)
  np.savez(
    path,
    **{
      split: rng.randint(0, config.levels, [size, *config.image_shape]).astype(np.uint8)
      for split, size in dict(train=count, validation=4, test=4).items()
    },
  )


def define_flags():
  """Define the script's flags; a function, as in the other scripts."""
  flags.DEFINE_string("config", "cifar10", "Model.")
  flags.DEFINE_integer("batch_size", 4, "Images of a step.")
  flags.DEFINE_integer("init_batch_size", 128, "Images of the initialisation.")
  flags.DEFINE_integer("threads", 2, "Cores.")
  flags.DEFINE_string("output", None, "JSON file to write; none if not given.")


def main(argv):
  del argv
  rows = [measure(FLAGS.config, FLAGS.batch_size, FLAGS.init_batch_size, FLAGS.threads)]
  print_table(rows)
  write_json(FLAGS.output, rows)


if __name__ == "__main__":
  define_flags()
  app.run(main)
