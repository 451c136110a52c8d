"""`fpp.calibration` names what is wrong with a posterior, and its curves have their closed forms.

A curve of N independent ranks is further than sqrt(log(2 / p) / (2 N)) from its expectation with a probability of at
most p (Dvoretzky, Kiefer, Wolfowitz, Massart); `FAR` is that of p = 1e-7 for 4,000 rows, plus what 49 draws blur.
"""

from statistics import NormalDist
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_probability as tfp

import flowpp_tf as fpp

NOISE, FAR = 0.01, 0.05  # x = theta + noise, theta ~ N(0, I): a ball around a random point has a flat surface there


def posterior(factor, shift=0.0):
  """p(theta | x) with a stddev that is wrong by a factor, and a mean that is wrong by `shift` stddevs."""
  stddev, shrink = NOISE / np.sqrt(1 + NOISE**2), 1 / (1 + NOISE**2)
  normal = tfp.distributions.MultivariateNormalDiag
  return SimpleNamespace(given=lambda x: normal(shrink * x + shift * stddev, np.full_like(x, factor * stddev)))


def drawn(draws):
  """The same draws for each x; the density is e^theta[0] where theta[0] is positive, else 0."""
  log_prob = lambda value: np.where(value[..., 0] > 0, value[..., 0], -np.inf)
  return SimpleNamespace(given=lambda x: SimpleNamespace(sample=lambda n, seed: draws, log_prob=log_prob))


def calibrate(flow, rows, draws, seed=0):
  rng = np.random.RandomState(seed)
  theta = rng.standard_normal([rows, 2])
  return fpp.calibration(flow, theta, theta + NOISE * rng.standard_normal([rows, 2]), draws=draws, seed=seed)


def test_exact_posteriors_pass():
  assert sum(calibrate(posterior(1.0), 200, 19, seed).is_calibrated for seed in range(20)) > 10  # 19 are expected


WRONG = {"narrow": (0.8, 0), "wide": (1.25, 0), "too high": (1.0, 0.3), "too low": (1.0, -0.3)}


@pytest.mark.parametrize("expected", WRONG)
def test_what_is_wrong_with_a_posterior_is_found_and_named(expected):
  result = calibrate(posterior(*WRONG[expected]), 4000, 49)
  for name in ("data[0]", "data[1]", "coverage", "tarp")[: 2 if "too" in expected else 4]:
    assert expected in result.findings[name] and f"\n{name}: " in str(result)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5])
def test_the_curves_have_their_closed_forms(factor):
  result = calibrate(posterior(factor), 4000, 49)
  of_line = np.array([NormalDist().cdf(factor * NormalDist().inv_cdf(level)) for level in result.levels])
  of_plane = 1 - (1 - result.levels) ** factor**2  # by the CDF of chi-square with two degrees of freedom
  for name, curve in result.curves.items():
    np.testing.assert_allclose(curve, of_plane if name == "coverage" else of_line, atol=FAR)


def test_curves_of_uniform_ranks_leave_the_band_if_and_only_if_their_p_values_say_so():
  rejected = 0
  for theta, *draws in np.random.RandomState(0).uniform(size=[400, 20, 100, 2]):
    result = fpp.calibration(drawn(np.stack(draws)), theta, theta, draws=19)
    (low, high), curves = result.band, np.stack([*result.curves.values()])
    outside = np.any((curves < low - 1e-6) | (curves > high + 1e-6), axis=1)
    np.testing.assert_array_equal(outside, np.array([*result.p_values.values()]) <= 0.05)
    rejected += not result.is_calibrated
  assert 1 <= rejected <= 45  # 20 are allowed


def test_ranks_are_those_of_a_loop_and_the_order_of_equal_values_is_random():
  theta, *draws = np.random.RandomState(0).standard_normal([8, 9, 2])
  draws = np.abs(draws)
  result = fpp.calibration(drawn(draws), theta, theta, draws=7)
  np.testing.assert_array_equal(result.ranks, sum((draw < theta).astype(int) for draw in draws))
  denser = [7 if row[0] < 0 else sum(draws[:, i, 0] > row[0]) for i, row in enumerate(theta)]
  expected = [np.mean([count < 8 * level for count in denser]) for level in result.levels]
  np.testing.assert_allclose(result.curves["coverage"], expected)
  tied = fpp.calibration(drawn(np.zeros([4, 4000, 1])), np.zeros([4000, 1]), np.zeros([4000, 1]), draws=4)
  np.testing.assert_allclose([*tied.curves.values()], np.tile(tied.levels, [3, 1]), atol=FAR)


def test_curves_of_many_columns_become_a_picture(tmp_path):
  theta = np.zeros([50, 12])
  fpp.calibration(drawn(np.ones([3, 50, 12])), theta, theta, draws=3).plot(tmp_path / "a.svg")
  assert [path.name for path in tmp_path.iterdir()] == ["a.svg"]


def test_columns_have_the_names_that_are_given():
  theta = np.zeros([50, 2])
  result = fpp.calibration(drawn(np.ones([3, 50, 2])), theta, theta, names=["mass", "spin"], draws=3)
  assert [*result.curves] == ["mass", "spin", "coverage", "tarp"] and "mass: the flow is" in str(result)
  for names in (["mass"], ["mass", "mass"], ["mass", "tarp"], ["mass", "mass", "spin"]):
    with pytest.raises(fpp.InputError, match="^`names` must be 2 different ones"):
      fpp.calibration(drawn(np.ones([3, 50, 2])), theta, theta, names=names, draws=3)


def test_a_flow_that_gives_no_numbers_is_refused():
  with pytest.raises(fpp.InputError, match="`flow` must give finite draws, and no NaN"):
    calibrate(posterior(np.nan), 20, 3)
