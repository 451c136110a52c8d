r"""Simulation-based calibration of p(theta | x): ranks, expected coverage and TARP, with one band for all.

Row i has theta_i, and x_i simulated from it; L draws come from p(theta | x_i). If this is the posterior, theta_i is
exchangeable with the draws, and the rank of g(theta_i) among g of the draws is uniform on 0 .. L for each function g:

    g(theta) = theta_j                  ranks of a column (Talts et al. 2018, arXiv:1804.06788)
    g(theta) = -log p(theta | x)        expected coverage of highest-density regions (Hermans et al. 2022,
                                        arXiv:2110.06581)
    g(theta) = |theta - random point|   TARP (Lemos et al. 2023, arXiv:2302.03026)

A curve F(z) is the share of the ranks that are less than z (L + 1); its expectation is z. The band holds all curves at
once with a probability of 95 %:

$$
|F(z) - z| \le c \sqrt{z (1 - z)}
$$

The constant c follows from simulated uniform ranks, as in Säilynoja, Bürkner and Vehtari (2022, arXiv:2103.10522),
whose band has quantiles of binomials in place of standard errors.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools
from typing import Any, NamedTuple

import numpy as np

from flowpp_tf.core.checks import as_array, check_all_finite, check_arguments, check_count, shown
from flowpp_tf.core.environment import import_extra
from flowpp_tf.core.errors import InputError
from flowpp_tf.io.files import replace_file, writing
from flowpp_tf.layers import Flow
from flowpp_tf.types import Path, TensorLike

_MOST_LEVELS = 100
_SIMULATIONS = 1000  # curves that are simulated for each test
_OUTSIDE = 50  # of 1,000 simulated curves leave the band
_MOST_SAMPLES = 1 << 14  # of one evaluation
_TESTS = "coverage", "tarp"  # names of their curves
_ENDINGS = ".png", ".svg", ".pdf"


class Calibration(NamedTuple):
  """What `fpp.calibration` has found. `print(result)` is a verdict of a few lines, `result.plot(path)` a picture.

  Names are the columns', by default "data[0]", "data[1]" and so on, and then "coverage" and "tarp".

  Attributes:
    ranks: number of draws below each value of theta, integers from 0 to the number of draws, `[N, D]`.
    levels: the levels between 0 and 1 at which curves are compared, `[K]`, at most 99.
    curves: by name, the share of the ranks below each level, `[K]`. The curve "coverage" is the share of the rows whose
      theta lies in the highest-density region of this credible level.
    band: lower and upper end, each `[K]`. All curves of a calibrated flow are in it with a probability of 95 %.
    p_values: by name, the p-value of uniform ranks, times the number of curves (Bonferroni). It is at least 0.001, and
      at most 0.05 if and only if the curve leaves the band.
    findings: by name of each curve that leaves the band, what the flow is: "too narrow", "too wide", "too low" or
      "too high" in a column; "too narrow or biased" or "too wide" by "coverage" and "tarp"; or "of another shape".

  Examples:
    >>> class Posterior:  # of theta ~ N(0, 1) and x = theta + N(0, 1), with twice the variance
    ...   def given(self, x):
    ...     return tfp.distributions.MultivariateNormalDiag(x / 2, tf.ones_like(x))
    >>> theta = np.random.RandomState(0).normal(size=[500, 1])
    >>> x = theta + np.random.RandomState(1).normal(size=[500, 1])
    >>> fpp.calibration(Posterior(), theta, x).findings["data[0]"]
    'too wide'
  """

  ranks: np.ndarray
  levels: np.ndarray
  curves: dict[str, np.ndarray]
  band: tuple[np.ndarray, np.ndarray]
  p_values: dict[str, float]
  findings: dict[str, str]

  @property
  def is_calibrated(self) -> bool:
    """Whether no curve leaves the band; an exact posterior fails with a probability of 5 % at most."""
    return not self.findings

  def __str__(self) -> str:
    verdict = "not calibrated" if self.findings else "no miscalibration found"
    smallest = f"smallest of {len(self.p_values)} p-values {min(self.p_values.values()):.3f}"
    lines = [f"{name}: the flow is {what} (p = {self.p_values[name]:.3f})" for name, what in self.findings.items()]
    return "\n".join([f"{len(self.ranks):,} rows: {verdict} ({smallest})", *lines])

  @check_arguments
  def plot(self, path: Path) -> None:
    """Plot all curves with their band; an existing file is replaced.

    Args:
      path: .png, .svg or .pdf. Of more than ten columns, those with the ten smallest p-values have a colour.

    Raises:
      InputError (a ValueError): for another ending, if the file cannot be written, or without matplotlib.
    """
    if not str(path).lower().endswith(_ENDINGS):
      raise InputError(f"`path` must end in {', '.join(_ENDINGS)}, got {str(path)!r}")
    figure = import_extra("matplotlib.figure", "plots", "a calibration plot").Figure((11, 5), layout="constrained")
    z, low, high = map(_with_ends, (self.levels, *self.band))
    *columns, coverage, tarp = self.curves
    named = [*sorted(columns, key=lambda name: self.p_values[name])[:10], coverage, tarp]
    left, right = figure.subplots(1, 2)
    for axes, names, base in ((left, columns, z), (right, (coverage, tarp), 0)):
      axes.fill_between(z, low - base, high - base, color="0.5", alpha=0.25, linewidth=0)  # on dark ground too
      axes.plot(z, z - base, ":", color="0.5")
      for name in names:
        style = dict(label=name, zorder=3) if name in named else dict(color="silver")
        axes.plot(z, _with_ends(self.curves[name]) - base, **style)
      axes.grid(alpha=0.3)
      axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=5, fontsize="small", frameon=False)
    figure.suptitle("grey: the band that holds all curves of a calibrated flow with 95 %")
    left.set(title="ranks of the data among the draws", xlabel="rank / (number of draws + 1)", ylabel="ECDF - uniform")
    right.set(title="coverage", xlabel="credible level", ylabel="share of the rows")
    with writing(repr(str(path))):
      replace_file(path, lambda temporary: figure.savefig(temporary, dpi=150))


@check_arguments
def calibration(
  flow: Any,
  data: TensorLike,
  context: TensorLike,
  *,
  names: Sequence[str] | None = None,
  draws: int = 99,
  seed: int = 0,
) -> Calibration:
  """Test by simulations whether p(theta | x) is calibrated: neither biased, nor too narrow, nor too wide.

  Ranks of each column, expected coverage and TARP are compared with what an exact posterior gives. The three tests need
  only samples and densities.

  Args:
    flow: distribution with `given(context)`, such as `fpp.vector_flow(2, context_size=3)`, or a `VectorFlow`.
    data: theta, parameters from the prior, `[N, D]`, that training has not seen. A flow that is 20 % too narrow is
      found with 300 rows, one that is 10 % too narrow with 1,000.
    context: x, what was simulated from each, `[N, C]`.
    names: of the columns of `data`.
    draws: L, draws of p(theta | x) for each row. Curves are compared at 99 levels at most, which 99 draws resolve.
    seed: of draws, TARP's random points, and the order of equal values.

  Returns:
    `Calibration`. TARP's random points are normal, with the mean and the standard deviation of theta; distances are in
    units of this deviation. A theta of density 0 lies outside of all highest-density regions.

  Raises:
    InputError (a ValueError): if an argument is invalid, the shapes do not fit, or the flow gives draws that are not
      finite, or NaN as a log density.

  Examples:
    >>> theta = np.random.normal(size=[1200, 2]).astype("float32")
    >>> x = theta + np.random.normal(size=[1200, 2]).astype("float32")
    >>> flow = fpp.vector_flow_for(theta[200:], x[200:])
    >>> history = fpp.fit(flow, theta[200:], x[200:], steps=20)
    >>> result = fpp.calibration(flow, theta[:200], x[:200], draws=19)
    >>> result.ranks.shape
    (200, 2)
    >>> result.plot("calibration.png")
  """
  flow = flow.distribution if isinstance(flow, Flow) else flow
  if not hasattr(flow, "given"):
    raise InputError(f"`flow` must have `given(context)`, as a conditional flow has, got {shown(flow)}")
  check_count("draws", draws)
  check_count("seed", seed, 0, 2**32 - 1)
  data = as_array("data", data, ["N", "D"])
  context = as_array("context", context)
  if len(data) < 2 or context.shape[:1] != data.shape[:1]:
    raise InputError(
      f"`data` and `context` must have as many rows, two or more, got shapes {data.shape} and {context.shape}"
    )
  check_all_finite("data", data)
  check_all_finite("context", context)
  columns = data.shape[1]
  if names is None:
    names = [f"data[{j}]" for j in range(columns)]
  curve_names = [*names, *_TESTS]
  if len(names) != columns or len({*curve_names}) != len(curve_names):
    raise InputError(f"`names` must be {columns} different ones, none of {_TESTS}, got {[*names]}")
  mean = data.mean(axis=0, dtype=np.float64)
  stddev = np.maximum(data.std(axis=0, dtype=np.float64), 1e-100)
  rng = np.random.RandomState(seed)
  ranks = []
  rows = max(1, _MOST_SAMPLES // draws)
  for start in range(0, len(data), rows):
    truth = data[start : start + rows]
    posterior = flow.given(context[start : start + rows])
    batch_seed = rng.randint(2**31, size=2, dtype=np.int32)
    samples = np.asarray(posterior.sample(draws, seed=batch_seed))
    if samples.shape != (draws, *truth.shape):
      raise InputError(f"`data` must have {samples.shape[-1]} columns, as draws of the flow, got {columns}")
    values = np.concatenate([truth[np.newaxis].astype(samples.dtype), samples])
    log_prob = np.asarray(posterior.log_prob(values))
    if not np.isfinite(samples).all() or np.isnan(log_prob).any():
      raise InputError(f"`flow` must give finite draws, and no NaN as a log density, as from row {start} on")
    points = mean + stddev * rng.standard_normal(truth.shape)
    distances = np.linalg.norm((values - points) / stddev, axis=-1)
    ranks.append([_ranks(array, rng) for array in (values, -log_prob, distances)])
  column_ranks, *other_ranks = map(np.concatenate, zip(*ranks))
  named_ranks = dict(zip(curve_names, [*column_ranks.T, *other_ranks]))
  return Calibration(column_ranks, *_compare(named_ranks, draws))


def _with_ends(values):
  """Return values at levels between 0 and 1 with those at 0 and 1, which are 0 and 1."""
  return np.array([0, *values, 1])


def _ranks(values, rng):
  """Return how many of values[1:] are less than values[0]; each order of equal values is equally likely."""
  less = np.sum(values[1:] < values[0], axis=0)
  equal = np.sum(values[1:] == values[0], axis=0)
  return less + rng.randint(equal + 1)


def _compare(ranks, draws):
  """Return levels, curves, band, p-values and findings of ranks by name."""
  count = min(draws + 1, _MOST_LEVELS)
  edges = np.arange(1, count) * (draws + 1) // count
  levels = edges / (draws + 1)
  rows = len(ranks["tarp"])
  curves = {name: np.searchsorted(np.sort(row_ranks), edges) / rows for name, row_ranks in ranks.items()}
  simulated = _simulated_distances(rows, (*levels,), len(curves))
  half_width = simulated[-_OUTSIDE] * np.sqrt(levels * (1 - levels))
  band = np.maximum(levels - half_width, 0), np.minimum(levels + half_width, 1)
  p_values = {}
  findings = {}
  for name, curve in curves.items():
    as_far = int(np.sum(simulated >= _distance(curve, levels)))
    p_values[name] = min((1 + as_far) / _SIMULATIONS, 1.0)
    if as_far < _OUTSIDE:
      findings[name] = _finding(name, (ranks[name] + 0.5) / (draws + 1))
  return levels, curves, band, p_values, findings


def _distance(curves, levels):
  """Return the largest distance of curves `[..., K]` from their levels, in units of sqrt(z (1 - z))."""
  distances = np.abs(curves - levels) / np.sqrt(levels * (1 - levels))
  return distances.max(axis=-1).round(9)  # so that a curve and its mirror image compare as equal


@functools.lru_cache(maxsize=8)
def _simulated_distances(rows, levels, tests):
  """Return sorted distances of curves of uniform ranks: 1,000 for each test less one, for which p-values are exact."""
  rng = np.random.RandomState(0)
  shares = np.diff(_with_ends(levels))
  distances = []
  for _ in range(tests):
    counts = rng.multinomial(rows, shares, _SIMULATIONS)
    curves = counts.cumsum(axis=1)[:, :-1] / rows
    distances.append(_distance(curves, np.array(levels)))
  return np.sort(np.concatenate(distances)[1:])


def _finding(name, ranks):
  """Return in words how a flow is wrong, by the location and the spread of its ranks, both N(0, 1) if uniform."""
  location = np.sqrt(12 * len(ranks)) * (ranks.mean() - 0.5)
  spread = np.sqrt(5 * len(ranks)) * (6 * ranks.var() - 0.5)
  words = {"too narrow": spread, "too wide": -spread, "too low": location, "too high": -location}
  if name == "coverage":
    words = {"too narrow or biased": location, "too wide": -location, "of another shape": abs(spread)}
  elif name == "tarp":  # a random point may be far: its distance is then like a column
    words = {"too narrow or biased": max(location, spread), "too wide": max(-location, -spread)}
  words = {"of another shape": 2.0, **words}
  return max(words, key=lambda word: words[word])
