"""The simulated frames of the sky: they stay the same, and have the noise that is said."""

import numpy as np
import pytest

import flowpp_tf as fpp
from flowpp_tf.data import sky


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
  # Its noise is that of the generator by which the set is defined: another one would be another set of this name.
  rng = np.random.Generator(np.random.PCG64([16, 2, 0, 1]))
  electrons = rng.poisson(mean) + np.rint(rng.normal(0.0, sky.READ_NOISE, mean.shape))
  np.testing.assert_array_equal(one, np.clip(sky.BIAS + electrons, 0, sky.LEVELS - 1))


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
