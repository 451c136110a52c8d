"""Elementwise layers between matrix products: concat_elu, dropout, gate, residual sum, layer norm; and their gradients.

Together they take about as long as the products, because each operation reads and writes its tensors. Gradients keep
only the arguments of a function, and are formulas, in fewer operations than autodiff takes. All compute in at least
float32: low precision pays off only in matrix products.
"""

from typing import TypeAlias

from jaxtyping import Bool, Float
import tensorflow as tf

from flowpp_tf.core.remat import recomputed_elementwise
from flowpp_tf.core.tensors import at_least_float32, shape_of
from flowpp_tf.layers.kernels.products import as_rows

LAYER_NORM_EPSILON = 1e-5

KeepMask: TypeAlias = Bool[tf.Tensor, "*#n"] | None  # of dropout; None keeps all values


def kept(x: Float[tf.Tensor, "*n"], keep: KeepMask) -> Float[tf.Tensor, "*n"]:
  """Return x where `keep` is true, and 0 elsewhere; x without a mask."""
  return x if keep is None else tf.where(keep, x, tf.zeros([], x.dtype))


def _concat_elu(x):
  x = at_least_float32(x)
  return tf.nn.elu(tf.concat([x, -x], axis=-1))


def _kept_concat_elu_gradient(upstream, x, keep=None):
  values = _concat_elu(x)
  upstream = tf.cast(kept(upstream, keep), values.dtype)
  d_concat = tf.raw_ops.EluGrad(gradients=upstream, outputs=values)
  d_x, d_minus_x = tf.split(d_concat, 2, axis=-1)
  return tf.cast(d_x - d_minus_x, x.dtype), None


# Apply a keep-mask to concat_elu(x), or to x.
kept_concat_elu = recomputed_elementwise(
  lambda x, keep=None: kept(tf.cast(_concat_elu(x), x.dtype), keep), _kept_concat_elu_gradient
)
kept_values = recomputed_elementwise(kept, lambda upstream, x, keep=None: (kept(upstream, keep), None))


def gate(h: Float[tf.Tensor, "*n c"]) -> Float[tf.Tensor, "*n c//2"]:
  """Return a sigmoid(b), with a and b the halves of the last axis."""
  return tf.cast(_gate(h)[0], h.dtype)


def gated_sum(
  x: Float[tf.Tensor, "*n c"],
  h: Float[tf.Tensor, "*n 2*c"],
  gamma: Float[tf.Tensor, " c"] | None = None,
  beta: Float[tf.Tensor, " c"] | None = None,
) -> Float[tf.Tensor, "*n c"]:
  """Return x + gate(h), normalised by a layer norm of the last axis, if its weights are given."""
  return _gated_sum(x, h) if gamma is None else _normalized_sum(x, h, gamma, beta)


def _gate(h):
  """Return gate(h), a and sigmoid(b)."""
  a, b = tf.split(at_least_float32(h), 2, axis=-1)
  sigmoid_b = tf.sigmoid(b)
  return a * sigmoid_b, a, sigmoid_b


def _gate_gradient(upstream, gated, a, sigmoid_b):
  d_a = upstream * sigmoid_b
  d_b = d_a * (a - gated)  # sigmoid' = sigmoid (1 - sigmoid)
  return tf.concat([d_a, d_b], axis=-1)


def _gated_sum_gradient(upstream, x, h):
  del x
  d_h = _gate_gradient(at_least_float32(upstream), *_gate(h))
  return upstream, tf.cast(d_h, h.dtype)


def _normalize(x):
  """Return x normalised over the last axis, and the inverse of its standard deviation."""
  centered = x - tf.reduce_mean(x, axis=-1, keepdims=True)
  variance = tf.reduce_mean(tf.square(centered), axis=-1, keepdims=True)
  inverse_std = tf.math.rsqrt(variance + LAYER_NORM_EPSILON)
  return centered * inverse_std, inverse_std


def _sum_and_norm(x, h, gamma, beta):
  gated, *_ = _gate(h)
  normalized, _ = _normalize(at_least_float32(x) + gated)
  scaled = normalized * tf.cast(gamma, normalized.dtype)
  return tf.cast(scaled + tf.cast(beta, normalized.dtype), x.dtype)


def _sum_and_norm_gradient(upstream, x, h, gamma, beta):
  gated, a, sigmoid_b = _gate(as_rows(h))
  normalized, inverse_std = _normalize(at_least_float32(as_rows(x)) + gated)
  upstream = at_least_float32(as_rows(upstream))
  gamma_values = tf.cast(gamma, upstream.dtype)
  d_normalized = upstream * gamma_values
  d_gamma = upstream * normalized
  # The means over a row of d_normalized, and of d_normalized normalized, are products with gamma.
  weights = gamma_values[:, tf.newaxis] / gamma.shape[0]
  mean = tf.matmul(upstream, weights)
  mean_of_product = tf.matmul(d_gamma, weights)
  d_sum = inverse_std * (d_normalized - mean - normalized * mean_of_product)
  d_h = _gate_gradient(d_sum, gated, a, sigmoid_b)
  return (
    tf.cast(tf.reshape(d_sum, shape_of(x)), x.dtype),
    tf.cast(tf.reshape(d_h, shape_of(h)), h.dtype),
    tf.cast(tf.reduce_sum(d_gamma, axis=0), gamma.dtype),
    tf.cast(tf.reduce_sum(upstream, axis=0), beta.dtype),
  )


_gated_sum = recomputed_elementwise(lambda x, h: x + gate(h), _gated_sum_gradient)
_normalized_sum = recomputed_elementwise(_sum_and_norm, _sum_and_norm_gradient)
