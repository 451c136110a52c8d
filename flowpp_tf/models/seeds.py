"""Stateless seeds: the same seed gives the same draws in every call, on every device."""

import numbers

import tensorflow as tf

from flowpp_tf.errors import InputError
from flowpp_tf.types import Seed


def as_seed(seed: Seed) -> tf.Tensor:
  """Return a stateless seed, `[2]` integers, from an integer, a stateless seed, or None for a random one.

  An integer of 64 bits gives its upper and its lower half, whether Python or a tensor holds it.

  Raises:
    InputError (a ValueError): if it is none of these.
  """
  if seed is None:
    return tf.random.uniform([2], minval=tf.int32.min, maxval=tf.int32.max, dtype=tf.int32)
  if isinstance(seed, numbers.Integral):
    if not -2**63 <= seed < 2**63:
      raise InputError(f"`seed` must be an integer of 64 bits, got {seed}")
    return tf.constant([seed >> 32, seed & 0xFFFFFFFF], tf.int64)
  seed = tf.convert_to_tensor(seed)
  if seed.shape.rank == 0 and seed.dtype.is_integer:
    seed = tf.cast(seed, tf.int64)
    return tf.stack([tf.bitwise.right_shift(seed, 32), tf.bitwise.bitwise_and(seed, 0xFFFFFFFF)])
  if seed.shape != (2,) or not seed.dtype.is_integer:
    raise InputError(f"`seed` must be an integer, a pair of integers or None, got {seed}")
  return seed
