"""Elementwise layers between matrix products: concat_elu, dropout, gate, residual sum, layer norm; and their gradients.

Together they take about as long as the products, because each operation reads and writes its tensors. Gradients keep
only the arguments of a function, and are formulas, in fewer operations than autodiff takes. All compute in at least
float32: low precision pays off only in matrix products.
"""

from jaxtyping import Bool, Float
import tensorflow as tf

from flowpp_tf.core.remat import recomputed_elementwise
from flowpp_tf.core.tensors import at_least_float32, shape_of

LAYER_NORM_EPSILON = 1e-5


def kept(x: Float[tf.Tensor, "*n"], keep: Bool[tf.Tensor, "*#n"] | None) -> Float[tf.Tensor, "*n"]:
  """Return x where `keep` is true, and 0 elsewhere; x if there is no mask."""
  return x if keep is None else tf.where(keep, x, tf.zeros([], x.dtype))


def _concat_elu(x):
  x = at_least_float32(x)
  return tf.nn.elu(tf.concat([x, -x], axis=-1))


def _kept_concat_elu_gradient(upstream, x, keep=None):
  values = _concat_elu(x)
  by_values = tf.raw_ops.EluGrad(gradients=tf.cast(kept(upstream, keep), values.dtype), outputs=values)
  by_x, by_minus_x = tf.split(by_values, 2, axis=-1)
  return tf.cast(by_x - by_minus_x, x.dtype), None


# Apply the keep-mask of dropout, booleans or None, to concat_elu(x), or to x.
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
  return (
    tf.cast(tf.reshape(by_sum, shape_of(x)), x.dtype),
    tf.cast(tf.reshape(_gate_gradient(by_sum, gated, *of_gate), shape_of(h)), h.dtype),
    tf.cast(tf.reduce_sum(by_gamma, axis=0), gamma.dtype),
    tf.cast(tf.reduce_sum(upstream, axis=0), beta.dtype),
  )


_gated_sum = recomputed_elementwise(lambda x, h: x + gate(h), _gated_sum_gradient)
_normalized_sum = recomputed_elementwise(_sum_and_norm, _sum_and_norm_gradient)
