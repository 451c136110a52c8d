"""A model's functions on any number of images, a batch at a time: memory is that of a batch.

What is random is drawn for all images at once, from one seed, and then parted into batches. So the
results are those of `FlowPlusPlus.sample` and `encode` for that seed, whatever the size of a batch. Only
where a device's products and convolutions round differently by the size can a value that lies within
rounding of the next level become that.
"""

import sys

import keras
import numpy as np
import tensorflow as tf

from flowpp_tf.errors import InputError
from flowpp_tf.layers import fold_in
from flowpp_tf.models.seeds import as_seed


class Batched:
  """`sample`, `encode` and `decode` of a model in batches, each traced once, whatever is asked of it.

  Args:
    model: `FlowPlusPlus`.
    batch_size: images at once.

  Raises:
    InputError (a ValueError): if `batch_size` is not positive.
  """

  def __init__(self, model, batch_size=100):
    if batch_size < 1:
      raise InputError(f"`batch_size` must be at least 1, got {batch_size}")
    self.model = model
    self.batch_size = batch_size
    shape, latent_shape = model.config.image_shape, model.coupling_flow.latent_shape
    spec = lambda shape, dtype: tf.TensorSpec([None, *shape], dtype)
    self._encode = tf.function(
        lambda images, noise: model.encode(images, noise, seed=0), autograph=False,
        input_signature=[spec(shape, tf.uint8), spec(shape, model.variable_dtype)])
    self._decode = tf.function(
        model.decode, autograph=False, input_signature=[spec(latent_shape, model.variable_dtype)])

  def sample(self, n, temperature=1.0, seed=None):
    """uint8 images `[n, H, W, C]`, a NumPy array; arguments and errors as in `FlowPlusPlus.sample`."""
    return self.decode(self.model.sample_latents(n, temperature, seed))

  def encode(self, images, noise=None, seed=None):
    """Latents `[N, *latent_shape]`, a NumPy array; as in `FlowPlusPlus.encode`, noise `[N, H, W, C]`."""
    images = tf.cast(self.model.check_images(images), tf.uint8)
    if noise is None:
      noise = self.model.sample_noise([len(images)], fold_in(as_seed(seed), 0))
    return self._apply(self._encode, images, tf.cast(noise, self.model.variable_dtype))

  def decode(self, z):
    """uint8 images `[N, H, W, C]` of latents `[N, *latent_shape]`, a NumPy array."""
    return self._apply(self._decode, tf.cast(z, self.model.variable_dtype))

  def _apply(self, function, *arrays):
    return np.concatenate([function(*(array[part] for array in arrays)).numpy()
                           for part in batches(len(arrays[0]), self.batch_size)])


def batches(count, size):
  """Yields the slices that part `count` images into batches; more than one show a progress bar.

  Args:
    count: how many images there are.
    size: images in a batch; the last can have fewer.
  """
  # Anywhere but on a terminal the bar would be a line for each batch.
  bar = keras.utils.Progbar(count, unit_name="image") if count > size and sys.stdout.isatty() else None
  for start in range(0, count, size):
    stop = min(start + size, count)
    yield slice(start, stop)
    if bar:
      bar.update(stop)
