"""About how much memory a model takes in the codec, from the shapes of its arrays, before anything is built.

A few kilobytes can describe attention over 8,192 positions, which has 67 million scores. The counts are bounds from
above: the largest network of a model stands for all, and a test compares them with measured peaks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import itertools
import re

from flowpp_tf.compression.description import CodecModel
from flowpp_tf.config.structure import context_channels
from flowpp_tf.core.errors import InputError
from flowpp_tf.io.budget import claim

PRODUCT_ROWS = 512  # pixels of a product at a time, where loops are compiled: they stay in a core's cache
_FLOAT = 8
_MAX_KERNEL = 3
_SCORES = 4.5  # arrays of attention scores
_INPUTS, _OUTPUTS = 3, 10  # arrays of a layer's input and output
_PARAMETERS, _VALUES = 5, 30  # arrays of a coupling's parameters, and of the values of an image
_WEIGHTS = 3  # a weight as float32, as float64, and while it is rounded
_GRIDS, _TRIANGLES = 8, 3  # of a coupling: arrays of its values, and of the matrices of a 1x1 convolution
_KERNEL = re.compile(r"((?:\w+/)*\d+/network|\w+/context|condition)/(?:.+/)?kernel")
_KINDS = ("squeeze", "columns", "channels")


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
    widest = _widest_layers(model.weights)
    numbers = _WEIGHTS * sum(value.size for value in model.weights.values())
    network = outputs = 0
    for part, (name, flow) in model.flows().items():
      # The weights of each coupling are looked for among all.
      claim("items", sum(couplings for _, couplings in flow["stages"]) * len(model.weights), "the codec model")
      augmented = (model.description["augmenter"] or {}).get("channels", 0)
      own = {"flow": channels + augmented, "dequantizer": channels, "augmenter": augmented}[part]
      for index, (rows, columns, depth) in enumerate(_couplings(flow["stages"], (height, width, own))):
        network = max(network, _network(widest[f"{name}/{index}/network"], flow["network"], rows, columns))
        outputs = max(outputs, rows * columns * model.weights[f"{name}/{index}/network/output_conv/bias"].size)
        numbers += rows * columns * depth * (_GRIDS + _TRIANGLES * depth)
      if part != "flow":
        context = _network(widest[f"{part}/context"], model.description[part]["context"], height, width // 2)
        network, outputs = max(network, context), max(outputs, context // _PARAMETERS)
    numbers_of_image = _PARAMETERS * outputs + _VALUES * model.num_dims
    if model.sees_neighbours:
      condition = _network(widest["condition"], model.description["condition"], height, width)
      network = max(network, condition)
      numbers_of_image += condition + _PARAMETERS * height * width * context_channels(channels)
    return cls(_FLOAT * numbers, _FLOAT * network, _FLOAT * numbers_of_image, max((1 << 12) // (height * width), 1))

  def batch(self, count: int) -> int:
    """Return the bytes of a batch, without the model."""
    return count * self.image + min(count, self.at_a_time) * self.network


def _couplings(stages: Sequence[tuple[str, int]], shape: tuple[int, int, int]) -> Iterator[tuple[int, int, int]]:
  """Yield the shape of the values of each coupling of a flow."""
  height, width, channels = shape
  for kind, couplings in stages:
    if kind not in _KINDS or not isinstance(couplings, int) or couplings < (kind != "squeeze"):
      raise InputError(f"the model has a stage {kind!r} of {couplings!r} couplings")
    if kind == "squeeze":
      height, width, channels = height // 2, width // 2, 4 * channels
    if not height * width * channels:
      raise InputError("the model has more stages than its images can have")
    inner = (height, width // 2, 2 * channels) if kind == "columns" else (height, width, channels)
    yield from itertools.repeat(inner, couplings)


def _widest_layers(weights):
  """Return the most numbers that a layer holds for a pixel, by the name of its network."""
  widest: dict[str, int] = {}
  for name, value in weights.items():
    if found := _KERNEL.fullmatch(name):
      if value.ndim == 4 and max(value.shape[:2]) > _MAX_KERNEL:
        raise InputError(f"the model has a kernel of {value.shape[0]}x{value.shape[1]}; at most 3x3 is coded")
      inputs, outputs = value.shape[-2:]
      widest[found[1]] = max(widest.get(found[1], 0), _INPUTS * inputs + _OUTPUTS * outputs)
  return widest


def _network(widest, spec, height, width):
  """Return how many numbers a network holds for an image, padding and attention included."""
  pixels = (height + _MAX_KERNEL) * (width + _MAX_KERNEL)
  scores = spec["heads"] * (height * width) ** 2 if spec["mixer"] == "attention" else 0
  return int(widest * pixels + _SCORES * scores)
