"""The operations that an inference graph is made of, in the words of NumPy.

A graph is written once, as a function of the operations and of tensors, which have the operators of arrays.
`TensorFlowOps` computes, with operations that LiteRT has as its own; `OnnxOps` of onnx_ops.py makes nodes and has the
same methods. Only operations that all runtimes have; channels are the last axis of images.

The codec's networks (compression/layers.py) are another text: each product, layer norm, softmax and attention rounds
there to a grid of its own, so that its bits could be kept only if all these were operations, and no formula was shared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

Ops: TypeAlias = Any  # `TensorFlowOps` or `OnnxOps`
Value: TypeAlias = Any  # a tensor of one of them


class TensorFlowOps:
  """Computes in float32. Reductions keep their axis, with size 1."""

  exp = staticmethod(tf.exp)
  log = staticmethod(tf.math.log)
  tanh = staticmethod(tf.tanh)
  sigmoid = staticmethod(tf.sigmoid)
  elu = staticmethod(tf.nn.elu)
  sqrt = staticmethod(tf.sqrt)
  abs = staticmethod(tf.abs)
  floor = staticmethod(tf.floor)
  maximum = staticmethod(tf.maximum)
  minimum = staticmethod(tf.minimum)
  softmax = staticmethod(tf.nn.softmax)  # over the last axis
  matmul = staticmethod(tf.matmul)
  where = staticmethod(tf.where)
  cast = staticmethod(tf.cast)
  reshape = staticmethod(tf.reshape)
  transpose = staticmethod(tf.transpose)
  sum = staticmethod(functools.partial(tf.reduce_sum, keepdims=True))
  mean = staticmethod(functools.partial(tf.reduce_mean, keepdims=True))
  max = staticmethod(functools.partial(tf.reduce_max, keepdims=True))
  min = staticmethod(functools.partial(tf.reduce_min, keepdims=True))

  def constant(self, array: Any, dtype: str = "float32") -> Value:
    return tf.constant(np.array(array, dtype))

  def kernel(self, array: np.ndarray, axis: int) -> Value:
    """Return the kernel of a product, which may be stored in fewer bits; `axis` is that of the outputs."""
    del axis
    return self.constant(array)

  def softplus(self, x: Value) -> Value:
    return tf.maximum(x, 0.0) + tf.math.log(1.0 + tf.exp(-tf.abs(x)))

  def conv2d(self, x: Value, kernel: np.ndarray, bias: np.ndarray) -> Value:
    """Return the convolution of `x [N, H, W, C]` with `kernel [k, k, C, D]`, stride 1, same padding."""
    y = tf.nn.conv2d(x, self.constant(kernel), strides=1, padding="SAME")
    return tf.nn.bias_add(y, self.constant(bias))

  def concat(self, values: Sequence[Value], axis: int = -1) -> Value:
    return tf.concat(values, axis)

  def split(self, x: Value, sizes: Sequence[int], axis: int = -1) -> list[Value]:
    """Return the parts of x of given sizes along an axis."""
    return tf.split(x, sizes, axis)

  def take(self, x: Value, indices: Value, axis: int) -> Value:
    """Return the entries of x at indices `[M]` along an axis."""
    return tf.gather(x, indices, axis=axis)

  def loop(self, step: Callable[..., Sequence[Value]], state: Sequence[Value], most: int) -> list[Value]:
    """Return the state after at most `most` iterations of `step`, which end when its last value is all false."""

    def active(i, *state):
      del i
      return tf.reduce_any(state[-1])

    def iteration(i, *state):
      return i + 1, *step(*state)

    _, *result = tf.while_loop(active, iteration, [tf.constant(0), *state], maximum_iterations=most)
    return result
