"""The operations that an inference graph is made of, in the words of TensorFlow.

A graph is written once, as a function of the operations and of tensors, which have the operators of arrays.
`TensorFlowOps` computes, with operations that LiteRT has as its own; `OnnxOps` of onnx_ops.py makes nodes, and has all
operations that graphs use. Only those that all runtimes have; channels are the last axis of images.

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
  """Computes in float32. Reductions are over the last axis, which stays with size 1."""

  log = staticmethod(tf.math.log)
  elu = staticmethod(tf.nn.elu)
  relu = staticmethod(tf.nn.relu)
  softmax = staticmethod(tf.nn.softmax)  # over the last axis
  sum = staticmethod(functools.partial(tf.reduce_sum, axis=-1, keepdims=True))
  mean = staticmethod(functools.partial(tf.reduce_mean, axis=-1, keepdims=True))
  max = staticmethod(functools.partial(tf.reduce_max, axis=-1, keepdims=True))
  min = staticmethod(functools.partial(tf.reduce_min, axis=-1, keepdims=True))

  def __getattr__(self, name: str) -> Any:
    """Return an operation that is TensorFlow's under the same name."""
    return getattr(tf, name)

  def constant(self, array: Any, dtype: str = "float32") -> Value:
    return tf.constant(np.array(array, dtype))

  def softplus(self, x: Value) -> Value:
    return tf.maximum(x, 0.0) + tf.math.log(1.0 + tf.exp(-tf.abs(x)))

  def product(self, x: Value, kernel: np.ndarray, bias: np.ndarray) -> Value:
    """Return `x [N, C]` times `kernel [C, D]`, or the convolution of `x [N, H, W, C]` with `kernel [k, k, C, D]`."""
    weights = self.constant(kernel)
    if kernel.ndim == 4:
      y = tf.nn.conv2d(x, weights, strides=1, padding="SAME")
    else:
      y = tf.matmul(x, weights)
    return tf.nn.bias_add(y, self.constant(bias))

  def loop(self, step: Callable[..., Sequence[Value]], state: Sequence[Value], most: int) -> Sequence[Value]:
    """Return the state after at most `most` iterations of `step`, which end when its last value is all false."""
    return tf.while_loop(lambda *state: tf.reduce_any(state[-1]), step, state, maximum_iterations=most)
