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

_OPSET = 17
_IR_VERSION = 8


def _operator(kind, dtype=None):
  """Return the operator, of one tensor or two, that adds a node of a kind."""
  return lambda x, *other: x.ops.node(kind, x, *other, dtype=dtype)


class Value:
  """A tensor of a graph, with the operators of arrays; `dtype` is the name of NumPy's."""

  def __init__(self, ops: OnnxOps, name: str, dtype: str) -> None:
    self.ops = ops
    self.name = name
    self.dtype = dtype

  __add__ = __radd__ = _operator("Add")
  __mul__ = __rmul__ = _operator("Mul")
  __sub__ = _operator("Sub")
  __truediv__ = _operator("Div")
  __neg__ = _operator("Neg")
  __invert__ = _operator("Not")
  __and__ = _operator("And")
  __or__ = _operator("Or")
  __gt__ = _operator("Greater", "bool")
  __lt__ = _operator("Less", "bool")
  __ge__ = _operator("GreaterOrEqual", "bool")
  __le__ = _operator("LessOrEqual", "bool")

  def __rsub__(self, other: float) -> Value:
    return self.ops.node("Sub", other, self)


def _function(kind: str, **attributes: Any) -> Any:
  """Return the operation that adds a node of a kind, with these attributes and a call's own ones."""
  return lambda ops, *inputs, **others: ops.node(kind, *inputs, **attributes, **others)


class OnnxOps:
  """The nodes, constants, inputs and outputs of a graph that is being written, with the operations `Ops`.

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
    """Add an input. None is a size that is not fixed; it is the same in all inputs, except `context`, and outputs."""
    value = Value(self, name, dtype)
    self._inputs.append(self._info(value, shape))
    return value

  def output(self, name: str, value: Value, shape: Sequence[int | None]) -> None:
    """Add an output."""
    self._nodes.append(self._onnx.helper.make_node("Identity", [value.name], [name]))
    self._outputs.append(self._info(Value(self, name, value.dtype), shape))

  def model(self, name: str, properties: Mapping[str, str] | None = None) -> Any:
    """Return the `onnx.ModelProto` of what the outputs need, with texts by name as its metadata."""
    helper = self._onnx.helper
    nodes = []
    used = {output.name for output in self._outputs}
    for node in reversed(self._nodes):
      if used & {*node.output}:
        nodes.append(node)
        in_loops = [inner for attribute in node.attribute for inner in attribute.g.node]
        used |= {name for reader in (node, *in_loops) for name in reader.input}
    from_array = self._onnx.numpy_helper.from_array
    constants = [from_array(array, constant) for constant, array in self._constants.values() if constant in used]
    graph = helper.make_graph(nodes[::-1], name, self._inputs, self._outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
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

  def node(self, kind: str, *inputs: Value | float, dtype: str | None = None, **attributes: Any) -> Value:
    """Return the output of a node; numbers among the inputs become constants of the others' type."""
    input_dtype = next(value.dtype for value in inputs if isinstance(value, Value))
    values = [self._as_value(value, input_dtype) for value in inputs]
    (output,) = self._add_node(kind, values, [dtype or input_dtype], **attributes)
    return output

  def _as_value(self, value, dtype):
    if isinstance(value, Value):
      return value
    return self.constant(value, dtype)

  def _add_node(self, kind, inputs, dtypes, **attributes):
    """Add a node, and return its outputs, of these dtypes."""
    outputs = [self._new(kind, dtype) for dtype in dtypes]
    names = [[value.name for value in values] for values in (inputs, outputs)]
    self._nodes.append(self._onnx.helper.make_node(kind, *names, **attributes))
    return outputs

  def _new(self, kind, dtype):
    """Return a value with a name of its own."""
    self._count += 1
    return Value(self, f"{kind.lower()}_{self._count}", dtype)

  def _info(self, value, shape=None):
    rows = "contexts" if value.name == "context" else "batch"  # runtimes reuse buffers by these names
    sizes = shape and [rows if size is None else size for size in shape]
    return self._onnx.helper.make_tensor_value_info(value.name, self._tensor_dtype(value.dtype), sizes)

  def _tensor_dtype(self, dtype):
    return int(self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

  # --- Operations -------------------------------------------------------------------------------

  abs = _function("Abs")
  elu = _function("Elu")
  erf = _function("Erf")
  exp = _function("Exp")
  floor = _function("Floor")
  log = _function("Log")
  relu = _function("Relu")
  sigmoid = _function("Sigmoid")
  softplus = _function("Softplus")
  sqrt = _function("Sqrt")
  tanh = _function("Tanh")
  maximum = _function("Max")
  minimum = _function("Min")
  max = _function("ReduceMax", axes=[-1], keepdims=1)
  mean = _function("ReduceMean", axes=[-1], keepdims=1)
  min = _function("ReduceMin", axes=[-1], keepdims=1)
  softmax = _function("Softmax", axis=-1)
  matmul = _function("MatMul")
  gather = _function("Gather")

  def sum(self, x: Value) -> Value:
    return self.node("ReduceSum", x, self.constant([-1], "int64"), keepdims=1)

  def cast(self, x: Value, dtype: str) -> Value:
    return self.node("Cast", x, dtype=dtype, to=self._tensor_dtype(dtype))

  def where(self, condition: Value, x: Value, y: Value | float) -> Value:
    return self.node("Where", condition, x, self._as_value(y, x.dtype), dtype=x.dtype)

  def product(self, x: Value, kernel: np.ndarray, bias: np.ndarray) -> Value:
    if kernel.ndim == 2:
      return self.matmul(x, self._kernel(kernel, axis=1)) + self.constant(bias)
    weights = self._kernel(kernel.transpose(3, 2, 0, 1), axis=0)
    x = self.transpose(x, [0, 3, 1, 2])  # ONNX has the channels first
    pad = kernel.shape[0] // 2
    x = self.node("Conv", x, weights, self.constant(bias), pads=[pad] * 4)
    return self.transpose(x, [0, 2, 3, 1])

  def _kernel(self, array, axis):
    """Return the kernel of a product, in `weight_dtype`; `axis` is the axis of the outputs."""
    if self._weight_dtype == "float32":
      return self.constant(array)
    others = tuple(i for i in range(array.ndim) if i != axis)
    largest = np.abs(array).max(axis=others, keepdims=True)
    if self._weight_dtype == "float16":
      if largest.max() > float(np.finfo(np.float16).max):  # it would be stored as infinity
        raise InputError(f"the weights do not fit float16: the largest is {largest.max():g}")
      return self.cast(self.constant(array, "float16"), "float32")
    # Not `DequantizeLinear`, which runtimes fuse with products of int8, so that decoding would not invert encoding.
    scale = np.maximum(largest / 127, np.finfo(np.float32).tiny)
    integers = self.constant(np.rint(array / scale), "int8")
    return self.cast(integers, "float32") * self.constant(scale)

  def reshape(self, x: Value, shape: Sequence[int]) -> Value:
    return self.node("Reshape", x, self.constant(shape, "int64"))

  def transpose(self, x: Value, axes: Sequence[int]) -> Value:
    return self.node("Transpose", x, perm=list(axes))

  def concat(self, values: Sequence[Value], axis: int) -> Value:
    return self.node("Concat", *values, axis=axis)

  def split(self, x: Value, sizes: Sequence[int], axis: int) -> list[Value]:
    inputs = [x, self.constant(sizes, "int64")]
    return self._add_node("Split", inputs, [x.dtype] * len(sizes), axis=axis)

  def loop(self, step: Callable[..., Sequence[Value]], state: Sequence[Value], most: int) -> list[Value]:
    outer = self._nodes
    self._nodes = []
    before = [self._new("state", value.dtype) for value in state]
    counters = [self._new("iteration", "int64"), self._new("going", "bool")]
    after = step(*before)
    again = self._any(after[-1])
    body_inputs = [self._info(value, []) for value in counters]
    body_inputs += [self._info(value) for value in before]
    body_outputs = [self._info(value) for value in (again, *after)]
    body = self._onnx.helper.make_graph(self._nodes, "body", body_inputs, body_outputs)
    self._nodes = outer
    inputs = [self.constant(most, "int64"), self._any(state[-1]), *state]
    return self._add_node("Loop", inputs, [value.dtype for value in state], body=body)

  def _any(self, x):
    """Return whether any value is true, a scalar."""
    largest = self.node("ReduceMax", self.cast(x, "float32"), keepdims=0)
    return self.node("Greater", largest, 0.0, dtype="bool")
