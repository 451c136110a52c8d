"""Compare posteriors with reference samples of six tasks of Lueckmann et al. 2021 (PMLR 130:343), by C2ST.

pip download sbibm==1.1.0 --no-deps      has the observations and the reference samples; it is read, not imported
python benchmarks/posteriors.py --sbibm=sbibm-1.1.0-py2.py3-none-any.whl --simulations=10000 --output=posteriors.json

For each number of simulations, seed and task `fpp.fit` trains an ensemble by its defaults, one setting for all. C2ST is
the cross-validated accuracy of a network that tells 10,000 samples given an observation from 10,000 of the reference:
0.5 if they have the same distribution, 1 if they lie apart. It takes seconds with two parameters, minutes with ten.

The folder --runs keeps the samples of each training, and its figures, which are written again after each C2ST; the same
command resumes. A process computes on OMP_NUM_THREADS cores, one if that is not set: start one for each of some --tasks
with the same folder; then the command of all of them writes the table.
"""

import bz2
from collections.abc import Callable
import dataclasses
import io
import itertools
import json
import math
import os
import pathlib
import sys
import time
import zipfile

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of scikit-learn's products, before NumPy is imported
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags
import keras
import numpy as np
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPClassifier
import tensorflow as tf

import flowpp_tf as fpp
from tables import print_table, standard_error, write_json

FLAGS = flags.FLAGS
OBSERVATIONS = [str(number) for number in range(1, 11)]
SAMPLES = 10_000  # as many as the reference has
MEAN = "mean of the six"
# Neural posterior estimation with NSF, means over the ten observations, at 10^3, 10^4 and 10^5 simulations:
# main_paper.csv of github.com/sbi-benchmark/results; of gaussian_mixture its rerun.
PUBLISHED = {
  "two_moons": (0.725, 0.606, 0.542),
  "gaussian_mixture": (0.716, 0.615, 0.548),
  "gaussian_linear": (0.694, 0.552, 0.506),
  "gaussian_linear_uniform": (0.696, 0.553, 0.509),
  "slcp": (0.975, 0.901, 0.831),
  "bernoulli_glm": (0.863, 0.678, 0.559),
  MEAN: (0.778, 0.651, 0.583),
}


# --- Tasks ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Task:
  """A prior and a simulator."""

  prior: Callable  # rng, n -> parameters [n, D]
  simulator: Callable  # rng, parameters -> data [n, C]
  bound: float = math.inf  # of the prior's box, from -bound to bound in each parameter

  def simulate(self, rng, n):
    """Return parameters from the prior `[n, D]`, and data given each `[n, C]`."""
    theta = self.prior(rng, n)
    return theta, self.simulator(rng, theta)


def in_box(size, bound, simulator):
  """Return a task with a uniform prior."""
  return Task(lambda rng, n: rng.uniform(-bound, bound, [n, size]), simulator, bound)


def two_moons(rng, theta):
  angle, radius = rng.uniform(-np.pi / 2, np.pi / 2, len(theta)), rng.normal(0.1, 0.01, len(theta))
  crescent = np.stack([radius * np.cos(angle) + 0.25, radius * np.sin(angle)], axis=1)
  return crescent + np.stack([-np.abs(theta[:, 0] + theta[:, 1]), theta[:, 1] - theta[:, 0]], axis=1) / np.sqrt(2)


def gaussian_mixture(rng, theta):
  return theta + rng.choice([1.0, 0.1], [len(theta), 1]) * rng.normal(size=theta.shape)


def gaussian_linear(rng, theta):
  return theta + np.sqrt(0.1) * rng.normal(size=theta.shape)


def slcp(rng, theta):
  """Return four points in two dimensions: two means, the square roots of two deviations, the arctanh of a correlation.

  A variance of 1e-6 comes on top.
  """
  u, v = rng.normal(size=[2, len(theta), 4])
  rho = np.tanh(theta[:, 4:])
  unit = np.stack([u, rho * u + np.sqrt(1 - rho**2) * v], axis=2)
  points = theta[:, np.newaxis, :2] + theta[:, np.newaxis, 2:4] ** 2 * unit
  return (points + 1e-3 * rng.normal(size=points.shape)).reshape(-1, 8)


def glm_inputs():
  """Return the inputs of the Bernoulli GLM, `[100, 10]`: 1, and white noise, now and up to 8 steps ago."""
  stimulus = np.random.RandomState(42).randn(100)
  past = [np.concatenate([np.zeros(lag), stimulus[: 100 - lag]]) for lag in range(9)]
  return np.stack([np.ones(100), *past], axis=1)


def glm_precision():
  """Return the precision of its prior, `[10, 10]`, which wants the second differences of the filter small."""
  difference = np.eye(9) - np.eye(9, k=-1)
  filtered = difference @ difference + np.diag(np.sqrt(np.arange(9) / 9))
  precision = np.diag([0.5] + [0.0] * 9)
  precision[1:, 1:] = filtered.T @ filtered
  return precision


def glm_prior(rng, n):
  return np.linalg.solve(np.linalg.cholesky(glm_precision()).T, rng.normal(size=[10, n])).T


def bernoulli_glm(rng, theta):
  """Return sufficient statistics: the number of spikes, and their sums of the stimulus."""
  inputs = glm_inputs()
  spikes = rng.uniform(size=[len(theta), len(inputs)]) < 1 / (1 + np.exp(-theta @ inputs.T))
  return spikes @ inputs


TASKS = {
  "two_moons": in_box(2, 1.0, two_moons),
  "gaussian_mixture": in_box(2, 10.0, gaussian_mixture),
  "gaussian_linear": Task(lambda rng, n: np.sqrt(0.1) * rng.normal(size=[n, 10]), gaussian_linear),
  "gaussian_linear_uniform": in_box(10, 1.0, gaussian_linear),
  "slcp": in_box(5, 3.0, slcp),
  "bernoulli_glm": Task(glm_prior, bernoulli_glm),
}


def reference(wheel, task, observation):
  """Return the data that were observed, `[C]`, and the samples of the reference posterior, `[10_000, D]`."""
  with zipfile.ZipFile(wheel) as archive:
    read = lambda name: archive.read(f"sbibm/tasks/{task}/files/num_observation_{observation}/{name}")
    files = read("observation.csv"), bz2.decompress(read("reference_posterior_samples.csv.bz2"))
  x, theta = (np.loadtxt(io.BytesIO(file), np.float32, delimiter=",", skiprows=1, ndmin=2) for file in files)
  return x[0], theta


# --- Measurement ---------------------------------------------------------------------------------


def c2st(theta, samples):
  """Return how well samples `[N, D]` are told from those of the reference, `theta`, as published; NaN for NaN."""
  if not np.isfinite(samples).all():
    return math.nan
  mean, scale = theta.mean(axis=0), theta.std(axis=0, ddof=1)
  rows = np.concatenate([(part - mean) / scale for part in (theta, samples)])
  labels = np.repeat([0.0, 1.0], [len(theta), len(samples)])
  hidden = 10 * rows.shape[1]
  network = MLPClassifier((hidden, hidden), activation="relu", solver="adam", max_iter=10_000, random_state=1)
  folds = KFold(5, shuffle=True, random_state=1)
  return float(np.mean(cross_val_score(network, rows, labels, cv=folds, scoring="accuracy")))


def train(name, simulations, seed):
  """Return samples given each observation, `[10, SAMPLES, D]`, and the figures of their training."""
  task, observed = TASKS[name], [reference(FLAGS.sbibm, name, observation)[0] for observation in OBSERVATIONS]
  theta, x = (part.astype(np.float32) for part in task.simulate(np.random.RandomState(seed), simulations))
  support = fpp.support.box(-task.bound, task.bound) if math.isfinite(task.bound) else None
  keras.utils.set_random_seed(seed)
  begin, begin_cpu = time.monotonic(), time.process_time()
  flow = fpp.vector_flow_for(theta, x, support=support)
  result = fpp.fit(flow, theta, x, members=FLAGS.members, seed=seed)
  run = dict(task=name, simulations=simulations, seed=seed, members=FLAGS.members, c2st={})
  run |= dict(minutes=(time.monotonic() - begin) / 60, cpu_minutes=(time.process_time() - begin_cpu) / 60)
  samples = np.stack([result.flow.given(values).sample(SAMPLES, seed=seed).numpy() for values in observed])
  shares = dict(not_finite=~np.isfinite(samples), outside=np.abs(samples) > task.bound)
  run |= {name: float(np.mean(where.any(axis=2))) for name, where in shares.items()}
  return samples, run | dict(skipped_steps=float(np.sum(result.skipped)))


def trained(name, simulations, seed):
  """Return samples and figures of a training, from the folder of runs if it has them, and the path of the figures."""
  path = pathlib.Path(FLAGS.runs) / f"{name}_{simulations}_{FLAGS.members}members_seed{seed}"
  files = path.with_suffix(".npy"), path.with_suffix(".json")
  if not files[1].exists():
    samples, run = train(name, simulations, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(files[0], samples)
    write_json(files[1], run)
    print(path.name, *(f"{name} {value:.3g}" for name, value in run.items() if isinstance(value, float)), flush=True)
  return np.load(files[0]), json.loads(files[1].read_text()), files[1]


def summary(runs):
  """Return the rows of the table: for each number of simulations each task, and their mean if all are there.

  The error is the root of the sum of two squares, the standard errors over observations and over seeds. A row has the
  observations that all its seeds have.
  """
  rows = []
  for simulations in sorted({run["simulations"] for run in runs}):
    of_tasks, same = [], [run for run in runs if run["simulations"] == simulations]
    for task in TASKS:
      found = [run for run in same if run["task"] == task]
      if common := set(OBSERVATIONS).intersection(*(run["c2st"] for run in found)) if found else ():
        values = np.array([[run["c2st"][observation] for observation in sorted(common)] for run in found])
        error = np.hypot(standard_error(values.mean(axis=0)), standard_error(values.mean(axis=1)))
        of_tasks.append(_row(task, found, values.mean(), error, len(common)))
    rows += of_tasks
    if len(of_tasks) == len(TASKS):
      values, errors, counts = ([row[key] for row in of_tasks] for key in ("c2st", "error", "observations"))
      rows.append(_row(MEAN, same, np.mean(values), np.linalg.norm(errors) / len(TASKS), min(counts)))
  return rows


def _row(task, runs, value, error, observations):
  count = runs[0]["simulations"]
  published = dict(zip((10**3, 10**4, 10**5), PUBLISHED[task])).get(count)
  row = dict(task=task, simulations=count, c2st=float(value), error=float(error), published=published)
  row |= dict(observations=observations, seeds=len({run["seed"] for run in runs}))
  return row | {
    key: float(np.mean([run[key] for run in runs])) for key in ("cpu_minutes", "outside", "not_finite", "skipped_steps")
  }


def main(argv):
  del argv
  threads = int(os.environ["OMP_NUM_THREADS"])
  tf.config.threading.set_intra_op_parallelism_threads(threads)
  tf.config.threading.set_inter_op_parallelism_threads(threads)
  runs = []
  for simulations, seed, name in itertools.product(map(int, FLAGS.simulations), map(int, FLAGS.seeds), FLAGS.tasks):
    samples, run, path = trained(name, simulations, seed)
    runs.append(run)
    for observation in FLAGS.observations:
      if observation not in run["c2st"]:
        begin = time.monotonic()
        value = c2st(reference(FLAGS.sbibm, name, observation)[1], samples[OBSERVATIONS.index(observation)])
        run["c2st"][observation] = value
        write_json(path, run)
        minutes = (time.monotonic() - begin) / 60
        print(f"{path.stem}, observation {observation}: C2ST {value:.3f} in {minutes:.1f} minutes", flush=True)
      write_json(FLAGS.output, dict(runs=runs, rows=summary(runs)))
  print_table(summary(runs))


if __name__ == "__main__":
  flags.DEFINE_string("sbibm", None, "The wheel of sbibm 1.1.0.", required=True)
  for name, valid in (("tasks", TASKS), ("observations", OBSERVATIONS)):
    flags.DEFINE_list(name, [*valid], f"Any of {', '.join(valid)}.")
    flags.register_validator(name, lambda given, valid=valid: {*given} <= {*valid}, f"any of {', '.join(valid)}")
  flags.DEFINE_list("simulations", ["1000", "10000", "100000"], "Numbers of simulations.")
  flags.DEFINE_list("seeds", ["0", "1"], "Seeds of simulations, weights and samples.")
  flags.DEFINE_integer("members", 3, "Flows of the ensemble.", lower_bound=1)
  flags.DEFINE_string("runs", "runs/posteriors", "Folder of samples and figures.")
  flags.DEFINE_string("output", None, "JSON file to write; none if not given.")
  app.run(main)
