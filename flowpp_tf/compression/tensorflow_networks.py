"""The networks of a model in TensorFlow: fast, but the same only on the same machine, versions and settings.

Results are rounded to multiples of 2^-12, which hides most differences between machines in float64, but not in float32.
An archive has a hash of the results on fixed images, and a decoder whose results differ refuses it.

Keras layers are made for one size. Tiles at the edges of pictures have cropped models, of which the last few are kept:
the tiles of a segment come size by size.
"""

from collections import OrderedDict
import dataclasses
import threading

import numpy as np
import tensorflow as tf

from flowpp_tf.compression.bits_back_coder import Networks
from flowpp_tf.config.size import model_size
from flowpp_tf.core.context import EvalContext
from flowpp_tf.io import budget
from flowpp_tf.models import FlowPlusPlus
from flowpp_tf.tiles.cutting import KEPT_SIZES

_ROUNDING = 2.0**12


class TensorFlowNetworks(Networks):
  """The networks of a model in TensorFlow, for the tiers "exact-build" and "float64".

  Args:
    model: `FlowPlusPlus`, which is copied: it may be trained on, and an archive has the hash of what it is now.
    dtype: "float32" or "float64", in which the networks compute.
    copy: False for a model of this dtype that nothing else has.
  """

  def __init__(self, model: FlowPlusPlus, dtype: str, copy: bool = True) -> None:
    if copy:
      config = model.config
      if config.dtype != dtype:
        config = dataclasses.replace(config, dtype=dtype, flow_dtype="")
      original, model = model, FlowPlusPlus(config)
      model.set_weights(original.get_weights())
    self._model = model
    self._dtype = dtype
    self._functions: dict[object, tf.types.experimental.ConcreteFunction] = {}
    self._cropped: OrderedDict[tuple[int, int], TensorFlowNetworks] = OrderedDict()
    self._lock = threading.Lock()  # one thread at a time traces these networks, and makes cropped ones

  def conditioner(self, part: str, index: int, x: np.ndarray, context: np.ndarray | None) -> np.ndarray:
    flow = self._model.coupling_flow if part == "flow" else getattr(self._model, part).coupling_flow
    network = flow.steps[index].conditioner
    if cropped := self._of(x, network.image_shape):
      return cropped.conditioner(part, index, x, context)
    return self._run((part, index), network, x, context)

  def context(self, part: str, images: np.ndarray) -> np.ndarray:
    if cropped := self._of(images, self._model.config.image_shape):
      return cropped.context(part, images)
    return self._run(part, getattr(self._model, part).context_net, images, None)

  def condition(self, neighbours: np.ndarray) -> np.ndarray:
    network = self._model.condition_net
    assert network is not None
    if cropped := self._of(neighbours, self._model.config.image_shape):
      return cropped.condition(neighbours)
    return self._run("condition", lambda x, ctx: network(None, x, ctx=ctx), neighbours, None)

  def _of(self, x, shape):
    """Return the networks of the images that x comes from, if it is smaller than `shape`; None if it is not."""
    if x.shape[1:3] == shape[:2]:
      return None
    sides = (side * part // whole for side, part, whole in zip(self._model.config.image_shape, x.shape[1:3], shape))
    with self._lock:
      return self._of_size(tuple(sides))

  def _of_size(self, size):
    height, width = size
    if size in self._cropped:
      self._cropped.move_to_end(size)
      return self._cropped[size]
    memory = model_size(self._model.config).memory(np.dtype(self._dtype).itemsize)
    budget.claim("memory", 2 * memory, "the models of whole tiles and of those at edges")
    most = min(max(budget.current().memory // (2 * memory) - 1, 1), KEPT_SIZES)
    while len(self._cropped) >= most:
      self._cropped.popitem(last=False)
    self._cropped[size] = TensorFlowNetworks(self._model.cropped(height, width), self._dtype, copy=False)
    return self._cropped[size]

  def _run(self, key, network, x, context):
    with self._lock:
      function = self._function(key, network, x, context)
    arguments = [tf.constant(value, self._dtype) for value in (x, context) if value is not None]
    result = function(*arguments).numpy().astype(np.float64)
    return np.rint(result * _ROUNDING) / _ROUNDING

  def _function(self, key, network, x, context):
    if key not in self._functions:
      specs = [tf.TensorSpec([None, *value.shape[1:]], self._dtype) for value in (x, context) if value is not None]
      # No optional arguments: with them, a concrete function formats its inputs as text in each call.
      evaluate = (
        (lambda x: network(x, ctx=EvalContext()))
        if context is None
        else (lambda x, context: network(x, ctx=EvalContext(condition=context)))
      )
      self._functions[key] = tf.function(evaluate, autograph=False).get_concrete_function(*specs)
    return self._functions[key]
