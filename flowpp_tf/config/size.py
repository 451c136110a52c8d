"""How large the model of a config is, from the config: exact numbers of parameters and layers, without building it.

A config of a few bytes can describe a model that no memory holds. `pretrained/stored_config.py` claims its size before
anything is built.
"""

import dataclasses
import functools
import math

from flowpp_tf.config.model import CouplingConfig, FlowPlusPlusConfig, NetworkConfig
from flowpp_tf.config.structure import parse_structure
from flowpp_tf.core.registry import COUPLINGS, registered

BYTES_OF_LAYER = 64 << 10  # of memory that Keras takes for a layer besides its weights; measured: 41 KiB
_COPIES = 2  # of the weights: the model's, and those that are read


@dataclasses.dataclass(frozen=True)
class ModelSize:
  """Number of parameters and of Keras layers of a model or a part of it."""

  parameters: int = 0
  layers: int = 0

  def __add__(self, other: "ModelSize") -> "ModelSize":
    return ModelSize(self.parameters + other.parameters, self.layers + other.layers)

  def __rmul__(self, count: int) -> "ModelSize":
    return ModelSize(count * self.parameters, count * self.layers)

  def memory(self, itemsize: int = 4) -> int:
    """Return the bytes that the model takes while its weights are loaded; `itemsize` is of a parameter."""
    return _COPIES * itemsize * self.parameters + BYTES_OF_LAYER * self.layers


_LAYER = ModelSize(0, 1)  # without weights of its own


def model_size(config: FlowPlusPlusConfig) -> ModelSize:
  """Return the size of a config's model.

  Examples:
    >>> from flowpp_tf.config.size import model_size
    >>> config = fpp.get_config("digits")
    >>> model_size(config).parameters == fpp.FlowPlusPlus(config).count_params()
    True
  """
  channels = config.image_shape[2]
  context_size = config.image_shape[:2] if config.condition_shape else None
  size = _LAYER + _flow(config.structure, config.flow_shape, config.flow_couplings, context_size)
  variational = config.dequantization == "variational"
  size += _posterior(config, channels, config.dequantizer_couplings) if variational else _LAYER
  if config.pixel_levels is None:
    size += ModelSize(2 * channels)  # mean and standard deviation of each channel
  if config.is_augmented_by_flow:
    size += _posterior(config, config.augment_channels, config.augmenter_couplings)
  elif config.augment_channels:
    size += _LAYER
  if config.pixel_transform != "none":
    size += ModelSize(2, 1)  # its weights
  if config.is_conditional:
    size += _condition_net(config) + _LAYER  # and the dropout of labels
  return size


def _blocks(network: NetworkConfig, context_channels=0, output_kernel_size=1):
  """Return the size of a network's blocks, whose context has so many channels; 0 for none."""
  filters, norm = network.filters, ModelSize(2 * network.filters, 1) if network.layer_norm else ModelSize()
  linear = functools.partial(_linear, weight_norm=network.weight_norm)
  block = 3 * _LAYER + norm  # the block, its gated convolution, and the dropout of that
  block += linear(2 * filters, filters, 3) + linear(2 * filters, 2 * filters, output_kernel_size)
  if context_channels:
    block += linear(2 * context_channels, filters)
  if network.mixer != "none":
    block += 2 * _LAYER + norm + linear(filters, 3 * filters) + linear(filters, 2 * filters)
  return network.blocks * block


def _conditioner(image_shape, outputs, network, context_channels, output_concat_elu):
  """Return the size of a `Conditioner`; arguments as of that layer, the context after `context_block`."""
  height, width, channels = image_shape
  filters, weight_norm = network.filters, network.weight_norm
  embedding = height * width * filters if network.padding == "zeros" else 0
  last = _linear(filters * (2 if output_concat_elu else 1), outputs, 3, weight_norm)
  return (
    ModelSize(embedding, 1) + _linear(channels, filters, 3, weight_norm) + _blocks(network, context_channels) + last
  )


def _flow(structure, shape, config: CouplingConfig, context_size=None):
  """Return the size of a `CouplingFlow`."""
  flow = _LAYER
  for stage in parse_structure(structure, shape):
    if stage.kind == "squeeze":
      continue
    height, width, channels = stage.split_shape
    half, (rows, columns) = channels // 2, context_size or (height, width)
    network = _conditioner(
      (height, width, half),
      half * registered(COUPLINGS, config.model.coupling).num_parameters(config.model.components),
      config.network,
      config.context_channels * (rows // height) * (columns // width),
      config.model.output_concat_elu,
    )
    matrices = 0 if config.model.invertible_conv == "none" else 2 * half * half
    act_norm = 2 * (math.prod(stage.split_shape) if config.model.act_norm_of_positions else channels)
    flow += stage.couplings * (ModelSize(act_norm + matrices, 1) + network)
  return flow


def _posterior(config, channels, couplings):
  """Return the size of the dequantizer, or of the augmenter, of so many channels."""
  flow = _flow(config.dequant_structure, (*config.image_shape[:2], channels), couplings)
  context_net = _context_net(config.image_shape, config.context_network)
  return _LAYER + context_net + flow + _embedding(config.num_classes, config.context_channels)


def _context_net(image_shape, network):
  """Return the size of a `ContextNet`."""
  height, width, channels = image_shape
  has_embedding = network.mixer != "none" and network.padding == "zeros"
  embedding = height * (width // 2) * network.filters if has_embedding else 0
  first = _linear(2 * channels, network.filters, 3, network.weight_norm)
  return ModelSize(embedding, 1) + first + _blocks(network, output_kernel_size=3)


def _condition_net(config):
  network = config.condition_network
  size = _LAYER + _embedding(config.num_classes, network.filters)
  if config.condition_shape:
    size += _linear(config.condition_shape[2], network.filters, 3, network.weight_norm)
    size += _blocks(network, output_kernel_size=3)
  return size


def vector_flow_size(
  event_size: int, context_size: int, couplings: int, components: int, hidden: int, blocks: int
) -> ModelSize:
  """Return the size of a `VectorFlow`; arguments as of that layer."""
  kept = event_size // 2
  inputs = kept + context_size or 1
  outputs = (event_size - kept) * registered(COUPLINGS, "mixture_logistic").num_parameters(components)
  coupling = ModelSize(event_size * (event_size + 2), 1)  # a matrix, ActNorm; the conditioner
  coupling += _linear(inputs, hidden) + 2 * blocks * _linear(hidden, hidden) + _linear(hidden, outputs)
  fitted = ModelSize(2 * (event_size + context_size) + (0 if context_size else event_size**2), 0)
  return _LAYER + fitted + couplings * coupling


def _embedding(num_classes, channels):
  return ModelSize((num_classes + 1) * channels, 1) if num_classes else ModelSize()


def _linear(inputs, outputs, kernel_size=1, weight_norm=False):
  """Return the size of an `InitNormDense`, or of an `InitNormConv2D` with a kernel of that side."""
  return ModelSize(kernel_size**2 * inputs * outputs + outputs * (2 if weight_norm else 1), 1)
