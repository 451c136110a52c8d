"""Measure time and memory of cifar10 on a GPU, in about ten minutes.

python benchmarks/gpu.py --output=gpu.json      on a machine with a GPU; the first of several is used
python benchmarks/gpu.py --quick                a tiny model, to see that it runs; so also without a GPU

Training steps with `--jit=blocks` and without, in float32 (as TF32) and in bfloat16; batch sizes up to what the memory
holds; evaluation, sampling, and the seconds of `bin/train` to its first step. Each row is a process of its own: the
median of the timed rounds and their spread; of a training step the FLOP/s of its products, as counted for the page of
costs; the peak of the device's memory; seconds from nothing imported until it was done once. The most important rows
come first; those for which no time is left are named and left out.
"""

import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from absl import app, flags

import first_step
import model
from processes import in_new_process
from tables import markdown, results, stored_results, write_json

FLAGS = flags.FLAGS
NO_GPU = "No GPU: these are figures of a CPU and a tiny model. They mean nothing; they show that this script runs."
TINY = (
  "filters=4 blocks=1 components=2 dequant_filters=4 context_channels=4 structure=columns:1 dequant_structure=columns:1"
)


def cases(quick, threads):
  """Return what is measured, the most important first."""
  config, batch, words = ("digits", 2, TINY) if quick else ("cifar10", 64, "")

  def case(what, batch, jit, precision):
    return model.Case(
      config, what, batch, threads, precision, f"{words} cpu_splits=1 jit={jit}".strip(), repeats=2 if quick else 10
    )

  steps = [case("train", batch, jit, precision) for precision in ("float32", "bfloat16") for jit in ("blocks", "off")]
  inference = [case(what, batch, "blocks", "float32") for what in ("evaluate", "sample")]
  if quick:
    return [steps[0], inference[-1]]
  sweep = [case("train", size, "blocks", precision) for size in (8, 256, 384) for precision in ("float32", "bfloat16")]
  more = [case(what, 256, "blocks", "bfloat16") for what in ("evaluate", "sample")]
  return [*steps, *inference, *sweep, *more]


def device():
  """Return the name of the first GPU, or None; in a process of its own, since this takes the GPU."""
  import tensorflow as tf

  found = tf.config.list_physical_devices("GPU")
  return tf.config.experimental.get_device_details(found[0]).get("device_name", found[0].name) if found else None


def measure(case):
  """Return the row of a case, as a dict; in a process that has not used TensorFlow."""
  kind = dict(config=case.config, what=case.what, batch=case.batch, precision=case.precision, jit=case.process["jit"])
  try:
    return kind | dict(out_of_memory=False) | model.measure(case)
  except sys.modules["tensorflow"].errors.ResourceExhaustedError:  # looked up only where something is raised
    return kind | dict(out_of_memory=True)


def table(rows, costs):
  """Yield the rows of the table, as texts.

  Args:
    rows: as of `measure`.
    costs: counts of a training step, a dict for each recipe.
  """
  flops = {cost["config"]: cost["training_flops_image"] for cost in costs}
  yield "model||batch|networks in|jit|ms|spread|images/s|TFLOP/s|peak GiB|s to the first".split("|")
  for r in rows:
    case = (r["config"], r["what"], str(r["batch"]), r["precision"], r["jit"])
    if r["out_of_memory"]:
      yield *case, "out of memory", *[""] * 5
    else:
      is_counted = r["what"] == "train" and r["config"] in flops
      yield (
        *case,
        f"{r['ms_image'] * r['batch']:.1f}",
        f"{r['spread_percent']:.0f} %",
        f"{1e3 / r['ms_image']:,.1f}",
        f"{1e-9 / r['ms_image'] * flops[r['config']]:.2f}" if is_counted else "",
        f"{r['peak_gib']:.2f}",
        f"{r['first_s']:.0f}",
      )


def within(minutes, tasks):
  """Yield the results of functions of nothing, by name, that begin within a time; name the others on stderr."""
  end = time.monotonic() + 60 * minutes
  for name, task in tasks.items():
    if time.monotonic() < end:
      yield task()
    else:
      print(f"no time left for: {name}", file=sys.stderr, flush=True)


def define_flags():
  """Define the script's flags; a function, as tests import this file."""
  flags.DEFINE_bool("quick", False, "A tiny model, a few rounds; always without a GPU.")
  flags.DEFINE_float("minutes", 10.0, "Rows begin within these.", lower_bound=0.1)
  flags.DEFINE_string("output", None, "JSON file to write; none if not given.")


def main(argv):
  del argv
  name = in_new_process(device)
  quick, threads = FLAGS.quick or not name, len(os.sched_getaffinity(0))
  print(name or NO_GPU, flush=True)
  tasks = {str(case): (lambda case=case: in_new_process(measure, case)) for case in cases(quick, threads)}
  started = ("digits", 4, 8, threads) if quick else ("cifar10", 64, 128, threads)
  tasks = {"start of bin/train": lambda: in_new_process(first_step.measure, *started)} | tasks
  start, *rows = within(FLAGS.minutes, tasks)
  write_json(FLAGS.output, dict(device=name, quick=quick, first_step=start, rows=rows))
  print(f"bin/train to its first step, batch size {start['batch']}: {start['total_s']:.1f} s")
  print(markdown(list(table(rows, results(stored_results(), "costs")[0]["steps"]))))
  print(name or NO_GPU)


if __name__ == "__main__":
  define_flags()
  app.run(main)
