"""Shapes of which only the unknown part is computed."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf


def shape_of(x: tf.Tensor) -> list[Any]:
  """Return the sizes of a tensor's dimensions: integers, and scalar tensors for those that are not known."""
  sizes = list(x.shape)
  if None in sizes:
    dynamic = tf.unstack(tf.shape(x))
    sizes = [dynamic[i] if size is None else size for i, size in enumerate(sizes)]
  return sizes


def reshape(x: tf.Tensor, sizes: Sequence[Any]) -> tf.Tensor:
  """Return `tf.reshape(x, sizes)`, which computes no shape if at most one of the sizes is a tensor."""
  dynamic = [i for i, size in enumerate(sizes) if tf.is_tensor(size)]
  if len(dynamic) != 1 or -1 in [size for size in sizes if not tf.is_tensor(size)]:
    return tf.reshape(x, sizes)
  return tf.reshape(x, [-1 if i in dynamic else size for i, size in enumerate(sizes)])
