"""Multi-head self-attention over positions, Flow++ section 3.2.2, in little memory.

    softmax(q k^T / sqrt(depth)) v

The weights of all pairs of positions are most of what such a layer's gradient would keep. Here it keeps
q, k, v and the result, and computes the weights once more (Chen et al. 2016); with w the weights, o the
result and g the gradient by it (Dao et al. 2022, appendix B),

    by v = w^T g        by scores = w (g v^T - sum(g o))        by q = (by scores) k

Queries are taken in a few equal parts, one after the other, so that fewer weights exist at a time.
"""

import tensorflow as tf

from flowpp_tf.layers.remat import after

_PAIRS = 2**17   # positions squared in a part
_MOST_PARTS = 4  # more would be too many small kernels


def self_attention(qkv, heads):
  """Each position's weighted mean of the values of all.

  Args:
    qkv: `[N, positions, 3 * filters]`: queries, keys and values, the heads beside each other in each.
    heads: their number, which divides `filters`.

  Returns:
    `[N, positions, filters]`.
  """
  positions, filters = qkv.shape[1], qkv.shape[2] // 3
  depth = filters // heads
  qkv = tf.transpose(tf.reshape(qkv, [-1, positions, 3, heads, depth]), [2, 0, 3, 1, 4])
  q, k, v = tf.unstack(qkv)
  mixed = _attend(q * depth**-0.5, k, v)
  return tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [-1, positions, filters])


@tf.custom_gradient
def _attend(q, k, v):
  """softmax(q k^T) v of `[N, heads, positions, depth]`."""
  positions = q.shape[2]
  parts = next(n for n in range(min(_MOST_PARTS, -(-positions**2 // _PAIRS)), 0, -1)
               if positions % n == 0)
  split = lambda x: tf.split(x, parts, axis=2)
  weights = lambda q: tf.nn.softmax(tf.matmul(q, k, transpose_b=True))
  result = tf.concat([tf.matmul(weights(part), v) for part in split(q)], axis=2)

  def gradient(by_result):
    # The sum is a column more of the product that it is subtracted from.
    sums = tf.reduce_sum(by_result * result, axis=-1, keepdims=True)
    values = tf.concat([v, tf.ones_like(v[..., :1])], axis=-1)
    by_q, by_k, by_v = [], [], []
    for q_, g, extended in zip(*map(split, (
        after(q, by_result), by_result, tf.concat([by_result, -sums], axis=-1)))):
      w = weights(q_)
      by_scores = w * tf.matmul(extended, values, transpose_b=True)
      by_q.append(tf.matmul(by_scores, k))
      by_k.append(tf.matmul(q_, by_scores, transpose_a=True))
      by_v.append(tf.matmul(g, w, transpose_a=True))
    return tf.concat(by_q, axis=2), *(tf.linalg.matrix_transpose(tf.add_n(x)) for x in (by_k, by_v))

  return result, gradient
