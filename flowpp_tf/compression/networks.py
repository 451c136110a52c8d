"""The conditioners and the context net in fixed point, with the same bits on every machine. Flow++ section 3.2.2.

`CodecMemory` says about how much memory a model takes, from the shapes of its arrays, before anything is built: a few
kilobytes can describe attention over 8,192 positions, which has 67 million scores. Its counts are bounds from above,
which a test compares with measured peaks.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import itertools
import threading
from typing import Any

import numpy as np

from flowpp_tf.compression import threads
from flowpp_tf.compression.description import CodecModel, below
from flowpp_tf.compression.layers import LayerNorm, Product, attention, gated_sum, largest_of_three
from flowpp_tf.config.structure import Stage, context_channels
from flowpp_tf.core.errors import InputError
from flowpp_tf.io import budget
from flowpp_tf.io.budget import claim
from flowpp_tf.tiles.cutting import resize_middle, unit_of

# Of a batch, from which on threads take less time than one: in smaller arrays they wait for each other at the GIL.
LEAST_VALUES_FOR_THREADS = 1 << 13
_FLOAT = 8
_MAX_KERNEL = 3
_SCORES = 4.5  # arrays of attention scores
_INPUTS = 3  # arrays of a layer's input
_OUTPUTS = 10  # arrays of a layer's output
_PARAMETERS = 5  # arrays of a coupling's parameters
_VALUES = 30  # arrays of the values of an image
_WEIGHTS = 3  # a weight as float64, with all shifts side by side, and while it is rounded
_GRIDS = 8  # arrays of a coupling's values
_TRIANGLES = 3  # arrays of the matrices of a 1x1 convolution


class _Block:
  """GatedConv and, if there is one, the mixer of positions, each with its layer norm."""

  def __init__(self, weights, spec):
    norm = lambda name: LayerNorm(weights, name) if spec["layer_norm"] else None
    self.conv = Product(weights, "conv/conv")
    self.conv_output = Product(weights, "conv/output_projection")
    self.context = Product(weights, "conv/context_projection") if spec["context"] else None
    self.conv_norm = norm("conv_norm")
    self.mixer = spec["mixer"]
    self.heads = spec["heads"]
    if self.mixer != "none":
      self.mixer_input = Product(weights, "mixer/input_projection")
      self.mixer_output = Product(weights, "mixer/output_projection")
      self.mixer_norm = norm("mixer_norm")

  def __call__(self, x, embedding, context):
    h = self.conv(x, elu=True)
    if self.context is not None:
      h += self.context(context, elu=True)
    x = gated_sum(x, self.conv_output(h, elu=True), self.conv_norm)
    if self.mixer == "none":
      return x
    h = self.mixer_input(x + np.broadcast_to(embedding, x.shape[1:]))
    if self.mixer == "attention":
      h = attention(h, self.heads)
    else:
      h = largest_of_three(h)
    return gated_sum(x, self.mixer_output(h), self.mixer_norm)


class Network:
  """The network of a coupling, or one that reads images for the couplings of the dequantizer and of the augmenter.

  Args:
    model: `CodecModel`.
    name: of the network's weights.
    spec: `blocks`, `mixer`, `heads`, `layer_norm`, `context`; `output_concat_elu` of a coupling's network.
  """

  def __init__(self, model: CodecModel, name: str, spec: Mapping[str, Any]) -> None:
    weights = below(model.weights, name)
    self._image_shape = model.image_shape
    self._step = model.tile_step
    self._input = Product(weights, "input_conv")
    self._blocks = [_Block(below(weights, f"block_{i}"), spec) for i in range(spec["blocks"])]
    self._embedding = None if spec["mixer"] == "none" else weights["position_embedding"].astype(np.float64)
    self._concat_elu = spec.get("output_concat_elu")
    self._output = None if self._concat_elu is None else Product(weights, "output_conv")

  def __call__(self, x: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
    """Return `[N, H, W, outputs]` for `x [N, H, W, C]`, whose height and width may be less than the model's."""
    h = self._input(x)
    embedding = self._embedding
    if embedding is not None:
      unit = unit_of(embedding.shape, self._image_shape, self._step)
      embedding = resize_middle(embedding, x.shape[1:3], unit)
    for block in self._blocks:
      h = block(h, embedding, context)
    if self._output is None:
      return h
    return self._output(h, elu=bool(self._concat_elu))


class Networks:
  """All networks of a `CodecModel`, by the part that they belong to: "flow", "dequantizer" or "augmenter".

  Args:
    model: `CodecModel`.
  """

  def __init__(self, model: CodecModel) -> None:
    self._dims = model.num_dims
    self._conditioners: dict[str, list[Network]] = {}
    self._context_nets: dict[str, tuple[Network, int | None]] = {}
    memory = CodecMemory.from_model(model)
    self._chunk = memory.at_a_time
    # All threads together, of all batches, may take half of the budget.
    thread_memory = max(memory.at_a_time * memory.network, 1)
    most = budget.current().memory // (2 * thread_memory)
    self._free = threading.Semaphore(max(most, 1))
    for part, (name, flow) in model.flows().items():
      couplings = sum(count for _, count in flow["stages"])
      self._conditioners[part] = [Network(model, f"{name}/{i}/network", flow["network"]) for i in range(couplings)]
      if part != "flow":
        spec = model.description[part]["context"]
        self._context_nets[part] = Network(model, f"{part}/context", spec), spec["levels"]
    if model.sees_neighbours:
      self._condition_net = Network(model, "condition", model.description["condition"])

  def conditioner(self, part: str, index: int, x: np.ndarray, context: np.ndarray | None) -> np.ndarray:
    """Return the parameters of a coupling, float64 `[N, H, W, outputs]`."""
    if context is not None and context.shape[1:3] != x.shape[1:3]:
      context = blocks_to_channels(context, *x.shape[1:3])
    return self._in_chunks(self._conditioners[part][index], x, context)

  def context(self, part: str, images: np.ndarray) -> np.ndarray:
    """Return the context of a part's couplings, float64 `[N, H, W / 2, channels]`."""
    network, levels = self._context_nets[part]
    n, height, width, channels = images.shape
    x = images.astype(np.float64)
    if levels is not None:
      x = x / levels - 0.5
    return self._in_chunks(network, x.reshape(n, height, width // 2, 2 * channels))

  def condition(self, neighbours: np.ndarray) -> np.ndarray:
    """Return the context of the flow's couplings from the `tile_context` of tiles, `[N, H, W, channels]`."""
    return self._in_chunks(self._condition_net, neighbours)

  def _in_chunks(self, network, *arrays):
    """Return a network's output for a batch; each thread takes as many images at a time as fit in a core's cache."""
    count = len(arrays[0])
    size = self._chunk
    if count * self._dims >= LEAST_VALUES_FOR_THREADS:  # of small batches fewer: each core has some
      size = max(min(size, -(-count // threads.CORES)), 1)
    chunks = []
    for i in range(0, count, size):
      chunks.append([array if array is None else array[i : i + size] for array in arrays])

    def evaluate(chunk):
      with self._free:
        return network(*chunk)

    return np.concatenate(threads.in_threads(evaluate, chunks))


def blocks_to_channels(x: np.ndarray, height: int, width: int) -> np.ndarray:
  """Return an array `[N, a H, b W, C]` as `[N, H, W, a b C]`."""
  n, rows, columns, channels = x.shape
  blocks = x.reshape(n, height, rows // height, width, columns // width, channels)
  return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(n, height, width, -1)


@dataclasses.dataclass(frozen=True)
class CodecMemory:
  """About how many bytes of memory a model takes.

  Attributes:
    model: the weights and the grids.
    network: the largest network, for an image.
    image: all else that is computed, for an image.
    at_a_time: how many images go through a network in one thread: as many as fit in a core's cache.
  """

  model: int
  network: int
  image: int
  at_a_time: int

  @classmethod
  def from_model(cls, model: CodecModel) -> CodecMemory:
    """Return the memory of a model.

    Raises:
      InputError (a ValueError): for stages that images cannot have, or a kernel that is too large.
      LookupError, TypeError, ValueError, ArithmeticError, AttributeError: for a description without meaning.
    """
    height, width, channels = model.image_shape
    numbers = _WEIGHTS * sum(value.size for value in model.weights.values())
    network = outputs = 0
    for part, (name, flow) in model.flows().items():
      # The weights of each coupling are looked for among all.
      claim("items", sum(couplings for _, couplings in flow["stages"]) * len(model.weights), "the codec model")
      augmented = (model.description["augmenter"] or {}).get("channels", 0)
      own = {"flow": channels + augmented, "dequantizer": channels, "augmenter": augmented}[part]
      for index, (rows, columns, depth) in enumerate(_couplings(flow["stages"], (height, width, own))):
        weights = below(model.weights, f"{name}/{index}/network")
        network = max(network, _network(weights, flow["network"], rows, columns))
        outputs = max(outputs, rows * columns * weights["output_conv/bias"].size)
        numbers += rows * columns * depth * (_GRIDS + _TRIANGLES * depth)
      if part != "flow":
        spec = model.description[part]["context"]
        weights = below(model.weights, f"{part}/context")
        context = _network(weights, spec, height, width // 2)
        network = max(network, context)
        outputs = max(outputs, context // _PARAMETERS)
    numbers_of_image = _PARAMETERS * outputs + _VALUES * model.num_dims
    if model.sees_neighbours:
      condition = _network(below(model.weights, "condition"), model.description["condition"], height, width)
      network = max(network, condition)
      numbers_of_image += condition + _PARAMETERS * height * width * context_channels(channels)
    at_a_time = max((1 << 12) // (height * width), 1)
    return cls(_FLOAT * numbers, _FLOAT * network, _FLOAT * numbers_of_image, at_a_time)

  def batch(self, count: int) -> int:
    """Return the bytes of a batch, without the model."""
    return count * self.image + min(count, self.at_a_time) * self.network


def _couplings(stages, shape):
  """Yield the shape of the values of each coupling of a flow."""
  for kind, couplings in stages:
    stage = Stage(kind, couplings, shape)
    shape = stage.output_shape
    if couplings < (kind != "squeeze") or 0 in shape:  # which could go on without end
      raise InputError(f"the model has a stage {kind!r} of {couplings!r} couplings, which its images cannot have")
    yield from itertools.repeat(stage.split_shape, couplings)


def _network(weights, spec, height, width):
  """Return how many numbers a network holds for an image, padding and attention included."""
  kernels = [value.shape for name, value in weights.items() if name.endswith("kernel")]
  if any(max(shape[:-2], default=1) > _MAX_KERNEL for shape in kernels):
    raise InputError(f"the model has a kernel of more than {_MAX_KERNEL}x{_MAX_KERNEL}")
  widest = max(_INPUTS * inputs + _OUTPUTS * outputs for *_, inputs, outputs in kernels)
  pixels = (height + _MAX_KERNEL) * (width + _MAX_KERNEL)
  scores = spec["heads"] * (height * width) ** 2 if spec["mixer"] == "attention" else 0
  return int(widest * pixels + _SCORES * scores)
