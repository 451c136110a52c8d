"""The bundled data sets, and data sets by name."""

import numpy as np
import pytest

import flowpp_tf as fpp
from flowpp_tf import data


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


@pytest.mark.parametrize("name", ["digits", "photos"])
def test_splits_are_the_same_every_time(name):
  first, second = data.load_dataset(name), data.load_dataset(name)
  for split in data.SPLITS:
    np.testing.assert_array_equal(first.split(split), second.split(split))


IMAGES = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1)


def small_set(**changes):
  return data.ImageDataset("small", 50, **{**dict.fromkeys(data.SPLITS, IMAGES), **changes})


@pytest.mark.parametrize("call, message", [
    (lambda: small_set(test=IMAGES + 1), r"`test` must lie in 0 .. 49 \(50 levels\), got values"),
    (lambda: small_set(test=IMAGES * np.nan), "`test` must be finite, got 50 values"),
    (lambda: small_set(validation=IMAGES[:, 0]), "`validation` must hold images of shape"),
    (lambda: small_set(validation=IMAGES[:0]), "`validation` must hold at least one image"),
    (lambda: data.load_dataset("digts"), "unknown dataset 'digts'; did you mean digits"),
    (lambda: data.load_dataset("digits").split("dev"), "`split` must be one of train, validation, test"),
    (lambda: data.load_dataset("digits").check(fpp.get_config("photos")), "image_shape"),
    (lambda: data.load_dataset("cifar10", "/nonexistent"),
     "not prepared: looked for /nonexistent/cifar10.*tfds build cifar10 --data_dir=/nonexistent"),
])
def test_bad_input_is_a_value_error_that_says_what_was_expected(call, message):
  with pytest.raises(ValueError, match=message):
    call()
