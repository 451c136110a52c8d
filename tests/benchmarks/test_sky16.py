"""The entropy of the noise in the simulated frames of the sky."""

import mpmath
import numpy as np
import pytest

from flowpp_tf.data import sky
import sky16


@pytest.mark.parametrize("mean", [1.0, 37.5, 1200.0, 60_000.0])
def test_probabilities_sum_to_one_and_have_the_moments_of_the_noise(mean):
  first, p = sky16.probabilities(mean)
  values = first + np.arange(len(p))
  assert abs(p.sum() - 1) < 1e-10
  assert abs(p @ values - (sky.BIAS + mean)) < 1e-4
  variance = p @ (values - p @ values) ** 2
  assert abs(variance / (mean + sky.READ_NOISE**2 + 1 / 12) - 1) < 1e-6


def test_a_probability_is_the_sum_that_defines_it():
  mean, value = 20.5, sky.BIAS + 17
  first, p = sky16.probabilities(mean)
  normal = lambda x: mpmath.ncdf(mpmath.mpf(x) / sky.READ_NOISE)
  poisson = lambda k: mpmath.exp(-mean) * mpmath.mpf(mean) ** k / mpmath.factorial(k)
  rounded = lambda j: normal(j + 0.5) - normal(j - 0.5)
  expected = mpmath.fsum(poisson(k) * rounded(value - sky.BIAS - k) for k in range(100))
  assert abs(p[value - first] / float(expected) - 1) < 1e-9


def test_the_entropy_between_the_tabled_means_is_the_sum_itself():
  means = np.array([5.3, 812.0, 43_210.0])
  exact = [-np.sum(p[p > 0] * np.log2(p[p > 0])) for p in (sky16.probabilities(mean)[1] for mean in means)]
  np.testing.assert_allclose(sky16.noise_entropy(means), exact, rtol=0, atol=1e-5)
  # Of many photons it is that of a normal distribution.
  normal = 0.5 * np.log2(2 * np.pi * np.e * (means[-1] + sky.READ_NOISE**2 + 1 / 12))
  assert abs(exact[-1] - normal) < 1e-3


def test_the_surprise_of_drawn_noise_is_the_entropy():
  rng, mean, count = np.random.default_rng(0), 300.0, 40_000
  draws = sky.BIAS + rng.poisson(mean, count) + np.rint(rng.normal(0, sky.READ_NOISE, count)).astype(int)
  first, p = sky16.probabilities(mean)
  bits = -np.log2(p[draws - first])
  assert abs(bits.mean() - sky16.noise_entropy(np.array(mean))) < 5 * bits.std() / np.sqrt(count)
