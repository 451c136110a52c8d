"""Apply equal blocks one after the other, with one traced function for all of them.

A model has a hundred blocks of a few shapes. Equal blocks call one `tf.function`, which takes their weights as
arguments. So TensorFlow builds and optimizes the graphs of a few blocks only. Eager mode calls these functions too,
which makes an evaluation faster; each batch size is traced once.
"""

from collections.abc import Callable, Sequence
import json
from typing import Any, TypeAlias
import weakref

import keras
import tensorflow as tf

from flowpp_tf.core.context import EvalContext
from flowpp_tf.core.remat import rematerialized
from flowpp_tf.core.tracing import traced_once

_Functions: TypeAlias = dict[bool, Callable[..., Any]]  # the function of training and of evaluation

# The first block of each kind, and its functions. Keras would save them if they were attributes of the block.
_FIRST: weakref.WeakValueDictionary[str, keras.layers.Layer] = weakref.WeakValueDictionary()
_FUNCTIONS: weakref.WeakKeyDictionary[keras.layers.Layer, _Functions] = weakref.WeakKeyDictionary()


def apply_blocks(
  blocks: Sequence[keras.layers.Layer],
  x: tf.Tensor,
  *inputs: tf.Tensor | None,
  ctx: EvalContext = EvalContext(),
  remat: bool = False,
) -> tf.Tensor:
  """Apply the blocks in order and return the last output.

  Args:
    blocks: built Keras layers of equal configuration and shapes, `block(x, *inputs, ctx=)`, whose output has the
      shape of `x`.
    x: input of the first block.
    *inputs: further inputs of each block, tensors or None.
    ctx: context of the network; its condition is not passed on.
    remat: whether the gradient recomputes each block rather than keep its intermediate tensors.
  """
  for i, block in enumerate(blocks):
    seed = ctx.stream(f"block_{i}") if ctx.training else None
    if ctx.sets_variables:
      block_ctx = EvalContext(ctx.training, seed, ctx.batch_offset, initialize=ctx.initialize)
      x = block(x, *inputs, ctx=block_ctx)
      continue
    first = _first_like(block)  # a reference that keeps it alive until its function is traced
    function = _shared(first, ctx.training)
    if remat:
      function = rematerialized(function, wait=True)
    batch_offset = None if seed is None else ctx.batch_offset
    weights = [tf.convert_to_tensor(v) for v in block.weights]
    x = function(x, *inputs, seed, batch_offset, *weights)
  return x


def variables_of(blocks: Sequence[keras.layers.Layer]) -> tf.Module:
  """Return a module that holds the blocks' variables: `tf.train.Checkpoint` does not find Keras layers in lists."""
  module = tf.Module()
  module.variables_of_blocks = [v.value for block in blocks for v in block.variables]
  return module


def _first_like(block):
  """Return the first block still in use that equals this one, except for the values of the weights."""
  config = {name: value for name, value in block.get_config().items() if name != "name"}
  weights = [v.shape for v in block.weights]
  kind = json.dumps([type(block).__name__, config, weights], sort_keys=True, default=str)
  return _FIRST.setdefault(kind, block)


def _shared(block, training):
  """Return a block as a function of inputs, seed and weights, which equal blocks share.

  The function must not hold a reference to the block, which would then never be freed.
  """
  functions = _FUNCTIONS.setdefault(block, {})
  if training not in functions:
    reference = weakref.ref(block)

    def call(*arguments):
      block: Any = reference()
      count = len(arguments) - len(block.weights)
      *inputs, seed, batch_offset = arguments[:count]
      values = {id(v): value for v, value in zip(block.weights, arguments[count:])}
      for v in block.variables:
        if id(v) not in values:  # a state of Keras' own seeds, which the call does not use
          values[id(v)] = tf.zeros(v.shape, v.dtype)
      trained = [values[id(v)] for v in block.trainable_variables]
      others = [values[id(v)] for v in block.non_trainable_variables]
      block_ctx = EvalContext(training, seed, batch_offset)
      output, _ = block.stateless_call(trained, others, *inputs, ctx=block_ctx)
      return output

    functions[training] = traced_once(call, in_eager_mode=True, jit=True)
  return functions[training]
