"""The bound by position, and maps of it: sums are the bound, and each part is where its pixel is; colours of maps."""

import dataclasses
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import bijectors as fb
from flowpp_tf import evaluation
from flowpp_tf.bijectors.by_element import forward_by_element
from flowpp_tf.evaluation import BitMaps, Scorer, heat_map, to_shades
from flowpp_tf.evaluation.positions import _terms
from flowpp_tf.tiles.cutting import to_tiles
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
  # The pixels of `[N, 4, 4, 1]` with the upper and the lower rows of each 2x2 block exchanged.
  np.testing.assert_allclose(moved_back(y)[:, :, :, 0], y.numpy()[..., 0][:, [1, 0, 3, 2]])

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


SHAPE = TINY.image_shape


@pytest.fixture(scope="module")
def model():
  return perturbed(TINY)


def picture(height, width, seed=0):
  return np.random.RandomState(seed).randint(0, TINY.levels, [height, width, SHAPE[2]]).astype(np.uint8)


@pytest.mark.parametrize("batch_size", [2, 100])
def test_a_map_adds_up_to_the_bound_of_the_tiles_of_its_picture(model, batch_size):
  """Also where tiles reach over the edges, and where a batch has tiles of two pictures."""
  height, width, _ = SHAPE
  pictures = [picture(2 * height + 1, width + 3), picture(height, width, 1), picture(1, 1, 2)]
  maps = fpp.bit_maps(model, pictures, num_samples=2, seed=3, batch_size=batch_size)
  scorer = Scorer(model, 2, seed=3)
  for one, bits in zip(pictures, maps, strict=True):
    assert bits.shape == one.shape[:2]
    expected = -scorer.log_likelihood(to_tiles(one, SHAPE)).sum() / math.log(2)
    np.testing.assert_allclose(bits.sum(), expected, rtol=1e-5)


def test_a_map_has_the_bits_of_each_tile_in_its_place(model):
  height, width, _ = SHAPE
  whole = picture(2 * height, 3 * width)
  (bits,) = fpp.bit_maps(model, [whole])
  (part,) = fpp.bit_maps(model, [whole[height:, width : 2 * width]])
  np.testing.assert_allclose(bits[height:, width : 2 * width], part, rtol=1e-4, atol=1e-4)


def test_a_model_that_needs_a_label_is_refused_before_anything_is_measured():
  with pytest.raises(fpp.InputError, match="`model` must need no label and no condition"):
    BitMaps(fpp.FlowPlusPlus(small_config(TINY, num_classes=2)))


def test_colours_of_a_heat_map_end_at_its_limits():
  values = np.array([[-1.0, 0.0, 2.0, 4.0, 9.0]])
  colours = np.asarray(heat_map(values, low=0.0, high=4.0))[0]
  np.testing.assert_array_equal(colours[0], colours[1])
  np.testing.assert_array_equal(colours[3], colours[4])
  assert np.all(np.diff(colours[1:4].sum(axis=1).astype(int)) > 0)
  with pytest.raises(fpp.InputError, match="`high` must be above `low`"):
    heat_map(values, low=4.0, high=4.0)
  far = np.array([[-1.5e308, 0.0, 1.5e308]])  # whose range has no float64
  np.testing.assert_array_equal(heat_map(far), heat_map(np.array([[-1.0, 0.0, 1.0]])))


def test_values_all_below_the_lower_limit_are_black():
  values = np.array([[-1.0, 0.0, 2.0, 4.0, 9.0]])
  black = np.asarray(heat_map(np.arange(5.0)[None]))[0, 0]
  np.testing.assert_array_equal(np.asarray(heat_map(values, low=9.5))[0], [black] * 5)


@pytest.mark.parametrize("levels", [2, 17, 2000])
def test_shades_of_integers_do_not_depend_on_their_dtype(levels):
  values = np.arange(levels)
  expected = np.round(values * 255 / (levels - 1))
  for dtype in (np.float16, np.float32, np.float64, np.uint16, np.int64):
    np.testing.assert_array_equal(to_shades(values.astype(dtype), levels), expected)


@pytest.mark.parametrize("low, high", [(3.0, 3.0), (0.0, 0.0), (-3e38, 3e38), (-1.7e308, 1.7e308), (0.0, 1e-310)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shades_of_real_numbers_go_from_the_smallest_to_the_largest_of_any_size(low, high, dtype):
  if dtype == np.float32 and max(abs(high), abs(low)) > 1e300:
    low, high = low / 1e270, high / 1e270
  images = np.array([low, low / 2 + high / 2, high], dtype).reshape(1, 1, 3, 1)
  with np.errstate(all="raise", under="ignore"):
    shades = to_shades(images, None).ravel().tolist()
  assert shades == ([0, 128, 255] if images.max() > images.min() else [0, 0, 0])
