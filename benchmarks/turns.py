"""This version beside another one: training step, evaluation, sampling, each in turn with the other's.

git worktree add /tmp/before COMMIT
python benchmarks/turns.py --other=/tmp/before --output=turns.json

Times of one machine drift by tens of percent, in minutes. So each case has two processes, one of each version, which
take turns: `ratio` is that of the medians, `spread` that of our slowest turn less the fastest, of the median. The other
version computes in float32 and does not split the batch; ours has a lane for each core. `peak_gib` is the peak resident
memory of a process from its start, the initialisation on one batch included. Linux only.
"""

import os
import statistics
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags

from processes import peak_bytes
from tables import print_table, write_json

FLAGS = flags.FLAGS
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CASES = (
  "cifar10 train 4 2 float32",
  "cifar10 train 8 2 float32",
  "cifar10 train 4 2 bfloat16",
  "cifar10 train 4 1 float32",
  "cifar10 train 4 1 bfloat16",
  "cifar10 evaluate 4 2 float32",
  "cifar10 evaluate 8 2 float32",
  "cifar10 evaluate 4 2 bfloat16",
  "cifar10 sample 4 2 float32",
  "cifar10 sample 8 2 float32",
  "digits train 64 2 float32",
  "photos train 32 2 float32",
  "photos train 32 2 bfloat16",
  "photos:28,28,1 train 32 2 float32",
  "photos:28,28,1 train 32 2 bfloat16",
)


def serve(root, config, what, batch, threads, precision):
  """Build the case of a version; then, for each line on stdin, run it once and print seconds and peak bytes."""
  sys.path.insert(0, root)
  batch, threads = int(batch), int(threads)
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
  import dataclasses
  import time

  import tensorflow as tf

  import flowpp_tf as fpp
  from flowpp_tf.training import TrainingConfig, TrainState, train_step

  in_lanes = lambda function, *tensors: function(*tensors)
  if root == ROOT:
    from flowpp_tf.core import lanes

    lanes.use_cpu_lanes(threads)
    in_lanes = lanes.in_lanes
  tf.config.threading.set_intra_op_parallelism_threads(1 if root == ROOT else threads)
  name, _, size = config.partition(":")  # such as photos:28,28,1
  changes = {"image_shape": tuple(map(int, size.split(",")))} if size else {}
  model = fpp.FlowPlusPlus(
    dataclasses.replace(
      fpp.get_config(name), dtype={"float32": "float32", "bfloat16": "mixed_bfloat16"}[precision], **changes
    )
  )
  shape = [batch, *model.config.image_shape]
  images = tf.cast(tf.random.stateless_uniform(shape, [0, 1], 0, model.config.levels, tf.int32), tf.uint8)
  model.initialize(images)
  if what == "train":
    state = TrainState(model, TrainingConfig(steps=1, learning_rate=1e-6))

    def call():
      train_step(state, images)
      return state.optimizer.iterations.value.read_value()
  elif what == "sample":
    call = lambda: in_lanes(model.decode, model.sample_latents(batch, seed=0))
  else:
    noise = model.sample_noise([batch], tf.constant([0, 1]))
    call = lambda: in_lanes(lambda images, noise: model.log_prob_bound(images, noise=noise, seed=0), images, noise)
  run = tf.function(call, autograph=False)
  run(), run()
  print("ready", flush=True)
  for _ in sys.stdin:
    start = time.perf_counter()
    run().numpy()
    print(time.perf_counter() - start, peak_bytes(), flush=True)


def measure(case, other, rounds):
  """The row of a case, as a dict."""
  config, what, batch, threads, precision = case.split()

  def start(root, precision):
    process = subprocess.Popen(
      [sys.executable, __file__, "--serve", root, config, what, batch, threads, precision],
      text=True,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
    )
    if process.stdout.readline().strip() != "ready":
      raise RuntimeError(f"{case} of {root} ended before its first turn")
    return process

  processes = [start(other, "float32"), start(ROOT, precision)]
  seconds, peaks = [[], []], [0, 0]
  try:
    for _ in range(rounds):
      for i, process in enumerate(processes):
        process.stdin.write("\n")
        process.stdin.flush()
        time, peak = process.stdout.readline().split()
        seconds[i].append(float(time))
        peaks[i] = int(peak)
  finally:
    for process in processes:
      process.kill()
  before, now = map(statistics.median, seconds)
  row = dict(
    config=config,
    what=what,
    batch=int(batch),
    threads=int(threads),
    precision=precision,
    before_ms_image=1e3 * before / int(batch),
    ms_image=1e3 * now / int(batch),
    ratio=now / before,
    spread_percent=100 * (max(seconds[1]) - min(seconds[1])) / now,
    before_peak_gib=peaks[0] / 2**30,
    peak_gib=peaks[1] / 2**30,
  )
  print(row, file=sys.stderr, flush=True)
  return row


def define_flags():
  """The script's flags; a function, as in the other scripts."""
  flags.DEFINE_string("other", None, "Folder with a checkout of the other version.", required=True)
  flags.DEFINE_multi_string("case", list(CASES), "Config, what, batch, cores, precision. May be given several times.")
  flags.DEFINE_integer("rounds", 7, "Turns of each.")
  flags.DEFINE_string("output", None, "JSON file to write; none if not given.")


def main(argv):
  del argv
  rows = [measure(case, os.path.abspath(FLAGS.other), FLAGS.rounds) for case in FLAGS.case]
  print_table(rows)
  write_json(FLAGS.output, rows)


if __name__ == "__main__":
  if sys.argv[1:2] == ["--serve"]:
    serve(*sys.argv[2:])
  else:
    define_flags()
    app.run(main)
