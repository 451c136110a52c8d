"""ELPV: the splits, the classes, the tiles. A package of a few pictures stands in for elpv-dataset."""

import sys
import types

import numpy as np
import pytest

from flowpp_tf import data
from flowpp_tf.core.errors import InputError
from flowpp_tf.data import bundled

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
