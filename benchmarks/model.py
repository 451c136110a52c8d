"""Time and memory of a model: training step, evaluation, sampling.

python benchmarks/model.py --configs=cifar10 --batches=4,8 --threads=1,2 --output=model.json

A row for each: milliseconds an image, the share of the FLOP/s that this machine's own float32 matrix
product of 2048x2048 reaches on the same threads in the same process, peak memory of the process, seconds
until it was done for the first time. FLOPs are counted from the graph (model_counts.py); a training step
has three times those of an evaluation. Each row has a process of its own. Linux only.
"""

import dataclasses
import os
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# pylint: disable=wrong-import-position
from absl import app
from absl import flags

from processes import forget_peak
from processes import in_new_process
from processes import peak_bytes
from tables import print_table
from tables import write_json

FLAGS = flags.FLAGS
WHAT = ("train", "evaluate", "sample")


@dataclasses.dataclass(frozen=True)
class Case:
  """What is measured in a process."""
  config: str
  what: str
  batch: int
  threads: int
  dtype: str = "float32"
  changes: tuple = ()     # pairs of field and value of the config
  baseline: bool = False  # the straightforward implementation, see baseline.py
  jit: bool = False       # XLA
  repeats: int = 5


def measure(case):
  """The row of a case, as a dict; in a process that has not used TensorFlow."""
  start = time.perf_counter()
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:case.threads])
  import tensorflow as tf  # pylint: disable=import-outside-toplevel
  tf.config.threading.set_intra_op_parallelism_threads(case.threads)
  import flowpp_tf as fpp
  import baseline
  import model_counts

  config = dataclasses.replace(fpp.get_config(case.config), dtype=case.dtype, **dict(case.changes))
  model = (baseline.StraightforwardFlowPlusPlus if case.baseline else fpp.FlowPlusPlus)(config)
  images = tf.random.stateless_uniform(
      [case.batch, *config.image_shape], [0, 1], 0, config.levels, tf.int32)
  images = tf.cast(images, tf.uint8)
  if not case.baseline:  # it would set its weights twice
    model.initialize(images)
  call, forward = _function(model, case, images)
  run = tf.function(call, autograph=False, jit_compile=case.jit)
  run()
  first = time.perf_counter() - start
  run()
  forget_peak()
  rates, times = [_matmul_rate(tf)], []
  for _ in range(case.repeats):
    begin = time.perf_counter()
    run()
    times.append(time.perf_counter() - begin)
  peak = peak_bytes()
  rates.append(_matmul_rate(tf))
  flops = 0 if case.baseline else model_counts.count_flops(
      tf.function(forward, autograph=False).get_concrete_function().graph.get_operations())
  seconds = statistics.median(times) / case.batch
  rate = statistics.mean(rates)
  factor = 3 if case.what == "train" else 1
  return {
      "config": case.config, "what": case.what, "batch": case.batch, "threads": case.threads,
      "dtype": case.dtype, "variant": _variant(case), "ms_image": 1e3 * seconds,
      "matmul_gflops": rate / 1e9, "share_of_matmul": factor * flops / case.batch / seconds / rate,
      "peak_gib": peak / 2**30, "first_s": first}


def _variant(case):
  words = [f"{name}={value}" for name, value in case.changes]
  return " ".join(["baseline"] * case.baseline + ["jit"] * case.jit + words) or "-"


def _function(model, case, images):
  """What is timed, and what its FLOPs are counted from, functions of nothing."""
  import keras  # pylint: disable=import-outside-toplevel
  import tensorflow as tf
  noise = model.sample_noise([case.batch], tf.constant([0, 1]))
  evaluate = lambda: model.log_prob_bound(images, noise=noise, seed=0)
  if case.what == "train":
    model.compile(keras.optimizers.Adam(1e-6), clip_norm=1.0, ema_decay=0.999)
    return lambda: model.train_step(images), evaluate
  if case.what == "sample":
    # The inverse has the networks of the density.
    return (lambda: model.sample(case.batch, seed=0),
            lambda: model.flow.log_prob(tf.cast(images, model.variable_dtype) + 0.5))
  return evaluate, evaluate


def _matmul_rate(tf, size=2048, repeats=5):
  """FLOP/s of the fastest of a few products of two square matrices."""
  a = tf.random.stateless_normal([size, size], [0, 1])
  tf.linalg.matmul(a, a).numpy()
  times = []
  for _ in range(repeats):
    begin = time.perf_counter()
    tf.linalg.matmul(a, a).numpy()
    times.append(time.perf_counter() - begin)
  return 2 * size**3 / min(times)


def define_flags():
  """The script's flags; a function, as other scripts import this file."""
  flags.DEFINE_list("configs", ["cifar10"], "Models.")
  flags.DEFINE_list("what", list(WHAT), f"Any of {', '.join(WHAT)}.")
  flags.DEFINE_list("batches", ["4", "8"], "Images at once.")
  flags.DEFINE_list("threads", ["1", "2"], "Cores.")
  flags.DEFINE_list("dtypes", ["float32"], "Dtype policies of the model.")
  flags.DEFINE_multi_string("change", [], "FIELD=VALUE of the config to change, such as attention=false.")
  flags.DEFINE_bool("baseline", False, "Measure the straightforward implementation too.")
  flags.DEFINE_bool("jit", False, "Compile with XLA.")
  flags.DEFINE_integer("repeats", 5, "Timed runs of each; the median counts.")
  flags.DEFINE_string("output", None, "JSON file to write; none if not given.")


def _value(text):
  return {"true": True, "false": False}.get(text.lower(), int(text) if text.isdecimal() else text)


def main(argv):
  del argv
  changes = tuple((name, _value(value)) for name, _, value in (c.partition("=") for c in FLAGS.change))
  rows = []
  for config in FLAGS.configs:
    for threads in map(int, FLAGS.threads):
      for dtype in FLAGS.dtypes:
        for what in FLAGS.what:
          for batch in map(int, FLAGS.batches):
            for baseline in (False, True)[:1 + FLAGS.baseline]:
              rows.append(in_new_process(measure, Case(
                  config, what, batch, threads, dtype, changes, baseline, FLAGS.jit, FLAGS.repeats)))
              print(rows[-1], file=sys.stderr, flush=True)
  print_table(rows)
  write_json(FLAGS.output, rows)


if __name__ == "__main__":
  define_flags()
  app.run(main)
