"""The examples of fields: the exact posterior is one, ranks are counted right, and a run is compared with the truth."""

import numpy as np
import pytest

from support.programs import example

pytestmark = [pytest.mark.slow, pytest.mark.docs]


def test_the_exact_posterior_integrates_to_one():
  calibration = example("field_calibration")
  truth, power = calibration.simulate(1, np.random.RandomState(1))
  axes = [value + np.linspace(-0.5, 0.5, 33) for value in truth[0]]
  grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
  log_density = calibration.exact_log_posterior(grid, np.repeat(power, len(grid), axis=0), points=201)
  np.testing.assert_allclose(np.sum(np.exp(log_density)) / 32**2, 1, atol=0.01)


def test_ranks_of_equal_counts_pass_and_others_fail():
  calibration = example("field_calibration")
  ranks = np.arange(64 * 16)
  counts, p = calibration.histogram(ranks % 64)
  assert counts == [64] * 16 and p == 1
  assert calibration.histogram(np.full(1024, 5))[1] < 1e-9
  drawn = np.random.RandomState(0).randint(0, 64, 1024)
  assert calibration.histogram(drawn)[1] > 1e-3
