"""Lists of arrays against those that they must be, and derivatives against those of plain formulas."""

import functools

import numpy as np
import tensorflow as tf

# The ways in which TensorFlow runs a function.
MODES = {
  "eager": lambda function: function,
  "graph": functools.partial(tf.function, autograph=False),
  "xla": functools.partial(tf.function, autograph=False, jit_compile=True),
}


def assert_same(found, expected, **tolerance):
  """Assert that arrays are those that they must be, one by one; to the last bit, unless a tolerance is given."""
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, **{"rtol": 0, "atol": 0, **tolerance})


def graph_of(function, *arguments):
  """Return the graph of a function of such arguments, which may be their specs."""
  return tf.function(function, autograph=False).get_concrete_function(*arguments).graph


def derivatives(function, *inputs, by=()):
  """Return y = function(*inputs), its gradients by the inputs and by variables, and the gradients of these again."""
  sources = [*inputs, *by]
  zero = tf.UnconnectedGradients.ZERO
  with tf.GradientTape() as outer:
    outer.watch(inputs)
    with tf.GradientTape() as inner:
      inner.watch(inputs)
      y = function(*inputs)
    gradients = inner.gradient(y, sources, output_gradients=y * y, unconnected_gradients=zero)
    total = tf.add_n([tf.reduce_sum(tf.sin(g)) for g in gradients])
  return [y, *gradients, *outer.gradient(total, sources, unconnected_gradients=zero)]
