"""Batches for training: shuffled anew each epoch, and a function of the step alone.

Example n of a run is at position n mod N of epoch n // N, and the shuffle of an epoch is a stateless
permutation of positions. So a run that goes on at step k sees the very images that would have come, and
any number of workers, each with its slice of every batch, sees the same batches as one.

Images are looked up by index, a batch at once: nothing is decoded or copied but what is asked for, be
they an array in memory or a file that is mapped into it.
"""

import numpy as np
import tensorflow as tf

from flowpp_tf.errors import InputError

_FLIP = 1  # stream of random numbers beside that of the shuffle


def training_batches(images, batch_size, seed, start_step=0, num_shards=1, shard=0, flip=False):
  """An endless `tf.data.Dataset` of shuffled batches.

  Args:
    images: `[N, H, W, C]`, anything that NumPy can index: an array, a memory map, `ReducedBits`.
    batch_size: images in a batch, over all devices and workers.
    seed: integer; each epoch has its own shuffle, which follows from it.
    start_step: the first batch is that of this step.
    num_shards: number of workers; each gets `batch_size / num_shards` images of every batch.
    shard: which worker this is, from 0; it gets the images from `shard * batch_size / num_shards` on.
    flip: whether to mirror each image left to right with probability 1/2, by seed and step too.

  Raises:
    InputError (a ValueError): if a batch cannot be divided among the workers, or there is no such one.
  """
  if num_shards < 1 or batch_size % num_shards:
    raise InputError(f"`batch_size` must be a multiple of the {num_shards} workers, got {batch_size}")
  if not 0 <= shard < num_shards:
    raise InputError(f"`shard` must be in 0 .. {num_shards - 1}, got {shard}")
  count, size = len(images), batch_size // num_shards
  most_epochs = (size - 1) // count + 2  # that a batch can have a part in

  def indices(step):
    n = step * batch_size + shard * size + tf.range(size, dtype=tf.int64)
    epoch = n // count
    shuffled = tf.stack([
        tf.random.experimental.index_shuffle(n % count, _key(seed, epoch[0] + e), max_index=count - 1)
        for e in range(most_epochs)])
    return tf.gather(tf.transpose(shuffled), epoch - epoch[0], axis=1, batch_dims=1)

  def batch(step):
    mirrored = tf.zeros([size], tf.bool)
    if flip:  # the whole batch's draws, of which a worker takes its own
      draws = tf.random.stateless_uniform([batch_size], _key(seed, step, _FLIP))
      mirrored = draws[shard * size:(shard + 1) * size] < 0.5
    return _look_up(images, indices(step), mirrored)

  return (tf.data.Dataset.range(start_step, tf.int64.max)
          .map(batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE))


def evaluation_batches(images, batch_size):
  """A `tf.data.Dataset` of all images in order; the last batch can be smaller."""
  def batch(indices):
    return _look_up(images, indices, tf.zeros_like(indices, tf.bool))

  return (tf.data.Dataset.range(len(images)).batch(batch_size)
          .map(batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE))


def weighted_batches(batches, multiple):
  """Batches for `keras.Model.evaluate` on several devices, `(images, weights, weights)`.

  Args:
    batches: `tf.data.Dataset` of images.
    multiple: of which the size of each batch shall be one; images of weight 0 fill it up.
  """
  def fill(images):
    count = tf.shape(images)[0]
    extra = -count % multiple
    weights = tf.cast(tf.range(count + extra) < count, tf.float32)
    # In the place of labels, which Keras expects before weights, are the weights again.
    return tf.concat([images, tf.repeat(images[-1:], extra, axis=0)], axis=0), weights, weights

  return batches.map(fill)


def _key(seed, n, stream=0):
  # The shuffle is a cipher of positions; keys of small numbers would hardly mix them.
  state = tf.stack([tf.constant(seed, tf.int64), n])
  if stream:
    state = tf.random.experimental.stateless_fold_in(state, stream)
  return tf.random.stateless_uniform([2], state, None, None, tf.int32)


def _look_up(images, indices, mirrored):
  def look_up(indices, mirrored):
    batch = images[indices]
    if np.any(mirrored):
      batch[mirrored] = batch[mirrored, :, ::-1]
    return batch

  batch = tf.numpy_function(look_up, [indices, mirrored], images.dtype, stateful=False)
  return tf.ensure_shape(batch, [*indices.shape, *images.shape[1:]])
