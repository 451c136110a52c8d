"""The operations of an inference graph in TensorFlow, of which those are taken that LiteRT has as its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from flowpp_tf.exporting.ops import Ops


class TensorFlowOps(Ops):
  """Computes in float32."""

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
  softmax = staticmethod(tf.nn.softmax)
  matmul = staticmethod(tf.matmul)
  take = staticmethod(tf.gather)

  def constant(self, array: Any, dtype: str = "float32") -> tf.Tensor:
    return tf.constant(np.array(array, dtype))

  def kernel(self, array: np.ndarray, axis: int) -> tf.Tensor:
    del axis
    return self.constant(array)

  def cast(self, x: tf.Tensor, dtype: str) -> tf.Tensor:
    return tf.cast(x, dtype)

  def softplus(self, x: tf.Tensor) -> tf.Tensor:
    return tf.maximum(x, 0.0) + tf.math.log(1.0 + tf.exp(-tf.abs(x)))

  def where(self, condition: tf.Tensor, x: tf.Tensor, y: Any) -> tf.Tensor:
    return tf.where(condition, x, y)

  def conv2d(self, x: tf.Tensor, kernel: np.ndarray, bias: np.ndarray) -> tf.Tensor:
    y = tf.nn.conv2d(x, self.constant(kernel), strides=1, padding="SAME")
    return tf.nn.bias_add(y, self.constant(bias))

  def sum(self, x: tf.Tensor, axis: int) -> tf.Tensor:
    return tf.reduce_sum(x, axis, keepdims=True)

  def mean(self, x: tf.Tensor, axis: int) -> tf.Tensor:
    return tf.reduce_mean(x, axis, keepdims=True)

  def max(self, x: tf.Tensor, axis: int) -> tf.Tensor:
    return tf.reduce_max(x, axis, keepdims=True)

  def min(self, x: tf.Tensor, axis: int) -> tf.Tensor:
    return tf.reduce_min(x, axis, keepdims=True)

  def reshape(self, x: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    return tf.reshape(x, list(shape))

  def transpose(self, x: tf.Tensor, axes: Sequence[int]) -> tf.Tensor:
    return tf.transpose(x, list(axes))

  def concat(self, values: Sequence[tf.Tensor], axis: int = -1) -> tf.Tensor:
    return tf.concat(list(values), axis)

  def split(self, x: tf.Tensor, sizes: Sequence[int], axis: int = -1) -> list[tf.Tensor]:
    return tf.split(x, list(sizes), axis)

  def loop(self, step: Callable[..., Sequence[tf.Tensor]], state: Sequence[tf.Tensor], most: int) -> list[tf.Tensor]:
    def going(i, *state):
      active = tf.cast(state[-1], tf.float32)
      return (i < most) & (tf.reduce_max(active) > 0.0)

    def iteration(i, *state):
      return i + 1, *step(*state)

    _, *result = tf.while_loop(going, iteration, [tf.constant(0), *state])
    return result
