"""Maps of whole pictures: they add up to the bound of the tiles that an archive would code."""

import math

import numpy as np
import pytest

import flowpp_tf as fpp
from flowpp_tf.evaluation import BitMaps, Scorer, heat_map, to_shades
from flowpp_tf.tiles.cutting import to_tiles
from support.models import TINY, perturbed, small_config

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


@pytest.mark.parametrize("limits, colour", [(dict(low=9.5), 0), (dict(high=-1.5), 4)])
def test_values_all_beyond_the_only_limit_have_its_colour(limits, colour):
  values = np.array([[-1.0, 0.0, 2.0, 4.0, 9.0]])
  ends = np.asarray(heat_map(np.arange(5.0)[None]))[0]
  np.testing.assert_array_equal(np.asarray(heat_map(values, **limits))[0], [ends[colour]] * 5)


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
