"""Random bits of dropout masks, which follow from a seed and an image's index in the batch."""

from collections.abc import Sequence
import math
from typing import Any

from jaxtyping import Int16
import tensorflow as tf

from flowpp_tf.core.tensors import reshape
from flowpp_tf.types import Seed

_PHILOX = 1  # number of the generator in `tf.random.Algorithm`


def sixteen_bits(shape: Sequence[Any], seed: Seed, batch_offset: Any = 0) -> Int16[tf.Tensor, "..."]:
  """Return uniform int16 of a shape; 32 random bits, the cost of dropout, make two of them.

  Each count of Philox's counter gives four int32. The counts of an image begin at its index in the batch times their
  number per image.
  """
  batch, *image = shape
  values = math.prod(image)
  counts = -(-values // 8)
  state = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
  low, high = tf.unstack(tf.bitcast(state.counter, tf.int64))
  low += tf.cast(batch_offset, tf.int64) * counts
  bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
    shape=tf.stack([batch, 4 * counts]),
    key=state.key,
    counter=tf.bitcast(tf.stack([low, high]), tf.uint64),
    alg=_PHILOX,
    dtype=tf.int32,
  )
  bits = reshape(tf.bitcast(bits, tf.int16), [batch, 8 * counts])
  return reshape(bits if values == 8 * counts else bits[:, :values], shape)
