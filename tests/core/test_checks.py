"""Pixels are checked in every dtype that an array of images may have."""

import ml_dtypes
import numpy as np
import pytest

from flowpp_tf.core.checks import check_pixels


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize(
  "values, message",
  [([0.5, 3], "must be integers in 0 .. 255"), ([np.nan, 3], "must be finite"), ([3, 512], "must lie in 0 .. 255")],
)
def test_pixels_that_are_none_are_an_error_in_every_floating_dtype(dtype, values, message):
  check_pixels(np.array([0, 3], dtype), 256)
  with pytest.raises(ValueError, match=message):
    check_pixels(np.array(values, dtype), 256)
