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

from flowpp_tf.core.environment import has_accelerator
from flowpp_tf.core.remat import with_dependency
from flowpp_tf.core.tracing import traced_once

_WEIGHTS = 2**19  # at a time, about 2 MB: 8 MB take 1.1 to 1.4 times as long on CPUs
_WEIGHTS_ON_ACCELERATORS = 2**26  # about 256 MB: as many kernels for 64 images of cifar10 as for 2
_MOST_PARTS = 16  # more would be too many small kernels
_USUAL = 32  # images in a batch of unknown size


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
  scale = tf.constant((qkv.shape[2] // (3 * heads)) ** -0.5, qkv.dtype)

  @tf.custom_gradient
  def attend(qkv):
    o = _value(qkv, heads, scale)
    return o, lambda d_o: _gradient(qkv, o, d_o, heads, scale)

  return attend(qkv)


def _value(qkv, heads, scale):
  """O `[N, positions, filters]`."""
  groups, rows, least = _parts(qkv, heads)
  o = []
  for q, k, v in zip(*(_split(t, groups, 0, least) for t in _by_head(qkv, 3, heads))):
    of_group = []
    for q_part in _split(q * scale, rows, axis=2):
      of_group.append(tf.matmul(v, _weights(q_part, k), transpose_b=True))
    o.append(tf.concat(of_group, axis=2))
  return _side_by_side([o], heads)


def _gradient(qkv, o, d_o, heads, scale):
  """dQ, dK and dV, in the layout of `qkv`."""
  groups, rows, least = _parts(qkv, heads)
  again = with_dependency(scale, d_o)
  # -sum(dO O) is one more row of dO, and the ones below V make it a part of the product dO V^T.
  (d_o,), (o_by_head,) = _by_head(d_o, 1, heads), _by_head(o, 1, heads)
  d_o = tf.concat([d_o, -tf.reduce_sum(d_o * o_by_head, axis=1, keepdims=True)], axis=1)
  d_qkv = []
  for q, k, v, d_o_group in zip(*(_split(t, groups, 0, least) for t in (*_by_head(qkv, 3, heads), d_o))):
    v_and_ones = tf.concat([v, tf.ones_like(v[:, :1])], axis=1)
    d_q, d_k, d_v = [], [], []
    for q_part, d_o_part in zip(_split(q * again, rows, axis=2), _split(d_o_group, rows, axis=2)):
      p = _weights(q_part, k)
      d_s = p * tf.matmul(d_o_part, v_and_ones, transpose_a=True)
      d_q.append(tf.matmul(k, d_s, transpose_b=True) * again)
      d_k.append(tf.matmul(q_part, d_s))
      d_v.append(tf.matmul(d_o_part[:, :-1], p))
    d_qkv.append([tf.concat(d_q, axis=2), tf.add_n(d_k), tf.add_n(d_v)])
  return _side_by_side(list(zip(*d_qkv)), heads)


def _by_head(tensor, count, heads):
  """The `count` tensors that are side by side in the channels, each `[pairs, depth, positions]`.

  With the depth first, results of products are wide rather than narrow: 0.9 of the time on CPUs.
  """
  positions, filters = tensor.shape[1], tensor.shape[2] // count
  tensor = tf.transpose(tf.reshape(tensor, [-1, positions, count, filters]), [2, 0, 3, 1])
  return tf.unstack(tf.reshape(tensor, [count, -1, filters // heads, positions]))


def _side_by_side(tensors, heads):
  """The inverse of `_by_head`, of tensors in groups of pairs."""
  count = len(tensors)
  _, depth, positions = tensors[0][0].shape
  tensor = tf.concat([group for groups in tensors for group in groups], axis=0)
  tensor = tf.transpose(tf.reshape(tensor, [count, -1, depth * heads, positions]), [1, 3, 0, 2])
  return tf.reshape(tensor, [-1, positions, count * depth * heads])


# --- Parts --------------------------------------------------------------------------------------


def _parts(qkv, heads):
  """The numbers of groups of pairs and of parts of their queries, and the least size of a group if N is not known."""
  at_a_time = _WEIGHTS_ON_ACCELERATORS if has_accelerator() else _WEIGHTS
  positions = qkv.shape[1]

  def parts(images, most):
    pairs = images * heads
    groups = _divisor(pairs, pairs * positions**2 // at_a_time, most)
    return groups, _divisor(positions, pairs // groups * positions**2 // at_a_time, most // groups)

  groups, rows = parts(qkv.shape[0] or 1, _MOST_PARTS)
  if qkv.shape[0] is None and not has_accelerator():  # parts of queries for one image, groups for many
    groups, _ = parts(_USUAL, _MOST_PARTS // rows)
  return groups, rows, max(1, at_a_time * rows // positions**2)


@functools.cache
def _traced(heads):
  return traced_once(functools.partial(self_attention, heads=heads), in_eager_mode=True)


def _weights(q, k):
  return tf.nn.softmax(tf.matmul(q, k, transpose_a=True))


def _divisor(size, wanted, most):
  """The least number of equal parts of `size` that is at least `wanted`, or `most` where that is more."""
  return next(n for n in range(max(1, min(size, wanted, most)), size + 1) if size % n == 0)


def _split(tensor, parts, axis, least=1):
  """Equal parts of a tensor. Of an unknown size they have at least `least`, but for the last, which may be empty."""
  if parts == 1:
    return [tensor]
  if tensor.shape[axis] is None:
    size = tf.shape(tensor)[axis]
    each = tf.maximum(-(-size // parts), least)
    return tf.split(tensor, tf.clip_by_value(size - each * tf.range(parts), 0, each), axis, num=parts)
  return tf.split(tensor, parts, axis=axis)
