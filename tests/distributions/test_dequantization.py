"""The two densities of dequantization noise, against integrals and draws."""

import numpy as np
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf.core.context import EvalContext
from flowpp_tf.models.conditioning import Conditioning
from support.models import SMALL, perturbed, small_config, small_images


def test_uniform_noise_has_density_one_and_passes_through():
  model = fpp.FlowPlusPlus(small_config(SMALL, dequantization="uniform"))
  q = model.dequantizer.posterior(small_images())
  noise = model.sample_noise([6], tf.constant([0, 1]))
  u, log_q = q.transform(noise)
  np.testing.assert_array_equal(u, noise)
  np.testing.assert_array_equal(log_q, np.zeros(6))
  assert q.batch_shape == (6,) and q.event_shape == (4, 4, 2)


def test_variational_density_integrates_to_one():
  # Over an event of two pixels, so small that the midpoint rule can cover it.
  config = small_config(
    SMALL, image_shape=(1, 2, 1), structure="columns:1", dequant_structure="columns:2", dtype="float64"
  )
  model = perturbed(config, 0.2)
  q = model.dequantizer.posterior(small_images(1, config))
  points = (np.arange(200) + 0.5) / 200
  grid = np.stack(np.meshgrid(points, points), axis=-1).reshape(-1, 1, 1, 2, 1)
  total = np.mean(np.exp(q.log_prob(grid)))
  np.testing.assert_allclose(total, 1.0, atol=5e-3)


def test_variational_noise_depends_on_the_image_and_its_density_on_the_draw(small_model):
  images = small_images()
  q = small_model.dequantizer.posterior(images)
  u, log_q = q.transform(small_model.sample_noise([6], tf.constant([0, 1])))
  assert 0 < np.min(u) and np.max(u) < 1
  np.testing.assert_allclose(q.log_prob(u), log_q, rtol=1e-6)
  other = small_model.dequantizer.posterior(7 - images)
  assert np.max(np.abs(other.log_prob(u) - log_q)) > 1e-3


def test_noise_never_rounds_to_the_next_pixel_value():
  model = fpp.FlowPlusPlus(SMALL)  # float32, where sigmoid(17) is 1 and 7 + sigmoid(15) is 8
  images = small_images()
  far = 40 * model.sample_noise([6], tf.constant([0, 1]))
  u, log_q = model.dequantizer.posterior(images).transform(far)
  assert 0 < np.min(u) and np.max(u) < 1 and np.all(np.isfinite(log_q))
  _, dequantized = model._dequantize(tf.cast(images, tf.float32), Conditioning(), far, EvalContext())
  np.testing.assert_array_equal(np.floor(dequantized), images)
  assert np.all(np.isfinite(model.log_prob_bound(images, noise=far)))
  ends = model.dequantizer.posterior(images).log_prob(tf.cast(images % 2, tf.float32))  # u = 0 and u = 1
  assert np.all(np.isfinite(ends))


def test_samples_have_one_value_for_each_image_and_draw(small_model):
  q = small_model.dequantizer.posterior(small_images())
  assert q.batch_shape == (6,) and q.event_shape == (4, 4, 2)
  u, log_q = q.experimental_sample_and_log_prob(3, seed=(0, 1))
  assert u.shape == (3, 6, 4, 4, 2) and log_q.shape == (3, 6)
  np.testing.assert_allclose(q.log_prob(u), log_q, rtol=1e-6)
