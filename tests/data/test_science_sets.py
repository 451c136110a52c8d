"""Data sets of sciences: ELPV, for whose package a few pictures stand in, sky16, and Gaussian fields, known exactly."""

import sys
import types

import numpy as np
import pytest
import tensorflow_probability as tfp

from flowpp_tf import data
from flowpp_tf.core.errors import InputError
from flowpp_tf.data import GaussianFields, bundled, load_dataset, sky
from flowpp_tf.data.gaussian_fields import expected_log_prob, field_log_prob, fields_of_noise, power_spectrum
from support.refusing import refuses

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
  refuses(words, data.load_dataset, "elpv", **options)


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
  # Its scene and its noise are those by which the set is defined: others would be another set of this name.
  np.testing.assert_allclose([mean.mean(), mean.max()], [517.31334, 29732.397], rtol=1e-5)
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
    refuses("`image_shape` must be one of at most", sky.sky16, shape)


def covariance(spectrum):
  """The covariance of all pairs of values: that of a field and its shift, the transform of the spectrum."""
  size = len(spectrum)
  of_shift = np.fft.ifft2(spectrum).real
  rows, columns = np.divmod(np.arange(size**2), size)
  return of_shift[(rows[:, None] - rows) % size, (columns[:, None] - columns) % size]


def test_the_density_is_that_of_a_multivariate_normal():
  spectrum = power_spectrum(4, amplitude=2.0, slope=2.0, corner=1.0)
  x = np.random.RandomState(0).normal(size=[5, 4, 4, 1])
  scale = np.linalg.cholesky(covariance(spectrum))
  normal = tfp.distributions.MultivariateNormalTriL(np.zeros(16), scale)
  np.testing.assert_allclose(field_log_prob(x, spectrum), normal.log_prob(x.reshape(5, 16)), rtol=1e-12)
  np.testing.assert_allclose(expected_log_prob(spectrum)[0], -normal.entropy(), rtol=1e-12)


def test_fields_have_the_covariance_of_their_spectrum():
  spectrum = power_spectrum(4, slope=2.0)
  x = GaussianFields(20_000, spectrum)[:].reshape(-1, 16)
  np.testing.assert_allclose(x.T @ x / len(x), covariance(spectrum), atol=0.05)
  log_probs, (mean, stddev) = field_log_prob(x.reshape(-1, 4, 4, 1), spectrum), expected_log_prob(spectrum)
  np.testing.assert_allclose([log_probs.mean(), log_probs.std()], [mean, stddev], rtol=0.05)


WRONG_SPECTRA = {
  "`spectrum` must be positive": 0 * power_spectrum(4),
  "`spectrum` must be finite": np.nan * power_spectrum(4),
  "`spectrum` must be even": np.arange(1.0, 17).reshape(4, 4),
  "`spectrum` must be of shape": np.ones(4),
}


@pytest.mark.parametrize("message", WRONG_SPECTRA)
@pytest.mark.parametrize(
  "call",
  [
    lambda spectrum: GaussianFields(1, spectrum),
    lambda spectrum: field_log_prob(np.zeros([4, 4, 1]), spectrum),
    lambda spectrum: fields_of_noise(np.zeros([4, 4]), spectrum),
    expected_log_prob,
  ],
)
def test_a_spectrum_that_no_real_field_has_is_refused(call, message):
  refuses(message, call, WRONG_SPECTRA[message])


def test_fields_of_another_size_or_without_channels_are_refused():
  """Their density would be that of something else: the last axis of [8, 8, 8] is no channel."""
  for shape in ([8, 8, 8], [4, 8, 1], [8, 8], [8, 8, 2]):
    refuses(r"`fields` must be of shape \[8, 8, 1\]", field_log_prob, np.zeros(shape), power_spectrum(8))
  refuses(r"`noise` must be of shape \[8, 8\]", fields_of_noise, np.zeros([3, 4]), power_spectrum(8))


def test_a_field_follows_from_the_seed_and_its_number():
  fields = GaussianFields(2**30, power_spectrum(4), seed=3)
  some = fields[[5, 2**30 - 1, 5]]
  np.testing.assert_array_equal(some[0], some[2])
  np.testing.assert_array_equal(some[:2], [fields[5], fields[-1]])
  np.testing.assert_array_equal(some[:1], fields[5:6])
  assert not np.any(some[0] == some[1]) and not np.any(some[0] == GaussianFields(9, power_spectrum(4), seed=4)[5])
  with pytest.raises(IndexError):
    fields[2**30]


def test_the_data_set_is_for_models_of_real_values():
  dataset = load_dataset("random_field", real_valued=True)
  assert dataset.levels is None and dataset.train[:2].dtype == np.float32
  refuses("has integer images, and the model takes real-valued ones", load_dataset, "digits", real_valued=True)


def test_real_valued_arrays_come_from_a_file(tmp_path):
  rng = np.random.RandomState(0)
  arrays = {split: rng.normal(size=[3, 4, 4]) for split in ("train", "validation", "test")}
  np.savez(tmp_path / "fields.npz", **arrays)
  name = f"npz:{tmp_path / 'fields.npz'}"
  dataset = load_dataset(name, real_valued=True)
  np.testing.assert_array_equal(dataset.test[..., 0], arrays["test"])
  refuses("must hold integers, got float64", load_dataset, name)
  arrays["test"][0, 1, 1] = np.inf
  np.savez(tmp_path / "fields.npz", **arrays)
  with pytest.raises(InputError, match="fields.npz': `test` must be finite, got 1 values that .* first in image 0"):
    load_dataset(name, real_valued=True)


@pytest.mark.parametrize(
  ("stored", "dtype"),
  [("<f4", "f4"), (">f4", "f4"), ("<f8", "f8"), (">f8", "f8"), ("f2", "f4"), (">u2", "f4"), ("i4", "f8"), ("u8", "f8")],
)
def test_real_valued_arrays_keep_all_digits_of_their_file(tmp_path, stored, dtype):
  largest = np.iinfo(stored).max // 2**12 if np.dtype(stored).kind in "iu" else 16.0
  values = np.linspace(0, largest, 48).reshape(3, 4, 4)
  array = values.astype(stored)
  np.savez(tmp_path / "fields.npz", **dict.fromkeys(("train", "validation", "test"), array))
  test = load_dataset(f"npz:{tmp_path / 'fields.npz'}", real_valued=True).test
  assert test.dtype == np.dtype(dtype) and test.dtype.isnative
  np.testing.assert_array_equal(test[..., 0].astype(stored), array)
