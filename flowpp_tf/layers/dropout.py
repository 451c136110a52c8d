"""Dropout whose mask is a function of a seed and of the image's index in the batch.

With such masks a step can be repeated exactly: a rematerialized block, a resumed run and the inverse of a coupling all
see the same masks.
"""

from collections.abc import Sequence
import math
from typing import Any

from jaxtyping import Float, Int16
import keras
import tensorflow as tf

from flowpp_tf.core.checks import check_arguments, check_count, check_number, check_tensor
from flowpp_tf.core.context import as_seed
from flowpp_tf.core.tensors import shape_of
from flowpp_tf.layers.kernels.pointwise import KeepMask, kept
from flowpp_tf.types import Seed

_PHILOX = 1  # number of the generator in `tf.random.Algorithm`


@keras.saving.register_keras_serializable("flowpp_tf")
class Dropout(keras.layers.Dropout):
  """`keras.layers.Dropout` whose calls take the stateless `seed` of the mask, `[2]` integers.

  Its rate is then the nearest multiple of 2^-16. Without a seed the mask comes from the layer's own seed generator, as
  in Keras. `apply(x, layer.keep_mask(shape))` is the layer in two steps.

  Examples:
    >>> dropout = fpp.layers.Dropout(0.5)
    >>> a, b = (dropout(tf.ones([2, 8]), training=True, seed=[1, 2]) for _ in range(2))
    >>> bool(tf.reduce_all(a == b))
    True
  """

  @check_arguments
  def __init__(self, rate: float, noise_shape: Any = None, seed: int | None = None, **kwargs: Any) -> None:
    check_number("rate", rate, 0, 1)
    super().__init__(rate, noise_shape, seed, **kwargs)

  @check_arguments
  def call(
    self,
    inputs: Float[tf.Tensor, "*n"],
    training: bool | None = False,
    seed: Seed = None,
    batch_offset: int | tf.Tensor = 0,
  ) -> Float[tf.Tensor, "*n"]:
    check_tensor("inputs", inputs, [...])
    if seed is not None:
      seed = as_seed(seed)
    if not tf.is_tensor(batch_offset):
      check_count("batch_offset", batch_offset, 0, 2**63 - 1)
    return self.apply(inputs, self.keep_mask(shape_of(inputs), bool(training), seed, batch_offset))

  def keep_mask(self, shape: Any, training: bool = False, seed: Seed = None, batch_offset: Any = 0) -> KeepMask:
    """Return the boolean keep-mask for inputs of a shape, see `shape_of`, or None if nothing is dropped.

    It has the shape `noise_shape`, if the layer has one, and is broadcast to the inputs, as in Keras. With
    `batch_offset`, it is the part of a larger batch's mask that begins at that image.
    """
    if not training or self.rate == 0:
      return None
    if self.noise_shape is not None:
      shape = [shape[i] if size is None else size for i, size in enumerate(self.noise_shape)]
      if self.noise_shape[:1] == (1,):  # all images share one mask
        batch_offset = 0
    if seed is None:
      return keras.random.uniform(shape, seed=self.seed_generator) >= self.rate
    dropped = round(self.rate * 2**16)
    if dropped == 2**16:  # the comparison would need a number above the range of int16
      return tf.zeros(shape, tf.bool)
    return random_int16(shape, seed, batch_offset) >= dropped - 2**15

  def apply(self, inputs: Float[tf.Tensor, "*n"], keep: KeepMask) -> Float[tf.Tensor, "*n"]:
    """Return the scaled inputs where `keep` is true, and 0 elsewhere."""
    return inputs if keep is None else kept(inputs * self.scale(keep), keep)

  def scale(self, keep: KeepMask) -> float:
    """Return the factor of the inputs that a mask keeps: 1 / (1 - rate), or 1 without a mask and at rate 1."""
    return 1.0 if keep is None or self.rate == 1 else 1 / (1 - self.rate)


def random_int16(shape: Sequence[Any], seed: Seed, batch_offset: Any = 0) -> Int16[tf.Tensor, "..."]:
  """Return uniform int16 of a shape. Dropout takes as long as its random bits, so 32 bits make two values.

  Each count of Philox's counter gives four int32. The first count of an image is its index in the batch times the
  number of counts per image.
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
  bits = tf.reshape(tf.bitcast(bits, tf.int16), [batch, 8 * counts])
  if values < 8 * counts:
    bits = bits[:, :values]
  return tf.reshape(bits, shape)
