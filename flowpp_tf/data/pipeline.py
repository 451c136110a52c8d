"""Batches for training: shuffled anew each epoch, and a function of the step alone.

Example n of a run is at position n mod N of epoch n // N, and the shuffle of an epoch is a stateless
permutation of positions. So a run that goes on at step k sees the very images that would have come.
"""

import tensorflow as tf


def training_batches(images, batch_size, seed, start_step=0):
  """An endless `tf.data.Dataset` of shuffled batches.

  Args:
    images: `[N, H, W, C]`.
    batch_size: images in a batch, over all devices.
    seed: integer; each epoch has its own shuffle, which follows from it.
    start_step: the first batch is that of this step.
  """
  count = len(images)
  images = tf.constant(images)

  def example(n):
    # The shuffle is a cipher of positions; keys of small numbers would hardly mix them.
    key = tf.random.stateless_uniform(
        [2], tf.stack([tf.constant(seed, tf.int64), n // count]), None, None, tf.int32)
    return images[tf.random.experimental.index_shuffle(n % count, key, max_index=count - 1)]

  return (tf.data.Dataset.range(start_step * batch_size, tf.int64.max)
          .map(example, num_parallel_calls=tf.data.AUTOTUNE)
          .batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE))


def evaluation_batches(images, batch_size):
  """A `tf.data.Dataset` of all images in order; the last batch can be smaller."""
  return tf.data.Dataset.from_tensor_slices(images).batch(batch_size).prefetch(tf.data.AUTOTUNE)
