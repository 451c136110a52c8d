"""p(parameters | counts) of an epidemic, from the cases that were reported in its first three weeks.

python examples/epidemic.py --output=epidemic

The simulator is a stochastic SIR model of a town of 50,000 people. In each of 60 days

    a susceptible person is infected    with the probability  1 - exp(-R / D * infected / 50,000)
    an infected person recovers         with the probability  1 / D
    a new infection is reported         with the probability  S

Unknown are R, the people that one infects at the beginning, D, the mean days of an infection, and S. Their prior is
uniform in a box, which is the support of the flow. The likelihood of the counts has no closed form.

Three flows are trained on simulated pairs, and `fpp.calibration` tests their mixture on others. Then an epidemic is
observed for three weeks. Draws from its posterior, simulated for 60 days, are the forecast. The folder --output gets
calibration.png and posterior.png.

Measured on two shared cores of a Xeon, in 80 s: no curve of 500 epidemics leaves its band (smallest p-value 0.57). The
posterior is R = 2.8 +- 0.7, D = 7.3 +- 2.8 and S = 0.35 +- 0.15, the truth 2.6, 6 and 0.4; only the growth rate
(R - 1) / D is known well. All 39 later days lie within the 5 % and the 95 % quantile.
"""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags
import keras
import matplotlib.figure
import numpy as np

import flowpp_tf as fpp

PEOPLE, INFECTED, DAYS, OBSERVED = 50_000, 20, 60, 21
NAMES = "infected by one, R", "days infected, D", "share reported, S"
LOW, HIGH = np.array([1.0, 2.0, 0.1]), np.array([5.0, 12.0, 1.0])  # of the prior
TRUTH = np.array([2.6, 6.0, 0.4])  # of the epidemic that is observed
DRAWS = 1000


def define_flags():
  """Define the flags, whose defaults are those of `run`."""
  flags.DEFINE_integer("simulations", 50_000, "Simulated epidemics for training.", lower_bound=100)
  flags.DEFINE_integer("steps", 2000, "Training steps of each flow.", lower_bound=1)
  flags.DEFINE_integer("members", 3, "Flows of the ensemble.", lower_bound=1)
  flags.DEFINE_integer("tests", 500, "Simulated epidemics of the calibration.", lower_bound=2)
  flags.DEFINE_integer("seed", 0, "Seed of everything.", lower_bound=0, upper_bound=2**31 - 1)
  flags.DEFINE_string("output", None, "Folder for the pictures; none are drawn without it.")


def prior(count, rng):
  """Return parameters `[N, 3]`."""
  return rng.uniform(LOW, HIGH, [count, 3])


def simulate(parameters, rng):
  """Return the cases reported in each day, `[N, DAYS]`, of epidemics with parameters `[N, 3]`."""
  number, days, share = parameters.T
  infected = np.full(len(parameters), INFECTED)
  susceptible, reported = PEOPLE - infected, []
  for _ in range(DAYS):
    new = rng.binomial(susceptible, 1 - np.exp(-number / days * infected / PEOPLE))
    recovered = rng.binomial(infected, 1 / days)
    susceptible, infected = susceptible - new, infected + new - recovered
    reported.append(rng.binomial(new, share))
  return np.stack(reported, axis=-1)


def summaries(reported):
  """Return what the flow is given, `[N, OBSERVED]`: the first weeks, as logarithms, whose growth is nearly linear."""
  return np.log1p(reported[:, :OBSERVED])


def run(simulations=50_000, steps=2000, members=3, tests=500, seed=0):
  """Return `fpp.Calibration`, draws from a posterior `[DRAWS, 3]`, the reported cases, and those of the draws."""
  keras.utils.set_random_seed(seed)
  rng = np.random.RandomState(seed)
  parameters = prior(simulations, rng)
  counts = summaries(simulate(parameters, rng))
  flow = fpp.vector_flow_for(parameters, counts, support=fpp.support.box(LOW, HIGH))
  flow = fpp.fit(flow, parameters, counts, steps=steps, members=members, seed=seed).flow

  parameters = prior(tests, rng)
  calibration = fpp.calibration(
    flow, parameters, summaries(simulate(parameters, rng)), names=["R", "D", "S"], seed=seed
  )
  (reported,) = simulate(TRUTH[np.newaxis], np.random.RandomState(seed + 1))
  draws = flow.given(summaries(reported[np.newaxis])[0]).sample(DRAWS, seed=seed).numpy()
  return calibration, draws, reported, simulate(draws, rng)


def posterior_picture(draws, reported, predicted):
  """Return a figure: pairs of parameters, and the reported cases with those of the draws."""
  figure = matplotlib.figure.Figure((8, 7), dpi=90, layout="constrained")
  axes = figure.subplot_mosaic("abc;ddd", height_ratios=(1, 1.3))
  for name, (i, j) in zip("abc", ((0, 1), (0, 2), (1, 2))):
    ax = axes[name]
    ax.plot(draws[:, i], draws[:, j], ".", markersize=2, alpha=0.4, rasterized=True)
    ax.plot(TRUTH[i], TRUTH[j], "X", markersize=9)
    ax.set(xlabel=NAMES[i], ylabel=NAMES[j], xlim=(LOW[i], HIGH[i]), ylim=(LOW[j], HIGH[j]))
    ax.set(xticks=np.linspace(LOW[i], HIGH[i], 3), yticks=np.linspace(LOW[j], HIGH[j], 3))
  days, ax = np.arange(1, DAYS + 1), axes["d"]
  of_draws, of_truth = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"][:2]
  for share, alpha in ((90, 0.25), (50, 0.45)):
    low, high = np.percentile(predicted, [50 - share / 2, 50 + share / 2], axis=0)
    ax.fill_between(days, low, high, alpha=alpha, color=of_draws, linewidth=0, label=f"{share} % of the draws")
  ax.plot(days[:OBSERVED], reported[:OBSERVED], "o", color=of_truth, markersize=4, label="observed")
  ax.plot(days[OBSERVED:], reported[OBSERVED:], "o", color=of_truth, markersize=4, fillstyle="none", label="later")
  ax.set(xlabel="day", ylabel="reported cases", xlim=(0, DAYS + 1), ylim=(0, None))
  ax.legend(frameon=False)
  return figure


def main(_):
  given = flags.FLAGS
  calibration, *found = run(given.simulations, given.steps, given.members, given.tests, given.seed)
  draws, reported, predicted = found
  print(calibration)
  print(f"{calibration.curves['coverage'][calibration.levels.searchsorted(0.9)]:.1%} lie in the region of 90 %")
  for name, truth, values in zip(NAMES, TRUTH, draws.T):
    print(f"{name}: {values.mean():.2f} +- {values.std():.2f}, true {truth:g}")
  low, high = np.percentile(predicted, [5, 95], axis=0)
  inside = (low <= reported) & (reported <= high)
  print(f"{inside[OBSERVED:].sum()} of {DAYS - OBSERVED} later days lie between the 5 % and the 95 % quantile")
  if given.output:
    folder = pathlib.Path(given.output)
    folder.mkdir(parents=True, exist_ok=True)
    calibration.plot(folder / "calibration.png")
    posterior_picture(*found).savefig(folder / "posterior.png", dpi=150)


if __name__ == "__main__":
  define_flags()
  app.run(main)
