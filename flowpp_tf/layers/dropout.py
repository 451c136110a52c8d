"""Dropout whose mask is a function of a seed.

With such masks a step can be repeated exactly: a rematerialized block, a resumed run and the inverse of a coupling all
see the same ones.
"""

import math
from typing import Any

import keras
import tensorflow as tf

from flowpp_tf.core.shapes import reshape, shape_of

_PHILOX = 1  # number of the generator in `tf.random.Algorithm`


@keras.saving.register_keras_serializable("flowpp_tf")
class Dropout(keras.layers.Dropout):
  """`keras.layers.Dropout` that takes the stateless `seed` of its mask, `[2]` integers, in a call.

  Its rate is then the nearest multiple of 2^-16. Without a seed the mask comes from the layer's own seed generator, as
  in Keras. `apply(x, layer.keep_mask(shape))` is the layer in two steps.

  Example:
    >>> dropout = fpp.layers.Dropout(0.5)
    >>> a, b = (dropout(tf.ones([2, 8]), training=True, seed=[1, 2]) for _ in range(2))
    >>> bool(tf.reduce_all(a == b))
    True
  """

  def call(self, inputs: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> tf.Tensor:
    return self.apply(inputs, self.keep_mask(shape_of(inputs), training, seed))

  def keep_mask(self, shape: Any, training: bool = False, seed: tf.Tensor | None = None,
                batch_offset: Any = 0) -> tf.Tensor | None:
    """Return the boolean keep-mask of a shape, see `shape_of`, or None if nothing is dropped.

    With `batch_offset`, it is the part of a larger batch's mask that begins at that image.
    """
    if not training or self.rate == 0:
      return None
    if seed is None:
      return keras.random.uniform(shape, seed=self.seed_generator) >= self.rate
    return _sixteen_bits(shape, seed, batch_offset) >= round(self.rate * 2**16) - 2**15

  def apply(self, inputs: tf.Tensor, keep: tf.Tensor | None) -> tf.Tensor:
    """Return the inputs that are kept, scaled, and 0 elsewhere."""
    return inputs if keep is None else kept(inputs * self.scale(keep), keep)

  def scale(self, keep: tf.Tensor | None) -> float:
    """Return the factor of the inputs that a mask keeps; 1 if there is no mask."""
    return 1.0 if keep is None else 1 / (1 - self.rate)


def kept(x: tf.Tensor, keep: tf.Tensor | None) -> tf.Tensor:
  """Return x where `keep` is true, and 0 elsewhere; x if there is no mask."""
  return x if keep is None else tf.where(keep, x, tf.zeros([], x.dtype))


def _sixteen_bits(shape, seed, batch_offset):
  """Uniform int16: random numbers are the cost of dropout, and 32 bits make two of them.

  Philox, the generator, has a counter: each count gives four int32, and the numbers of an image begin where its place
  in the batch says.
  """
  batch, *image = shape
  values = math.prod(image)
  counts = -(-values // 8)
  state = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
  low, high = tf.unstack(tf.bitcast(state.counter, tf.int64))
  low += tf.cast(batch_offset, tf.int64) * counts
  bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
      shape=tf.stack([batch, 4 * counts]), key=state.key, counter=tf.bitcast(tf.stack([low, high]), tf.uint64),
      alg=_PHILOX, dtype=tf.int32)
  bits = reshape(tf.bitcast(bits, tf.int16), [batch, 8 * counts])
  return reshape(bits if values == 8 * counts else bits[:, :values], shape)
