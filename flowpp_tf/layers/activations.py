"""What is between the products of a block: concat_elu, dropout, gate, residual sum, layer norm; and their gradients.

These functions take about as long as the products do, because each operation reads and writes its tensors once more.
Gradients keep only the arguments of a function. They are formulas, in fewer operations than autodiff takes; numbers
narrower than float32 are computed with in float32.
"""

import keras
import tensorflow as tf

from flowpp_tf.core.remat import recomputed_elementwise
from flowpp_tf.core.shapes import reshape, shape_of
from flowpp_tf.layers.dropout import kept
from flowpp_tf.layers.init_norm import at_least_float32

LAYER_NORM_EPSILON = 1e-5


def concat_elu(x: tf.Tensor) -> tf.Tensor:
  """Return elu of `[x, -x]`, which doubles the channels (Shang et al. 2016).

  Example:
    >>> fpp.layers.concat_elu(tf.constant([1.0, -1.0])).numpy().round(2)
    array([ 1.  , -0.63, -0.63,  1.  ], dtype=float32)
  """
  return kept_concat_elu(x)


def _concat_elu(x):
  x = at_least_float32(x)
  return tf.nn.elu(tf.concat([x, -x], axis=-1))


def _kept_concat_elu_gradient(upstream, x, keep=None):
  values = _concat_elu(x)
  by_values = tf.raw_ops.EluGrad(gradients=tf.cast(kept(upstream, keep), values.dtype), outputs=values)
  by_x, by_minus_x = tf.split(by_values, 2, axis=-1)
  return tf.cast(by_x - by_minus_x, x.dtype), None


# Of the mask `keep`, booleans or None: what it leaves of concat_elu(x), or of x.
kept_concat_elu = recomputed_elementwise(lambda x, keep=None: kept(tf.cast(_concat_elu(x), x.dtype), keep),
                              _kept_concat_elu_gradient)
kept_values = recomputed_elementwise(kept, lambda upstream, x, keep=None: (kept(upstream, keep), None))


def gate(x: tf.Tensor) -> tf.Tensor:
  """Return a sigmoid(b), with a and b the halves of the last axis.

  Example:
    >>> fpp.layers.gate(tf.constant([4.0, 0.0])).numpy()
    array([2.], dtype=float32)
  """
  return tf.cast(_gate(x)[0], x.dtype)


def gated_sum(x: tf.Tensor, h: tf.Tensor, norm: keras.layers.LayerNormalization | None = None) -> tf.Tensor:
  """Return x + gate(h), normalised by a layer norm of the last axis, if there is one."""
  if norm is None:
    return _gated_sum(x, h)
  return _normalized_sum(x, h, tf.convert_to_tensor(norm.gamma), tf.convert_to_tensor(norm.beta))


def _gate(h):
  """gate(h), and a and sigmoid(b), of which it is the product."""
  a, b = tf.split(at_least_float32(h), 2, axis=-1)
  share = tf.sigmoid(b)
  return a * share, a, share


def _gate_gradient(upstream, gated, a, share):
  by_a = upstream * share
  return tf.concat([by_a, by_a * (a - gated)], axis=-1)


def _gated_sum_gradient(upstream, x, h):
  del x
  return upstream, tf.cast(_gate_gradient(at_least_float32(upstream), *_gate(h)), h.dtype)


def _normalize(x):
  """x less its mean over the last axis, divided by the standard deviation; and the factor that divides."""
  centered = x - tf.reduce_mean(x, axis=-1, keepdims=True)
  factor = tf.math.rsqrt(tf.reduce_mean(tf.square(centered), axis=-1, keepdims=True) + LAYER_NORM_EPSILON)
  return centered * factor, factor


def _sum_and_norm(x, h, gamma, beta):
  normalized, _ = _normalize(at_least_float32(x) + _gate(h)[0])
  return tf.cast(normalized * tf.cast(gamma, normalized.dtype) + tf.cast(beta, normalized.dtype), x.dtype)


def _sum_and_norm_gradient(upstream, x, h, gamma, beta):
  upstream, x_rows, h_rows = (tf.reshape(t, [-1, t.shape[-1]]) for t in (upstream, x, h))
  gated, *of_gate = _gate(h_rows)
  normalized, factor = _normalize(at_least_float32(x_rows) + gated)
  upstream = at_least_float32(upstream)
  by_normalized = upstream * tf.cast(gamma, upstream.dtype)
  by_gamma = upstream * normalized
  # Means over a row, of by_normalized and of its product with normalized, as products with gamma.
  weights = tf.cast(gamma, upstream.dtype)[:, tf.newaxis] / gamma.shape[0]
  mean, mean_of_product = tf.matmul(upstream, weights), tf.matmul(by_gamma, weights)
  by_sum = factor * (by_normalized - mean - normalized * mean_of_product)
  return (tf.cast(reshape(by_sum, shape_of(x)), x.dtype),
          tf.cast(reshape(_gate_gradient(by_sum, gated, *of_gate), shape_of(h)), h.dtype),
          tf.cast(tf.reduce_sum(by_gamma, axis=0), gamma.dtype), tf.cast(tf.reduce_sum(upstream, axis=0), beta.dtype))


_gated_sum = recomputed_elementwise(lambda x, h: x + gate(h), _gated_sum_gradient)
_normalized_sum = recomputed_elementwise(_sum_and_norm, _sum_and_norm_gradient)
