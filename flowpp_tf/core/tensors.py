"""Shapes, limits of floating dtypes, and moments of tensors."""

from typing import Any

import ml_dtypes
import tensorflow as tf


def shape_of(x: tf.Tensor) -> list[Any]:
  """Return the sizes of a tensor's dimensions: integers, and scalar tensors for those that are not known."""
  sizes = list(x.shape)
  if None in sizes:
    dynamic = tf.unstack(tf.shape(x))
    for i, size in enumerate(x.shape):
      if size is None:
        sizes[i] = dynamic[i]
  return sizes


def finfo(dtype: tf.DType) -> Any:
  """Return the limits of a floating dtype, as `np.finfo` does, which does not know bfloat16."""
  return ml_dtypes.finfo(dtype.as_numpy_dtype)


def at_least_float32(x: tf.Tensor) -> tf.Tensor:
  """Return `x` in float32 if its dtype is narrower: low precision pays off only in matrix products."""
  return tf.cast(x, tf.float32) if x.dtype.size < 4 else x


def moments(x: tf.Tensor, num_axes: int) -> tuple[tf.Tensor, tf.Tensor]:
  """Return mean and variance over the first `num_axes` axes."""
  flat = tf.reshape(x, [tf.reduce_prod(tf.shape(x)[:num_axes]), -1])
  count = tf.shape(flat)[0]
  weights = tf.fill([1, count], 1 / tf.cast(count, x.dtype))
  # A product is the fastest sum.
  mean = tf.matmul(weights, flat)
  variance = tf.matmul(weights, tf.math.squared_difference(flat, mean))
  event_shape = x.shape[num_axes:]
  return tf.reshape(mean, event_shape), tf.reshape(variance, event_shape)
