"""The context of one evaluation, its stateless seeds, and the random streams that follow from them.

A stream has a name such as "/flow/4_flow_step_0_coupling/block_0": each part of a model adds its name by `fold_in`, and
a draw takes the seed of the path. The same seed gives the same draws in every call, on every device, regardless of
what else the model does.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import tensorflow as tf

from flowpp_tf.core.checks import as_tensor, check_type, shown
from flowpp_tf.core.environment import check_backend
from flowpp_tf.core.errors import InputError
from flowpp_tf.types import Seed

check_backend()  # before anything of Keras is used

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
  tensor = as_tensor("seed", seed)
  if tensor.shape.rank == 0 and tensor.dtype.is_integer:
    tensor = tf.cast(tensor, tf.int64)
    return tf.stack([tf.bitwise.right_shift(tensor, 32), tf.bitwise.bitwise_and(tensor, 0xFFFFFFFF)])
  if tensor.shape != (2,) or not tensor.dtype.is_integer:
    raise InputError(f"`seed` must be an integer, a pair of integers or None, got {shown(seed)}")
  return tensor


def tfp_seed(seed: Seed) -> tf.Tensor | None:
  """Return a stateless seed for TFP, `[2]` of int32, or None. TFP would draw other numbers at each use of an integer.

  Raises:
    InputError (a ValueError): as `as_seed`, except that integers may have any size: joint distributions make such.
  """
  if isinstance(seed, int) and not isinstance(seed, bool):
    seed = (seed + 2**63) % 2**64 - 2**63
  return None if seed is None else tf.cast(as_seed(seed), tf.int32)


def fold_in(seed: Any, salt: int | str | tf.Tensor) -> tf.Tensor | None:
  """Return a new stateless seed from `seed` and a salt.

  Args:
    seed: `[2]` integers, or None, which stays None.
    salt: name of a stream, or an integer where streams are counted, such as training steps.

  Examples:
    >>> fpp.layers.fold_in(tf.constant([1, 2]), "dropout").shape
    TensorShape([2])
  """
  if seed is None:
    return None
  seed = as_seed(seed)
  if not isinstance(salt, str):
    check_type("salt", salt, int | tf.Tensor)
    return tf.random.experimental.stateless_fold_in(seed, salt)
  digest = np.frombuffer(hashlib.sha256(salt.encode()).digest()[:8], np.int32)
  return tf.bitwise.bitwise_xor(seed, tf.constant(digest, seed.dtype))


@dataclasses.dataclass(frozen=True, eq=False)
class EvalContext:
  """What bijectors and networks need in one evaluation in addition to their input.

  Attributes:
    training: whether dropout is on.
    seed: stateless seed of the evaluation, `[2]` integers; None if nothing is drawn.
    batch_offset: index of the first of these images in the whole batch. An image has the same random draws however the
      batch is split.
    condition: tensor that conditioners take in addition to their half of the input, such as the context
      `[N, H, W, C]` of the dequantizer's couplings; None for unconditional flows.
    initialize: whether layers and bijectors set their weights from the data that they receive.
    path: names of the parts of the model that are being evaluated, from the outermost one.
  """

  training: bool = False
  seed: tf.Tensor | None = None
  batch_offset: Any = 0
  condition: Any = None
  initialize: bool = False
  path: str = ""

  @property
  def sets_variables(self) -> bool:
    """Whether an evaluation sets variables: weights, or the state of Keras' own seeds, from which dropout then draws.

    Evaluated again, it would be another one.
    """
    return self.initialize or (self.training and self.seed is None)

  def fold_in(self, name: str) -> EvalContext:
    """Return the context of the part with this name, which has random streams of its own."""
    return dataclasses.replace(self, path=f"{self.path}/{name}")

  def with_condition(self, condition: Any) -> EvalContext:
    """Return the context with a condition."""
    return dataclasses.replace(self, condition=condition)

  def stream(self, name: str) -> tf.Tensor | None:
    """Return the stateless seed, `[2]`, of one of the part's random streams, or None without a seed."""
    return fold_in(self.seed, f"{self.path}/{name}")
