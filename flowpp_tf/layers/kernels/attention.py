"""Multi-head self-attention over positions, Flow++ section 3.2.2, in little memory.

    O = P V,    P = softmax(S),    S = Q K^T / sqrt(depth)

The weights P of all pairs of positions take most of the memory that a plain gradient keeps. This gradient keeps Q, K, V
and O, and recomputes P (Chen et al. 2016), by the formulas of Dao et al. 2022, appendix B:

    dV = P^T dO        dP = dO V^T        dS = P (dP - sum(dO O))        dQ = dS K        dK = dS^T Q

The pairs of image and head are processed in a few equal groups, and the queries of large images in a few equal parts.
So the weights of a part stay in the cache while they are written and read a dozen times.
"""

import functools

from jaxtyping import Float
import tensorflow as tf

from flowpp_tf.core.environment import has_accelerator
from flowpp_tf.core.remat import with_dependency
from flowpp_tf.core.tracing import traced_once

_WEIGHTS = 2**19  # of a part, about 2 MB: 8 MB take 1.1 to 1.4 times as long on CPUs
_WEIGHTS_ON_ACCELERATORS = 2**26  # about 256 MB: 64 images of cifar10 take as many kernels as 2 images
_MOST_PARTS = 16  # more would be too many small kernels
_USUAL_BATCH_SIZE = 32  # for batches of unknown size


def self_attention(qkv: Float[tf.Tensor, "n positions c"], heads: int) -> Float[tf.Tensor, "n positions c//3"]:
  """Return the weighted mean of the values of all positions, for each position.

  Args:
    qkv: `[N, positions, 3 * filters]`: queries, keys and values, each the concatenation of its heads.
    heads: number of heads, which divides `filters`.

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
  """Return O, `[N, positions, filters]`."""
  groups, rows, least = _parts(qkv, heads)
  o = []
  for q, k, v in _split_together(_by_head(qkv, 3, heads), groups, least):
    o_parts = []
    for q_part in _split(q * scale, rows, axis=2):
      p = _weights(q_part, k)
      o_parts.append(tf.matmul(v, p, transpose_b=True))
    o.append(tf.concat(o_parts, axis=2))
  return _side_by_side([o], heads)


def _gradient(qkv, o, d_o, heads, scale):
  """Return dQ, dK and dV, in the layout of `qkv`."""
  groups, rows, least = _parts(qkv, heads)
  scale = with_dependency(scale, d_o)
  (d_o,) = _by_head(d_o, 1, heads)
  (o,) = _by_head(o, 1, heads)
  # With -sum(dO O) as one more row of dO, and ones below V, the product dO V^T is dP - sum(dO O).
  minus_sum = -tf.reduce_sum(d_o * o, axis=1, keepdims=True)
  d_o = tf.concat([d_o, minus_sum], axis=1)
  d_qkv = []
  for q, k, v, d_o_group in _split_together([*_by_head(qkv, 3, heads), d_o], groups, least):
    v_and_ones = tf.concat([v, tf.ones_like(v[:, :1])], axis=1)
    d_parts = []
    for q_part, d_o_part in _split_together([q * scale, d_o_group], rows, axis=2):
      p = _weights(q_part, k)
      d_s = p * tf.matmul(d_o_part, v_and_ones, transpose_a=True)
      d_q = tf.matmul(k, d_s, transpose_b=True) * scale
      d_k = tf.matmul(q_part, d_s)
      d_v = tf.matmul(d_o_part[:, :-1], p)
      d_parts.append((d_q, d_k, d_v))
    d_q_parts, d_k_parts, d_v_parts = zip(*d_parts)
    d_q = tf.concat(d_q_parts, axis=2)
    d_qkv.append([d_q, tf.add_n(d_k_parts), tf.add_n(d_v_parts)])
  return _side_by_side(list(zip(*d_qkv)), heads)


def _by_head(tensor, count, heads):
  """Return the `count` tensors that are side by side in the channels, each `[pairs, depth, positions]`.

  With the depth first, results of products are wide rather than narrow: 0.9 of the time on CPUs.
  """
  _, positions, channels = tensor.shape
  filters = channels // count
  tensor = tf.reshape(tensor, [-1, positions, count, filters])
  tensor = tf.transpose(tensor, [2, 0, 3, 1])
  return tf.unstack(tf.reshape(tensor, [count, -1, filters // heads, positions]))


def _side_by_side(tensors, heads):
  """Apply the inverse of `_by_head` to tensors in groups of pairs."""
  count = len(tensors)
  _, depth, positions = tensors[0][0].shape
  tensor = tf.concat([group for groups in tensors for group in groups], axis=0)
  tensor = tf.reshape(tensor, [count, -1, depth * heads, positions])
  tensor = tf.transpose(tensor, [1, 3, 0, 2])
  return tf.reshape(tensor, [-1, positions, count * depth * heads])


# --- Parts --------------------------------------------------------------------------------------


def _parts(qkv, heads):
  """Return the numbers of groups of pairs and of parts of their queries, and the least size of a group of unknown N."""
  at_a_time = _WEIGHTS_ON_ACCELERATORS if has_accelerator() else _WEIGHTS
  positions = qkv.shape[1]

  def parts(images, most):
    pairs = images * heads
    groups = _divisor(pairs, pairs * positions**2 // at_a_time, most)
    return groups, _divisor(positions, pairs // groups * positions**2 // at_a_time, most // groups)

  groups, rows = parts(qkv.shape[0] or 1, _MOST_PARTS)
  if qkv.shape[0] is None and not has_accelerator():  # parts of queries as for one image, groups as for many
    groups, _ = parts(_USUAL_BATCH_SIZE, _MOST_PARTS // rows)
  return groups, rows, max(1, at_a_time * rows // positions**2)


@functools.cache
def _traced(heads):
  return traced_once(functools.partial(self_attention, heads=heads), in_eager_mode=True)


def _weights(q, k):
  return tf.nn.softmax(tf.matmul(q, k, transpose_a=True))


def _divisor(size, wanted, most):
  """Return the least divisor of `size` that is at least `wanted`, or at least `most` if `wanted` is more."""
  least = max(1, min(size, wanted, most))
  return next(n for n in range(least, size + 1) if size % n == 0)


def _split_together(tensors, parts, least=1, axis=0):
  """Return for each part the parts of all tensors, see `_split`."""
  return zip(*(_split(tensor, parts, axis, least) for tensor in tensors))


def _split(tensor, parts, axis, least=1):
  """Return equal parts of a tensor. If its size is unknown, a part has at least `least`, but the last may be empty."""
  if parts == 1:
    return [tensor]
  if tensor.shape[axis] is None:
    size = tf.shape(tensor)[axis]
    each = tf.maximum(-(-size // parts), least)
    sizes = tf.clip_by_value(size - each * tf.range(parts), 0, each)
    return tf.split(tensor, sizes, axis, num=parts)
  return tf.split(tensor, parts, axis=axis)
