"""Multi-head self-attention over positions, Flow++ section 3.2.2, in little memory.

    O = P V,    P = softmax(S),    S = Q K^T / sqrt(depth)

The weights P of all pairs of positions are most of what such a layer's gradient would keep. Here it keeps Q, K, V and
O, and computes P again (Chen et al. 2016). The gradients are those of Dao et al. 2022, appendix B:

    dV = P^T dO        dP = dO V^T        dS = P (dP - sum(dO O))        dQ = dS K        dK = dS^T Q

The pairs of image and head are taken in a few equal groups, and large images' queries in a few equal parts, so that the
weights of one stay in the cache while they are written and read a dozen times.
"""

import functools

import tensorflow as tf

from flowpp_tf.devices import has_accelerator
from flowpp_tf.graphs import compiled
from flowpp_tf.remat import after

_WEIGHTS = 2**19  # at a time, about 2 MB: 8 MB take 1.1 to 1.4 times as long on CPUs
_WEIGHTS_ON_ACCELERATORS = 2**21  # where each kernel takes time to start
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
  pairs = (qkv.shape[0] or 1) * heads
  at_a_time = _WEIGHTS_ON_ACCELERATORS if has_accelerator() else _WEIGHTS
  groups = _parts_of(pairs, pairs * positions**2 // at_a_time, _MOST_PARTS)
  rows = _parts_of(positions, pairs // groups * positions**2 // at_a_time, _MOST_PARTS // groups)

  def split_heads(qkv):
    """Q, K and V of each group, `[3, pairs, positions, depth]`."""
    qkv = tf.transpose(tf.reshape(qkv, [-1, positions, 3, heads, depth]), [2, 0, 3, 1, 4])
    return _split(tf.reshape(qkv, [3, -1, positions, depth]), groups, axis=1)

  def weights(q, k):
    return tf.nn.softmax(tf.matmul(q, k, transpose_b=True))

  @tf.custom_gradient
  def attend(qkv):
    scale = tf.constant(depth**-0.5, qkv.dtype)
    o = []
    for q, k, v in map(tf.unstack, split_heads(qkv)):
      o.append(_concat([tf.matmul(weights(part, k), v) for part in _split(q * scale, rows, axis=1)], axis=1))
    o = tf.transpose(tf.reshape(_concat(o, axis=0), [-1, heads, positions, depth]), [0, 2, 1, 3])
    o = tf.reshape(o, [-1, positions, filters])

    def gradient(d_o):
      again = after(scale, d_o)
      # -sum(dO O) is one more column of dO, and the ones beside V make it a part of the product dO V^T.
      d_o, o_by_head = (tf.reshape(t, [-1, positions, heads, depth]) for t in (d_o, o))
      d_o = tf.concat([d_o, -tf.reduce_sum(d_o * o_by_head, axis=-1, keepdims=True)], axis=-1)
      d_o = tf.reshape(tf.transpose(d_o, [0, 2, 1, 3]), [-1, positions, depth + 1])
      d_qkv = []
      for (q, k, v), d_o_group in zip(map(tf.unstack, split_heads(qkv)), _split(d_o, groups, axis=0)):
        v_and_ones = tf.concat([v, tf.ones_like(v[..., :1])], axis=-1)
        d_q, d_k, d_v = [], [], []
        for q_part, d_o_part in zip(_split(q * again, rows, axis=1), _split(d_o_group, rows, axis=1)):
          p = weights(q_part, k)
          d_s = p * tf.matmul(d_o_part, v_and_ones, transpose_b=True)
          d_q.append(tf.matmul(d_s, k) * again)
          d_k.append(tf.matmul(q_part, d_s, transpose_a=True))
          d_v.append(tf.matmul(d_o_part[..., :-1], p, transpose_a=True))
        d_k, d_v = (tf.linalg.matrix_transpose(_sum(terms)) for terms in (d_k, d_v))
        d_qkv.append(tf.stack([_concat(d_q, axis=1), d_k, d_v]))
      d_qkv = tf.reshape(_concat(d_qkv, axis=1), [3, -1, heads, positions, depth])
      return tf.reshape(tf.transpose(d_qkv, [1, 3, 0, 2, 4]), [-1, positions, 3 * filters])

    return o, gradient

  return attend(qkv)


def _parts_of(size, wanted, most):
  """The least number of equal parts of `size` that is at least `wanted`, or `most` where that is more."""
  return next(n for n in range(max(1, min(size, wanted, most)), size + 1) if size % n == 0)


def _split(tensor, parts, axis):
  return [tensor] if parts == 1 else tf.split(tensor, parts, axis=axis)


def _concat(tensors, axis):
  return tensors[0] if len(tensors) == 1 else tf.concat(tensors, axis=axis)


def _sum(terms):
  return terms[0] if len(terms) == 1 else tf.add_n(terms)
