"""The networks of a flow in an inference graph, with weight normalisation folded into the kernels."""

from __future__ import annotations

import functools
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from flowpp_tf.core.errors import InputError
from flowpp_tf.exporting.ops import Ops, Value
from flowpp_tf.layers import Conditioner, ConditionNet, ContextNet, DenseConditioner, LabelEmbedding


def array_of(weight: Any) -> np.ndarray:
  """Return a weight in float64, in which weights are folded; raise an `InputError` if it is not finite."""
  with tf.init_scope():  # not as a tensor of a graph that is being traced
    array = np.asarray(weight, np.float64)
  if not np.all(np.isfinite(array)):
    raise InputError("the weights of the model must be finite, got NaN or infinity")
  return array


@functools.singledispatch
def apply_network(network: Any, ops: Ops, x: Value, context: Value | None) -> Value:
  """Return the output of a coupling's network."""
  raise InputError(f"a coupling with the network {type(network).__name__} cannot be exported")


@apply_network.register
def _(network: Conditioner, ops, x, context):
  if context is not None:
    context = _blocks_to_channels(ops, context, network)
  h = _product(ops, network.input_conv, x)
  for block in network.blocks:
    h = _block(ops, block, h, network.position_embedding, context, network.image_shape)
  if network.output_concat_elu:
    h = _concat_elu(ops, h)
  return _product(ops, network.output_conv, h)


@apply_network.register
def _(network: DenseConditioner, ops, x, context):
  if context is not None:
    context = ops.where(ops.sum(x) > 0.0, context, context)  # one row counts for all of x
    x = ops.concat([x, context], -1)
    if not network.size:  # x is a column of zeros in place of no values
      _, x = ops.split(x, [1, network.context_size], -1)
  near = ops.minimum(ops.maximum(x, -network.far), network.far)
  x = near + near * (1 / network.far) * ops.log(ops.abs(x - near) + 1.0)
  h = _product(ops, network.input_layer, x)
  for inner, outer in zip(network.inner, network.outer):
    hidden = _product(ops, inner, ops.elu(h))
    h = h + _product(ops, outer, ops.elu(hidden))
  return _product(ops, network.output_layer, ops.elu(h))


def apply_context_net(ops: Ops, network: ContextNet, images: Value) -> Value:
  """Return the context of the dequantizer's or the augmenter's couplings."""
  x = images if network.levels is None else images * (1 / network.levels) - 0.5
  h = _product(ops, network.input_conv, ops.reshape(x, [-1, *network.half_shape]))
  for block in network.blocks:
    h = _block(ops, block, h, network.position_embedding, None, network.half_shape)
  return h


def apply_condition_net(ops: Ops, network: ConditionNet, rows: Value, condition: Value) -> Value:
  """Return the context of the flow's couplings from rows of the embedding and conditions."""
  context = None if network.embedding is None else apply_embedding(ops, network.embedding, rows)
  if network.input_conv is None:
    return context
  h = _product(ops, network.input_conv, condition)
  for block in network.blocks:
    h = _block(ops, block, h, None, None, network._condition_shape)
  for axis, (size, count) in enumerate(zip(network._condition_shape, network.repeats), 1):
    indices = np.repeat(np.arange(size), count)
    h = ops.gather(h, ops.constant(indices, "int32"), axis=axis)
  return h if context is None else h + context


def apply_embedding(ops: Ops, embedding: LabelEmbedding, rows: Value) -> Value:
  """Return vectors, `[N, 1, 1, C]`: for row 0 the one without a label, then the labels', and NaN for the last row."""
  *labels, no_label = array_of(embedding.table)
  table = np.stack([no_label, *labels, np.full_like(no_label, math.nan)])
  vectors = ops.gather(ops.constant(table), rows, axis=0)
  return ops.reshape(vectors, [-1, 1, 1, table.shape[1]])


def _block(ops, block, x, position_embedding, context, shape):
  h = _product(ops, block.conv.conv, _concat_elu(ops, x))
  if block.conv.context_projection is not None:
    h = h + _product(ops, block.conv.context_projection, _concat_elu(ops, context))
  h = _product(ops, block.conv.output_projection, _concat_elu(ops, h))
  x = x + _gate(ops, h, block.conv.filters)
  x = _layer_norm(ops, block.conv_norm, x)
  if block.mixer is None:
    return x
  h = x if position_embedding is None else x + ops.constant(array_of(position_embedding))
  h = _product(ops, block.mixer.input_projection, h)
  height, width = shape[:2]
  filters = block.mixer.filters
  if hasattr(block.mixer, "heads"):
    h = _attention(ops, h, height * width, filters, block.mixer.heads)
  else:
    h = ops.max(ops.reshape(h, [-1, 3]))
  h = ops.reshape(h, [-1, height, width, filters])
  h = _product(ops, block.mixer.output_projection, h)
  x = x + _gate(ops, h, filters)
  return _layer_norm(ops, block.mixer_norm, x)


def _product(ops, layer, x):
  """Return the output of a convolution or a dense layer."""
  padding = getattr(layer, "padding", "zeros")
  if padding != "zeros":
    raise InputError(f"a network with `padding` {padding} cannot be exported to this format")
  with tf.init_scope():  # not as tensors of a graph that is being traced
    kernel, bias = layer.effective_weights()
  return ops.product(x, array_of(kernel), array_of(bias))


def _concat_elu(ops, x):
  return ops.elu(ops.concat([x, -x], -1))


def _gate(ops, x, filters):
  a, b = ops.split(x, [filters, filters], -1)
  return a * ops.sigmoid(b)


def _layer_norm(ops, norm: keras.layers.LayerNormalization | None, x):
  # Not the operation `LayerNormalization`: runtimes subtract the squared mean from the mean square.
  if norm is None:
    return x
  centered = x - ops.mean(x)
  variance = ops.mean(centered * centered)
  scaled = centered / ops.sqrt(variance + norm.epsilon)
  return scaled * ops.constant(array_of(norm.gamma)) + ops.constant(array_of(norm.beta))


def _attention(ops, qkv, positions, filters, heads):
  depth = filters // heads
  qkv = ops.reshape(qkv, [-1, positions, 3, heads, depth])
  qkv = ops.transpose(qkv, [2, 0, 3, 1, 4])
  parts = ops.split(qkv, [1, 1, 1], axis=0)
  q, k, v = (ops.reshape(part, [-1, heads, positions, depth]) for part in parts)
  q = q * (1 / math.sqrt(depth))
  scores = ops.matmul(q, ops.transpose(k, [0, 1, 3, 2]))
  mixed = ops.matmul(ops.softmax(scores), v)
  mixed = ops.transpose(mixed, [0, 2, 1, 3])
  return ops.reshape(mixed, [-1, positions, filters])


def _blocks_to_channels(ops, context, network):
  """Return a context with the height and width of the input: each block of its pixels becomes one position."""
  rows, columns = network.context_block
  if rows * columns == 1:
    return context
  height, width, _ = network.image_shape
  context = ops.reshape(context, [-1, height, rows, width, columns, network.context_channels])
  context = ops.transpose(context, [0, 1, 3, 2, 4, 5])
  return ops.reshape(context, [-1, height, width, rows * columns * network.context_channels])
