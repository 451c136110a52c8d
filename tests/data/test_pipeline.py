"""The order of training batches: by epoch, from any step, over any number of workers."""

import numpy as np
import pytest
import tensorflow as tf

from flowpp_tf import data

IMAGES = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1)


def batches(count, start_step=0, seed=7, images=IMAGES, **options):
  iterator = iter(data.training_batches(images, 8, seed, start_step, **options))
  return np.stack([next(iterator).numpy() for _ in range(count)])


def test_each_epoch_has_every_image_once_in_an_order_of_its_own():
  epochs = batches(25).reshape(4, 50)
  for epoch in epochs:
    assert sorted(epoch) == list(range(50))
    assert abs(np.corrcoef(epoch, np.arange(50))[0, 1]) < 0.5  # not sorted
  assert len({tuple(e) for e in epochs}) == 4
  assert np.any(batches(2, seed=8).ravel() != epochs[0][:16])


def test_batches_from_a_later_step_are_those_that_would_have_come():
  np.testing.assert_array_equal(batches(4, start_step=9), batches(13)[9:])


def test_the_order_is_that_of_the_runs_there_are():
  # Resuming a run of an earlier version of this package would else change its data.
  np.testing.assert_array_equal(batches(1).ravel(), [4, 21, 22, 24, 38, 42, 2, 27])


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_see_the_batches_of_one_each_its_own_slice(workers):
  one = batches(25, flip=True, images=mirrorable(50))
  parts = [batches(25, flip=True, images=mirrorable(50), num_shards=workers, shard=i) for i in range(workers)]
  np.testing.assert_array_equal(np.concatenate(parts, axis=1), one)


def test_workers_see_every_image_once_an_epoch():
  images = IMAGES[:48]  # six batches of 8
  parts = [batches(12, images=images, num_shards=2, shard=i).reshape(2, 24) for i in range(2)]
  for epoch in range(2):
    assert not set(parts[0][epoch]) & set(parts[1][epoch])
    assert sorted([*parts[0][epoch], *parts[1][epoch]]) == list(range(48))


def test_a_batch_can_hold_several_epochs():
  images = IMAGES[:3]
  np.testing.assert_array_equal(np.sort(batches(6, images=images).reshape(16, 3)), 16 * [[0, 1, 2]])


def mirrorable(count):
  """Images of two columns, by which one sees which image it is and whether it is mirrored."""
  return np.stack([np.arange(count), 100 + np.arange(count)], axis=1).astype(np.uint8).reshape(count, 1, 2, 1)


def test_flips_are_half_of_the_images_and_follow_from_seed_and_step():
  plain, flipped = (batches(100, images=mirrorable(50), flip=f)[:, :, 0, :, 0] for f in (False, True))
  mirrored = flipped[..., 0] >= 100
  np.testing.assert_array_equal(np.where(mirrored[..., None], plain[..., ::-1], plain), flipped)
  assert 0.4 < mirrored.mean() < 0.6
  assert len({tuple(m) for m in mirrored}) > 50  # other images each step
  later = batches(3, start_step=97, images=mirrorable(50), flip=True)[:, :, 0, :, 0]
  np.testing.assert_array_equal(later, flipped[97:])


def test_a_memory_map_gives_the_batches_of_the_array(tmp_path):
  np.save(tmp_path / "images.npy", IMAGES)
  mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
  np.testing.assert_array_equal(batches(9, images=mapped), batches(9))


def test_batches_are_uint8_of_known_shape_until_they_are_on_the_device():
  spec = data.training_batches(IMAGES, 8, 0).element_spec
  assert spec == tf.TensorSpec([8, 1, 1, 1], tf.uint8)


@pytest.mark.parametrize(
  "options, message",
  [
    (dict(num_shards=3), "`batch_size` must be a multiple of the 3 workers, got 8"),
    (dict(num_shards=0), "`batch_size` must be a multiple of the 0 workers, got 8"),
    (dict(num_shards=2, shard=2), r"`shard` must be in 0 .. 1, got 2"),
  ],
)
def test_workers_that_cannot_be_are_value_errors(options, message):
  with pytest.raises(ValueError, match=message):
    batches(1, **options)
