"""Dropout whose mask is a function of a seed.

With such masks a step can be repeated exactly: a rematerialized block, a resumed run and the inverse of a coupling all
see the same ones.
"""

from typing import Any

import keras
import tensorflow as tf

from flowpp_tf.graphs import reshape, shape_of


class Dropout(keras.layers.Dropout):
  """`keras.layers.Dropout` that takes the stateless `seed` of its mask, `[2]` integers, in a call.

  Its rate is then the nearest multiple of 2^-16. Without a seed the mask comes from the layer's own seed generator, as
  in Keras. `apply(x, layer.keep_mask(shape))` is the layer in two steps.
  """

  def call(self, inputs: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> tf.Tensor:
    return self.apply(inputs, self.keep_mask(shape_of(inputs), training, seed))

  def keep_mask(self, shape: Any, training: bool = False, seed: tf.Tensor | None = None) -> tf.Tensor | None:
    """Return the boolean keep-mask of a shape, see `shape_of`, or None if nothing is dropped."""
    if not training or self.rate == 0:
      return None
    if seed is None:
      return keras.random.uniform(shape, seed=self.seed_generator) >= self.rate
    return _sixteen_bits(shape, seed) >= round(self.rate * 2**16) - 2**15

  def apply(self, inputs: tf.Tensor, keep: tf.Tensor | None) -> tf.Tensor:
    """Return the inputs that are kept, scaled, and 0 elsewhere."""
    return inputs if keep is None else tf.where(keep, inputs / (1 - self.rate), tf.zeros([], inputs.dtype))


def _sixteen_bits(shape, seed):
  """Uniform int16: random numbers are the cost of dropout, and 32 bits make two of them."""
  pairs = (shape[-1] + 1) // 2
  bits = tf.random.stateless_uniform([*shape[:-1], pairs], seed, minval=None, maxval=None, dtype=tf.int32)
  bits = reshape(tf.bitcast(bits, tf.int16), [*shape[:-1], 2 * pairs])
  return bits if shape[-1] == 2 * pairs else bits[..., :shape[-1]]
