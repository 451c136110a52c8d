"""Matrix products of layers: convolution and dense layer, `product(x, kernel, bias=None)`."""

from jaxtyping import Float
import tensorflow as tf

from flowpp_tf.core.tensors import shape_of


def conv2d(
  x: Float[tf.Tensor, "n h w c"],
  kernel: Float[tf.Tensor, "kh kw c units"],
  bias: Float[tf.Tensor, " units"] | None = None,
) -> Float[tf.Tensor, "n h w units"]:
  """Return the convolution of images `[N, H, W, C]`, stride 1, same padding."""
  return _add_bias(_convolve(x, kernel, "SAME"), bias)


def periodic_conv2d(
  x: Float[tf.Tensor, "n h w c"],
  kernel: Float[tf.Tensor, "kh kw c units"],
  bias: Float[tf.Tensor, " units"] | None = None,
) -> Float[tf.Tensor, "n h w units"]:
  """Return the convolution of images on a torus `[N, H, W, C]`, stride 1: opposite edges adjoin."""
  for axis, size in ((1, kernel.shape[0]), (2, kernel.shape[1])):
    x = _wrap(x, axis, (size - 1) // 2, size // 2)
  return _add_bias(_convolve(x, kernel, "VALID"), bias)


def _wrap(x, axis, before, after):
  """Append copies of the last values of an axis before the first ones, and of the first values after the last ones."""
  size = x.shape[axis]
  if max(before, after) > size:
    return tf.gather(x, [i % size for i in range(-before, size + after)], axis=axis)
  _, last = tf.split(x, [size - before, before], axis=axis)
  first, _ = tf.split(x, [after, size - after], axis=axis)
  parts = [part for part in (last, x, first) if part.shape[axis] != 0]
  return tf.concat(parts, axis=axis)


def dense(
  x: Float[tf.Tensor, "*n c"], kernel: Float[tf.Tensor, "c units"], bias: Float[tf.Tensor, " units"] | None = None
) -> Float[tf.Tensor, "*n units"]:
  """Return the product of the last axis of `x [..., C]` with the kernel."""
  if len(x.shape) == 4 and bias is not None:
    return _pointwise_conv(x, kernel, bias)
  rows = _add_bias(tf.matmul(as_rows(x), kernel), bias)
  return tf.reshape(rows, [*shape_of(x)[:-1], kernel.shape[-1]])


@tf.custom_gradient
def _pointwise_conv(x, kernel, bias):
  """Apply a dense layer to images `[N, H, W, C]` as a convolution, whose kernel on CPUs adds the bias as well.

  The gradients are matrix products, which take a third of the time of a convolution's gradients.
  """

  def gradient(upstream):
    upstream = as_rows(upstream)
    d_x = tf.matmul(upstream, kernel, transpose_b=True)
    d_kernel = tf.matmul(as_rows(x), upstream, transpose_a=True)
    ones = tf.ones([1, tf.shape(upstream)[0]], upstream.dtype)
    d_bias = tf.matmul(ones, upstream)[0]  # a product is the fastest sum
    return tf.reshape(d_x, shape_of(x)), d_kernel, d_bias

  with tf.name_scope("pointwise"):  # this name tells it from the 3x3 convolutions in profiles
    outputs = _convolve(x, kernel[tf.newaxis, tf.newaxis], "VALID")
    return _add_bias(outputs, bias), gradient


def _convolve(x, kernel, padding):
  outputs = tf.nn.conv2d(x, kernel, strides=1, padding=padding)
  if x.shape[0] == 0:  # on some processors TensorFlow's kernel then returns its input
    height, width = x.shape[1:3]
    if padding == "VALID":
      height -= kernel.shape[0] - 1
      width -= kernel.shape[1] - 1
    return tf.zeros([0, height, width, kernel.shape[-1]], outputs.dtype)
  return outputs


def _add_bias(outputs, bias):
  """Add the bias by the op that TensorFlow fuses with the product."""
  return outputs if bias is None else tf.nn.bias_add(outputs, bias)


def as_rows(x: Float[tf.Tensor, "*n c"]) -> Float[tf.Tensor, "rows c"]:
  """Return `x [..., C]` as a matrix `[rows, C]`."""
  return tf.reshape(x, [-1, x.shape[-1]])
