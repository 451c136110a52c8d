"""Measured bits/dim and pictures."""

import math

import numpy as np
import pytest

from conftest import small_images
from flowpp_tf import evaluation
from flowpp_tf.layers import fold_in


def test_bits_per_dim_are_those_of_the_bounds_of_every_image(small_model):
  images = small_images(7)
  result = evaluation.evaluate_bits_per_dim(small_model, images, num_samples=3, batch_size=4, seed=5)
  seed = np.array([0, 5])
  bounds = np.concatenate([
      np.stack([small_model.log_prob_bound(images[4 * i:4 * i + 4], seed=fold_in(fold_in(seed, i), k))
                for k in range(3)]) for i in range(2)], axis=1)
  single = -bounds.mean(axis=0) / (32 * math.log(2))
  weighted = -np.log(np.mean(np.exp(bounds), axis=0)) / (32 * math.log(2))
  assert result.images == 7 and result.num_samples == 3
  np.testing.assert_allclose(result.single_sample, single.mean(), rtol=1e-10)
  np.testing.assert_allclose(result.importance_weighted, weighted.mean(), rtol=1e-10)
  np.testing.assert_allclose(result.importance_weighted_error, weighted.std(ddof=1) / math.sqrt(7),
                             rtol=1e-10)
  assert result.importance_weighted < result.single_sample
  assert "importance-weighted bound, 3 samples" in str(result)


@pytest.mark.parametrize("changes, message", [
    (dict(num_samples=0), "`num_samples` must be at least 1, got 0"),
    (dict(batch_size=0), "`batch_size` must be at least 1, got 0"),
    (dict(images=small_images() + 4), "`images` must lie in 0 .. 7"),
    (dict(images=small_images(0)), "`number of images` must be at least 1, got 0")])
def test_bad_counts_are_value_errors_that_name_them(small_model, changes, message):
  with pytest.raises(ValueError, match=message):
    evaluation.evaluate_bits_per_dim(small_model, **{"images": small_images(), **changes})


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB")])
def test_grid_has_each_image_in_its_place_from_black_to_white(channels, mode):
  images = np.zeros([5, 2, 2, channels], np.uint8)
  images[3] = 16
  picture = evaluation.image_grid(images, levels=17)
  assert picture.mode == mode
  scale = picture.size[0] // 8  # three columns of two pixels, two gaps
  pixels = np.asarray(picture)[::scale, ::scale].reshape(5, 8, channels)
  assert np.all(pixels[3:, :2] == 255) and np.all(pixels[:2, :2] == 0)


def test_curves_are_drawn_from_the_metrics(tmp_path):
  metrics, path = tmp_path / "metrics.jsonl", tmp_path / "curves.png"
  metrics.write_text('{"step": 1, "bits_per_dim": 3, "val_bits_per_dim": 3.5}\n'
                     '{"step": 2, "bits_per_dim": 2, "val_bits_per_dim": 2.5}\n')
  evaluation.plot_curves(metrics, path)
  assert path.read_bytes().startswith(b"\x89PNG")
