"""Equal blocks one after the other, traced once for all of them.

A model has a hundred blocks of a few shapes. Inside of a `tf.function` those that are alike are calls of one
function, to which their weights are arguments: the graph, and the time that it takes to make and optimise
one, is that of a few blocks.
"""

import json
import weakref

import tensorflow as tf

from flowpp_tf.layers.dropout import fold_in
from flowpp_tf.layers.remat import rematerialized

_FIRST = weakref.WeakValueDictionary()    # block of each kind, which the others are like
_FUNCTIONS = weakref.WeakKeyDictionary()  # by such a block; what is an attribute, Keras would save


def apply_blocks(blocks, x, *inputs, training=False, seed=None, initialize=False, remat=False):
  """What the last of the blocks gives.

  Args:
    blocks: built Keras layers of equal configuration and shapes, `block(x, *inputs, training=, seed=,
      initialize=)`, whose result has the shape of `x`.
    x: input of the first, tensor.
    *inputs: further inputs of each, tensors or None.
    training: whether dropout is on.
    seed: stateless seed of its masks, `[2]` integers, or None; each block folds in its number.
    initialize: whether the blocks set their weights by the data.
    remat: whether the gradient evaluates a block once more rather than keep what is inside of it.
  """
  sets_variables = initialize or (training and seed is None)
  for i, block in enumerate(blocks):
    mask_seed = fold_in(seed, i) if training else None
    if sets_variables or (tf.executing_eagerly() and not remat):
      x = block(x, *inputs, training=training, seed=mask_seed, initialize=initialize)
      continue
    call = _shared(_first_like(block), training, tuple(x.shape))
    if remat:
      call = rematerialized(call, wait=True)
    x = call(x, *inputs, mask_seed, *(tf.convert_to_tensor(v.value) for v in block.trainable_variables))
  return x


def _first_like(block):
  """The first of the blocks, still in use, that are this one but for the values of weights."""
  config = {name: value for name, value in block.get_config().items() if name != "name"}
  weights = [v.shape for v in block.trainable_variables]
  kind = json.dumps([type(block).__name__, config, weights], sort_keys=True, default=str)
  return _FIRST.setdefault(kind, block)


def _shared(block, training, shape):
  """A block as a function of inputs, seed and weights, for all blocks that are like it.

  Each shape of the input has one of its own: TensorFlow would take the trace of a shape that is known in part
  for one that is known. It must not hold the block, which would then never be forgotten.
  """
  functions = _FUNCTIONS.setdefault(block, {})
  if (training, shape) not in functions:
    reference = weakref.ref(block)

    def call(*arguments):
      block = reference()
      count = len(arguments) - len(block.trainable_variables)
      unused = [tf.zeros(v.shape, v.dtype) for v in block.non_trainable_variables]  # Keras' seeds
      *inputs, seed = arguments[:count]
      return block.stateless_call(arguments[count:], unused, *inputs, training=training, seed=seed)[0]

    functions[training, shape] = tf.function(
        call, autograph=False, experimental_attributes={"_noinline": True})
  return functions[training, shape]
