"""Dropout whose mask is a function of a seed, and a seed for each layer from one for the step.

With such masks a step can be repeated exactly: value and log-det of a coupling, a rematerialised
block and a resumed run all see the same ones.
"""

import keras
import tensorflow as tf


def fold_in(seed, index):
  """A new stateless seed from `seed` (`[2]` integers, or None, which stays None) and an integer."""
  return None if seed is None else tf.random.experimental.stateless_fold_in(seed, index)


class Dropout(keras.layers.Dropout):
  """`keras.layers.Dropout` that takes the stateless `seed` of its mask, `[2]` integers, in a call.

  Its rate is then the nearest multiple of 2^-16. Without a seed the mask comes from the layer's own seed
  generator, as in Keras. `apply(x, layer.keep(shape))` is the layer in two steps.
  """

  def call(self, inputs, training=False, seed=None):
    return self.apply(inputs, self.keep(tf.shape(inputs), training, seed))

  def keep(self, shape, training=False, seed=None):
    """Which values are kept, bool of a shape; None for all."""
    if not training or self.rate == 0:
      return None
    if seed is None:
      return keras.random.uniform(shape, seed=self.seed_generator) >= self.rate
    return _sixteen_bits(shape, seed) >= round(self.rate * 2**16) - 2**15

  def apply(self, inputs, keep):
    """What is kept of the inputs, scaled."""
    return inputs if keep is None else tf.where(
        keep, inputs / (1 - self.rate), tf.zeros([], inputs.dtype))


def _sixteen_bits(shape, seed):
  """Uniform int16: random numbers are what dropout costs, and of 32 bits each makes two."""
  pairs = (shape[-1] + 1) // 2
  bits = tf.random.stateless_uniform(
      tf.concat([shape[:-1], [pairs]], axis=0), seed, minval=None, maxval=None, dtype=tf.int32)
  bits = tf.reshape(tf.bitcast(bits, tf.int16), tf.concat([shape[:-1], [2 * pairs]], axis=0))
  return bits[..., :shape[-1]]
