"""Rearrangements of pixels, log-det 0: squeeze, split by columns, swap of halves. Flow++ section 4.

    Squeeze            [H, W, C] -> [H / b, W / b, b b C],  channel (b dy + dx) C + c   (RealNVP)
    ColumnsToChannels  [H, W, C] -> [H, W / 2, 2 C],        even columns first, then odd ones
    SwapHalves         the two halves of the channels change places

In row-major order the split by columns, a checkerboard of one row, is a reshape. So every coupling splits the channels
in half.
"""

from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.base import Bijector
from flowpp_tf.bijectors.parameters import Parameter
from flowpp_tf.core.checks import check_count, check_shape_of_images
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.tensors import flatten_batch, shape_of
from flowpp_tf.types import Shape


class Rearrangement(Bijector, tfp.bijectors.AutoCompositeTensorBijector):
  """A bijector that only moves elements: its log-det is 0."""

  def __init__(self, parameters: dict[str, Any], event_ndims: int) -> None:
    super().__init__(forward_min_event_ndims=event_ndims, is_constant_jacobian=True, parameters=parameters)

  @property
  def _is_permutation(self):
    return True

  def _evaluate(self, x, inverse, ctx):
    y = self._undo(x) if inverse else self._rearrange(x)
    return y, tf.zeros([], x.dtype)


class _Regrouping(Rearrangement):
  """A rearrangement that makes a block of `_block` pixels one pixel of more channels."""

  _block: tuple[int, int]

  def _forward_event_shape(self, shape):
    dy, dx = self._block
    return _regrouped("x", shape, divisors=[dy, dx, 1], factors=[1, 1, dy * dx])

  def _inverse_event_shape(self, shape):
    dy, dx = self._block
    return _regrouped("y", shape, divisors=[1, 1, dy * dx], factors=[dy, dx, 1])

  def _forward_event_shape_tensor(self, shape):
    dy, dx = self._block
    return _regrouped_tensor(shape, divisors=[dy, dx, 1], factors=[1, 1, dy * dx])

  def _inverse_event_shape_tensor(self, shape):
    dy, dx = self._block
    return _regrouped_tensor(shape, divisors=[1, 1, dy * dx], factors=[dy, dx, 1])


def _regrouped(name, shape, divisors, factors):
  """Return the shape of an image whose height, width and channels are divided and multiplied; None stays None."""
  if shape.rank is None:
    return shape
  if shape.rank < 3:
    raise InputError(f"`{name}` must have the 3 dimensions of an event, got shape {[*shape]}")
  sizes = [*shape]
  for axis, divisor, factor in zip((-3, -2, -1), divisors, factors):
    if sizes[axis] is not None:
      if sizes[axis] % divisor:
        raise InputError(f"`{name}` must have [H, W, C] divisible by {divisors}, got shape {[*shape]}")
      sizes[axis] = sizes[axis] // divisor * factor
  return tf.TensorShape(sizes)


def _regrouped_tensor(shape, divisors, factors):
  """Return a shape as `_regrouped` does, for a tensor."""
  image_shape = shape[-3:] // divisors * factors
  return tf.concat([shape[:-3], image_shape], axis=0)


class Squeeze(_Regrouping):
  """`[..., H, W, C]` to `[..., H / block_size, W / block_size, block_size^2 C]`, `tf.nn.space_to_depth`.

  Args:
    block_size: side of the square of pixels that becomes one pixel.

  Raises:
    ValueError: if `block_size` is below 1; from an evaluation, if it does not divide H and W.

  Examples:
    >>> fpp.bijectors.Squeeze().forward(tf.zeros([2, 8, 8, 1])).shape
    TensorShape([2, 4, 4, 4])
  """

  def __init__(self, block_size: int = 2, validate_args: bool = False, name: str = "squeeze") -> None:
    parameters = dict(locals())
    check_count("block_size", block_size)
    self._block_size = block_size
    self._block = (block_size, block_size)
    super().__init__(parameters, event_ndims=3)

  block_size = Parameter("Side of the square of pixels that becomes one pixel.")

  def _rearrange(self, x):
    return self._regroup(tf.nn.space_to_depth, x, self._forward_event_shape(x.shape))

  def _undo(self, y):
    return self._regroup(tf.nn.depth_to_space, y, self._inverse_event_shape(y.shape))

  def _regroup(self, function, x, shape):
    if self.block_size == 1:  # these functions reject it
      return tf.identity(x)
    images, restore_batch = flatten_batch(x, 3)
    result = restore_batch(function(images, self.block_size))
    result.set_shape(shape)
    return result


class ColumnsToChannels(_Regrouping):
  """`[..., H, W, C]` to `[..., H, W / 2, 2 C]`: even columns in the first C channels, odd ones in the last.

  Raises:
    ValueError: from an evaluation, if W is odd.

  Examples:
    >>> fpp.bijectors.ColumnsToChannels().forward(tf.zeros([2, 8, 8, 1])).shape
    TensorShape([2, 8, 4, 2])
  """

  _block = (1, 2)

  def __init__(self, validate_args: bool = False, name: str = "columns_to_channels") -> None:
    super().__init__(dict(locals()), event_ndims=3)

  def _rearrange(self, x):
    *batch, height, width, channels = shape_of(x)
    self._forward_event_shape(x.shape)
    return tf.reshape(x, [*batch, height, width // 2, 2 * channels])

  def _undo(self, y):
    *batch, height, width, channels = shape_of(y)
    self._inverse_event_shape(y.shape)
    return tf.reshape(y, [*batch, height, 2 * width, channels // 2])


class SwapHalves(Rearrangement):
  """Exchange the first and the second half of the last axis.

  Raises:
    ValueError: from an evaluation, if the last axis cannot be halved.

  Examples:
    >>> fpp.bijectors.SwapHalves().forward([1.0, 2.0, 3.0, 4.0]).numpy()
    array([3., 4., 1., 2.], dtype=float32)
  """

  def __init__(self, validate_args: bool = False, name: str = "swap_halves") -> None:
    super().__init__(dict(locals()), event_ndims=1)

  def _rearrange(self, x):
    if (x.shape[-1] or 0) % 2:
      raise InputError(f"`x` or `y` must have an even last axis, got shape {[*x.shape]}")
    first, second = tf.split(x, 2, axis=-1)  # `tf.vectorized_map` has no rule for `tf.roll`
    return tf.concat([second, first], axis=-1)

  _undo = _rearrange


def split_columns(image_shape: Shape, name: str = "split_columns") -> ColumnsToChannels:
  """Return the split by columns of `[H, W, C]`: even columns first, then odd ones.

  Args:
    image_shape: `(H, W, C)`.

  Raises:
    ValueError: if W is odd.

  Examples:
    >>> fpp.bijectors.split_columns((8, 8, 1)).forward(tf.zeros([2, 8, 8, 1])).shape
    TensorShape([2, 8, 4, 2])
  """
  check_shape_of_images("image_shape", image_shape)
  if image_shape[1] % 2:
    raise InputError(f"`image_shape` must have an even width, got {tuple(image_shape)}")
  return ColumnsToChannels(name=name)
