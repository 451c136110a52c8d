"""The networks of a model in TensorFlow: fast, but the same only on the same machine, versions and settings.

Results are rounded to multiples of 2^-12, which hides most differences between machines in float64, but not in float32.
An archive has a hash of the results on fixed images, and a decoder whose results differ refuses it.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from flowpp_tf.compression.bits_back_coder import Networks
from flowpp_tf.core.context import EvalContext
from flowpp_tf.models import FlowPlusPlus

_ROUNDING = 2.0**12


class TensorFlowNetworks(Networks):
  """The networks of a model in TensorFlow, for the tiers "exact-build" and "float64".

  Args:
    model: `FlowPlusPlus`.
    dtype: "float32" or "float64", in which the networks compute.
  """

  def __init__(self, model: FlowPlusPlus, dtype: str) -> None:
    if model.config.dtype != dtype:
      config = dataclasses.replace(model.config, dtype=dtype, flow_dtype="")
      original, model = model, FlowPlusPlus(config)
      model.set_weights(original.get_weights())
    self._model = model
    self._dtype = dtype
    self._functions: dict[object, tf.types.experimental.ConcreteFunction] = {}

  def conditioner(self, part: str, index: int, x: np.ndarray, context: np.ndarray | None) -> np.ndarray:
    flow = self._model.coupling_flow if part == "flow" else getattr(self._model, part).coupling_flow
    return self._run((part, index), flow.steps[index].conditioner, x, context)

  def context(self, part: str, images: np.ndarray) -> np.ndarray:
    return self._run(part, getattr(self._model, part).context_net, images, None)

  def _run(self, key, network, x, context):
    if key not in self._functions:
      specs = [tf.TensorSpec([None, *value.shape[1:]], self._dtype) for value in (x, context) if value is not None]
      # No optional arguments: with them, a concrete function formats its inputs as text in each call.
      evaluate = (
        (lambda x: network(x, ctx=EvalContext()))
        if context is None
        else (lambda x, context: network(x, ctx=EvalContext(condition=context)))
      )
      self._functions[key] = tf.function(evaluate, autograph=False).get_concrete_function(*specs)
    arguments = [tf.constant(value, self._dtype) for value in (x, context) if value is not None]
    result = self._functions[key](*arguments).numpy().astype(np.float64)
    return np.rint(result * _ROUNDING) / _ROUNDING
