"""Channels that augment the image: the bound against a Jacobian by autodiff, and against frequencies of samples."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf.config.structure import parse_structure
from support.models import VARIANTS, perturbed, small_images

# Images of two pixels that are black or white: four of them.
TWO_PIXELS = fpp.FlowPlusPlusConfig(
  image_shape=(1, 2, 1),
  levels=2,
  structure="columns:2,channels:2",
  components=2,
  filters=4,
  blocks=1,
  heads=1,
  dequantization="uniform",
  dequant_structure="columns:1",
  dequant_filters=4,
  dequant_blocks=1,
  context_channels=4,
  context_blocks=1,
  augment_channels=1,
  augment_blocks=1,
  dtype="float64",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["augmented", "augmented_normal", "augmented_vflow"])
def test_the_bound_is_that_of_the_definition_by_autodiff(name):
  model = perturbed(VARIANTS[name], dtype="float64")
  images, noise = small_images(2), model.sample_noise([2], seed=3)
  x = tf.cast(images, tf.float64)

  dequantizer, augmenter = (noise[..., :2], noise[..., 2:])
  u, log_q = model.dequantizer.posterior(x).transform(dequantizer)
  p = 0.05 + 0.9 * (x + u) / 8
  e, log_q_e = model.augmenter.posterior(tf.math.log(p / (1 - p))).transform(augmenter)

  with tf.GradientTape() as tape:
    y = tf.concat([x + u, e], axis=-1)
    tape.watch(y)
    z = tf.reshape(model.flow.bijector.inverse(y), [2, -1])
  jacobian = tf.reshape(tape.batch_jacobian(z, y), [2, 64, 64])
  prior = -0.5 * tf.reduce_sum(z**2 + np.log(2 * np.pi), axis=1)
  expected = prior + tf.linalg.slogdet(jacobian).log_abs_determinant - log_q - log_q_e
  np.testing.assert_allclose(model.log_prob_bound(images, noise=noise), expected, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("posterior, scale", [("flow", 0.05), ("normal", 0.1)])
def test_images_come_as_often_as_the_bound_of_many_draws_says(posterior, scale):
  model = perturbed(TWO_PIXELS, scale, augment_posterior=posterior)
  images = np.asarray(list(itertools.product(range(2), repeat=2)), np.uint8).reshape(4, 1, 2, 1)
  probability = np.exp(model.log_prob_bound(images, num_samples=20_000, seed=0))
  # A sample outside of [0, 2) is clipped to the nearest image, and no image has its density.
  flow = model.flow.sample(40_000, seed=1)[..., :1].numpy()
  inside = ((flow >= 0) & (flow < 2)).all(axis=(1, 2, 3))
  kinds = np.floor(flow[inside]).reshape(-1, 2) @ [2, 1]
  frequency = np.bincount(kinds.astype(int), minlength=4) / len(flow)
  assert frequency.max() > 1.5 * frequency.min()  # else every model would pass
  # Few draws have most of the weight: the bound is still some per cent below the logarithm of what it bounds.
  np.testing.assert_allclose(probability, frequency, rtol=0.1)


def test_the_noise_of_the_image_is_that_of_a_model_without_augmentation():
  plain, augmented = fpp.FlowPlusPlus(VARIANTS["published"]), fpp.FlowPlusPlus(VARIANTS["augmented"])
  np.testing.assert_array_equal(augmented.sample_noise([3], 5)[..., :2], plain.sample_noise([3], 5))
  assert augmented.noise_shape == (4, 4, 4) and plain.noise_shape == (4, 4, 2)


def test_vflow_is_the_published_one():
  config = fpp.get_config("cifar10_vflow")
  assert config.flow_shape == (32, 32, 6) and config.augment_blocks == 3
  assert (config.coupling_margin, config.augment_end, config.invertible_conv_stddev) == (0.05, "sigmoid", 0.01)
  flow = [(c.kind, c.couplings) for c in parse_structure(config.structure, config.flow_shape)]
  assert flow == [("columns", 2), ("channels", 2), ("squeeze", 0), ("columns", 2), ("channels", 3)]
