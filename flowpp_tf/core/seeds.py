"""Stateless seeds: the same seed gives the same draws in every call, on every device."""

import numpy as np
import tensorflow as tf

from flowpp_tf.core.arguments import as_tensor, shown
from flowpp_tf.core.errors import InputError
from flowpp_tf.types import Seed

NOISE = 0  # number of the stream of dequantization noise, in all versions: a seed gives the same results


def as_seed(seed: Seed) -> tf.Tensor:
  """Return a stateless seed, `[2]` integers, from an integer, a stateless seed, or None for a random one.

  An integer of 64 bits gives its upper and its lower half, whether Python or a tensor holds it.

  Raises:
    InputError (a ValueError): if it is none of these.
  """
  if seed is None:
    return tf.random.uniform([2], minval=tf.int32.min, maxval=tf.int32.max, dtype=tf.int32)
  if isinstance(seed, (int, np.integer)) and not isinstance(seed, bool):
    if not -(2**63) <= seed < 2**63:
      raise InputError(f"`seed` must be an integer of 64 bits, got {seed}")
    return tf.constant([int(seed) >> 32, int(seed) & 0xFFFFFFFF], tf.int64)
  try:
    tensor = as_tensor("seed", seed)
  except InputError:
    raise _no_seed(seed) from None
  if tensor.shape.rank == 0 and tensor.dtype.is_integer:
    tensor = tf.cast(tensor, tf.int64)
    return tf.stack([tf.bitwise.right_shift(tensor, 32), tf.bitwise.bitwise_and(tensor, 0xFFFFFFFF)])
  if tensor.shape != (2,) or not tensor.dtype.is_integer:
    raise _no_seed(seed)
  return tensor


def tfp_seed(seed: Seed) -> tf.Tensor | None:
  """Return a stateless seed as TFP takes it, `[2]` of int32, or None; TFP itself draws anew at each call of an integer.

  Raises:
    InputError (a ValueError): as `as_seed`, except that integers may have any size: joint distributions make such.
  """
  if isinstance(seed, int) and not isinstance(seed, bool):
    seed = (seed + 2**63) % 2**64 - 2**63
  return None if seed is None else tf.cast(as_seed(seed), tf.int32)


def _no_seed(seed):
  return InputError(f"`seed` must be an integer, a pair of integers or None, got {shown(seed)}")
