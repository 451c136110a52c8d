"""Where the time goes: kernels by what they are for, by TensorFlow's profiler.

python benchmarks/kernels.py --config=cifar10 --what=train --batch=4 --output=kernels.json

A table for each of `--what`, on one core, one kernel after the other: the share of the time of the profiled
run, its milliseconds an image, how many kernels, and for products the GFLOP/s that they reach and the
share of those of a matrix product of 2048x2048.
"""

import collections
import dataclasses
import pathlib
import re
import sys
import tempfile
import time

from absl import app, flags

from model import PRECISIONS, WHAT, Case, build, matmul_of_squares, seconds_of, start_tensorflow
from processes import in_new_process
from tables import print_table, write_json

FLAGS = flags.FLAGS

# What kernels are for: the first pattern that is found in NAME:TYPE counts.
PURPOSES = (
  ("update of the weights", r"(^|/)(cond/then|adam)/|global_norm|:Assign|:ResourceApply"),
  ("inverse of the mixtures", r"logit_mixture_logistic_cdf/inverse"),
  ("invertible 1x1 convolutions", r"invertible_conv.*:.*(MatMul|Einsum|Qr|Matrix)"),
  ("attention products", r":.*(BatchMatMul|Einsum)"),
  ("1x1 layers", r"/pointwise(_\d+)?/.*:.*Conv2D|:.*MatMul"),
  ("3x3 convolutions", r":.*Conv2D"),
  ("softmax", r":.*Softmax"),
  ("random numbers", r":.*Random"),
  ("copies", r":.*(Concat|Pack|Pad|Slice|Split|Tile|Transpose|BroadcastTo|Gather)"),
  ("sums", r":.*(Sum|Mean|Max|Min|Prod|AddN|BiasAddGrad|All|Any)$"),
  ("elementwise", ""),
)
BETWEEN = "between kernels"

_KERNEL = re.compile(r"[^:]+:\w+")  # other events have no colon, or two


@dataclasses.dataclass(frozen=True)
class Kernel:
  """A kernel that was run: `NAME:TYPE` of its operation, seconds without those of kernels within."""

  name: str
  seconds: float


def purpose(name):
  """What a `NAME:TYPE` is for."""
  return next(what for what, pattern in PURPOSES if re.search(pattern, name))


def profiled(run):
  """The `Kernel`s of a call, and the seconds that it took, with the profiler's own."""
  space, seconds = profile_of(run)
  kernels = []
  for plane in space.planes:
    for line in plane.lines:
      kernels += _own_times(
        [
          (event.offset_ps, event.offset_ps + event.duration_ps, name)
          for event in line.events
          if _KERNEL.fullmatch(name := plane.event_metadata[event.metadata_id].name)
        ]
      )
  return kernels, seconds


def profile_of(run):
  """What TensorFlow's profiler saw of a call, as an `XSpace`, and the seconds that it took."""
  import tensorflow as tf
  from tensorflow.tsl.profiler.protobuf import xplane_pb2

  with tempfile.TemporaryDirectory() as folder:
    tf.profiler.experimental.start(folder)
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    tf.profiler.experimental.stop()
    return xplane_pb2.XSpace.FromString(next(pathlib.Path(folder).rglob("*.xplane.pb")).read_bytes()), seconds


def gpu_kernels(space):
  """Return `(number, seconds)` of the kernels on GPUs in an `XSpace`; copies to and from memory are none."""
  durations = [
    event.duration_ps
    for plane in space.planes
    if plane.name.startswith("/device:GPU")
    for line in plane.lines
    if line.name.startswith("Stream")
    for event in line.events
    if not plane.event_metadata[event.metadata_id].name.startswith(("Memcpy", "Memset"))
  ]
  return len(durations), 1e-12 * sum(durations)


def _own_times(spans):
  """`Kernel`s of the spans `(begin, end, name)` of a thread, in ps, less the spans within each."""
  own, open_spans = [], []
  for begin, end, name in sorted(spans, key=lambda span: (span[0], -span[1])):
    while open_spans and open_spans[-1][0] <= begin:
      open_spans.pop()
    if open_spans:
      own[open_spans[-1][1]][1] -= end - begin
    open_spans.append((end, len(own)))
    own.append([name, end - begin])
  return [Kernel(name, 1e-12 * time) for name, time in own]


def profile(case):
  """Rows of the table of a case; in a process that has not used TensorFlow."""
  start_tensorflow(case.threads)
  import tensorflow as tf

  import model_counts

  tf.config.threading.set_inter_op_parallelism_threads(1)
  run = build(case)
  plain = min(seconds_of(run) for _ in range(3))
  matmul = matmul_of_squares()
  peak = matmul.flops / min(seconds_of(matmul) for _ in range(5))
  kernels, total = profiled(lambda: seconds_of(run))
  flops = collections.Counter()
  for op, count in model_counts.products(model_counts.live_operations(run.get_concrete_function().graph)):
    flops[purpose(f"{op.name}:{op.type}")] += count
  parts = {what: [k.seconds for k in kernels if purpose(k.name) == what] for what, _ in PURPOSES}
  parts = {what: (sum(seconds), len(seconds)) for what, seconds in parts.items() if seconds}
  parts[BETWEEN] = total - sum(seconds for seconds, _ in parts.values()), 0
  print(f"{case}: {plain:.3g} s, with the profiler {total:.3g} s", file=sys.stderr, flush=True)
  return [
    dict(
      config=case.config,
      what=case.what,
      batch=case.batch,
      purpose=what,
      percent=100 * seconds / total,
      ms_image=1e3 * seconds / case.batch,
      kernels=count,
      gflops=flops[what] / seconds / 1e9,
      share_of_matmul=flops[what] / seconds / peak,
      profiler_percent=100 * (total / plain - 1),
    )
    for what, (seconds, count) in parts.items()
  ]


def define_flags():
  """The script's flags; a function, as tests import this file."""
  flags.DEFINE_string("config", "cifar10", "Model.")
  flags.DEFINE_list("what", list(WHAT), f"Any of {', '.join(WHAT)}.")
  flags.DEFINE_integer("batch", 4, "Images at once.")
  flags.DEFINE_integer("threads", 1, "Cores, of which a kernel may use several.")
  flags.DEFINE_string("precision", "float32", f"Of the networks, one of {', '.join(PRECISIONS)}.")
  flags.DEFINE_string("variant", "plain", "As of model.py.")
  flags.DEFINE_string("output", None, "JSON file to write; none if not given.")


def main(argv):
  del argv
  results = []
  for what in FLAGS.what:
    rows = in_new_process(profile, Case(FLAGS.config, what, FLAGS.batch, FLAGS.threads, FLAGS.precision, FLAGS.variant))
    print_table(rows)
    results += rows
  write_json(FLAGS.output, results)


if __name__ == "__main__":
  define_flags()
  app.run(main)
