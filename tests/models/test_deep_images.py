"""Models of images of 9 to 16 bits: their numbers against float64, their entrances and exits in uint16."""

import dataclasses
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf.core.checks import pixel_dtype
from flowpp_tf.evaluation import BatchedModel, Scorer, image_grid, reconstruct
from flowpp_tf.evaluation.positions import PositionScorer
from flowpp_tf.models.fitted_transform import FittedTransform
from support.marks import quick_rows
from support.models import SMALL, perturb, small_config
from support.refusing import refuses

LEVELS = 1 << 16
CONFIG = small_config(SMALL, levels=LEVELS, attention=False, dropout=0.0)
VARIANTS = {
  "variational": CONFIG,
  "uniform": dataclasses.replace(CONFIG, dequantization="uniform"),
  "asinh": dataclasses.replace(CONFIG, dequantization="uniform", pixel_transform="asinh"),
  "augmented": dataclasses.replace(
    CONFIG, pixel_transform="asinh", augment_channels=2, structure="channels:1,squeeze,channels:1"
  ),
}


def frames(count, seed=0, config=CONFIG):
  """Dark frames with a few bright pixels, over all 16 bits."""
  rng = np.random.RandomState(seed)
  images = 1000 + rng.poisson(400, [count, *config.image_shape]) + np.rint(6 * rng.randn(count, *config.image_shape))
  bright = rng.rand(*images.shape) < 0.03
  return np.where(bright, rng.randint(0, LEVELS, images.shape), images).astype(np.uint16)


@functools.cache
def model(name, flow_dtype=""):
  keras.utils.set_random_seed(0)
  made = fpp.FlowPlusPlus(VARIANTS[name])
  made.adapt(frames(64, config=made.config))
  perturb(made, 0.02)
  if not flow_dtype:
    return made
  other = fpp.FlowPlusPlus(dataclasses.replace(VARIANTS[name], flow_dtype=flow_dtype))
  other.set_weights(made.get_weights())
  return other


@pytest.mark.parametrize("levels, dtype", [(2, "uint8"), (256, "uint8"), (257, "uint16"), (65536, "uint16")])
def test_the_dtype_of_pixels(levels, dtype):
  assert pixel_dtype(levels) == np.dtype(dtype)


@pytest.mark.parametrize("levels", [0, 1, 65537])
def test_other_numbers_of_levels_are_errors(levels):
  refuses("`levels` must be at (least 2|most 65,536), got", pixel_dtype, levels)
  refuses("`levels` must be at (least 2|most 65,536), got", dataclasses.replace, CONFIG, levels=levels)


@pytest.mark.parametrize("name", quick_rows(VARIANTS, ["uniform", "asinh"]))
def test_float32_has_the_bound_of_float64(name):
  """x + u keeps 8 bits of u at the top of 16-bit images, and its logit about as many: enough for the bound."""
  narrow, wide = model(name), model(name, "float64")
  images = frames(32, seed=1, config=narrow.config)
  noise = narrow.sample_noise([32], seed=0)
  bits = narrow.bits_per_dim(images, noise=noise).numpy()
  expected = wide.bits_per_dim(images, noise=tf.cast(noise, tf.float64)).numpy()
  np.testing.assert_allclose(bits, expected, rtol=1e-5, atol=1e-4)


def test_the_noise_moves_no_pixel_to_the_next_value():
  """x + u rounds to a float32 below x + 1, for the largest u too."""
  made = model("uniform")
  images = np.linspace(0, LEVELS - 1, 64 * 8).round().astype(np.uint16).reshape(-1, *CONFIG.image_shape)
  u = tf.fill([len(images), *made.noise_shape], np.float32(1 - 2**-24))
  x, _ = made.dequantizer.dequantize(tf.cast(images, tf.float32), u)
  np.testing.assert_array_equal(np.floor(x), images)


@pytest.mark.parametrize("name", VARIANTS)
def test_latents_give_the_pixels_back_in_float64(name):
  made = model(name, "float64")
  images = frames(16, seed=2, config=made.config)
  latents = made.encode(images, seed=0)
  decoded = made.decode(latents)
  assert decoded.dtype == tf.uint16
  np.testing.assert_array_equal(decoded, images)


def test_in_float32_a_pixel_in_some_hundreds_comes_back_one_level_off():
  made = model("asinh")
  differences = reconstruct(BatchedModel(made), frames(32, seed=3)).differences
  assert differences.max() <= 1 and np.mean(differences > 0) < 0.01


@pytest.mark.slow
def test_samples_scores_and_maps_are_those_of_all_16_bits():
  made, images = model("asinh"), frames(6, seed=4)
  samples = made.sample(8, seed=0).numpy()
  assert samples.dtype == np.uint16 and samples.max() > 256
  np.testing.assert_array_equal(BatchedModel(made, batch_size=3).sample(8, seed=0), samples)
  scores = Scorer(made, num_samples=2)(images)
  # The PNG that a score is corrected by has 16 bits too: more than half of the bytes of such noise.
  assert (scores["png_bytes"] > np.prod(CONFIG.image_shape)).all()
  maps = PositionScorer(made, num_samples=2)(images).total
  np.testing.assert_allclose(maps.mean(axis=(1, 2)) / CONFIG.image_shape[2], scores["bits_per_dim"], atol=1e-3)
  assert np.asarray(image_grid(images[..., :1], LEVELS)).dtype == np.uint8
  np.testing.assert_array_equal(made.distribution.log_prob(images[:2]).shape, [2])


def test_values_above_the_levels_are_errors():
  made = model("asinh")
  refuses(r"must lie in 0 .. 65535", made.log_prob_bound, np.full([1, *CONFIG.image_shape], LEVELS))


def fitted(images):
  """Offset and scale of the transform that is fitted to images."""
  transform = FittedTransform(LEVELS)
  transform.fit(images)
  return float(transform.offset), float(transform.scale)


def test_the_transform_is_fitted_to_the_sky():
  offset, scale = fitted(frames(64))
  assert 1300 < offset * LEVELS < 1500  # the sky has 1,400
  assert float(np.float16(offset)) == offset and float(np.float16(scale)) == scale
  # The noise of the sky, of standard deviation 21, is a hundred times wider in the transformed range than before.
  transform = fpp.bijectors.AsinhTransform(offset, scale, LEVELS)
  slope = np.exp(transform.forward_log_det_jacobian(np.float64(1400.0), 0))
  assert slope > 10


@pytest.mark.parametrize("images", [np.zeros([4, 8, 8, 1]), np.full([4, 8, 8, 1], 65535), np.zeros([4, 8, 1, 1])])
def test_images_without_noise_have_a_transform_too(images):
  offset, scale = fitted(images)
  assert 0 <= offset <= 1 and 0 < scale < 17


@pytest.mark.slow
def test_a_preset_and_a_saved_model_have_the_same_numbers(tmp_path):
  made, images = model("asinh"), frames(2, seed=5)
  made.save_to_preset(tmp_path / "preset")
  again = fpp.FlowPlusPlus.from_preset(tmp_path / "preset")
  assert again.pixel_transform.describe() == made.pixel_transform.describe()  # to the last bit, in float16
  fpp.export(again, tmp_path / "saved")
  saved = tf.saved_model.load(tmp_path / "saved")
  images_of = saved.decode(again.encode(images, seed=0))["images"]
  assert images_of.dtype == tf.uint16
  np.testing.assert_array_equal(images_of, again.decode(again.encode(images, seed=0)))
  bits = saved.bits_per_dim(tf.cast(images, tf.float32), 1, 0)["bits_per_dim"]
  np.testing.assert_allclose(bits, again.bits_per_dim(images, seed=0), rtol=1e-5)


def test_runtimes_whose_images_are_uint8_refuse(tmp_path):
  with pytest.raises(fpp.InputError, match="of more than 256 levels, or .* cannot be exported to this format"):
    fpp.export(model("asinh"), tmp_path / "exported", "litert")


@pytest.mark.slow
def test_an_array_of_16_bits_trains_a_model(tmp_path):
  trained = fpp.train(frames(80), config=VARIANTS["asinh"], workdir=tmp_path, steps=2, batch_size=8)
  assert trained.config.levels == LEVELS and trained.pixel_transform.offset > 0
  loaded = fpp.load(tmp_path)
  assert loaded.pixel_transform.describe() == trained.pixel_transform.describe()
