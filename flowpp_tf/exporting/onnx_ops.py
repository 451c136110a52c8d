"""The operations of an inference graph as nodes of ONNX:

ops = OnnxOps()
x = ops.input("x", "float32", [None, 4])
ops.output("y", ops.exp(x) + 1.0, [None, 4])
model = ops.model("example")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import importlib
from typing import Any

import numpy as np

from flowpp_tf.core.environment import import_extra
from flowpp_tf.core.errors import InputError
from flowpp_tf.exporting.ops import Ops
from flowpp_tf.version import __version__

_OPSET, _IR_VERSION = 17, 8


def import_onnx() -> Any:
  """Return the package `onnx`; raise an `InputError` where it is not installed."""
  onnx = import_extra("onnx", "onnx", "the format 'onnx'")
  for module in ("onnx.helper", "onnx.numpy_helper"):
    importlib.import_module(module)
  return onnx


class Value:
  """A tensor of a graph, with the operators of arrays; `dtype` is the name of NumPy's."""

  def __init__(self, ops: OnnxOps, name: str, dtype: str) -> None:
    self.ops, self.name, self.dtype = ops, name, dtype

  def __add__(self, other: Value | float) -> Value:
    return self.ops.node("Add", self, other)

  def __radd__(self, other: float) -> Value:
    return self.ops.node("Add", other, self)

  def __sub__(self, other: Value | float) -> Value:
    return self.ops.node("Sub", self, other)

  def __rsub__(self, other: float) -> Value:
    return self.ops.node("Sub", other, self)

  def __mul__(self, other: Value | float) -> Value:
    return self.ops.node("Mul", self, other)

  def __rmul__(self, other: float) -> Value:
    return self.ops.node("Mul", other, self)

  def __truediv__(self, other: Value | float) -> Value:
    return self.ops.node("Div", self, other)

  def __neg__(self) -> Value:
    return self.ops.node("Neg", self)

  def __gt__(self, other: Value | float) -> Value:
    return self.ops.node("Greater", self, other, dtype="bool")

  def __lt__(self, other: Value | float) -> Value:
    return self.ops.node("Less", self, other, dtype="bool")

  def __ge__(self, other: Value | float) -> Value:
    return self.ops.node("GreaterOrEqual", self, other, dtype="bool")

  def __le__(self, other: Value | float) -> Value:
    return self.ops.node("LessOrEqual", self, other, dtype="bool")

  def __and__(self, other: Value) -> Value:
    return self.ops.node("And", self, other)

  def __or__(self, other: Value) -> Value:
    return self.ops.node("Or", self, other)

  def __invert__(self) -> Value:
    return self.ops.node("Not", self)


class OnnxOps(Ops):
  """The nodes, constants, inputs and outputs of a graph that is being written.

  Args:
    weight_dtype: how kernels of networks are stored, "float32", "float16" or "int8" (with a scale for each output). The
      graph computes in float32.
  """

  def __init__(self, weight_dtype: str = "float32") -> None:
    self._weight_dtype = weight_dtype
    self._onnx = import_onnx()
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

  def model(self, name: str, doc: str = "", properties: Mapping[str, str] | None = None) -> Any:
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
    graph = helper.make_graph(nodes[::-1], name, self._inputs, self._outputs, constants, doc_string=doc)
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
    output = Value(self, self._name(kind), dtype or of_inputs)
    node = self._onnx.helper.make_node(kind, names, [output.name], **attributes)
    self._nodes.append(node)
    return output

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

  def cast(self, x: Value, dtype: str) -> Value:
    to = self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return self.node("Cast", x, dtype=dtype, to=int(to))

  def exp(self, x: Value) -> Value:
    return self.node("Exp", x)

  def log(self, x: Value) -> Value:
    return self.node("Log", x)

  def tanh(self, x: Value) -> Value:
    return self.node("Tanh", x)

  def sigmoid(self, x: Value) -> Value:
    return self.node("Sigmoid", x)

  def softplus(self, x: Value) -> Value:
    return self.node("Softplus", x)

  def elu(self, x: Value) -> Value:
    return self.node("Elu", x)

  def sqrt(self, x: Value) -> Value:
    return self.node("Sqrt", x)

  def abs(self, x: Value) -> Value:
    return self.node("Abs", x)

  def floor(self, x: Value) -> Value:
    return self.node("Floor", x)

  def maximum(self, x: Value, y: Value | float) -> Value:
    return self.node("Max", x, y)

  def minimum(self, x: Value, y: Value | float) -> Value:
    return self.node("Min", x, y)

  def where(self, condition: Value, x: Value, y: Value | float) -> Value:
    other = y if isinstance(y, Value) else self.constant(y, x.dtype)
    return self.node("Where", condition, x, other, dtype=x.dtype)

  def softmax(self, x: Value) -> Value:
    """Return the softmax over the last axis."""
    return self.node("Softmax", x, axis=-1)

  def matmul(self, x: Value, y: Value) -> Value:
    return self.node("MatMul", x, y)

  def conv2d(self, x: Value, kernel: np.ndarray, bias: np.ndarray) -> Value:
    """Return the convolution of `x [N, H, W, C]` with `kernel [k, k, C, D]`, stride 1, same padding."""
    padding = kernel.shape[0] - 1
    before = padding // 2
    after = padding - before
    weights = self.kernel(kernel.transpose(3, 2, 0, 1), axis=0)
    x = self.transpose(x, [0, 3, 1, 2])  # ONNX has the channels first
    x = self.node("Conv", x, weights, self.constant(bias), pads=[before, before, after, after])
    return self.transpose(x, [0, 2, 3, 1])

  def sum(self, x: Value, axis: int) -> Value:
    """Return the sum over an axis, which stays as one of size 1."""
    return self.node("ReduceSum", x, self.constant([axis], "int64"), keepdims=1)

  def mean(self, x: Value, axis: int) -> Value:
    return self.node("ReduceMean", x, axes=[axis], keepdims=1)

  def max(self, x: Value, axis: int) -> Value:
    return self.node("ReduceMax", x, axes=[axis], keepdims=1)

  def min(self, x: Value, axis: int) -> Value:
    return self.node("ReduceMin", x, axes=[axis], keepdims=1)

  def reshape(self, x: Value, shape: Sequence[int]) -> Value:
    """Return x of another shape; -1 is the size that is left."""
    return self.node("Reshape", x, self.constant(shape, "int64"))

  def transpose(self, x: Value, axes: Sequence[int]) -> Value:
    return self.node("Transpose", x, perm=list(axes))

  def concat(self, values: Sequence[Value], axis: int = -1) -> Value:
    return self.node("Concat", *values, axis=axis)

  def split(self, x: Value, sizes: Sequence[int], axis: int = -1) -> list[Value]:
    """Return the parts of x of given sizes along an axis."""
    parts = [Value(self, self._name("split"), x.dtype) for _ in sizes]
    inputs = [x.name, self.constant(sizes, "int64").name]
    outputs = [part.name for part in parts]
    node = self._onnx.helper.make_node("Split", inputs, outputs, axis=axis)
    self._nodes.append(node)
    return parts

  def take(self, rows: Value, indices: Value) -> Value:
    """Return the rows of a matrix at indices `[N]`."""
    return self.node("Gather", rows, indices, axis=0)

  def loop(self, step: Callable[..., Sequence[Value]], state: Sequence[Value], most: int) -> list[Value]:
    """Return the state after at most `most` iterations of `step`, which end when its last value is all false."""
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
    result = [Value(self, self._name("loop"), value.dtype) for value in state]
    inputs = [self.constant(most, "int64").name, self._any(state[-1]).name]
    inputs += [value.name for value in state]
    outputs = [value.name for value in result]
    self._nodes.append(helper.make_node("Loop", inputs, outputs, body=body))
    return result

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
