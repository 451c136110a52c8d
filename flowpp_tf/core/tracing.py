"""Functions that are traced once, and what XLA compiles of them."""

from collections.abc import Callable
import functools
import threading
from typing import Any

import tensorflow as tf

from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import JIT

_jit = "off"


def set_jit(what: str) -> None:
  """Choose what XLA compiles in functions that are traced from now on.

  Args:
    what: "off", or "blocks" for the blocks of the networks and the mixtures. Each kind of block is compiled once.

  Raises:
    InputError (a ValueError): if it is none of these.
  """
  global _jit
  if what not in JIT:
    raise InputError(f"`jit` must be one of {', '.join(JIT)}, got {what!r}")
  _jit = what


def traced_once(
  function: Callable[..., Any], inline: bool = False, in_eager_mode: bool = False, jit: bool = False
) -> Callable[..., Any]:
  """Return a function whose calls inside of a `tf.function` share one graph for each set of shapes.

  A model calls such a function a hundred times and traces it once.

  Args:
    function: of tensors or None.
    inline: whether TensorFlow inlines the calls before it runs the graph. That takes time once; a call that is not
      inlined takes some microseconds each time.
    in_eager_mode: whether eager calls share the graph too, rather than be calls of the function itself.
    jit: whether XLA compiles the function, in graphs, after `set_jit("blocks")`.
  """
  functions: dict[Any, Callable[..., Any]] = {}
  lock = threading.RLock()

  # Without defaults and keywords: where a function has them, TensorFlow first writes an error message, with all values,
  # before it takes tensors by position.
  def by_position(*tensors):
    return function(*tensors)

  by_position.__name__ = getattr(function, "__name__", by_position.__name__)

  @functools.wraps(function)
  def call(*tensors):
    if tf.executing_eagerly() and not in_eager_mode:
      return function(*tensors)
    tensors = tuple(None if tensor is None else tf.convert_to_tensor(tensor) for tensor in tensors)
    compiled = jit and _jit == "blocks" and not tf.executing_eagerly()
    # TensorFlow would use the trace of a partly unknown shape for a known shape.
    specs = [tensor is not None and (tensor.dtype, str(tensor.shape)) for tensor in tensors]
    # The search for a NaN traces graphs with checks, which later calls must not have.
    key = (compiled, tf.config.functions_run_eagerly(), *specs)
    options: dict[str, Any] = {}
    if compiled:
      options = {"jit_compile": True}
    elif not inline:
      options = {"experimental_attributes": {"_noinline": True}}
    with lock:
      if key not in functions:
        traced = tf.function(by_position, autograph=False, **options)
        functions[key] = traced.get_concrete_function(*tensors)
    return functions[key](*tensors)

  call.forget_traces = functions.clear  # type: ignore[attr-defined]
  return call
