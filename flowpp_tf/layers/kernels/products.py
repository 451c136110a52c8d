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
  return _add(_convolve(x, kernel, "SAME"), bias)


def periodic_conv2d(
  x: Float[tf.Tensor, "n h w c"],
  kernel: Float[tf.Tensor, "kh kw c units"],
  bias: Float[tf.Tensor, " units"] | None = None,
) -> Float[tf.Tensor, "n h w units"]:
  """Return the convolution of images on a torus `[N, H, W, C]`, stride 1: beyond an edge the opposite one begins."""
  for axis, size in ((1, kernel.shape[0]), (2, kernel.shape[1])):
    x = _wrapped(x, axis, (size - 1) // 2, size // 2)
  return _add(_convolve(x, kernel, "VALID"), bias)


def _wrapped(x, axis, before, after):
  """Append copies of the last values of an axis before the first ones, and of the first values after the last ones."""
  size = x.shape[axis]
  if max(before, after) > size:
    return tf.gather(x, [i % size for i in range(-before, size + after)], axis=axis)
  parts = tf.split(x, [size - before, before], axis=axis)[1:], [x], tf.split(x, [after, size - after], axis=axis)[:1]
  return tf.concat([part for some in parts for part in some if part.shape[axis] != 0], axis=axis)


def dense(
  x: Float[tf.Tensor, "*n c"], kernel: Float[tf.Tensor, "c units"], bias: Float[tf.Tensor, " units"] | None = None
) -> Float[tf.Tensor, "*n units"]:
  """Return the product with the last axis of `x [..., C]`."""
  if len(x.shape) == 4 and bias is not None:
    return _pointwise_conv(x, kernel, bias)
  flat = _add(tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), kernel), bias)
  return tf.reshape(flat, [*shape_of(x)[:-1], kernel.shape[-1]])


@tf.custom_gradient
def _pointwise_conv(x, kernel, bias):
  """A dense layer of images `[N, H, W, C]`: as a convolution, whose kernel on CPUs adds the bias as well.

  The gradients are matrix products, which take a third of the time of those of the convolution.
  """

  def gradient(upstream):
    upstream, x_rows = (tf.reshape(t, [-1, t.shape[-1]]) for t in (upstream, x))
    by_x = tf.reshape(tf.matmul(upstream, kernel, transpose_b=True), shape_of(x))
    ones = tf.ones([1, tf.shape(upstream)[0]], upstream.dtype)  # a product is the fastest sum
    return by_x, tf.matmul(x_rows, upstream, transpose_a=True), tf.matmul(ones, upstream)[0]

  with tf.name_scope("pointwise"):  # profiles tell it from the 3x3 convolutions by its name
    return _add(_convolve(x, kernel[tf.newaxis, tf.newaxis], "VALID"), bias), gradient


def _convolve(x, kernel, padding):
  outputs = tf.nn.conv2d(x, kernel, strides=1, padding=padding)
  if x.shape[0] == 0:  # on some processors TensorFlow's kernel then returns its input
    sizes = x.shape[1:3] if padding == "SAME" else [x.shape[i] - kernel.shape[i - 1] + 1 for i in (1, 2)]
    return tf.zeros([0, *sizes, kernel.shape[-1]], outputs.dtype)
  return outputs


def _add(outputs, bias):
  """Add the bias by the op that the product's kernel can take in."""
  return outputs if bias is None else tf.nn.bias_add(outputs, bias)
