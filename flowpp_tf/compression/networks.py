"""The conditioners and the context net in fixed point, with the same bits on every machine. Flow++ section 3.2.2."""

from collections.abc import Mapping
import functools
import threading
from typing import Any

import numpy as np

from flowpp_tf.compression import threads
from flowpp_tf.compression.description import CodecModel, below
from flowpp_tf.compression.layers import LayerNorm, Product, attention, gated_sum, largest_of_three
from flowpp_tf.compression.memory import CodecMemory
from flowpp_tf.io import budget
from flowpp_tf.tiles.cutting import unit_of, without_middle

# Of a batch, from which on threads take less time than one: in smaller arrays they wait for each other at the GIL.
LEAST_VALUES_FOR_THREADS = 1 << 13


class _Block:
  """GatedConv and, if there is one, the mixer of positions, each with its layer norm."""

  def __init__(self, weights, spec):
    norm = lambda name: LayerNorm(weights, name) if spec["layer_norm"] else None
    self.conv, self.conv_output = Product(weights, "conv/conv"), Product(weights, "conv/output_projection")
    self.context = Product(weights, "conv/context_projection") if spec["context"] else None
    self.conv_norm = norm("conv_norm")
    self.mixer, self.heads = spec["mixer"], spec["heads"]
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
    h = self.mixer_input(x + embedding)
    if self.mixer == "attention":
      h = attention(h, self.heads)
    else:
      h = largest_of_three(h)
    return gated_sum(x, self.mixer_output(h), self.mixer_norm)


class Network:
  """The network of a coupling, or one that reads images for the couplings of the dequantizer and of the augmenter.

  Args:
    weights: of the network, by name below its own.
    spec: `blocks`, `mixer`, `heads`, `layer_norm`, `context`; `output_concat_elu` of a coupling's network.
    image_shape: of the model.
    step: of its tiles, see tiles/cutting.py.
  """

  def __init__(
    self,
    weights: Mapping[str, np.ndarray],
    spec: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    step: tuple[int, int],
  ) -> None:
    self._unit = lambda shape: unit_of(shape, image_shape, step)
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
      embedding = without_middle(embedding, x.shape[1], x.shape[2], self._unit(embedding.shape))
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
    make = functools.partial(Network, image_shape=model.image_shape, step=model.tile_step)
    self._conditioners: dict[str, list[Network]] = {}
    self._context_nets: dict[str, tuple[Network, int | None]] = {}
    memory = CodecMemory.from_model(model)
    self._chunk = memory.at_a_time
    # All threads together, of all batches, may take half of the budget.
    most = max(budget.current().memory // (2 * max(memory.at_a_time * memory.network, 1)), 1)
    self._free = threading.Semaphore(most)
    for part, (name, flow) in model.flows().items():
      couplings = sum(count for _, count in flow["stages"])
      self._conditioners[part] = [
        make(below(model.weights, f"{name}/{i}/network"), flow["network"]) for i in range(couplings)
      ]
      if part != "flow":
        spec = model.description[part]["context"]
        self._context_nets[part] = make(below(model.weights, f"{part}/context"), spec), spec["levels"]
    if model.sees_neighbours:
      self._condition_net = make(below(model.weights, "condition"), model.description["condition"])

  def conditioner(self, part: str, index: int, x: np.ndarray, context: np.ndarray | None) -> np.ndarray:
    """Return the parameters of a coupling, float64 `[N, H, W, outputs]`."""
    if context is not None and context.shape[1:3] != x.shape[1:3]:
      context = _blocks_to_channels(context, *x.shape[1:3])
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
    count, size = len(arrays[0]), self._chunk
    if count * self._dims >= LEAST_VALUES_FOR_THREADS:  # of small batches fewer: each core has some
      size = max(min(size, -(-count // threads.CORES)), 1)
    chunks = [[array if array is None else array[i : i + size] for array in arrays] for i in range(0, count, size)]

    def evaluate(chunk):
      with self._free:
        return network(*chunk)

    return np.concatenate(threads.in_threads(evaluate, chunks))


def _blocks_to_channels(context, height, width):
  """Return a context `[N, a H, b W, C]` as `[N, H, W, a b C]`."""
  n, rows, columns, channels = context.shape
  blocks = context.reshape(n, height, rows // height, width, columns // width, channels)
  return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(n, height, width, -1)
