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

  Without a seed the mask comes from the layer's own seed generator, as in Keras.
  """

  def call(self, inputs, training=False, seed=None):
    if seed is None or not training or self.rate == 0:
      return super().call(inputs, training=training)
    return tf.nn.experimental.stateless_dropout(inputs, self.rate, seed)
