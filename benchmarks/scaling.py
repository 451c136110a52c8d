"""What the published runs need, on paper: the tables of docs/scaling.md and docs/benchmarks/scaling.md.

python benchmarks/scaling.py            prints them
python benchmarks/scaling.py --write    puts them into the pages
python benchmarks/scaling.py --count    counts the models again first, five minutes
python benchmarks/scaling.py --count_compiled   counts a step of cifar10 again whose blocks XLA compiles
python benchmarks/scaling.py --measure=1,2,4   measures the memory of cifar10's step on this CPU first

Counts and measurements are kept in benchmarks/scaling.json. Only the memory is measured: times are
counts over what vendors publish and the assumptions below.
"""

import dataclasses
import json
import math
import os
import pathlib
import re
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import app, flags

from processes import forget_peak, in_new_process, peak_bytes
from tables import markdown, with_tables

FLAGS = flags.FLAGS

COUNTS = ROOT / "benchmarks" / "scaling.json"
PAGES = (ROOT / "docs" / "scaling.md", ROOT / "docs" / "benchmarks" / "scaling.md")
CONFIGS = ("cifar10", "imagenet32", "imagenet64")
COMPILED = "cifar10"  # of which the step with compiled blocks is counted, in float32
POLICIES = ("float32", "mixed_bfloat16")


@dataclasses.dataclass(frozen=True)
class GPU:
  """What NVIDIA's data sheet says; the link counts one direction, half of what the sheet gives."""

  name: str
  memory: float  # bytes
  bandwidth: float  # bytes/s to its memory
  link: float  # bytes/s to the other GPUs of a host
  peaks: tuple  # (what products run in, dtype policy, FLOP/s without sparsity)


GPUS = (
  GPU("V100 SXM2 32 GB", 32e9, 900e9, 150e9, (("float32", "float32", 15.7e12),)),
  GPU("A100 SXM 80 GB", 80e9, 2039e9, 300e9, (("TF32", "float32", 156e12), ("bfloat16", "mixed_bfloat16", 312e12))),
  GPU("H100 SXM 80 GB", 80e9, 3350e9, 450e9, (("TF32", "float32", 494.5e12), ("bfloat16", "mixed_bfloat16", 989.5e12))),
)
GPU_COUNTS = (1, 8, 64)
STEPS = 100_000  # of the tables; how many the published runs took is not known
# Assumptions, none of them measured.
UTILISATION = 0.3  # of the peak, by products
USABLE = 0.9  # of the memory; the rest is the framework's, workspaces and fragmentation
LAUNCH = 5e-6  # seconds between two kernels, however small
HOST_GPUS = 8
HOST_LINK = 12.5e9  # bytes/s between hosts: 100 Gbit/s


def flag_of(name, setting):
  """An integer of a config's flag file, such as the batch size, which is the release's."""
  text = (ROOT / "configs" / f"{name}.flags").read_text()
  return int(re.search(rf"^--{setting}=(\d+)$", text, re.MULTILINE)[1])


def global_batch(name, gpus):
  """The published batch size, or the next that GPUs can share."""
  return gpus * math.ceil(flag_of(name, "batch_size") / gpus)


def state_bytes(counts):
  """Weights, Adam's two moments, averages and gradients, in float32 under both policies."""
  return 4 * (4 * counts["parameters"] + counts["gradients"])


def replica_bytes(counts, batch):
  """Memory of a replica's training step, the working memory of kernels left out."""
  return state_bytes(counts) + counts["saved_bytes_pass"] + batch * counts["saved_bytes_image"]


def largest_batch(counts, gpu):
  """Images that a GPU takes in one pass."""
  free = USABLE * gpu.memory - replica_bytes(counts, 0)
  return max(0, int(free // counts["saved_bytes_image"]))


def all_reduce_bytes(counts, gpus):
  """What each GPU sends a step, and receives: a ring, gradients in float32."""
  return 2 * (gpus - 1) / gpus * 4 * counts["gradients"]


def step_seconds(counts, gpu, peak, batch, gpus):
  """Seconds of a step by each thing that bounds it.

  Args:
    counts: of the model, under the policy of the peak.
    gpu: `GPU`.
    peak: FLOP/s.
    batch: images a step, over all GPUs.
    gpus: how many.
  """
  images = batch / gpus
  passes = math.ceil(images / largest_batch(counts, gpu))
  return dict(
    products=images * counts["training_flops_image"] / (UTILISATION * peak),
    memory=(
      images * counts["traffic_bytes_image"] + passes * counts["traffic_bytes_pass"] + counts["traffic_bytes_update"]
    )
    / gpu.bandwidth,
    launches=(passes * counts["kernels_pass"] + counts["kernels_update"]) * LAUNCH,
    all_reduce=all_reduce_bytes(counts, gpus) / (HOST_LINK if gpus > HOST_GPUS else gpu.link),
  )


def total_seconds(parts, launches=True):
  """A step at the least: a GPU computes, loads and is fed at the same time; gradients come after."""
  return max(parts["products"], parts["memory"], parts["launches"] * launches) + parts["all_reduce"]


def cases(counted):
  """`(config, policy's counts, gpu, what products run in, peak)` of all rows."""
  for name in CONFIGS:
    for gpu in GPUS:
      for precision, policy, peak in gpu.peaks:
        yield name, counted[name][policy], gpu, precision, peak


def counts_table(counted):
  yield (
    "config",
    "parameters",
    "GFLOP an image, forward",
    "with backward",
    "kernels of a pass",
    "of the update",
    "GB moved an image, float32",
    "bfloat16",
  )
  for name in CONFIGS:
    c, low = (counted[name][policy] for policy in POLICIES)
    yield (
      name,
      f"{c['parameters']:,}",
      f"{c['forward_flops_image'] / 1e9:.2f}",
      f"{c['training_flops_image'] / 1e9:.2f}",
      f"{c['kernels_pass']:,}",
      f"{c['kernels_update']:,}",
      f"{c['traffic_bytes_image'] / 1e9:.2f}",
      f"{low['traffic_bytes_image'] / 1e9:.2f}",
    )


def memory_table(counted):
  batches = (1, 4, 8, 16, 32, 64)
  yield (
    "config",
    "policy",
    "state, GB",
    "MB an image",
    *(f"GB, batch {b}" for b in batches),
    "published batch on 8 GPUs",
    *(f"largest, {gpu.memory / 1e9:.0f} GB" for gpu in GPUS[:2]),
  )
  for name in CONFIGS:
    share = global_batch(name, 8) // 8
    for policy in POLICIES:
      c = counted[name][policy]
      yield (
        name,
        policy,
        f"{state_bytes(c) / 1e9:.2f}",
        f"{c['saved_bytes_image'] / 1e6:.0f}",
        *(f"{replica_bytes(c, b) / 1e9:.1f}" for b in batches),
        f"{replica_bytes(c, share) / 1e9:.1f} ({share} each)",
        *(str(largest_batch(c, gpu)) for gpu in GPUS[:2]),
      )


def measured_table(counted, measured):
  yield "batch", "counted, GB", "measured peak, GB", "MB an image since the row above", "counted"
  counts, last = counted["cifar10"]["float32"], None
  for row in measured:
    rise = "" if last is None else (f"{(row['peak'] - last['peak']) / (row['batch'] - last['batch']) / 1e6:.0f}")
    yield (
      str(row["batch"]),
      f"{replica_bytes(counts, row['batch']) / 1e9:.2f}",
      f"{row['peak'] / 1e9:.2f}",
      rise,
      f"{counts['saved_bytes_image'] / 1e6:.0f}",
    )
    last = row


def products_table(counted):
  yield "config", "GPU", "products in", *(_gpus(n) for n in GPU_COUNTS)
  for name, counts, gpu, precision, peak in cases(counted):
    flops = STEPS * flag_of(name, "batch_size") * counts["training_flops_image"]
    yield (name, gpu.name, precision, *(f"{flops / (n * UTILISATION * peak) / 3600:.3g}" for n in GPU_COUNTS))


def bounds_table(counted):
  yield "config", "GPU", "products in", "products", "memory", "launches", "all-reduce"
  for name, counts, gpu, precision, peak in cases(counted):
    parts = step_seconds(counts, gpu, peak, global_batch(name, 8), 8)
    yield name, gpu.name, precision, *(f"{1e3 * s:.1f}" for s in parts.values())


def hours_table(counted):
  yield (
    "config",
    "GPU",
    "products in",
    *(_gpus(n) for n in GPU_COUNTS),
    *(f"{_gpus(n)}, launches free" for n in GPU_COUNTS),
  )
  for name, counts, gpu, precision, peak in cases(counted):
    hours = []
    for launches in (True, False):
      for n in GPU_COUNTS:
        batch = global_batch(name, n)
        seconds = total_seconds(step_seconds(counts, gpu, peak, batch, n), launches)
        hours.append(STEPS * flag_of(name, "batch_size") / batch * seconds / 3600)
    yield name, gpu.name, precision, *(f"{h:.1f}" for h in hours)


def _gpus(count):
  return f"{count} GPU{'s' * (count > 1)}"


def all_reduce_table(counted):
  yield (
    "config",
    "gradient, MB",
    "MB sent a GPU a step, 8 GPUs",
    "64 GPUs",
    *(f"ms, 8 {gpu.name[:4]}" for gpu in GPUS),
    "ms, 64 over 8 hosts",
    "global batch, 8",
    "64",
  )
  for name in CONFIGS:
    c = counted[name]["float32"]
    eight, many = (all_reduce_bytes(c, n) for n in (8, 64))
    yield (
      name,
      f"{4 * c['gradients'] / 1e6:.1f}",
      f"{eight / 1e6:.1f}",
      f"{many / 1e6:.1f}",
      *(f"{1e3 * eight / gpu.link:.1f}" for gpu in GPUS),
      f"{1e3 * many / HOST_LINK:.1f}",
      *(str(global_batch(name, n)) for n in (8, 64)),
    )


def step_counts(stored, compiled):
  """Counts of `COMPILED` for `step_seconds` on one GPU: of its step as traced, or if XLA compiles its blocks."""
  counted = stored["compiled"]
  kernels, traffic = counted["compiled" if compiled else "traced"]
  return stored["counted"][COMPILED]["float32"] | dict(
    kernels_pass=kernels, traffic_bytes_image=traffic / counted["batch"], traffic_bytes_pass=0
  )


def compiled_table(stored):
  yield (
    f"{COMPILED} on one GPU",
    "kernels of a step",
    "GB moved a step",
    *(f"{gpu.name[:4]}: {bound}, ms" for gpu in GPUS[-1:] for bound in ("products", "memory", "launches", "at least")),
    "images/s at most",
  )
  batch = stored["compiled"]["batch"]
  for name, compiled in (("as traced", False), ("`--jit=blocks`", True)):
    counts = step_counts(stored, compiled)
    parts = step_seconds(counts, GPUS[-1], GPUS[-1].peaks[0][2], batch, 1)
    seconds = total_seconds(parts)
    yield (
      name,
      f"{counts['kernels_pass'] + counts['kernels_update']:,}",
      f"{(batch * counts['traffic_bytes_image'] + counts['traffic_bytes_update']) / 1e9:.0f}",
      *(f"{1e3 * parts[bound]:.0f}" for bound in ("products", "memory", "launches")),
      f"{1e3 * seconds:.0f}",
      f"{batch / seconds:.0f}",
    )


def tables(stored):
  """All tables as Markdown, by the name under which docs/scaling.md has them."""
  counted = stored["counted"]
  rows = dict(
    counts=counts_table(counted),
    memory=memory_table(counted),
    measured=measured_table(counted, stored["measured"]),
    products=products_table(counted),
    bounds=bounds_table(counted),
    hours=hours_table(counted),
    all_reduce=all_reduce_table(counted),
    compiled=compiled_table(stored),
  )
  return {name: markdown(list(table)) for name, table in rows.items()}


def count(name):
  """Counts of a config under each policy, as dicts. The update is the same: weights are float32."""
  counted = {policy: _in_new_process(count_pass, name, policy) for policy in POLICIES}
  update = _in_new_process(count_update, name, counted[POLICIES[0]])
  return {policy: counts | update for policy, counts in counted.items()}


def count_pass(name, policy):
  """`PassCounts` of a config under a policy, as a dict."""
  import flowpp_tf as fpp  # here: tables need no TensorFlow
  import model_counts

  config = dataclasses.replace(fpp.get_config(name), dtype=policy)
  return dataclasses.asdict(model_counts.count_pass(config))


def count_compiled(name):
  """Kernels and bytes of a pass of the published batch on one GPU: `traced` each on its own, `compiled` by blocks."""
  import flowpp_tf as fpp
  import model_counts

  batch = flag_of(name, "batch_size")
  counted = model_counts.trace_pass(fpp.FlowPlusPlus(fpp.get_config(name)), batch, compiled=True)
  return dict(
    batch=batch,
    traced=[counted["kernels"], counted["traffic"]],
    compiled=[counted["compiled_kernels"], counted["compiled_traffic"]],
  )


def count_update(name, counts):
  """`UpdateCounts` of a config, as a dict, from its pass's."""
  import flowpp_tf as fpp
  import model_counts

  return dataclasses.asdict(model_counts.count_update(fpp.get_config(name), model_counts.PassCounts(**counts)))


def measure(batch):
  """Peak resident bytes of this process in the second training step of cifar10. Linux only."""
  import numpy as np
  import tensorflow as tf

  import flowpp_tf as fpp
  from flowpp_tf.training import TrainingConfig, TrainState, train_step

  model = fpp.FlowPlusPlus(fpp.get_config("cifar10"))
  state = TrainState(model, TrainingConfig(steps=1, learning_rate=1e-6))
  images = tf.constant(np.random.RandomState(0).randint(0, 256, [batch, 32, 32, 3]), tf.uint8)
  step = tf.function(lambda images: train_step(state, images), autograph=False)
  step(images)
  forget_peak()
  step(images)
  return peak_bytes()


def _in_new_process(function, *arguments):
  """`in_new_process`, which says what came out."""
  result = in_new_process(function, *arguments)
  print(function.__name__, *arguments, result, flush=True)
  return result


def define_flags():
  """The script's flags; a function, as tests import this file."""
  flags.DEFINE_bool("count", False, "Count the models again.")
  flags.DEFINE_bool("count_compiled", False, f"Count a step of {COMPILED} again whose blocks XLA compiles.")
  flags.DEFINE_list("measure", [], "Batch sizes at which to measure the memory of cifar10's step.")
  flags.DEFINE_bool("write", False, "Put the tables into the pages instead of printing them.")


def main(argv):
  del argv
  stored = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
  if FLAGS.count:
    stored["counted"] = {name: count(name) for name in CONFIGS}
  if FLAGS.count_compiled:
    stored["compiled"] = _in_new_process(count_compiled, COMPILED)
  if FLAGS.measure:
    stored["measured"] = [dict(batch=int(batch), peak=_in_new_process(measure, int(batch))) for batch in FLAGS.measure]
  if FLAGS.count or FLAGS.count_compiled or FLAGS.measure:
    COUNTS.write_text(json.dumps(stored, indent=1) + "\n")
  if FLAGS.write:
    for path, text in with_tables({path: path.read_text() for path in PAGES}, tables(stored)).items():
      path.write_text(text)
    return
  for name, table in tables(stored).items():
    print(f"{name}\n\n{table}\n", flush=True)


if __name__ == "__main__":
  define_flags()
  app.run(main)
