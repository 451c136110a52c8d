"""Activations of the conditioners, Flow++ section 3.2.2."""

from jaxtyping import Float
import keras
import tensorflow as tf

from flowpp_tf.core.checks import as_tensor, check_type
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.tensors import at_least_float32


def concat_elu(x: Float[tf.Tensor, "*n c"]) -> Float[tf.Tensor, "*n 2*c"]:
  """Return elu of `[x, -x]`, which doubles the channels (Shang et al. 2016).

  Examples:
    >>> fpp.layers.concat_elu(tf.constant([1.0, -1.0])).numpy().round(2)
    array([ 1.  , -0.63, -0.63,  1.  ], dtype=float32)
  """
  x = _floats(x)
  return tf.nn.elu(tf.concat([x, -x], axis=-1))


def gate(x: Float[tf.Tensor, "*n c"]) -> Float[tf.Tensor, "*n c//2"]:
  """Return a sigmoid(b), with a and b the halves of the last axis.

  Examples:
    >>> fpp.layers.gate(tf.constant([4.0, 0.0])).numpy()
    array([2.], dtype=float32)
  """
  x = _floats(x)
  if x.shape.rank is not None and (x.shape[-1] or 0) % 2:
    raise InputError(f"`x` must have an even last axis, got shape {x.shape}")
  a, b = tf.split(x, 2, axis=-1)
  return a * tf.sigmoid(b)


def _floats(x):
  """A tensor of floating-point numbers with a last axis."""
  x = as_tensor("x", x, None if tf.is_tensor(x) else tf.float32)
  check_type("x", x, Float[tf.Tensor, "*n c"])
  return x


def layer_norm(x: Float[tf.Tensor, "*n c"], norm: keras.layers.LayerNormalization | None) -> Float[tf.Tensor, "*n c"]:
  """Return `norm(x)`, or x if there is none.

  Written out, because the layer's second derivatives are wrong: `tf.nn.moments` leaves out a part of them.
  """
  if norm is None:
    return x
  centered = at_least_float32(x)
  centered -= tf.reduce_mean(centered, axis=-1, keepdims=True)
  variance = tf.reduce_mean(tf.square(centered), axis=-1, keepdims=True)
  gamma, beta = (tf.cast(tf.convert_to_tensor(weight), centered.dtype) for weight in (norm.gamma, norm.beta))
  return tf.cast(centered * tf.math.rsqrt(variance + norm.epsilon) * gamma + beta, x.dtype)
