"""Shapes of tensors, and limits of floating dtypes."""

from collections.abc import Callable
import math
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


def flatten_batch(x: tf.Tensor, event_ndims: int) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
  """Flatten the batch dimensions of a tensor into one, and return the function that restores them.

  Args:
    x: `[..., *event]`.
    event_ndims: dimensions of an event.

  Returns:
    `x` as `[N, *event]`, and the function that returns a tensor `[N, *any]` as `[..., *any]`.
  """
  if len(x.shape) == event_ndims + 1:
    return x, lambda result: result
  sizes = shape_of(x)
  batch = sizes[: len(sizes) - event_ndims]
  event = sizes[len(batch) :]

  def restore_batch(result):
    return tf.reshape(result, [*batch, *shape_of(result)[1:]])

  return tf.reshape(x, [math.prod(batch), *event]), restore_batch  # not -1: there may be no values


def finfo(dtype: tf.DType) -> Any:
  """Return the limits of a floating dtype, as `np.finfo` does, which does not know bfloat16."""
  return ml_dtypes.finfo(dtype.as_numpy_dtype)


def at_least_float32(x: tf.Tensor) -> tf.Tensor:
  """Return `x` in float32 if its dtype is narrower: low precision pays off only in matrix products."""
  return tf.cast(x, tf.float32) if x.dtype.size < 4 else x
