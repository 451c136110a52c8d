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
  parts = next(n for n in range(min(_MOST_PARTS, -(-positions**2 // _PAIRS)), 0, -1)
               if positions % n == 0)

  def split_heads(qkv):
    qkv = tf.reshape(qkv, [-1, positions, 3, heads, depth])
    q, k, v = tf.unstack(tf.transpose(qkv, [2, 0, 3, 1, 4]))
    return q * depth**-0.5, k, v

  def weights(q, k):
    return tf.nn.softmax(tf.matmul(q, k, transpose_b=True))

  @tf.custom_gradient
  def attend(qkv):
    q, k, v = split_heads(qkv)
    mixed = tf.concat([tf.matmul(weights(part, k), v) for part in tf.split(q, parts, axis=2)], axis=2)
    result = tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [-1, positions, filters])

    def gradient(by_result):
      q, k, v = split_heads(after(qkv, by_result))
      # g, and beside it -sum(g o): a column more of the product that the sum is subtracted from.
      g = tf.reshape(by_result, [-1, positions, heads, depth])
      sums = tf.reduce_sum(g * tf.reshape(result, tf.shape(g)), axis=-1, keepdims=True)
      g = tf.transpose(tf.concat([g, -sums], axis=-1), [0, 2, 1, 3])
      values = tf.concat([v, tf.ones_like(v[..., :1])], axis=-1)
      by_q, by_k, by_v = [], [], []
      for q_, g_ in zip(tf.split(q, parts, axis=2), tf.split(g, parts, axis=2)):
        w = weights(q_, k)
        by_scores = w * tf.matmul(g_, values, transpose_b=True)
        by_q.append(tf.matmul(by_scores, k) * depth**-0.5)
        by_k.append(tf.matmul(q_, by_scores, transpose_a=True))
        by_v.append(tf.matmul(g_[..., :-1], w, transpose_a=True))
      by_k, by_v = (tf.linalg.matrix_transpose(tf.add_n(by)) for by in (by_k, by_v))
      by_qkv = tf.transpose(tf.stack([tf.concat(by_q, axis=2), by_k, by_v]), [1, 3, 0, 2, 4])
      return tf.reshape(by_qkv, [-1, positions, 3 * filters])

    return result, gradient

  return attend(qkv)
