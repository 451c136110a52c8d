"""Multi-head self-attention over positions, Flow++ section 3.2.2, in little memory.

    O = P V,    P = softmax(S),    S = Q K^T / sqrt(depth)

The weights P of all pairs of positions are most of what such a layer's gradient would keep. Here it keeps Q, K, V and
O, and computes P again (Chen et al. 2016). The gradients are those of Dao et al. 2022, appendix B:

    dV = P^T dO        dP = dO V^T        dS = P (dP - sum(dO O))        dQ = dS K        dK = dS^T Q

Queries are taken in a few equal parts, one after the other, so that fewer weights exist at a time.
"""

import functools

import tensorflow as tf

from flowpp_tf.graphs import compiled
from flowpp_tf.remat import after

_WEIGHTS = 2**21   # in a part: more take longer to write and read, much longer from 32 MB on
_MOST_PARTS = 16  # more would be too many small kernels


def self_attention(qkv: tf.Tensor, heads: int) -> tf.Tensor:
  """Return the weighted mean of the values of all positions, for each position.

  Args:
    qkv: `[N, positions, 3 * filters]`: queries, keys and values, the heads beside each other in each.
    heads: their number, which divides `filters`.

  Returns:
    `[N, positions, filters]`.
  """
  return _self_attention(heads)(qkv)


@functools.cache
def _self_attention(heads):
  return compiled(functools.partial(_attend, heads=heads), in_eager_mode=True, jit=())


def _attend(qkv, heads):
  positions, filters = qkv.shape[1], qkv.shape[2] // 3
  depth = filters // heads
  wanted = min(_MOST_PARTS, -(-(qkv.shape[0] or 1) * heads * positions**2 // _WEIGHTS))
  parts = next(n for n in range(wanted, positions + 1) if positions % n == 0)

  def split_heads(qkv, scale):
    qkv = tf.reshape(qkv, [-1, positions, 3, heads, depth])
    q, k, v = tf.unstack(tf.transpose(qkv, [2, 0, 3, 1, 4]))
    return q * scale, k, v

  def weights(q, k):
    return tf.nn.softmax(tf.matmul(q, k, transpose_b=True))

  @tf.custom_gradient
  def attend(qkv):
    scale = tf.constant(depth**-0.5, qkv.dtype)
    q, k, v = split_heads(qkv, scale)
    mixed = tf.concat([tf.matmul(weights(part, k), v) for part in _split(q, parts)], axis=2)
    o = tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [-1, positions, filters])

    def gradient(d_o):
      again = after(scale, d_o)
      q, k, v = split_heads(qkv, again)
      # -sum(dO O) is one more column of dO, and the ones beside V make it a part of the product dO V^T.
      by_head = tf.reshape(d_o, [-1, positions, heads, depth])
      sums = tf.reduce_sum(by_head * tf.reshape(o, tf.shape(by_head)), axis=-1, keepdims=True)
      by_head = tf.transpose(tf.concat([by_head, -sums], axis=-1), [0, 2, 1, 3])
      v_and_ones = tf.concat([v, tf.ones_like(v[..., :1])], axis=-1)
      d_q, d_k, d_v = [], [], []
      for q_part, d_o_part in zip(_split(q, parts), _split(by_head, parts)):
        p = weights(q_part, k)
        d_s = p * tf.matmul(d_o_part, v_and_ones, transpose_b=True)
        d_q.append(tf.matmul(d_s, k) * again)
        d_k.append(tf.matmul(q_part, d_s, transpose_a=True))
        d_v.append(tf.matmul(d_o_part[..., :-1], p, transpose_a=True))
      d_k, d_v = (tf.linalg.matrix_transpose(_sum(terms)) for terms in (d_k, d_v))
      d_qkv = tf.transpose(tf.stack([tf.concat(d_q, axis=2), d_k, d_v]), [1, 3, 0, 2, 4])
      return tf.reshape(d_qkv, [-1, positions, 3 * filters])

    return o, gradient

  return attend(qkv)


def _split(tensor, parts):
  return [tensor] if parts == 1 else tf.split(tensor, parts, axis=2)


def _sum(terms):
  return terms[0] if len(terms) == 1 else tf.add_n(terms)
