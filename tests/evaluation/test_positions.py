"""The bound by position: its sums are the bound, and each part is where its pixel is."""

import dataclasses
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from flowpp_tf import bijectors as fb
from flowpp_tf import evaluation
from flowpp_tf.bijectors.by_element import forward_by_element
from flowpp_tf.evaluation.positions import _terms
from support.models import TINY, VARIANTS, perturbed, small_config, small_images


@pytest.mark.parametrize("name", ["published", "augmented_vflow"])
def test_the_sum_over_positions_is_the_bound_term_by_term(name):
  """In float64, and in float32 to its rounding, against the float64 of the same weights."""
  config = dataclasses.replace(VARIANTS[name], structure="columns:1,squeeze,channels:1", dequant_structure="columns:1")
  model, narrow = perturbed(config, dtype="float64"), perturbed(config, dtype="float32")
  narrow.set_weights(model.get_weights())
  images = small_images(3, config)
  noise = np.repeat(np.random.RandomState(1).randn(1, *model.noise_shape), 3, axis=0)
  expected = model.bound_terms(images, noise=noise)
  by_position = _terms(model, tf.constant(images), tf.constant(noise), None)
  rounded = _terms(narrow, tf.constant(images), tf.constant(noise, tf.float32), None)
  assert by_position.shape == (3, 4, 4, 3)
  for term, value in zip(tf.unstack(by_position, axis=-1), expected, strict=True):
    np.testing.assert_allclose(tf.reduce_sum(term, axis=[1, 2]), value[0], rtol=1e-11, atol=1e-11)
  np.testing.assert_allclose(rounded, by_position, rtol=1e-4, atol=1e-3)
  bound = narrow.log_prob_bound(images, noise=tf.constant(noise, tf.float32))
  np.testing.assert_allclose(tf.reduce_sum(rounded, axis=[1, 2, 3]), bound, rtol=2e-6)


@pytest.mark.slow
def test_with_several_draws_the_sum_is_the_score_of_scorer():
  config = small_config(TINY, num_classes=3, label_dropout=0.1)
  model = perturbed(config, dtype="float64")
  images = small_images(4, config)
  bounds = evaluation.Scorer(model, 4, seed=2).class_log_likelihoods(images)
  for column, label in enumerate([0, 1, 2, -1]):
    bits = evaluation.PositionScorer(model, 4, seed=2)(images, labels=label, batch_size=3)
    np.testing.assert_allclose(bits.total.sum(axis=(1, 2)), -bounds[:, column] / math.log(2), rtol=1e-11)


def test_each_log_det_is_at_the_pixel_that_its_value_comes_from():
  """Of rearrangements by hand, of a coupling against autodiff."""
  rng = np.random.RandomState(0)
  network = keras.Sequential([keras.Input([2, 2, 2]), keras.layers.Dense(2 * 2, "tanh", dtype="float64")])
  coupling = fb.Coupling(network, fb.affine_coupling_bijector, dtype=tf.float64)
  scale = rng.uniform(0.5, 2, [2, 2, 4])
  kernel = rng.randn(4, 4)
  chain = fb.Chain(
    [fb.Invert(fb.Squeeze()), coupling, fb.SwapHalves(), fb.Invertible1x1Conv(kernel), fb.ActNorm(scale, 0 * scale)]
    + [fb.Squeeze()]
  )
  x = tf.constant(rng.randn(3, 4, 4, 1))
  y, log_dets, moved_back = forward_by_element(chain, x)
  expected_y, total = chain.forward_and_log_det(x)
  np.testing.assert_allclose(y, expected_y)
  np.testing.assert_allclose(tf.reduce_sum(log_dets, axis=[1, 2, 3]), total)
  np.testing.assert_allclose(moved_back(y)[:, :, :, 0], _swapped(y.numpy()))

  mixed = fb.Chain([fb.SwapHalves(), fb.Invertible1x1Conv(kernel), fb.ActNorm(scale, 0 * scale), fb.Squeeze()])
  h = mixed.forward(x)
  with tf.GradientTape() as tape:
    tape.watch(h)
    out = coupling.forward(h)
  jacobian = tape.batch_jacobian(out, h).numpy().reshape(3, 16, 16)
  of_coupling = np.log(np.abs(np.diagonal(jacobian, axis1=1, axis2=2))).reshape(3, 2, 2, 4)
  # SwapHalves has moved the values after ActNorm and the convolution have counted them.
  counted = np.log(scale)[..., [2, 3, 0, 1]] + np.linalg.slogdet(kernel)[1] / 4 + of_coupling
  np.testing.assert_allclose(log_dets.numpy(), tf.nn.depth_to_space(counted, 2).numpy())


def _swapped(y):
  """The pixels of `[N, 4, 4, 1]` with the upper and the lower rows of each 2x2 block exchanged."""
  return y[..., 0][:, [1, 0, 3, 2]]
