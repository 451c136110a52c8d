"""The bundled data sets, data sets by name, and the order of training batches over steps and workers."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import data
from support.refusing import refuses


def test_digits_are_kept_as_they_are():
  digits = data.load_dataset("digits")
  assert [len(digits.split(s)) for s in data.SPLITS] == [1527, 90, 180]
  assert digits.image_shape == (8, 8, 1) and digits.levels == 17
  everything = np.concatenate([digits.split(s) for s in data.SPLITS])
  assert everything.dtype == np.uint8 and everything.min() == 0 and everything.max() == 16


def test_photos_have_no_patch_twice_in_or_between_splits():
  photos = data.load_dataset("photos")
  assert photos.image_shape == (32, 32, 3) and photos.levels == 256
  everything = np.concatenate([photos.split(s) for s in data.SPLITS])
  assert len({p.tobytes() for p in everything}) == len(everything)
  assert min(len(photos.split(s)) for s in data.SPLITS) > 300


IMAGES = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1)


def small_set(**changes):
  return data.ImageDataset("small", 50, **{**dict.fromkeys(data.SPLITS, IMAGES), **changes})


def eight_bits(name="eight", seed=0, count=150):
  rng = np.random.RandomState(seed)
  return data.ImageDataset(
    name, 256, **{split: rng.randint(0, 256, [count, 2, 2, 3]).astype(np.uint8) for split in data.SPLITS}
  )


@pytest.mark.parametrize("bits", range(1, 9))
def test_bits_are_the_upper_ones_of_each_pixel(bits):
  dataset = eight_bits()
  reduced = dataset.reduce_bits(bits)
  assert reduced.levels == 2**bits
  reduced.check(
    dataclasses.replace(
      fpp.get_config("photos"),
      image_shape=(2, 2, 3),
      levels=2**bits,
      structure="columns:1",
      dequant_structure="columns:1",
    )
  )
  for split in data.SPLITS:
    wanted = dataset.split(split) // 2 ** (8 - bits)
    np.testing.assert_array_equal(reduced.split(split), wanted)
    np.testing.assert_array_equal(reduced.split(split)[[5, 3]], wanted[[5, 3]])
    np.testing.assert_array_equal(np.concatenate(list(data.evaluation_batches(reduced.split(split), 64))), wanted)
  first = next(iter(data.training_batches(reduced.train, 8, seed=3))).numpy()
  np.testing.assert_array_equal(
    first, next(iter(data.training_batches(dataset.train, 8, seed=3))).numpy() // 2 ** (8 - bits)
  )


def test_a_fingerprint_says_what_the_images_are():
  fingerprint = eight_bits().fingerprint()
  assert json.loads(json.dumps(fingerprint)) == fingerprint
  assert {k: fingerprint[k] for k in ("name", "version", "splits", "levels", "image_shape")} == {
    "name": "eight",
    "version": "",
    "levels": 256,
    "image_shape": [2, 2, 3],
    "splits": {"train": 150, "validation": 150, "test": 150},
  }
  assert fingerprint["sha256"].startswith(fingerprint["digest"]) and len(fingerprint["digest"]) == 12
  assert "eight, 150 / 150 / 150 images of 2x2x3, 256 levels" in data.describe(fingerprint)


def changed(split, index):
  dataset = eight_bits()
  dataset.split(split)[index] ^= 1
  return dataset


def test_a_fingerprint_is_of_the_images_alone():
  base = eight_bits().fingerprint()["sha256"]
  assert eight_bits(name="renamed").fingerprint()["sha256"] == base
  others = [
    eight_bits(seed=1),
    eight_bits(count=151),
    eight_bits().reduce_bits(7),
    eight_bits().reduce_bits(8),
    *(changed(s, i) for s in data.SPLITS for i in (0, 99, 50, -1)),
  ]
  digests = [other.fingerprint()["sha256"] for other in others]
  assert digests[3] == base  # all 8 bits are the images as they are
  assert len({base, *digests}) == len(others)


@pytest.mark.parametrize("channels", [[], [1], [3]])
def test_arrays_of_an_npz_are_the_splits(tmp_path, channels):
  arrays = {s: np.random.RandomState(i).randint(0, 32, [5, 4, 6, *channels]) for i, s in enumerate(data.SPLITS)}
  np.savez(tmp_path / "a.npz", **arrays)
  dataset = data.load_dataset(f"npz:{tmp_path / 'a.npz'}", levels=32)
  assert dataset.levels == 32 and dataset.image_shape == (4, 6, *(channels or [1]))
  for split in data.SPLITS:
    assert dataset.split(split).dtype == np.uint8
    np.testing.assert_array_equal(dataset.split(split).reshape(arrays[split].shape), arrays[split])
  reduced = data.load_dataset(f"npz:{tmp_path / 'a.npz'}", levels=8, bits=3)  # then they have 8 bits
  np.testing.assert_array_equal(reduced.test[..., 0].ravel(), dataset.test[..., 0].ravel() // 32)


GOOD = dict.fromkeys(data.SPLITS, np.zeros([3, 4, 4, 1], np.uint8))


@pytest.mark.parametrize(
  "arrays, message",
  [
    ({"train": GOOD["train"], "dev": GOOD["train"]}, "no array 'validation' and no 'test'; it has 'train', 'dev'"),
    ({**GOOD, "test": np.zeros([3, 4, 4, 1])}, "`test` must hold integers, got float64"),
    ({**GOOD, "test": np.full([3, 4, 4, 1], 300)}, "`test` must lie in 0 .. 255"),
    ({**GOOD, "test": np.full([3, 4, 4, 1], -1)}, "`test` must lie in 0 .. 255"),
    ({**GOOD, "test": np.zeros([3, 4, 5, 1], np.uint8)}, r"`test` must be of shape \[N, 4, 4, 1\], got \(3, 4, 5, 1\)"),
    ({**GOOD, "test": np.array([None])}, "expected an .npz file of plain arrays"),
  ],
)
def test_an_npz_that_does_not_fit_says_why(tmp_path, arrays, message):
  np.savez(tmp_path / "a.npz", **arrays)
  refuses(message, data.load_dataset, f"npz:{tmp_path / 'a.npz'}")


@pytest.mark.parametrize("content", [b"", b"damaged", b"PK\x03\x04damaged"])
def test_a_damaged_npz_is_named(tmp_path, content):
  (tmp_path / "a.npz").write_bytes(content)
  refuses("a.npz' (is no .npz file|cannot be read)", data.load_dataset, f"npz:{tmp_path / 'a.npz'}")


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda: small_set(test=IMAGES + 1), r"`test` must lie in 0 .. 49 \(50 levels\), got values"),
    (lambda: small_set(validation=IMAGES[:, 0]), r"`validation` must be of shape \[N, 1, 1, 1\]"),
    (lambda: data.load_dataset("digts"), "unknown dataset 'digts'; did you mean digits"),
    (lambda: data.load_dataset("digits").check(fpp.get_config("photos")), "image_shape"),
    (lambda: data.load_dataset("digits", bits=5), "`bits` is for images of 256 levels; .* has 17"),
    (
      lambda: data.load_dataset("photos", bits=5, levels=256),
      "`bits` 5 gives 32 levels, the model's config has 256; give --levels=32",
    ),
    (
      lambda: data.load_dataset("photos").check(dataclasses.replace(fpp.get_config("photos"), levels=32)),
      "has 256 levels, the model's config 32 levels; --bits=5 reduces",
    ),
    (lambda: data.load_dataset("imagenet32"), "did you mean imagenet32_old or imagenet32_new"),
    (lambda: data.load_dataset("zip:a"), "unknown dataset 'zip:a'"),
    (lambda: data.load_dataset("folder:"), "'folder:' must have the form folder:PATH"),
    (lambda: data.load_dataset("folder:a"), "`image_shape` must say to which shape"),
    (lambda: data.load_dataset("npz:/nonexistent"), "'/nonexistent' cannot be read: No such file"),
    (lambda: data.load_dataset("photos", max_bad_files=1), "`max_bad_files` are for folders"),
    (
      lambda: data.load_dataset("cifar10", "/nonexistent"),
      "not prepared: looked for /nonexistent/cifar10.*tfds build cifar10 --data_dir=/nonexistent",
    ),
  ],
)
def test_bad_input_is_a_value_error_that_says_what_was_expected(call, message):
  with pytest.raises(ValueError, match=message):
    call()


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
  refuses(message, batches, 1, **options)
