"""What a traced TensorFlow function costs, counted from its graph: nothing is run.

    flops     2 for each multiply-add of matrix products, einsums and convolutions, padding included;
              elementwise arithmetic is left out
    saved     bytes of the forward tensors that the backward pass reads: what a training step holds
              when the backward pass begins, beside weights
    traffic   bytes that all kernels read and write, none of them fused with another

The graph is that of the Python code, before Grappler or XLA change it, without what nothing needs: of a
function that is evaluated again for its gradient, the result.
"""

import dataclasses
import math
import re
import unittest.mock

import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf.layers.kernels import attention
from flowpp_tf.training import TrainingConfig, TrainState, train_step

# Views: the output is the input's buffer.
_VIEWS = ("Identity", "IdentityN", "Reshape", "ExpandDims", "Squeeze", "StopGradient", "EnsureShape", "PreventGradient")
_SHAPE_READERS = ("Shape", "ShapeN", "Size", "Rank", "ZerosLike", "BroadcastGradientArgs")
_NO_KERNELS = (*_VIEWS, *_SHAPE_READERS[:3], "Const", "Placeholder", "ReadVariableOp", "NoOp")
_NO_INSTRUCTIONS = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "copy")
# `%name = shape kind(operands)` in the text of a module; a shape is `f32[2,3]{1,0}`, or a tuple of these.
_INSTRUCTION = re.compile(r"(?m)^\s*(?:ROOT )?%([\w.-]+) = (\(.*?\)|\S+) ([a-z][\w-]*)\(([^)]*)\)")
_BITS = {"pred": 8, "bf16": 16, **{f"{kind}{bits}": bits for kind in "sufc" for bits in (8, 16, 32, 64, 128)}}
_SHAPE = re.compile(rf"({'|'.join(_BITS)})\[([\d,]*)\]")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
# Where, in inputs and then outputs, there are the shapes of the kernel and of the convolution's output.
_CONVOLUTIONS = {"Conv2D": (1, 2), "Conv2DBackpropInput": (1, 2), "Conv2DBackpropFilter": (3, 2)}
_LOOPS = ("While", "StatelessWhile")
_BRANCHES = ("If", "StatelessIf", "Case", "StatelessCase")  # the dearest counts


def live_operations(graph):
  """A function's operations, in order, that its results or side effects need; TensorFlow prunes the rest."""
  operations = graph.get_operations()
  waiting = [
    *(t.op for t in graph.outputs),
    *graph.control_outputs,
    *(op for op in operations if op.op_def.is_stateful),
  ]
  needed = set()
  while waiting:
    op = waiting.pop()
    if op not in needed:
      needed.add(op)
      waiting += [*(t.op for t in op.inputs), *op.control_inputs]
  return [op for op in operations if op in needed]


def count_operations(graph):
  """The number of operations of a graph and of all functions that it calls, each once."""
  definition = graph.as_graph_def()
  return len(definition.node) + sum(len(function.node_def) for function in definition.library.function)


def count_flops(operations):
  """FLOPs of matrix products, einsums and convolutions, in the functions that are called too.

  Args:
    operations: `tf.Operation`s, such as `live_operations(graph)`.

  Raises:
    ValueError: if a product cannot be counted: of a kind or shape not known, or in a loop.
  """
  return sum(flops for _, flops in products(operations))


def products(operations):
  """Yields what `count_flops` counts, `(operation, FLOPs)`, each as often as its function is called."""
  for op in operations:
    if op.type in _CALLS + _BRANCHES:
      yield from products(max(_bodies(op), key=count_flops))  # a call has one body
    elif op.type in _LOOPS:
      if any(map(count_flops, _bodies(op))):
        raise ValueError(f"{op.name} ({op.type}) runs products a number of times that is not known")
    elif flops := _flops(op):
      yield op, flops


def _flops(op):
  if op.type == "MatMul":
    if 1 in op.outputs[0].shape.as_list():
      return 0  # with a vector: a sum that is written as a product, such as that of a bias' gradient
    rows = _size(op.inputs[0].shape[0 if op.get_attr("transpose_a") else 1], op)
    return 2 * rows * _size(op.outputs[0].shape.num_elements(), op)
  if op.type in ("BatchMatMul", "BatchMatMulV2"):
    rows = _size(op.inputs[0].shape[-2 if op.get_attr("adj_x") else -1], op)
    return 2 * rows * _size(op.outputs[0].shape.num_elements(), op)
  if op.type == "Einsum":
    return _einsum_flops(op)
  if op.type in _CONVOLUTIONS:
    # Each value of the convolution's output meets `height x width x in` of a kernel's values.
    kernel, outputs = ((*op.inputs, *op.outputs)[i].shape for i in _CONVOLUTIONS[op.type])
    return 2 * _size(kernel[:3].num_elements(), op) * _size(outputs.num_elements(), op)
  if "Conv" in op.type or "MatMul" in op.type or "Xla" in op.type:
    raise ValueError(f"{op.name}: no rule to count the FLOPs of a {op.type}")
  return 0


def _einsum_flops(op):
  terms, _, result = op.get_attr("equation").decode().partition("->")
  if len(op.inputs) < 2:
    return 0
  sizes = {}
  for term, operand in zip(terms.split(","), op.inputs):
    before, _, after = term.partition("...")
    shape = operand.shape.as_list()
    sizes.update(zip(before, shape))
    sizes.update(zip(after[::-1], shape[::-1]))
  contracted = [_size(size, op) for label, size in sizes.items() if label not in result]
  return 2 * math.prod(contracted) * _size(op.outputs[0].shape.num_elements(), op)


def _size(value, op):
  if value is None:
    raise ValueError(f"{op.name} ({op.type}) has a shape that is not known")
  return value


def _bodies(op):
  """The operations of each function that an operation calls."""
  return [live_operations(graph) for graph in _graphs(op)]


def _graphs(op):
  names = [
    function.name
    for attribute in op.node_def.attr.values()
    for function in (attribute.func, *attribute.list.func)
    if function.name
  ]
  return [op.graph._get_function(name).graph for name in names]


def count_saved_bytes(forward, backward):
  """Bytes of what `backward` reads of the tensors that `forward` made, each buffer once.

  Args:
    forward: the operations of the forward pass.
    backward: those after it, in the same graph.

  Variables and constants are not counted, nor what is read for its shape alone. What a function made
  that the forward pass calls counts if the backward pass reads it; a function that the backward pass
  calls reads all that it is given.
  """
  forward = set(forward)
  saved = {_buffer(t) for op in backward if op.type not in _SHAPE_READERS for t in op.inputs if t.op in forward}
  tensors = [reference.deref() for _, reference in saved]
  return sum(_num_bytes(t) for t in tensors if t.op.type not in ("Const", "Placeholder", "ReadVariableOp"))


def count_kernels(operations):
  """The number of kernels, and the bytes that they read and write if none is fused with another.

  Operations that give integers are none: they are on shapes and seeds, or the images themselves.

  Raises:
    ValueError: for a loop, whose kernels run a number of times that is not known.
  """
  kernels = traffic = 0
  for op in operations:
    if op.type in _NO_KERNELS:
      continue
    if op.type in _LOOPS:
      raise ValueError(f"{op.name} ({op.type}) runs kernels a number of times that is not known")
    if op.type in _CALLS + _BRANCHES:
      inner = max(map(count_kernels, _bodies(op)))  # a call has one body
      kernels, traffic = kernels + inner[0], traffic + inner[1]
      continue
    inputs = sum(map(_num_bytes, {t.ref(): t for t in op.inputs}.values()))
    outputs = sum(map(_num_bytes, op.outputs))
    if op.type.endswith("VariableOp"):  # Assign writes the variable, AssignAdd and -Sub read it first
      outputs = inputs * (1 if op.type == "AssignVariableOp" else 2)
    elif not any(t.dtype.is_floating or t.dtype.is_bool for t in op.outputs):
      continue
    kernels, traffic = kernels + 1, traffic + inputs + outputs
  return kernels, traffic


def count_compiled_kernels(operations):
  """As `count_kernels`, if XLA compiles each function that is called: instructions of its modules, as made for a CPU.

  Copies are left out: most of them are outputs that are inputs, which a GPU's modules need not have.
  """
  costs, calls = {}, [op for op in operations if op.type in _CALLS]
  for op in calls:
    name = op.get_attr("f").name
    if name not in costs:
      costs[name] = count_instructions(_compiled(*_graphs(op)))
  counted = [count_kernels(op for op in operations if op.type not in _CALLS)]
  counted += [costs[op.get_attr("f").name] for op in calls]
  kernels, traffic = zip(*counted)
  return sum(kernels), sum(traffic)


def count_instructions(module):
  """Return `(kernels, bytes that they read and write)` of the entry of an optimized HLO module, a text."""
  kernels, traffic, sizes = 0, 0, {}
  for name, shape, kind, operands in _INSTRUCTION.findall(module[module.index("ENTRY") :]):
    sizes[name] = sum(
      _BITS[dtype] // 8 * math.prod(int(size) for size in dims.split(",") if size)
      for dtype, dims in _SHAPE.findall(shape)
    )
    if kind not in _NO_INSTRUCTIONS:
      kernels += 1
      traffic += sizes[name] + sum(sizes.get(operand, 0) for operand in set(re.findall(r"%([\w.-]+)", operands)))
  return kernels, traffic


def _compiled(body):
  """The text of the module that XLA makes of a function's graph."""
  definition = body.as_graph_def()
  nodes = [node for node in definition.node if node.op != "Placeholder"]  # the inputs, which are given instead
  del definition.node[:]
  definition.node.extend(nodes)

  @tf.function(autograph=False, jit_compile=True)
  def run(*tensors):
    return tf.graph_util.import_graph_def(
      definition, {t.name: given for t, given in zip(body.inputs, tensors)}, [t.name for t in body.outputs]
    )

  return run.experimental_get_compiler_ir(*(tf.TensorSpec(t.shape, t.dtype) for t in body.inputs))("optimized_hlo")


def _buffer(tensor):
  """Where a tensor's buffer is from: the calls, one in the other, and a reference to what they made."""
  op = tensor.op
  if op.type in _VIEWS:
    return _buffer(op.inputs[tensor.value_index if op.type == "IdentityN" else 0])
  if op.type in _CALLS:
    (body,) = _graphs(op)
    calls, made = _buffer(body.outputs[tensor.value_index])
    given = [t.ref() for t in body.inputs]
    return _buffer(op.inputs[given.index(made)]) if made in given else ((op, *calls), made)
  return (), tensor.ref()


def _num_bytes(tensor):
  """Bytes of a tensor; 0 for handles, and for the few integers whose number is not known."""
  if tensor.dtype in (tf.resource, tf.variant):
    return 0
  return (tensor.shape.num_elements() or 0) * tensor.dtype.size


@dataclasses.dataclass(frozen=True)
class PassCounts:
  """What a pass (forward and backward) of a `FlowPlusPlus` needs: `_image` for each image of its batch,
  `_pass` beside these."""

  parameters: int
  gradients: int  # parameters that have one
  forward_flops_image: int
  training_flops_image: int  # forward and backward
  training_flops_pass: int  # of the weights alone
  saved_bytes_image: int
  saved_bytes_pass: int
  traffic_bytes_image: int
  traffic_bytes_pass: int
  kernels_pass: int


@dataclasses.dataclass(frozen=True)
class UpdateCounts:
  """What a training step needs beside its pass: clipping, Adam, EMA weights, metrics."""

  traffic_bytes_update: int
  kernels_update: int


def count_pass(config):
  """`PassCounts` of a config's model, from traces of two batches: all is linear in the batch size
  from 2 on (at 1 a few sums have other axes), but the kernels, which are the same."""
  model = fpp.FlowPlusPlus(config)
  two, three = (trace_pass(model, batch) for batch in (2, 3))
  image = {name: three[name] - two[name] for name in two if two[name] is not None}
  rest = {name: two[name] - 2 * image[name] for name in image}
  return PassCounts(
    parameters=model.count_params(),
    gradients=two["gradients"],
    forward_flops_image=image["forward_flops"],
    training_flops_image=image["flops"],
    training_flops_pass=rest["flops"],
    saved_bytes_image=image["saved"],
    saved_bytes_pass=rest["saved"],
    traffic_bytes_image=image["traffic"],
    traffic_bytes_pass=rest["traffic"],
    kernels_pass=two["kernels"],
  )


def count_update(config, counts):
  """`UpdateCounts` of a config's model, whose `PassCounts` are given: a whole step's less these."""
  state = TrainState(fpp.FlowPlusPlus(config), TrainingConfig(steps=1))
  traced = tf.function(lambda images: train_step(state, images), autograph=False).get_concrete_function(
    tf.TensorSpec([2, *config.image_shape], tf.uint8)
  )
  kernels, traffic = count_kernels(live_operations(traced.graph))
  return UpdateCounts(
    traffic_bytes_update=traffic - 2 * counts.traffic_bytes_image - counts.traffic_bytes_pass,
    kernels_update=kernels - counts.kernels_pass,
  )


def trace_pass(model, batch, compiled=False):
  """Counts of the training loss and its gradient by the weights, as a dict.

  Args:
    model: `FlowPlusPlus`.
    batch: its size.
    compiled: whether to count the kernels too that are left if XLA compiles each kind of block.
  """
  variables = [v.value for v in model.trainable_variables]
  shape = [batch, *model.config.image_shape]
  noise_shape = model.sample_noise([batch], tf.constant([0, 0], tf.int64)).shape
  forward = set()

  @tf.function(autograph=False)
  def gradient(images, noise, seed):
    with tf.GradientTape() as tape:
      loss = -tf.reduce_mean(model.log_prob_bound(images, noise=noise, seed=seed, training=True))
    forward.update(loss.graph.get_operations())
    return [g for g in tape.gradient(loss, variables) if g is not None]

  with unittest.mock.patch.object(attention, "has_accelerator", lambda: True):  # where launches count
    traced = gradient.get_concrete_function(
      tf.TensorSpec(shape, tf.uint8), tf.TensorSpec(noise_shape, model.variable_dtype), tf.TensorSpec([2], tf.int64)
    )
  operations = live_operations(traced.graph)
  backward = [op for op in operations if op not in forward]
  kernels, traffic = count_kernels(operations)
  compiled_kernels, compiled_traffic = count_compiled_kernels(operations) if compiled else (None, None)
  return dict(
    compiled_kernels=compiled_kernels,
    compiled_traffic=compiled_traffic,
    operations=count_operations(traced.graph),
    gradients=sum(g.shape.num_elements() for g in traced.outputs),
    forward_flops=count_flops(op for op in operations if op in forward),
    flops=count_flops(operations),
    saved=count_saved_bytes(forward, backward),
    kernels=kernels,
    traffic=traffic,
  )
