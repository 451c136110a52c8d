"""The operations of an inference graph as nodes of ONNX:

ops = OnnxOps()
x = ops.input("x", "float32", [None, 4])
ops.output("y", ops.exp(x) + 1.0, [None, 4])
model = ops.model("example")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from flowpp_tf.core.environment import import_extra
from flowpp_tf.core.errors import InputError
from flowpp_tf.version import __version__

_OPSET, _IR_VERSION = 17, 8


def _operator(kind, dtype=None):
  """Return the operator of two tensors that is a node of a kind."""
  return lambda x, y: x.ops.node(kind, x, y, dtype=dtype)


class Value:
  """A tensor of a graph, with the operators of arrays; `dtype` is the name of NumPy's."""

  def __init__(self, ops: OnnxOps, name: str, dtype: str) -> None:
    self.ops, self.name, self.dtype = ops, name, dtype

  __add__ = __radd__ = _operator("Add")
  __mul__ = __rmul__ = _operator("Mul")
  __sub__ = _operator("Sub")
  __truediv__ = _operator("Div")
  __and__ = _operator("And")
  __or__ = _operator("Or")
  __gt__ = _operator("Greater", "bool")
  __lt__ = _operator("Less", "bool")
  __ge__ = _operator("GreaterOrEqual", "bool")
  __le__ = _operator("LessOrEqual", "bool")

  def __rsub__(self, other: float) -> Value:
    return self.ops.node("Sub", other, self)

  def __neg__(self) -> Value:
    return self.ops.node("Neg", self)

  def __invert__(self) -> Value:
    return self.ops.node("Not", self)


def _function(kind):
  """Return the operation that is a node of a kind."""
  return lambda ops, *inputs: ops.node(kind, *inputs)


def _reduction(kind):
  """Return the reduction over an axis, which stays as one of size 1."""
  return lambda ops, x, axis: ops.node(kind, x, axes=[axis], keepdims=1)


class OnnxOps:
  """The nodes, constants, inputs and outputs of a graph that is being written, with the methods of `TensorFlowOps`.

  Args:
    weight_dtype: how kernels of networks are stored, "float32", "float16" or "int8" (with a scale for each output). The
      graph computes in float32.
  """

  def __init__(self, weight_dtype: str = "float32") -> None:
    self._weight_dtype = weight_dtype
    self._onnx: Any = import_extra("onnx", "onnx", "the format 'onnx'")
    self._nodes: list[Any] = []
    self._constants: dict[Any, tuple[str, np.ndarray]] = {}
    self._inputs: list[Any] = []
    self._outputs: list[Any] = []
    self._count = 0

  # --- The graph --------------------------------------------------------------------------------

  def input(self, name: str, dtype: str, shape: Sequence[int | None]) -> Value:
    """Add an input; None is a size that is not fixed, and the same in all inputs and outputs."""
    self._inputs.append(self._info(name, dtype, shape))
    return Value(self, name, dtype)

  def output(self, name: str, value: Value, shape: Sequence[int | None]) -> None:
    """Add an output."""
    self._nodes.append(self._onnx.helper.make_node("Identity", [value.name], [name]))
    self._outputs.append(self._info(name, value.dtype, shape))

  def model(self, name: str, properties: Mapping[str, str] | None = None) -> Any:
    """Return the `onnx.ModelProto` of what the outputs need, with texts by name as its metadata."""
    helper = self._onnx.helper
    nodes, used = [], {output.name for output in self._outputs}
    for node in reversed(self._nodes):
      if used & {*node.output}:
        nodes.append(node)
        used |= {*node.input, *_captured(node)}
    constants = []
    for constant, array in self._constants.values():
      if constant in used:
        constants.append(self._onnx.numpy_helper.from_array(array, constant))
    graph = helper.make_graph(nodes[::-1], name, self._inputs, self._outputs, constants)
    model = helper.make_model(
      graph,
      opset_imports=[helper.make_opsetid("", _OPSET)],
      ir_version=_IR_VERSION,
      producer_name="flowpp_tf",
      producer_version=__version__,
    )
    helper.set_model_props(model, dict(properties or {}))
    self._onnx.checker.check_model(model)
    return model

  def constant(self, array: Any, dtype: str = "float32") -> Value:
    """Return a constant; equal ones are stored once."""
    array = np.array(array, dtype)
    key = (dtype, array.shape, array.tobytes())
    if key not in self._constants:
      self._constants[key] = f"constant_{len(self._constants)}", array
    return Value(self, self._constants[key][0], dtype)

  def kernel(self, array: np.ndarray, axis: int) -> Value:
    """Return the kernel of a product, of `weight_dtype`; `axis` is that of the outputs."""
    if self._weight_dtype == "float32":
      return self.constant(array)
    if self._weight_dtype == "float16":
      largest = np.abs(array).max(initial=0.0)
      if largest > float(np.finfo(np.float16).max):  # it would be stored as infinity
        raise InputError(f"the weights do not fit float16: the largest is {largest:g}")
      return self.cast(self.constant(array, "float16"), "float32")
    # Not `DequantizeLinear`, which runtimes fuse with products of int8, so that decoding would not invert encoding.
    others = tuple(i for i in range(array.ndim) if i != axis)
    largest = np.abs(array).max(axis=others, keepdims=True)
    scale = np.maximum(largest / 127, np.finfo(np.float32).tiny)
    integers = self.constant(np.rint(array / scale), "int8")
    return self.cast(integers, "float32") * self.constant(scale)

  def node(self, kind: str, *inputs: Value | float, dtype: str | None = None, **attributes: Any) -> Value:
    """Return the output of a node; numbers among the inputs become constants of the others' type."""
    of_inputs = next(value.dtype for value in inputs if isinstance(value, Value))
    names = []
    for value in inputs:
      if not isinstance(value, Value):
        value = self.constant(value, of_inputs)
      names.append(value.name)
    (output,) = self._add_node(kind, names, [dtype or of_inputs], **attributes)
    return output

  def _add_node(self, kind, names, dtypes, **attributes):
    """Add a node with inputs of these names, and return its outputs, of these dtypes."""
    outputs = [Value(self, self._name(kind), dtype) for dtype in dtypes]
    self._nodes.append(self._onnx.helper.make_node(kind, names, [output.name for output in outputs], **attributes))
    return outputs

  def _name(self, kind):
    self._count += 1
    return f"{kind.lower()}_{self._count}"

  def _info(self, name, dtype, shape=None):
    helper = self._onnx.helper
    sizes = None
    if shape is not None:
      sizes = ["batch" if size is None else size for size in shape]
    tensor_dtype = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, tensor_dtype, sizes)

  # --- Operations -------------------------------------------------------------------------------

  exp = _function("Exp")
  log = _function("Log")
  tanh = _function("Tanh")
  sigmoid = _function("Sigmoid")
  softplus = _function("Softplus")
  elu = _function("Elu")
  sqrt = _function("Sqrt")
  abs = _function("Abs")
  floor = _function("Floor")
  maximum = _function("Max")
  minimum = _function("Min")
  matmul = _function("MatMul")
  mean = _reduction("ReduceMean")
  max = _reduction("ReduceMax")
  min = _reduction("ReduceMin")

  def sum(self, x: Value, axis: int) -> Value:
    return self.node("ReduceSum", x, self.constant([axis], "int64"), keepdims=1)

  def cast(self, x: Value, dtype: str) -> Value:
    to = self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return self.node("Cast", x, dtype=dtype, to=int(to))

  def where(self, condition: Value, x: Value, y: Value | float) -> Value:
    other = y if isinstance(y, Value) else self.constant(y, x.dtype)
    return self.node("Where", condition, x, other, dtype=x.dtype)

  def softmax(self, x: Value) -> Value:
    return self.node("Softmax", x, axis=-1)

  def conv2d(self, x: Value, kernel: np.ndarray, bias: np.ndarray) -> Value:
    padding = kernel.shape[0] - 1
    before = padding // 2
    after = padding - before
    weights = self.kernel(kernel.transpose(3, 2, 0, 1), axis=0)
    x = self.transpose(x, [0, 3, 1, 2])  # ONNX has the channels first
    x = self.node("Conv", x, weights, self.constant(bias), pads=[before, before, after, after])
    return self.transpose(x, [0, 2, 3, 1])

  def reshape(self, x: Value, shape: Sequence[int]) -> Value:
    return self.node("Reshape", x, self.constant(shape, "int64"))

  def transpose(self, x: Value, axes: Sequence[int]) -> Value:
    return self.node("Transpose", x, perm=list(axes))

  def concat(self, values: Sequence[Value], axis: int = -1) -> Value:
    return self.node("Concat", *values, axis=axis)

  def split(self, x: Value, sizes: Sequence[int], axis: int = -1) -> list[Value]:
    return self._add_node("Split", [x.name, self.constant(sizes, "int64").name], [x.dtype] * len(sizes), axis=axis)

  def take(self, x: Value, indices: Value, axis: int) -> Value:
    return self.node("Gather", x, indices, axis=axis)

  def loop(self, step: Callable[..., Sequence[Value]], state: Sequence[Value], most: int) -> list[Value]:
    helper, outer = self._onnx.helper, self._nodes
    self._nodes = []
    number = self._name("iteration")
    before = [Value(self, self._name("state"), value.dtype) for value in state]
    going = self._name("going")
    after = step(*before)
    again = self._any(after[-1])
    inputs_of_body = [self._info(number, "int64", []), self._info(going, "bool", [])]
    inputs_of_body += [self._info(value.name, value.dtype) for value in before]
    outputs_of_body = [self._info(again.name, "bool", [])]
    outputs_of_body += [self._info(value.name, value.dtype) for value in after]
    body = helper.make_graph(self._nodes, self._name("body"), inputs_of_body, outputs_of_body)
    self._nodes = outer
    inputs = [self.constant(most, "int64").name, self._any(state[-1]).name]
    inputs += [value.name for value in state]
    return self._add_node("Loop", inputs, [value.dtype for value in state], body=body)

  def _any(self, x):
    """Whether any value is true, a scalar."""
    largest = self.node("ReduceMax", self.cast(x, "float32"), keepdims=0)
    return self.node("Greater", largest, 0.0, dtype="bool")


def _captured(node):
  """Return the names that the subgraphs of a node read; some are those of the outer graph."""
  names = set()
  for attribute in node.attribute:
    if attribute.HasField("g"):
      for inner in attribute.g.node:
        names.update(inner.input)
  return names
