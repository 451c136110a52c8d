"""The benchmark of posteriors: simulators against what follows from their definitions, C2ST, and the table."""

import numpy as np
import pytest

import posteriors
import run_all


def test_simulators_have_the_moments_of_their_definitions():
  rng = np.random.RandomState(0)
  theta, x = posteriors.TASKS["gaussian_linear"].simulate(rng, 100_000)
  rest = theta - x / 2  # the posterior is N(x / 2, 0.05)
  np.testing.assert_allclose([np.mean(rest**2), np.mean(rest * x)], [0.05, 0], atol=7e-4)
  points = posteriors.slcp(rng, np.tile([0.7, -2.9, -1.0, 0.9, 0.6], [50_000, 1])).reshape(-1, 2)
  covariance = 0.81 * np.tanh(0.6)
  np.testing.assert_allclose(np.cov(points.T), [[1, covariance], [covariance, 0.81**2]], atol=0.025)
  theta, _ = posteriors.TASKS["bernoulli_glm"].simulate(rng, 100_000)
  np.testing.assert_allclose(np.cov(theta.T) @ posteriors.glm_precision(), np.eye(10), atol=0.1)


def test_c2st_is_a_half_for_equal_distributions_and_one_for_distant_ones():
  a, b = np.random.RandomState(0).normal(size=[2, 300, 1])
  assert abs(posteriors.c2st(a, b) - 0.5) < 0.15 and posteriors.c2st(a, b + 100) == 1
  assert np.isnan(posteriors.c2st(a, np.append(b[1:], [[np.nan]], axis=0)))


def test_the_table_has_both_errors_and_the_observations_that_all_seeds_have():
  run = dict(task="slcp", simulations=1000, cpu_minutes=2.0, outside=0.0, not_finite=0.0, skipped_steps=0)
  runs = [run | dict(seed=0, c2st={"1": 0.6, "2": 0.8, "10": 0.9}), run | dict(seed=1, c2st={"1": 0.7, "2": 0.9})]
  (row,) = posteriors.summary(runs)
  assert (row["c2st"], row["error"]) == pytest.approx((0.75, np.hypot(0.1, 0.05)))  # of .65 and .85; .7 and .8
  cells = run_all.posteriors_table({"posteriors": {"runs": [{"result": {"rows": [row]}}]}})
  assert [*cells] == [
    ("task", "1,000 simulations"),
    ("slcp", "0.750 +- 0.112 (0.975)"),
    ("observations, seeds", "2, 2"),
    ("CPU minutes of training", "2.0"),
  ]
