"""The operations that an inference graph is made of, in the words of TensorFlow.

A graph is written once, as a function of the operations and of tensors. `TensorFlowOps` computes, with operations that
LiteRT has as its own; `OnnxOps` of onnx_ops.py makes nodes. Only operations that all runtimes have are used.

The codec's networks (compression/layers.py) are another text: each product, layer norm, softmax and attention rounds
there to a grid of its own, so that its bits could be kept only if all these were operations, and no formula was shared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
from typing import Any, Protocol, TypeAlias

import numpy as np
import tensorflow as tf

from flowpp_tf.core.errors import InputError

Value: TypeAlias = Any  # a tensor of the graph, with the operators of arrays


class Ops(Protocol):
  """The operations of inference graphs.

  Elementwise operations keep the shape, and broadcast two tensors. Reductions are over the last axis, `[..., C]` to
  `[..., 1]`. Channels are the last axis of images.
  """

  def abs(self, x: Value) -> Value: ...
  def elu(self, x: Value) -> Value: ...
  def erf(self, x: Value) -> Value: ...
  def exp(self, x: Value) -> Value: ...
  def floor(self, x: Value) -> Value: ...
  def log(self, x: Value) -> Value: ...
  def relu(self, x: Value) -> Value: ...
  def sigmoid(self, x: Value) -> Value: ...
  def softplus(self, x: Value) -> Value: ...
  def sqrt(self, x: Value) -> Value: ...
  def tanh(self, x: Value) -> Value: ...
  def maximum(self, x: Value, y: Value) -> Value: ...
  def minimum(self, x: Value, y: Value) -> Value: ...
  def where(self, condition: Value, x: Value, y: Value) -> Value: ...
  def cast(self, x: Value, dtype: str) -> Value: ...

  def max(self, x: Value) -> Value: ...
  def mean(self, x: Value) -> Value: ...
  def min(self, x: Value) -> Value: ...
  def sum(self, x: Value) -> Value: ...

  def softmax(self, x: Value) -> Value:
    """Return the softmax over the last axis, `[..., C]`."""

  def matmul(self, x: Value, y: Value) -> Value:
    """Return the products of matrices `[..., N, C]` and `[..., C, D]`."""

  def product(self, x: Value, kernel: np.ndarray, bias: np.ndarray) -> Value:
    """Return `x [N, C]` times `kernel [C, D]`, or the convolution of `x [N, H, W, C]` with `kernel [k, k, C, D]`."""

  def constant(self, array: Any, dtype: str = "float32") -> Value:
    """Return a constant."""

  def reshape(self, x: Value, shape: Sequence[int]) -> Value:
    """Return the values in another shape, of which one size may be -1."""

  def transpose(self, x: Value, axes: Sequence[int]) -> Value:
    """Return the tensor with its axes in this order."""

  def concat(self, values: Sequence[Value], axis: int) -> Value:
    """Return tensors joined along an axis."""

  def split(self, x: Value, sizes: Sequence[int], axis: int) -> Sequence[Value]:
    """Return the parts of these sizes along an axis."""

  def gather(self, x: Value, indices: Value, *, axis: int) -> Value:
    """Return the slices at integer indices `[M]` along an axis, whose size becomes M."""

  def loop(self, step: Callable[..., Sequence[Value]], state: Sequence[Value], most: int) -> Sequence[Value]:
    """Return the state after at most `most` iterations of `step`, which end when its last value is all false."""


class TensorFlowOps:
  """Computes in float32; see `Ops`."""

  abs = staticmethod(tf.abs)
  elu = staticmethod(tf.nn.elu)
  exp = staticmethod(tf.exp)
  floor = staticmethod(tf.floor)
  log = staticmethod(tf.math.log)
  relu = staticmethod(tf.nn.relu)
  sigmoid = staticmethod(tf.sigmoid)
  sqrt = staticmethod(tf.sqrt)
  tanh = staticmethod(tf.tanh)
  maximum = staticmethod(tf.maximum)
  minimum = staticmethod(tf.minimum)
  where = staticmethod(tf.where)
  cast = staticmethod(tf.cast)
  max = staticmethod(functools.partial(tf.reduce_max, axis=-1, keepdims=True))
  mean = staticmethod(functools.partial(tf.reduce_mean, axis=-1, keepdims=True))
  min = staticmethod(functools.partial(tf.reduce_min, axis=-1, keepdims=True))
  sum = staticmethod(functools.partial(tf.reduce_sum, axis=-1, keepdims=True))
  softmax = staticmethod(tf.nn.softmax)
  matmul = staticmethod(tf.matmul)
  reshape = staticmethod(tf.reshape)
  transpose = staticmethod(tf.transpose)
  concat = staticmethod(tf.concat)
  split = staticmethod(tf.split)
  gather = staticmethod(tf.gather)

  def erf(self, x: Value) -> Value:
    raise InputError("LiteRT has no error function, which a box needs: export it as ONNX or as a SavedModel")

  def constant(self, array: Any, dtype: str = "float32") -> Value:
    return tf.constant(np.array(array, dtype))

  def softplus(self, x: Value) -> Value:
    return tf.maximum(x, 0.0) + tf.math.log(1.0 + tf.exp(-tf.abs(x)))

  def product(self, x: Value, kernel: np.ndarray, bias: np.ndarray) -> Value:
    weights = self.constant(kernel)
    if kernel.ndim == 4:
      y = tf.nn.conv2d(x, weights, strides=1, padding="SAME")
    else:
      y = tf.matmul(x, weights)
    return tf.nn.bias_add(y, self.constant(bias))

  def loop(self, step: Callable[..., Sequence[Value]], state: Sequence[Value], most: int) -> Sequence[Value]:
    return tf.while_loop(lambda *state: tf.reduce_any(state[-1]), step, state, maximum_iterations=most)
