"""Multi-head self-attention over positions, Flow++ section 3.2.2, in little memory.

    O = P V,    P = softmax(S),    S = Q K^T / sqrt(depth)

The weights P of all pairs of positions are most of what such a layer's gradient would keep. Here it keeps Q, K, V and
O, and computes P again (Chen et al. 2016). The gradients are those of Dao et al. 2022, appendix B:

    dV = P^T dO        dP = dO V^T        dS = P (dP - sum(dO O))        dQ = dS K        dK = dS^T Q

The pairs of image and head are taken in a few equal groups, and large images' queries in a few equal parts, so that the
weights of one stay in the cache while they are written and read a dozen times.
"""

import functools

from jaxtyping import Float
import tensorflow as tf

from flowpp_tf.core.hardware import has_accelerator
from flowpp_tf.core.remat import with_dependency
from flowpp_tf.core.tracing import traced_once

_WEIGHTS = 2**19  # at a time, about 2 MB: 8 MB take 1.1 to 1.4 times as long on CPUs
_WEIGHTS_ON_ACCELERATORS = 2**21  # where each kernel takes time to start
_MOST_PARTS = 16  # more would be too many small kernels


def self_attention(qkv: Float[tf.Tensor, "n positions c"], heads: int) -> Float[tf.Tensor, "n positions c//3"]:
  """Return the weighted mean of the values of all positions, for each position.

  Args:
    qkv: `[N, positions, 3 * filters]`: queries, keys and values, each the concatenation of its heads.
    heads: their number, which divides `filters`.

  Returns:
    `[N, positions, filters]`.
  """
  if tf.executing_eagerly():
    return _traced(heads)(qkv)  # faster than its operations one by one
  positions, filters = qkv.shape[1], qkv.shape[2] // 3
  depth = filters // heads
  pairs = (qkv.shape[0] or 1) * heads
  at_a_time = _WEIGHTS_ON_ACCELERATORS if has_accelerator() else _WEIGHTS
  groups = _divisor(pairs, pairs * positions**2 // at_a_time, _MOST_PARTS)
  rows = _divisor(positions, pairs // groups * positions**2 // at_a_time, _MOST_PARTS // groups)

  def by_head(tensor, count):
    """The `count` tensors that are side by side in the channels, each `[pairs, depth, positions]`.

    With the depth first, results of products are wide rather than narrow: 0.9 of the time on CPUs.
    """
    tensor = tf.transpose(tf.reshape(tensor, [-1, positions, count, filters]), [2, 0, 3, 1])
    return tf.unstack(tf.reshape(tensor, [count, -1, depth, positions]))

  def side_by_side(tensors):
    """The inverse of `by_head`, of tensors in groups of pairs."""
    count = len(tensors)
    tensor = _concat([group for groups in tensors for group in groups], axis=0)
    tensor = tf.transpose(tf.reshape(tensor, [count, -1, filters, positions]), [1, 3, 0, 2])
    return tf.reshape(tensor, [-1, positions, count * filters])

  @tf.custom_gradient
  def attend(qkv):
    scale = tf.constant(depth**-0.5, qkv.dtype)
    o = []
    for q, k, v in zip(*(_split(t, groups, axis=0) for t in by_head(qkv, 3))):
      of_group = []
      for q_part in _split(q * scale, rows, axis=2):
        of_group.append(tf.matmul(v, _weights(q_part, k), transpose_b=True))
      o.append(_concat(of_group, axis=2))
    o = side_by_side([o])

    def gradient(d_o):
      again = with_dependency(scale, d_o)
      # -sum(dO O) is one more row of dO, and the ones below V make it a part of the product dO V^T.
      (d_o,), (o_by_head,) = by_head(d_o, 1), by_head(o, 1)
      d_o = tf.concat([d_o, -tf.reduce_sum(d_o * o_by_head, axis=1, keepdims=True)], axis=1)
      d_qkv = []
      for q, k, v, d_o_group in zip(*(_split(t, groups, axis=0) for t in (*by_head(qkv, 3), d_o))):
        v_and_ones = tf.concat([v, tf.ones_like(v[:, :1])], axis=1)
        d_q, d_k, d_v = [], [], []
        for q_part, d_o_part in zip(_split(q * again, rows, axis=2), _split(d_o_group, rows, axis=2)):
          p = _weights(q_part, k)
          d_s = p * tf.matmul(d_o_part, v_and_ones, transpose_a=True)
          d_q.append(tf.matmul(k, d_s, transpose_b=True) * again)
          d_k.append(tf.matmul(q_part, d_s))
          d_v.append(tf.matmul(d_o_part[:, :-1], p))
        d_qkv.append([_concat(d_q, axis=2), _sum(d_k), _sum(d_v)])
      return side_by_side(list(zip(*d_qkv)))

    return o, gradient

  return attend(qkv)


@functools.cache
def _traced(heads):
  return traced_once(functools.partial(self_attention, heads=heads), in_eager_mode=True)


def _weights(q, k):
  return tf.nn.softmax(tf.matmul(q, k, transpose_a=True))


def _divisor(size, wanted, most):
  """The least number of equal parts of `size` that is at least `wanted`, or `most` where that is more."""
  return next(n for n in range(max(1, min(size, wanted, most)), size + 1) if size % n == 0)


def _split(tensor, parts, axis):
  return [tensor] if parts == 1 else tf.split(tensor, parts, axis=axis)


def _concat(tensors, axis):
  return tensors[0] if len(tensors) == 1 else tf.concat(tensors, axis=axis)


def _sum(terms):
  return terms[0] if len(terms) == 1 else tf.add_n(terms)
