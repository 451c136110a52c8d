"""Rematerialization: gradients compute again what they need, rather than keep it.

Chen et al. 2016, "Training deep nets with sublinear memory cost". `tf.recompute_grad`, which `keras.remat` is, copies
all arguments to do so, weights too, and has no second derivatives.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def after(x: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
  """Return x with a data dependency on `other`, so that compilers cannot merge the recomputation with the forward pass.

  x gets a number that is 0, or NaN if `other` begins with a NaN: Grappler and XLA see through less than that.
  """
  first = tf.cast(tf.reduce_sum(tf.reshape(other, [-1])[:1]), x.dtype)
  return x + tf.where(first == first, tf.zeros_like(first), first)  # pylint: disable=comparison-with-itself


def rematerialized(function: Callable[..., tf.Tensor], wait: bool = False) -> Callable[..., tf.Tensor]:
  """Return a function that keeps only its arguments for the gradient.

  Args:
    function: of tensors or None, the first one floating, with one result. What it captures has no gradient.
    wait: whether the second evaluation must be made to come `after` the gradient of the result is known. Within a
      function that is not inlined it does anyway, except under XLA.
  """
  def call(*arguments: Any) -> tf.Tensor:
    given = [i for i, argument in enumerate(arguments) if argument is not None]

    def evaluate(tensors):
      values = dict(zip(given, tensors))
      return function(*(values.get(i) for i in range(len(arguments))))

    @tf.custom_gradient
    def evaluated(*tensors):
      def gradient(upstream):
        again = list(map(tf.identity, tensors))
        if wait:
          again[0] = after(again[0], upstream)
        with tf.GradientTape() as tape:
          tape.watch([tensor for tensor in again if tensor.dtype.is_floating])
          result = evaluate(again)
        return tape.gradient(result, again, output_gradients=upstream)
      return evaluate(tensors), gradient

    return evaluated(*(arguments[i] for i in given))
  return call
