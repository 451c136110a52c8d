"""Compare densities of vectors: `fpp.vector_flow_for` and TFP's MAF, RealNVP and rational quadratic splines.

python benchmarks/vector_flows.py --output=vector_flows.json

`fpp.fit` trains every flow on the same batches, for at most the same number of steps, and stops early by a part of the
training rows. The figures are mean log densities of held-out rows, which nothing was chosen on. All columns have mean 0
and variance 1 over the training rows. TFP's flows have six layers with ActNorm and a linear map before each, and
networks of the width of `fpp.vector_flow`.
"""

import itertools
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags
import keras
import numpy as np
import sklearn.datasets
import tensorflow as tf

from examples.tabular import BINS, HIDDEN, affine, coupling_flow, maf, spline
import flowpp_tf as fpp
from flowpp_tf.data.bundled import packaged_photographs
from tables import print_table, standard_error, write_json

FLAGS = flags.FLAGS


# --- Data: training and test rows, `[N, D]` each -------------------------------------------------


def two_moons(rng):
  draw = lambda n: sklearn.datasets.make_moons(n, noise=0.05, random_state=rng)[0]
  return draw(20_000), draw(10_000)


def eight_gaussians(rng):
  def draw(n):
    angle = rng.randint(8, size=n) * np.pi / 4
    return 4 * np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.5 * rng.normal(size=[n, 2])

  return draw(20_000), draw(10_000)


def checkerboard(rng):
  def draw(n):
    x, row = rng.uniform(-4, 4, n), rng.randint(2, size=n)
    y = rng.uniform(0, 2, n) + 4 * row - 4 + 2 * (np.floor(x / 2) % 2)
    return np.stack([x, y], axis=1)

  return draw(20_000), draw(10_000)


def patches(rng):
  """Return grey patches of 2x3 pixels, with uniform noise; the test rows are from other photographs."""
  splits = []
  photographs = packaged_photographs()
  for count, split in ((40_000, "train"), (10_000, "test")):
    greys = [np.round(pixels @ [0.299, 0.587, 0.114]) for pixels in photographs[split].values()]
    windows = [np.lib.stride_tricks.sliding_window_view(grey, (2, 3))[::2, ::3].reshape(-1, 6) for grey in greys]
    rows = np.concatenate([part[rng.permutation(len(part))[: count // len(windows)]] for part in windows])
    splits.append(rows + rng.uniform(size=rows.shape))
  return splits


def breast_cancer(rng):
  """Return the ten means of measurements of cells."""
  x = sklearn.datasets.load_breast_cancer().data[:, :10]
  x = x[rng.permutation(len(x))]
  return x[:400], x[400:]


DATA = {
  "two moons": two_moons,
  "eight Gaussians": eight_gaussians,
  "checkerboard": checkerboard,
  "photo patches, 6-D": patches,
  "breast_cancer, 10-D, 400 rows": breast_cancer,
}


def load(name, seed):
  """Return training and test rows with columns of mean 0 and variance 1."""
  train, test = DATA[name](np.random.RandomState(seed))
  mean, scale = train.mean(axis=0), train.std(axis=0)
  return [((part - mean) / scale).astype(np.float32) for part in (train, test)]


FLOWS = {
  "flowpp_tf": fpp.vector_flow_for,
  "TFP splines": lambda x: coupling_flow(x.shape[1], spline, 3 * BINS - 1, HIDDEN),
  "TFP MAF": lambda x: maf(x.shape[1], HIDDEN),
  "TFP RealNVP": lambda x: coupling_flow(x.shape[1], affine, 2, HIDDEN),
}


# --- Measurement --------------------------------------------------------------------------------


def measure(name, flow, seed):
  """Return one cell: mean held-out nats, CPU seconds, and for the first seed the CPU milliseconds of a step."""
  begin = time.process_time()
  train, test = load(name, seed)
  keras.utils.set_random_seed(seed)
  model = FLOWS[flow](train)
  result = fpp.fit(model, train, steps=FLAGS.steps, learning_rate=FLAGS.rate, seed=seed)
  cell = dict(nats=float(np.mean(model.log_prob(test), dtype=np.float64)), best_step=result.best_step)
  if seed == 0:
    cell["cpu_ms"] = milliseconds(model, tf.constant(train[:256]))
  return cell | dict(cpu_seconds=time.process_time() - begin)


def milliseconds(flow, batch, steps=40):
  """Return the CPU milliseconds of a log density and its gradient."""

  @tf.function(autograph=False)
  def gradient():
    with tf.GradientTape() as tape:
      nats = tf.reduce_mean(flow.log_prob(batch))
    return tf.add_n([tf.reduce_sum(g) for g in tape.gradient(nats, flow.trainable_variables)])

  gradient().numpy()
  begin = time.process_time()
  for _ in range(steps):
    gradient().numpy()
  return 1e3 * (time.process_time() - begin) / steps


def summary(cells):
  """Return the rows of the table: means over seeds, their standard errors, and which flow is best.

  A flow is level with the best if its mean is less than one standard error of their difference below. One seed has no
  standard error: it is 0 here.
  """
  rows = []
  for name in DATA:
    group = {}
    for cell in cells:
      if cell["data"] == name:
        group.setdefault(cell["flow"], []).append(cell)
    means = {flow: np.mean([c["nats"] for c in group[flow]]) for flow in group}
    errors = {flow: standard_error([c["nats"] for c in group[flow]]) for flow in group}
    best = max(means, key=means.get, default=None)
    for flow in sorted(group, key=lambda flow: -means[flow]):
      behind = means[best] - means[flow]
      level = behind <= (errors[best] ** 2 + errors[flow] ** 2) ** 0.5
      rows.append(
        dict(
          data=name,
          flow=flow,
          nats=float(means[flow]),
          error=errors[flow],
          seeds=len(group[flow]),
          verdict="best" if flow == best else "level" if level else f"{behind:.3f} behind",
          cpu_ms=next((c["cpu_ms"] for c in group[flow] if "cpu_ms" in c), None),
          hours=sum(c["cpu_seconds"] for c in group[flow]) / 7200,
        )
      )
  return rows


def main(argv):
  del argv
  tf.config.threading.set_intra_op_parallelism_threads(FLAGS.threads)
  tf.config.threading.set_inter_op_parallelism_threads(FLAGS.threads)
  path = pathlib.Path(FLAGS.output) if FLAGS.output else None
  cells = json.loads(path.read_text())["cells"] if path and path.exists() else []
  done = {(c["data"], c["flow"], c["seed"]) for c in cells}
  for seed, name, flow in itertools.product(range(FLAGS.seeds), FLAGS.data, FLAGS.flows):
    if (name, flow, seed) in done:
      continue
    cell = dict(data=name, flow=flow, seed=seed, steps=FLAGS.steps, **measure(name, flow, seed))
    print(cell, file=sys.stderr, flush=True)
    cells.append(cell)
    write_json(path, dict(cells=cells, rows=summary(cells)))
  print_table(summary(cells))


if __name__ == "__main__":
  flags.DEFINE_multi_enum("data", list(DATA), list(DATA), "Data sets.")
  flags.DEFINE_multi_enum("flows", list(FLOWS), list(FLOWS), "Flows.")
  flags.DEFINE_integer("steps", 800, "Training steps.", lower_bound=1)
  flags.DEFINE_float("rate", 4e-3, "Learning rate.")
  flags.DEFINE_integer("threads", 1, "Threads of TensorFlow.", lower_bound=1)
  flags.DEFINE_integer("seeds", 3, "Seeds.", lower_bound=1)
  flags.DEFINE_string("output", "", "File of the results; a run goes on with the cells that it has.")
  app.run(main)
