"""The simulated frames of the sky: their noise has the entropy that is computed, and they stay the same."""

import mpmath
import numpy as np
import pytest

import flowpp_tf as fpp
from flowpp_tf.data import sky


@pytest.mark.parametrize("mean", [1.0, 37.5, 1200.0, 60_000.0])
def test_probabilities_sum_to_one_and_have_the_moments_of_the_noise(mean):
  first, p = sky.probabilities(mean)
  values = first + np.arange(len(p))
  assert abs(p.sum() - 1) < 1e-10
  assert abs(p @ values - (sky.BIAS + mean)) < 1e-4
  variance = p @ (values - p @ values) ** 2
  assert abs(variance / (mean + sky.READ_NOISE**2 + 1 / 12) - 1) < 1e-6


def test_a_probability_is_the_sum_that_defines_it():
  mean, value = 20.5, sky.BIAS + 17
  first, p = sky.probabilities(mean)
  normal = lambda x: mpmath.ncdf(mpmath.mpf(x) / sky.READ_NOISE)
  poisson = lambda k: mpmath.exp(-mean) * mpmath.mpf(mean) ** k / mpmath.factorial(k)
  rounded = lambda j: normal(j + 0.5) - normal(j - 0.5)
  expected = mpmath.fsum(poisson(k) * rounded(value - sky.BIAS - k) for k in range(100))
  assert abs(p[value - first] / float(expected) - 1) < 1e-9


def test_the_entropy_between_the_tabled_means_is_the_sum_itself():
  means = np.array([5.3, 812.0, 43_210.0])
  exact = [-np.sum(p[p > 0] * np.log2(p[p > 0])) for p in (sky.probabilities(mean)[1] for mean in means)]
  np.testing.assert_allclose(sky.noise_entropy(means), exact, rtol=0, atol=1e-5)
  # Of many photons it is that of a normal distribution.
  normal = 0.5 * np.log2(2 * np.pi * np.e * (means[-1] + sky.READ_NOISE**2 + 1 / 12))
  assert abs(exact[-1] - normal) < 1e-3


def test_the_surprise_of_drawn_noise_is_the_entropy():
  rng, mean, count = np.random.default_rng(0), 300.0, 40_000
  draws = sky.BIAS + rng.poisson(mean, count) + np.rint(rng.normal(0, sky.READ_NOISE, count)).astype(int)
  first, p = sky.probabilities(mean)
  bits = -np.log2(p[draws - first])
  assert abs(bits.mean() - sky.noise_entropy(np.array(mean))) < 5 * bits.std() / np.sqrt(count)


def test_the_surprise_of_a_frame_is_that_of_its_pixels():
  scene = np.array([[20.0, 700.0], [20.0, 31_000.0]])
  frame = np.array([[1015, 1702], [1031, 32_100]])
  expected = [-np.log2(p[x - first]) for x, (first, p) in zip(frame.ravel(), map(sky.probabilities, scene.ravel()))]
  np.testing.assert_allclose(sky.surprise(frame, scene).ravel(), expected, atol=0.1)


def test_frames_are_the_same_in_each_call_and_differ_by_their_index():
  pytest.importorskip("galsim")
  one, other = sky.frame("test", 0), sky.frame("test", 1)
  assert one.dtype == np.uint16 and one.shape == (sky.SIDE, sky.SIDE)
  np.testing.assert_array_equal(one, sky.frame("test", 0))
  assert np.median(one) != np.median(other)
  # Each pixel is its mean within the noise.
  mean = sky.scene("test", 0)
  z = (one - sky.BIAS - mean) / np.sqrt(mean + sky.READ_NOISE**2)
  assert abs(z.mean()) < 0.02 and abs(z.std() - 1) < 0.02
  assert mean.max() > 20 * np.median(mean)


def test_the_data_set_has_tiles_and_random_crops_of_its_frames(monkeypatch):
  whole = {split: np.arange(n * sky.SIDE**2, dtype=np.uint16).reshape(n, sky.SIDE, sky.SIDE, 1)
           for split, n in (("train", 2), ("validation", 1), ("test", 1))}  # fmt: skip
  pytest.importorskip("galsim")
  monkeypatch.setattr(sky, "frames", lambda cache_dir: whole)
  tiles = sky.sky16((32, 64, 1))
  assert tiles.train.shape == (2 * 8 * 4, 32, 64, 1) and tiles.levels == 65536
  np.testing.assert_array_equal(tiles.test[5], whole["test"][0, 32:64, 64:128])
  crops = sky.sky16((32, 32, 1), crops=True)
  assert crops.train.cut(crops.train.random_places(np.array([0.3, 0.9]))).dtype == np.uint16
  for shape in ((8, 8, 3), (512, 8, 1)):
    with pytest.raises(fpp.InputError, match="`image_shape` must be one of at most"):
      sky.sky16(shape)
