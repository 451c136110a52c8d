"""Measure time and memory of a model: training step, evaluation, sampling.

python benchmarks/model.py --configs=cifar10 --batches=4,8 --threads=1,2 --output=model.json
python benchmarks/model.py --configs=cifar10 --variant=plain --variant=baseline --precision=float32,bfloat16

A row for each, in a process of its own:
- milliseconds per image, the median of the timed rounds, and their spread: the slowest minus the fastest, relative to
  the median;
- peak memory of the process, and of the tensors that the run makes, by TensorFlow's allocator, which does not count
  those of less than 256 KiB on a CPU;
- seconds from nothing imported until it was done for the first time.
Linux only.
"""

import ast
import dataclasses
import itertools
import math
import os
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as programs do, before TensorFlow is imported
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from absl import app, flags

from processes import forget_peak, in_new_process, limit_cores, peak_bytes
from tables import print_table, write_json

FLAGS = flags.FLAGS
WHAT = ("train", "evaluate", "sample")
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
PROCESS = ("cpu_splits", "jit")
_SHORTEST_ROUND = 0.2  # seconds


@dataclasses.dataclass(frozen=True)
class Case:
  """What is measured in a process."""

  config: str
  what: str  # of WHAT
  batch: int
  threads: int
  precision: str = "float32"  # of PRECISIONS
  variant: str = "plain"  # words: plain, baseline (see baseline.py), FIELD=VALUE, cpu_splits=, jit=
  repeats: int = 5

  @property
  def words(self):
    return [word for word in self.variant.split() if "=" not in word]

  @property
  def changes(self):
    """Fields of the config that the variant sets."""
    return {name: value for name, value in self._pairs.items() if name not in PROCESS}

  @property
  def process(self):
    """What the variant sets for the process: lanes of the CPU, those of bin/train if not given; what XLA compiles."""
    given = {name: value for name, value in self._pairs.items() if name in PROCESS}
    return {"cpu_splits": 1 if "baseline" in self.words else 0, "jit": "off", **given}

  @property
  def _pairs(self):
    pairs = (word.partition("=") for word in self.variant.split() if "=" in word)
    return {name: _value(text) for name, _, text in pairs}


def _value(text):
  """Return a field's value: true, false, a number, numbers with commas, or the text itself."""
  try:
    return ast.literal_eval(text.title() if text in ("true", "false") else text)
  except (ValueError, SyntaxError):
    return text


def start_tensorflow(threads, cpu_splits=1, jit="off", batch_size=None):
  """Limit this process, which has not used TensorFlow, to so many cores, and splits batches over them."""
  limit_cores(threads)
  import tensorflow as tf

  from flowpp_tf.core import lanes, tracing

  tf.config.threading.set_intra_op_parallelism_threads(threads)
  lanes.use_cpu_lanes(cpu_splits, batch_size)  # gives each lane its share of the threads
  tracing.set_jit(jit)


def build(case):
  """Return what a case measures, as a `tf.function` of nothing, with a model initialised on its images."""
  import keras
  import tensorflow as tf

  import flowpp_tf as fpp
  from flowpp_tf.core.lanes import concat_shards
  from flowpp_tf.training import TrainingConfig, TrainState, train_step

  unknown = set(case.words) - {"plain", "baseline"}
  if unknown:
    raise ValueError(f"a variant has words plain, baseline and FIELD=VALUE, got {case.variant!r}")
  config = dataclasses.replace(fpp.get_config(case.config), dtype=PRECISIONS[case.precision], **case.changes)
  images = tf.cast(
    tf.random.stateless_uniform([case.batch, *config.image_shape], [0, 1], 0, config.levels, tf.int32), tf.uint8
  )
  if "baseline" in case.words:
    import baseline  # here, as race.py also builds versions that it does not fit

    model = baseline.StraightforwardFlowPlusPlus(config)  # not initialised: it would set weights twice
  else:
    model = fpp.FlowPlusPlus(config)
    model.initialize(images)
  if case.what == "train":
    if "baseline" in case.words:  # the update as Keras writes it
      model.compile(keras.optimizers.Adam(1e-6, global_clipnorm=1.0, use_ema=True))
      call = lambda: model.train_step(images)
    else:
      state = TrainState(model, TrainingConfig(steps=1, learning_rate=1e-6))

      def call():
        train_step(state, images)
        return state.optimizer.iterations.value.read_value()  # what is waited for
  elif case.what == "sample":
    call = lambda: concat_shards(model.decode, model.sample_latents(case.batch, seed=0))
  else:
    noise = model.sample_noise([case.batch], tf.constant([0, 1]))
    call = lambda: concat_shards(lambda images, noise: model.log_prob_bound(images, noise=noise, seed=0), images, noise)
  return tf.function(call, autograph=False)


def measure(case):
  """Return the row of a case, as a dict; in a process that has not used TensorFlow."""
  start = time.perf_counter()
  start_tensorflow(case.threads, batch_size=case.batch, **case.process)
  run = build(case)
  run()
  first = time.perf_counter() - start
  start = time.perf_counter()
  peak, tensors = memory_of(run)
  calls = max(1, math.ceil(_SHORTEST_ROUND / (time.perf_counter() - start)))
  runs = [seconds_of(run, calls) for _ in range(case.repeats)]
  seconds = statistics.median(runs)
  kind = {name: value for name, value in dataclasses.asdict(case).items() if name != "repeats"}
  return kind | dict(
    ms_image=1e3 * seconds / case.batch,
    spread_percent=100 * (max(runs) - min(runs)) / seconds,
    peak_gib=peak / 2**30,
    tensors_gib=tensors / 2**30,
    first_s=first,
  )


def memory_of(run):
  """Return the bytes at their peak while `run()` runs: resident memory of this process, or a GPU's; tensors it makes.

  The allocator keeps memory for later runs, so the process has most of it before.
  """
  import tensorflow as tf

  device = "GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0"
  in_use = lambda: tf.config.experimental.get_memory_info(device)
  tf.config.experimental.reset_memory_stats(device)
  before = in_use()["current"]
  forget_peak()
  run()
  peak = in_use()["peak"]
  return peak if device == "GPU:0" else peak_bytes(), peak - before


def seconds_of(run, calls=1):
  """Return the seconds of a call, the mean of so many."""
  import tensorflow as tf

  start = time.perf_counter()
  for _ in range(calls):
    tf.nest.map_structure(lambda t: t.numpy(), run())
  return (time.perf_counter() - start) / calls


def row(case):
  """Return the row of a case, as a dict."""
  result = in_new_process(measure, case)
  print(result, file=sys.stderr, flush=True)
  return result


def define_flags():
  """Define the script's flags; a function, as other scripts import this file."""
  flags.DEFINE_list("configs", ["cifar10"], "Models.")
  flags.DEFINE_list("what", list(WHAT), f"Any of {', '.join(WHAT)}.")
  flags.DEFINE_list("batches", ["4", "8"], "Images at once.")
  flags.DEFINE_list("threads", ["1", "2"], "Cores.")
  flags.DEFINE_list("precision", ["float32"], f"Of the networks, any of {', '.join(PRECISIONS)}.")
  flags.DEFINE_multi_string(
    "variant",
    ["plain"],
    "Words: plain; baseline, the straightforward implementation; FIELD=VALUE, of the config, such as remat=blocks; "
    "cpu_splits=N and jit=WHAT, as of the programs. May be given several times.",
  )
  flags.DEFINE_integer("repeats", 5, "Timed rounds of each; the median counts.")
  flags.DEFINE_string("output", None, "JSON file to write; none if not given.")


def main(argv):
  del argv
  rows = [
    row(Case(config, what, batch, threads, precision, variant, FLAGS.repeats))
    for config, threads, what, batch, precision, variant in itertools.product(
      FLAGS.configs, map(int, FLAGS.threads), FLAGS.what, map(int, FLAGS.batches), FLAGS.precision, FLAGS.variant
    )
  ]
  print_table(rows)
  write_json(FLAGS.output, rows)


if __name__ == "__main__":
  define_flags()
  app.run(main)
