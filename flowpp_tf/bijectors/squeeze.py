"""Rearrangements of pixels, log-det 0: squeeze, split by columns, swap of halves. Flow++ section 4.

    Squeeze       [H, W, C] -> [H / b, W / b, b b C],  channel (b dy + dx) C + c   (RealNVP)
    split_columns [H, W, C] -> [H, W / 2, 2 C]         even columns first, then odd ones
    SwapHalves    the two halves of the channels change places

In row-major order the split by columns, a checkerboard of one row, is a plain reshape. So every
coupling can split the channels in half, whatever it splits by.
"""

import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.single_pass import SinglePassBijector

tfb = tfp.bijectors


class _Rearrangement(SinglePassBijector, tfb.AutoCompositeTensorBijector):
  """A bijector that only moves elements: its log-det is 0."""

  def __init__(self, event_ndims, validate_args, parameters, name):
    with tf.name_scope(name) as name:
      super().__init__(forward_min_event_ndims=event_ndims, is_constant_jacobian=True,
                       validate_args=validate_args, parameters=parameters, name=name)

  @classmethod
  def _parameter_properties(cls, dtype):
    return dict()

  @property
  def _is_permutation(self):
    return True

  def _forward_and_log_det(self, x):
    return self._rearrange(x), tf.zeros([], x.dtype)

  def _inverse_and_log_det(self, y):
    return self._undo(y), tf.zeros([], y.dtype)


class Squeeze(_Rearrangement):
  """`[..., H, W, C]` to `[..., H / block_size, W / block_size, block_size^2 C]`.

  Args:
    block_size: side of the square of pixels that becomes one pixel.
    validate_args: Python `bool`.
    name: Python `str`.

  Raises:
    ValueError: if `block_size` is below 1; from an evaluation, if it does not divide H and W.
  """

  def __init__(self, block_size=2, validate_args=False, name="squeeze"):
    parameters = dict(locals())
    if block_size < 1:
      raise ValueError(f"`block_size` must be at least 1, got {block_size}")
    self._block_size = block_size
    super().__init__(3, validate_args, parameters, name)

  @property
  def block_size(self):
    """Side of the square of pixels that becomes one pixel."""
    return self._block_size

  def _forward_event_shape(self, shape):
    height, width, channels = shape[-3:]
    b = self.block_size
    if (height or 0) % b or (width or 0) % b:
      raise ValueError(f"`Squeeze` by {b} needs height and width divisible by it, got shape {shape}")
    return shape[:-3].concatenate([height and height // b, width and width // b,
                                   channels and channels * b * b])

  def _inverse_event_shape(self, shape):
    height, width, channels = shape[-3:]
    b = self.block_size
    if (channels or 0) % (b * b):
      raise ValueError(f"the inverse of `Squeeze` by {b} needs channels divisible by {b * b}, got "
                       f"shape {shape}")
    return shape[:-3].concatenate([height and height * b, width and width * b,
                                   channels and channels // (b * b)])

  def _forward_event_shape_tensor(self, shape):
    b = self.block_size
    return tf.concat([shape[:-3], shape[-3:] // [b, b, 1] * [1, 1, b * b]], axis=0)

  def _inverse_event_shape_tensor(self, shape):
    b = self.block_size
    return tf.concat([shape[:-3], shape[-3:] * [b, b, 1] // [1, 1, b * b]], axis=0)

  def _rearrange(self, x):
    b = self.block_size
    self._forward_event_shape(x.shape)
    batch, (height, width, channels) = tf.shape(x)[:-3], tf.unstack(tf.shape(x)[-3:])
    x = tf.reshape(x, [-1, height // b, b, width // b, b, channels])
    x = tf.transpose(x, [0, 1, 3, 2, 4, 5])
    return tf.reshape(
        x, tf.concat([batch, [height // b, width // b, b * b * channels]], axis=0))

  def _undo(self, y):
    b = self.block_size
    self._inverse_event_shape(y.shape)
    batch, (height, width, channels) = tf.shape(y)[:-3], tf.unstack(tf.shape(y)[-3:])
    y = tf.reshape(y, [-1, height, width, b, b, channels // (b * b)])
    y = tf.transpose(y, [0, 1, 3, 2, 4, 5])
    return tf.reshape(y, tf.concat([batch, [height * b, width * b, channels // (b * b)]], axis=0))


class SwapHalves(_Rearrangement):
  """Exchanges the first and the second half of the last axis.

  Args:
    validate_args: Python `bool`.
    name: Python `str`.

  Raises:
    ValueError: from an evaluation, if the last axis cannot be halved.
  """

  def __init__(self, validate_args=False, name="swap_halves"):
    parameters = dict(locals())
    super().__init__(1, validate_args, parameters, name)

  def _rearrange(self, x):
    first, second = tf.split(x, 2, axis=-1)
    return tf.concat([second, first], axis=-1)

  _undo = _rearrange


def split_columns(image_shape, name="split_columns"):
  """`tfb.Reshape` of `[H, W, C]` to `[H, W / 2, 2 C]`: even columns first, then odd ones.

  Args:
    image_shape: `(H, W, C)`.
    name: Python `str`.

  Raises:
    ValueError: if W is odd.
  """
  height, width, channels = image_shape
  if width % 2:
    raise ValueError(f"a split by columns needs an even width, got image shape {image_shape}")
  return tfb.Reshape(event_shape_in=[height, width, channels],
                     event_shape_out=[height, width // 2, 2 * channels], name=name)
