"""The memory that a model takes in the coder, by a formula from its description, before anything is built.

A few kilobytes can describe attention over 8,192 positions, which has 67 million scores. The factors below are copies
that NumPy holds at the same time; a test compares the sums with measured peaks.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping
import dataclasses
import re
from typing import Any

from flowpp_tf.compression.description import CodecModel
from flowpp_tf.config.structure import context_channels
from flowpp_tf.core.errors import InputError
from flowpp_tf.io.budget import claim

PRODUCT_ROWS = 512  # pixels of a product at a time, where loops are compiled: they stay in a core's cache
_FLOAT = 8
_SCORES = 4.5  # arrays of attention scores
_INPUTS, _OUTPUTS = 3, 5  # arrays of a product's input and output
_PARAMETERS = 5  # arrays of a coupling's parameters, of a batch
_VALUES = 30  # arrays of the values of a batch
_WEIGHTS = 3  # a weight as float32, as float64, and while it is rounded
_TRIANGLES = 6  # matrices of each pixel while a 1x1 convolution is decomposed
_GRIDS = 8  # of a coupling
_CONTEXTS = 4  # arrays of the neighbours of a tile
_WORDS = 400  # bytes of a probe's stack, for each value
_NETWORK = re.compile(r"(\w+/)*\d+/network(?=/)|\w+/context(?=/)|condition(?=/)")
_KINDS = ("squeeze", "columns", "channels")


@dataclasses.dataclass(frozen=True)
class CodecMemory:
  """About how many bytes of memory a model takes.

  Attributes:
    model: the networks' weights, the grids, and what the probe needs in addition to its batch.
    network: the largest network, for an image.
    values: all else that is computed, for an image.
    at_a_time: how many images go through a network in one thread.
  """

  model: int
  network: int
  values: int
  at_a_time: int

  @classmethod
  def from_model(cls, model: CodecModel) -> CodecMemory:
    """Return the memory of a model.

    Raises:
      InputError (a ValueError): for stages that images cannot have.
      LookupError, TypeError, ValueError, ArithmeticError, AttributeError: for a description without meaning.
    """
    height, width, channels = model.image_shape
    kernels = _kernels(model.weights)
    network = outputs = 0
    numbers = _WEIGHTS * sum(value.size for value in model.weights.values())
    for part, (name, flow) in model.flows().items():
      # Of each coupling, its weights are looked for among all.
      claim("items", sum(count for _, count in flow["stages"]) * len(model.weights), "the codec model")
      augmented = (model.description["augmenter"] or {}).get("channels", 0)
      own = {"flow": channels + augmented, "dequantizer": channels, "augmenter": augmented}[part]
      for index, (h, w, c) in enumerate(_couplings(flow, (height, width, own))):
        network = max(network, _network(kernels[f"{name}/{index}/network"], flow["network"], h, w))
        outputs = max(outputs, h * w * model.weights[f"{name}/{index}/network/output_conv/bias"].size)
        numbers += _GRIDS * h * w * c
        if f"{name}/{index}/kernel" in model.weights:
          numbers += _TRIANGLES * h * w * c * c // 2
      if part != "flow":
        context = kernels[f"{part}/context"]
        network = max(network, _network(context, model.description[part]["context"], height, width // 2))
        outputs = max(outputs, height * width // 2 * max(wide for _, _, wide in context))
    values = _PARAMETERS * outputs + _VALUES * model.num_dims
    if model.sees_neighbours:
      network = max(network, _network(kernels["condition"], model.description["condition"], height, width))
      features = model.weights["condition/input_conv/bias"].size
      values += height * width * (_CONTEXTS * context_channels(channels) + 2 * features)
    return cls(
      model=_FLOAT * numbers + _WORDS * height * width * channels,
      network=int(_FLOAT * network),
      values=_FLOAT * values,
      at_a_time=images_at_a_time(height, width),
    )

  def batch(self, count: int) -> int:
    """Return the bytes of a batch, without the model."""
    return count * self.values + min(count, self.at_a_time) * self.network


def images_at_a_time(height: int, width: int) -> int:
  """Return how many images a thread takes through a network: as many as fit in a core's cache."""
  return max((1 << 12) // (height * width), 1)


def _couplings(flow: Mapping[str, Any], shape: tuple[int, int, int]) -> Iterator[tuple[int, int, int]]:
  """Yield the shape of the values of each coupling of a flow."""
  height, width, channels = shape
  for kind, couplings in flow["stages"]:
    if kind not in _KINDS or not isinstance(couplings, int) or couplings < (kind != "squeeze"):
      raise InputError(f"the model has a stage {kind!r} of {couplings!r} couplings")
    if kind == "squeeze":
      height, width, channels = height // 2, width // 2, 4 * channels
    if not height * width * channels:
      raise InputError("the model has more stages than its images can have")
    inner = (height, width // 2, 2 * channels) if kind == "columns" else (height, width, channels)
    for _ in range(couplings):
      yield inner


def _kernels(weights):
  """Return the size of each kernel, and its inputs and outputs, by the name of the network."""
  kernels: dict[str, list[tuple[int, int, int]]] = collections.defaultdict(list)
  for name, value in weights.items():
    if name.endswith("/kernel") and (found := _NETWORK.match(name)):
      kernels[found[0]].append((value.shape[0] if value.ndim == 4 else 1, *value.shape[-2:]))
  return dict(kernels)


def _network(kernels, spec, height, width):
  """Return how many numbers a network holds for an image."""
  most = 0
  for size, inputs, outputs in kernels:
    margin = size // 2
    padded = (height + 2 * margin) * (width + 2 * margin) + 2 * margin
    # Compiled loops hold the products of some rows of pixels with the kernel at all places.
    rows = width * min(max(PRODUCT_ROWS // max(width, 1), 1) + 2 * margin, height)
    beside = height * width * (inputs + outputs) + rows * (inputs + size**2 * outputs)
    most = max(most, padded * (_INPUTS * inputs + _OUTPUTS * outputs), beside)
  scores = spec["heads"] * (height * width) ** 2 if spec["mixer"] == "attention" else 0
  return most + _SCORES * scores
