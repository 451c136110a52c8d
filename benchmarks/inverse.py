"""The inverse of the couplings: which solver, how exact, and what a sample costs.

python benchmarks/inverse.py --workdirs=runs/digits,runs/photos --output=inverse.json

Three tables, the same as JSON:
- solvers of the mixture CDF on couplings of trained models, while they sample, and on random hard
  mixtures: evaluations an element, time eager, in a graph and under XLA, error against float64;
- the way of pixels through a trained flow to latents and back, in levels;
- the time of sampling over that of a density evaluation, neither with a dequantizer.
"""

import dataclasses
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from absl import app, flags
import numpy as np
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf.bijectors import LogitMixtureLogisticCDF
from flowpp_tf.bijectors.mixture_logistic import logit_cdf
from flowpp_tf.bijectors.mixture_quantile import quantile
from flowpp_tf.data import load_dataset
from flowpp_tf.training import Workdir
import solvers
from tables import print_table, write_json

FLAGS = flags.FLAGS
flags.DEFINE_list("workdirs", [], "Directories of trained runs.")
flags.DEFINE_string("output", None, "JSON file to write; none if not given.")
flags.DEFINE_integer("elements", 10000, "Elements of each set of mixtures.")
flags.DEFINE_integer("repeats", 5, "Timed runs of each; the fastest counts.")
flags.DEFINE_bool("cifar10", True, "Whether to time the full cifar10 model too.")


def coupling_problems(model, elements):
  """Targets and parameters `[elements]`, `[elements, K]` of all couplings while the model samples."""
  problems = []
  inverse = LogitMixtureLogisticCDF._inverse_and_log_det

  def recording(self, y):
    k = self.logits.shape[-1]
    problems.append([np.reshape(y, -1), *(np.reshape(p, (-1, k)) for p in (self.logits, self.loc, self.log_scale))])
    return inverse(self, y)

  LogitMixtureLogisticCDF._inverse_and_log_det = recording
  try:
    count = max(1, elements // int(np.prod(model.config.image_shape)))
    model.decode(tf.random.stateless_normal([count, *model.coupling_flow.latent_shape], [0, 1]))
  finally:
    LogitMixtureLogisticCDF._inverse_and_log_det = inverse
  columns = [np.concatenate(column) for column in zip(*problems)]
  chosen = np.random.RandomState(0).permutation(len(columns[0]))[:elements]
  return [column[chosen] for column in columns]


def hard_problems(elements, components=32):
  """Narrow and wide components far apart, weights down to exp(-80)."""
  rng = np.random.RandomState(0)
  shape = elements, components
  return [
    a.astype(np.float32)
    for a in (
      6 * rng.randn(elements),
      np.clip(20 * rng.randn(*shape), -40, 40),
      5 * rng.randn(*shape),
      rng.uniform(-7, 2, shape),
    )
  ]


def fastest(function, *arguments):
  """Seconds of the fastest of the repeated calls, after a first one that is not timed."""
  function(*arguments)
  times = []
  for _ in range(FLAGS.repeats):
    start = time.perf_counter()
    tf.nest.map_structure(lambda t: t.numpy(), function(*arguments))
    times.append(time.perf_counter() - start)
  return min(times)


def compare_solvers(name, problem):
  """Rows of the first table."""
  exact = [tf.constant(p, tf.float64) for p in problem]
  truth = quantile(*exact)
  slope = tf.exp(logit_cdf(truth, *exact[1:])[1])
  # What one rounding to float32 of x, of the means and of the target does to the root.
  rounding = np.finfo(np.float32).eps * (
    tf.reduce_max(tf.abs(exact[2]) + tf.exp(exact[3]) * tf.abs(exact[0])[:, tf.newaxis], axis=-1)
    + (1 + tf.abs(exact[0])) / slope
  )
  arguments = [tf.constant(p) for p in problem]
  for solver, solve in solvers.SOLVERS.items():
    x, evaluations = solve(*arguments)
    error = np.abs(tf.cast(x, tf.float64) - truth)
    yield dict(
      mixtures=name,
      solver=solver,
      median=float(np.median(evaluations)),
      mean=float(np.mean(evaluations)),
      max=int(np.max(evaluations)),
      error=float(np.max(error)),
      roundings=float(np.max(error / rounding)),
      eager_ms=1e3 * fastest(solve, *arguments),
      graph_ms=1e3 * fastest(tf.function(solve), *arguments),
      xla_ms=1e3 * fastest(tf.function(solve, jit_compile=True), *arguments),
    )


def round_trip(name, model, images):
  """Rows of the second table."""
  for dtype in ("float32", "float64"):
    same = fpp.FlowPlusPlus(dataclasses.replace(model.config, dtype=dtype))
    same.set_weights(model.get_weights())
    noise = same.sample_noise([len(images)], tf.constant([0, 1]))
    x = tf.cast(images, dtype) + same.dequantizer.posterior(tf.cast(images, dtype)).transform(noise)[0]
    there_and_back = tf.function(  # identity: TFP's cache would give x itself back
      lambda x, flow=same.flow: flow.bijector.forward(tf.identity(flow.bijector.inverse(x)))
    )
    error = np.abs(there_and_back(x) - x)
    yield dict(
      model=name,
      dtype=dtype,
      images=len(images),
      max_levels=float(np.max(error)),
      median_levels=float(np.median(error)),
    )


def sampling_cost(name, config, count=8):
  """A row of the third table."""
  model = fpp.FlowPlusPlus(config)
  rng = np.random.RandomState(0)
  shape = [count, *config.image_shape]
  model.initialize(rng.randint(0, config.levels, [16, *config.image_shape]))
  z = tf.random.stateless_normal([count, *model.coupling_flow.latent_shape], [0, 1])
  x = tf.constant(rng.uniform(0, config.levels, shape), tf.float32)
  sample = tf.function(model.flow.bijector.forward)
  density = tf.function(model.flow.log_prob)
  sample(z), density(x)
  pairs = []
  for _ in range(FLAGS.repeats):  # turn about, so that a busy machine slows both
    pairs.append([])
    for function, argument in ((sample, z), (density, x)):
      start = time.perf_counter()
      function(argument).numpy()
      pairs[-1].append(time.perf_counter() - start)
  times = np.min(pairs, axis=0)
  return dict(model=name, images=count, sample_ms=1e3 * times[0], density_ms=1e3 * times[1], ratio=times[0] / times[1])


def main(argv):
  del argv
  results = dict(solvers=[], round_trip=[], sampling=[])
  runs = {os.path.basename(os.path.normpath(path)): Workdir(path).load() for path in FLAGS.workdirs}
  problems = {name: coupling_problems(model, FLAGS.elements) for name, (model, _) in runs.items()}
  problems["random hard"] = hard_problems(FLAGS.elements)
  for name, problem in problems.items():
    rows = list(compare_solvers(name, problem))
    print_table(rows)
    results["solvers"] += rows
  for name, (model, settings) in runs.items():
    images = load_dataset(settings["dataset"], settings["data_dir"]).split("test")[:100]
    results["round_trip"] += round_trip(name, model, images)
  if results["round_trip"]:
    print_table(results["round_trip"])
  cifar10 = dataclasses.replace(fpp.get_config("cifar10"), dropout=0.0)
  configs = {"filters 32, components 8, blocks 2": dataclasses.replace(cifar10, filters=32, components=8, blocks=2)}
  if FLAGS.cifar10:
    configs["cifar10"] = cifar10
  results["sampling"] = [sampling_cost(name, config) for name, config in configs.items()]
  print_table(results["sampling"])
  write_json(FLAGS.output, results)


if __name__ == "__main__":
  app.run(main)
