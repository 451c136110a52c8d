"""Rematerialization (gradient checkpointing): gradients recompute activations instead of storing them.

Chen et al. 2016, "Training deep nets with sublinear memory cost". `tf.recompute_grad`, which `keras.remat` is, copies
all arguments to do so, weights too, and has no second derivatives.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any, TypeAlias

import keras
import tensorflow as tf

TensorFunction: TypeAlias = Callable[..., tf.Tensor]
TensorsFunction: TypeAlias = Callable[..., tuple[tf.Tensor, ...]]  # with several results


def with_dependency(x: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
  """Return x with a data dependency on `other`, so that compilers cannot merge the recomputation with the forward pass.

  The function adds 0 to x, or NaN if `other` begins with a NaN: Grappler and XLA remove simpler dependencies. An x of
  few values costs little: the recomputation only has to depend on it.
  """
  first = tf.reduce_sum(tf.reshape(other, [-1])[:1])
  first = tf.cast(first, x.dtype)
  return x + tf.where(first == first, tf.zeros_like(first), first)


def rematerialized(function: TensorFunction, wait: bool = False) -> TensorFunction:
  """Return a function that keeps only its arguments for the gradient.

  Args:
    function: of tensors or None, the first one floating, with one result. What it captures has no gradient.
    wait: whether the second evaluation must be made to wait for the gradient of the result. Within a function that is
      not inlined it does anyway, except under XLA.
  """

  def gradient(upstream, *arguments):
    """Return the gradients with respect to all arguments, None for an argument of None."""
    copies = [None if argument is None else tf.identity(argument) for argument in arguments]
    if wait:
      copies[0] = with_dependency(copies[0], upstream)
    sources = [tensor for tensor in copies if tensor is not None]
    gradients = iter(_gradients(lambda: function(*copies), sources, (), upstream))
    return [None if tensor is None else next(gradients) for tensor in copies]

  return _with_gradient(function, gradient)


def recomputed_elementwise(
  function: TensorFunction, gradient: Callable[..., Sequence[tf.Tensor | None]]
) -> TensorFunction:
  """Return a `rematerialized` function with a formula for its gradient.

  Args:
    function: as in `rematerialized`, and elementwise.
    gradient: `gradient(upstream, *arguments)`, the gradients with respect to all arguments, None for one without.
  """
  return functools.wraps(function)(_with_gradient(function, gradient))


def _with_gradient(function, gradient_of):
  def call(*arguments: Any) -> tf.Tensor:
    places = [i for i, argument in enumerate(arguments) if argument is not None]

    @tf.custom_gradient
    def evaluated(*tensors):
      values = [None] * len(arguments)
      for i, tensor in zip(places, tensors):
        values[i] = tensor

      def gradient(upstream):
        gradients = gradient_of(upstream, *values)
        return [gradients[i] for i in places]

      return function(*values), gradient

    return evaluated(*(arguments[i] for i in places))

  return call


def _gradients(evaluate, tensors, variables, upstream, unconnected=tf.UnconnectedGradients.NONE):
  """Return the gradients of `evaluate()` with respect to tensors, taken for constants, and to variables."""
  sources = [*tensors, *variables]
  if not tf.executing_eagerly():  # in graphs, forward-mode autodiff silently stops tapes
    return tf.gradients(
      evaluate(), sources, grad_ys=upstream, stop_gradients=tensors, unconnected_gradients=unconnected
    )
  with tf.GradientTape() as tape:
    tape.watch([tensor for tensor in tensors if tensor.dtype.is_floating])
    results = evaluate()
  return tape.gradient(results, sources, output_gradients=upstream, unconnected_gradients=unconnected)


def checkpointed(function: TensorsFunction) -> TensorsFunction:
  """Return a function of floating tensors, with several results, that keeps only its arguments for the gradient.

  The variables that it reads have gradients; other tensors that it captures have none.
  """

  @tf.custom_gradient
  def evaluated(*tensors):
    def gradient(*upstream, variables=()):
      first, *rest = map(tf.identity, tensors)
      copies = [with_dependency(first, upstream[0]), *rest]
      gradients = _gradients(lambda: function(*copies), copies, variables, upstream, tf.UnconnectedGradients.ZERO)
      return gradients[: len(copies)], gradients[len(copies) :]

    return function(*tensors), gradient

  return evaluated


def in_stateless_scope() -> bool:
  """Return whether Keras reads variables from a `keras.StatelessScope`: a later gradient would read other weights."""
  with keras.StatelessScope(initialize_variables=False) as scope:
    return scope.original_scope is not None
