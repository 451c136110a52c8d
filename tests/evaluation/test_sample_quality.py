"""Figures of samples: the distance against other arithmetic, and what they must say of copies, noise and one class."""

import dataclasses
import types

import numpy as np
import pytest
import scipy.linalg

from flowpp_tf import InputError, evaluation
from flowpp_tf.core.registry import SPLITS
from flowpp_tf.data import ImageDataset, load_dataset
from flowpp_tf.evaluation import features as features_module
from flowpp_tf.evaluation import sample_quality


def test_the_distance_is_that_of_its_formula():
  rng = np.random.RandomState(0)
  a = rng.randn(400, 6) @ rng.randn(6, 6) + rng.randn(6)
  b = rng.randn(300, 6) @ rng.randn(6, 6)
  one, other = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
  expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(one + other - 2 * scipy.linalg.sqrtm(one @ other).real)
  assert sample_quality.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("count", [5, 1000])  # 5: singular covariances, of which a general square root fails
def test_the_distance_of_scaled_features_is_exact(count):
  a = np.random.RandomState(1).randn(count, 16)
  centred = a - a.mean(axis=0)
  expected = 0.25 * np.trace(np.cov(a, rowvar=False))  # by (1 - 1.5)^2
  assert sample_quality.frechet_distance(centred, 1.5 * centred) == pytest.approx(expected, rel=1e-6)
  assert sample_quality.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_the_standard_error_of_a_mean_is_that_of_the_means_of_groups():
  rows = np.random.RandomState(2).randn(50)
  groups = [rows[i::10].mean() for i in range(10)]
  assert sample_quality._standard_error(np.mean, rows) == pytest.approx(np.std(groups, ddof=1) / np.sqrt(10))


@pytest.fixture(scope="module")
def digits():
  return load_dataset("digits", labels=True)


@pytest.fixture(scope="module")
def evaluator(digits):
  return evaluation.SampleEvaluator(evaluation.FeatureNetwork.train(digits, steps=60))


def test_figures_tell_copies_noise_and_one_class_from_real_images(digits, evaluator):
  real = evaluator.real(1000)
  assert (
    real.images == 1000 and sum(real.class_shares) == pytest.approx(1) and real.imbalance < 0.2
  )  # test images are few
  copies = evaluator(digits.train[:300])
  assert copies.neighbour_distance == copies.closest == 0 < real.closest < real.neighbour_distance
  noise = evaluator(np.random.RandomState(0).randint(0, 17, [300, 8, 8, 1]))
  assert noise.frechet_distance - 5 * noise.standard_error > 3 * real.frechet_distance
  sevens = evaluator(digits.train[digits.labels["train"] == 7])
  assert sevens.imbalance > 0.7 and sevens.class_shares[7] > 0.8
  assert sevens.frechet_distance > 2 * real.frechet_distance


@pytest.mark.slow
def test_without_labels_the_network_learns_rotations():
  # Stripes of one direction in the upper half: each of the four turns looks different.
  images = np.zeros([64, 8, 8, 1], np.uint8)
  images[:, :3, :, :] = np.random.RandomState(0).randint(128, 256, [64, 3, 8, 1])
  square = ImageDataset("bars", 256, images, images[:32], images[32:])
  network = evaluation.FeatureNetwork.train(square, steps=40)
  assert network.network.output_shape[1] == (None, 4)
  assert network.accuracy("test") > 0.9
  quality = evaluation.SampleEvaluator(network)(images)
  assert quality.class_shares == () and quality.imbalance is None
  wide = dataclasses.replace(square, **{split: square.split(split)[:, :4] for split in ("train", "validation", "test")})
  assert evaluation.FeatureNetwork.train(wide, steps=1).network.output_shape[1] == (None, 2)


def test_features_of_16_bits_are_those_of_all_their_bits():
  """An image of 8 bits, and the same one in 16 bits, whose values are 257 times as large, have the same features."""
  images = np.random.RandomState(0).randint(0, 256, [8, 8, 8, 1]).astype(np.uint8)

  def features(images, levels):
    dataset = ImageDataset("noise", levels, images, images, images)
    return evaluation.FeatureNetwork(features_module._network(dataset, seed=0), dataset)(images)[0]

  deep = features(images.astype(np.uint16) * 257, 1 << 16)
  np.testing.assert_allclose(deep, features(images, 256), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_network_follows_from_its_seed(digits):
  first, again = (evaluation.FeatureNetwork.train(digits, steps=3) for _ in range(2))
  np.testing.assert_allclose(first(digits.test)[0], again(digits.test)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n, counts", [(6, [4, 1, 1]), (30, [20, 5, 5]), (60, [40, 10, 10])])
def test_samples_of_a_model_with_classes_have_the_classes_of_sorted_training_images(digits, n, counts):
  """Those of a folder are sorted: labels of the first images alone would be those of one class."""

  class Labels:  # in place of a `BatchedModel`, whose samples have these labels
    model = types.SimpleNamespace(config=types.SimpleNamespace(num_classes=3))

    def sample(self, n, temperature, seed, labels):
      return labels

  labels = np.repeat([0, 1, 2], [20, 5, 5])
  images = digits.train[:30]
  dataset = ImageDataset(
    "sorted", 17, images, images, images, labels=dict.fromkeys(SPLITS, labels), classes=("a", "b", "c")
  )
  assert np.bincount(sample_quality.draw_samples(Labels(), dataset, n, 1.0, seed=0)).tolist() == counts


def test_too_few_samples_are_refused(digits, evaluator):
  with pytest.raises(InputError, match="`images` must be at least 20, got 19"):
    evaluator(digits.test[:19])
