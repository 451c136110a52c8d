"""Floating dtypes: their limits, and where narrow ones are widened."""

from typing import Any

import ml_dtypes
import tensorflow as tf


def finfo(dtype: tf.DType) -> Any:
  """Return the limits of a floating dtype, as `np.finfo` does, which does not know bfloat16."""
  return ml_dtypes.finfo(dtype.as_numpy_dtype)


def at_least_float32(x: tf.Tensor) -> tf.Tensor:
  """Return `x` in float32 if its dtype is narrower: low precision pays off only in matrix products."""
  return tf.cast(x, tf.float32) if x.dtype.size < 4 else x
