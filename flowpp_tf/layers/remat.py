"""Gradients that evaluate once more what they need, rather than keep it.

Chen et al. 2016, "Training deep nets with sublinear memory cost". `tf.recompute_grad`, which `keras.remat`
is, copies all arguments to do so, weights too, and has no second derivatives.
"""

import tensorflow as tf


def after(x, other):
  """`x`, but not before `other` is known, so that what follows from it is not what was there before.

  It is `x` plus what is 0, or NaN if `other` begins with a NaN: Grappler and XLA see through less than that.
  """
  first = tf.cast(tf.reduce_sum(tf.reshape(other, [-1])[:1]), x.dtype)
  return x + tf.where(first == first, tf.zeros_like(first), first)  # pylint: disable=comparison-with-itself


def rematerialized(function, wait=False):
  """A function of tensors or None, the first floating, that keeps its arguments alone for the gradient.

  Args:
    function: of one result. What it captures has no gradient.
    wait: whether the second evaluation must be made to come `after` the gradient by the result is known.
      Within a function that is not inlined it does anyway, but for XLA.
  """
  def call(*arguments):
    given = [i for i, argument in enumerate(arguments) if argument is not None]

    def evaluate(tensors):
      values = dict(zip(given, tensors))
      return function(*(values.get(i) for i in range(len(arguments))))

    @tf.custom_gradient
    def evaluated(*tensors):
      def gradient(by_result):
        again = list(map(tf.identity, tensors))
        if wait:
          again[0] = after(again[0], by_result)
        with tf.GradientTape() as tape:
          tape.watch([tensor for tensor in again if tensor.dtype.is_floating])
          result = evaluate(again)
        return tape.gradient(result, again, output_gradients=by_result)
      return evaluate(tensors), gradient

    return evaluated(*(arguments[i] for i in given))
  return call
