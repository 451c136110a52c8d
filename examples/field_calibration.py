"""p(parameters | field) by `fpp.vector_flow`, and its simulation-based calibration (Talts et al. 2018).

python examples/field_calibration.py

A Gaussian random field on a torus has a spectrum of unknown amplitude and slope, drawn from a normal prior. A flow of
the two parameters, whose context is the log power of the field in bins of the wave number, is trained on simulated
pairs. If it is the posterior, the rank of the true value among posterior samples is uniform, for each parameter: that
is the test, on fields that were not used for training. Since the density of the fields is known, so is the posterior,
on a grid: the last line says by how many nats the flow's density of the true parameters is below it.
"""

import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags
import keras
import numpy as np
import tensorflow_probability as tfp

import flowpp_tf as fpp
from flowpp_tf.data.gaussian_fields import fields_of_noise, power_spectrum

SIZE, BINS = 32, 12
NAMES = "log amplitude", "slope"
MEAN, STDDEV = np.array([0.0, 3.0]), np.array([0.5, 0.5])  # of the prior
SAMPLES, RANK_BINS = 63, 16  # 64 possible ranks


def define_flags():
  """Define the flags, which docs/pictures does not need."""
  flags.DEFINE_integer("fields", 50_000, "Simulated fields for training.", lower_bound=100)
  flags.DEFINE_integer("steps", 2500, "Training steps.", lower_bound=1)
  flags.DEFINE_integer("tests", 1024, "Fields of the calibration.", lower_bound=16)
  flags.DEFINE_integer("seed", 0, "Seed of everything.", lower_bound=0, upper_bound=2**31 - 1)
  flags.DEFINE_string("output", None, "JSON file for the results.")


def simulate(count, rng):
  """Return parameters `[N, 2]`, and the power `|F[x]|^2 / N` of a field of each, `[N, SIZE, SIZE]`."""
  parameters = MEAN + STDDEV * rng.normal(size=[count, 2])
  power = np.empty([count, SIZE, SIZE])
  for part in _parts(np.arange(count)):
    spectrum = power_spectrum(SIZE, np.exp(parameters[part, 0]), parameters[part, 1])
    fields = fields_of_noise(rng.normal(size=spectrum.shape), spectrum)[..., 0]
    power[part] = np.abs(np.fft.fft2(fields)) ** 2 / SIZE**2
  return parameters, power


def summaries(power):
  """Return the log of the mean power in bins of the wave number, `[N, BINS]`."""
  k = np.hypot(*np.meshgrid(*[np.fft.fftfreq(SIZE, 1 / SIZE)] * 2))
  which = np.digitize(k, np.geomspace(1, k.max(), BINS)[1:-1])
  which[0, 0] = BINS - 1  # the mean of the field is a bin of its own
  return np.log(np.stack([power[:, which == i].mean(axis=1) for i in range(BINS)], axis=-1))


def exact_log_posterior(parameters, power, points=401):
  """Return the log posterior density of the parameters, `[N]` nats, from the density of the fields on a grid.

  The spectrum depends on the wave number only, so the sum of the power of its modes is all of a field that matters.
  """
  axes = [m + s * np.linspace(-4.5, 4.5, points) for m, s in zip(MEAN, STDDEV)]  # the narrowest is 0.02 wide
  grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
  log_cell = np.sum([np.log(axis[1] - axis[0]) for axis in axes])
  k = np.fft.fftfreq(SIZE, 1 / SIZE)
  _, first, of_mode, modes = np.unique(
    k[:, np.newaxis] ** 2 + k**2, return_index=True, return_inverse=True, return_counts=True
  )
  flat = power.reshape(len(power), -1)
  sums = np.stack([np.bincount(of_mode.ravel(), row) for row in flat])

  def terms(theta):  # factors of the sums, [M, distinct wave numbers], and constants [M]
    spectrum = np.concatenate(
      [power_spectrum(SIZE, np.exp(part[:, 0]), part[:, 1]).reshape(len(part), -1)[:, first] for part in _parts(theta)]
    )
    return -0.5 / spectrum, -0.5 * np.log(spectrum) @ modes + _log_prior(theta)

  factors, constants = terms(grid)
  normalizers = [np.logaddexp.reduce(factors @ row + constants) for row in sums]
  factors, constants = terms(parameters)
  return np.sum(factors * sums, axis=1) + constants - normalizers - log_cell


def _parts(rows, size=1000):
  return np.array_split(rows, max(1, len(rows) // size))


def _log_prior(parameters):
  z = (parameters - MEAN) / STDDEV
  return -0.5 * np.sum(z**2 + np.log(2 * np.pi * STDDEV**2), axis=-1)


def histogram(ranks):
  """Return the counts of ranks in `RANK_BINS` bins, and the p-value of their chi-square against equal ones."""
  counts = np.bincount(ranks * RANK_BINS // (SAMPLES + 1), minlength=RANK_BINS)
  expected = len(ranks) / RANK_BINS
  statistic = np.sum((counts - expected) ** 2) / expected
  chi2 = tfp.distributions.Chi2(np.float64(RANK_BINS - 1))
  return counts.tolist(), float(chi2.survival_function(statistic))


def main(_):
  given = flags.FLAGS
  keras.utils.set_random_seed(given.seed)
  rng = np.random.RandomState(given.seed)
  parameters, power = simulate(given.fields, rng)
  context = summaries(power)
  centre, scale = context.mean(axis=0), context.std(axis=0)
  of_prior = lambda theta: ((theta - MEAN) / STDDEV).astype("float32")
  standard = lambda power: ((summaries(power) - centre) / scale).astype("float32")

  flow = fpp.vector_flow(2, context_size=BINS, couplings=4, components=4, hidden=32)
  result = fpp.fit(flow, of_prior(parameters), standard(power), steps=given.steps, seed=given.seed)
  print(f"trained on {given.fields:,} fields, {result.best_step} steps: validation {result.validation.max():.3f} nats")

  truth, power = simulate(given.tests, rng)
  posterior = flow.given(standard(power))
  samples = posterior.sample(SAMPLES, seed=given.seed).numpy()
  ranks = np.sum(samples < of_prior(truth), axis=0)
  report = {"tests": given.tests, "samples": SAMPLES, "histograms": {}}
  for name, of_parameter in zip(NAMES, ranks.T):
    counts, p = histogram(of_parameter)
    report["histograms"][name] = {"counts": counts, "p": p}
    print(f"{name}: ranks in {RANK_BINS} bins {counts}, chi-square p = {p:.3f}")
  log_q = posterior.log_prob(of_prior(truth)).numpy() - np.log(STDDEV).sum()
  gap = exact_log_posterior(truth, power) - log_q
  report["nats_below_exact"] = {"mean": float(gap.mean()), "standard_error": float(gap.std() / len(gap) ** 0.5)}
  print("below the exact posterior: {mean:.4f} +- {standard_error:.4f} nats".format(**report["nats_below_exact"]))
  if given.output:
    pathlib.Path(given.output).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
  define_flags()
  app.run(main)
