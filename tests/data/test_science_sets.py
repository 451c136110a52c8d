"""Data sets that packages of sciences give: ELPV, for whose package a few pictures stand in, and sky16."""

import sys
import types

import numpy as np
import pytest

import flowpp_tf as fpp
from flowpp_tf import data
from flowpp_tf.core.errors import InputError
from flowpp_tf.data import bundled, sky

COUNT = 24


@pytest.fixture(autouse=True)
def package(monkeypatch):
  """24 pictures of 70x70 whose pixels are their index."""
  pictures = np.repeat(np.arange(COUNT, dtype=np.uint8), 70 * 70).reshape(COUNT, 70, 70)
  defects, kinds = np.arange(COUNT) % 4 / 3, np.where(np.arange(COUNT) < 12, "mono", "poly")
  utils = types.ModuleType("elpv_dataset.utils")
  utils.load_dataset = lambda: (pictures, defects, kinds)
  monkeypatch.setitem(sys.modules, "elpv_dataset", types.ModuleType("elpv_dataset"))
  monkeypatch.setitem(sys.modules, "elpv_dataset.utils", utils)
  bundled._solar_cells.cache_clear()
  yield
  bundled._solar_cells.cache_clear()


def test_whole_pictures_are_split_by_their_index_and_have_classes():
  dataset = data.load_dataset("elpv", labels=True)
  assert dataset.image_shape == (70, 70, 1)
  first = {split: dataset.split(split)[:, 0, 0, 0].tolist() for split in ("train", "validation", "test")}
  assert first["test"] == [7, 17] and first["validation"] == [3, 13, 23]
  assert sorted(sum(first.values(), [])) == list(range(COUNT))
  names = [[dataset.classes[label] for label in dataset.labels_of(split)] for split in ("test", "validation")]
  assert names == [["mono 3/3", "poly 1/3"], ["mono 3/3", "poly 1/3", "poly 3/3"]]


def test_tiles_come_from_the_pictures_of_their_split():
  tiles = data.load_dataset("elpv", image_shape=(32, 32, 1))
  crops = data.load_dataset("elpv", image_shape=(32, 32, 1), crops=True)
  assert tiles.test.shape == (8, 32, 32, 1) and set(np.unique(tiles.test)) == {7, 17}
  assert set(np.unique(tiles.validation)) == {3, 13, 23}
  assert isinstance(crops.train, data.RandomCrops) and isinstance(tiles.train, np.ndarray)
  np.testing.assert_array_equal(crops.train[:], tiles.train)
  assert tiles.fingerprint() == crops.fingerprint()


@pytest.mark.parametrize(
  "options, words",
  [
    (dict(image_shape=(80, 32, 1)), "have no crops of"),
    (dict(image_shape=(32, 32, 3)), "have no crops of"),
    (dict(image_shape=(32, 32, 1), labels=True), "has labels for whole pictures"),
  ],
)
def test_other_shapes_are_refused(options, words):
  with pytest.raises(InputError, match=words):
    data.load_dataset("elpv", **options)


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
