"""Compute the exact numbers of a model's parameters and layers from its config, without building it.

A config of a few bytes can describe a model that no memory holds. `pretrained/stored_config.py` claims its size before
anything is built.
"""

import dataclasses
import functools

from flowpp_tf.config.model import CouplingConfig, FlowPlusPlusConfig, NetworkConfig
from flowpp_tf.config.structure import parse_structure
from flowpp_tf.core.registry import COUPLINGS, registered

BYTES_OF_LAYER = 64 << 10  # memory that Keras takes for a layer besides its weights; measured: 41 KiB
_COPIES = 2  # of the weights: in the model, and as read from the file


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
    """Return the bytes that the model takes while its weights are loaded, for parameters of `itemsize` bytes."""
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
  is_variational = config.dequantization == "variational"
  size += _posterior(config, channels, config.dequantizer_couplings) if is_variational else _LAYER
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
  """Return the size of a network's blocks, given the number of their context's channels; 0 for none."""
  filters = network.filters
  norm = ModelSize(2 * filters, 1) if network.layer_norm else ModelSize()
  linear = functools.partial(_linear, weight_norm=network.weight_norm)
  block = 3 * _LAYER + norm  # the block, its gated convolution, and the dropout in it
  block += linear(2 * filters, filters, 3) + linear(2 * filters, 2 * filters, output_kernel_size)
  if context_channels:
    block += linear(2 * context_channels, filters)
  if network.mixer != "none":
    block += 2 * _LAYER + norm + linear(filters, 3 * filters) + linear(filters, 2 * filters)
  return network.blocks * block


def _conditioner(image_shape, outputs, network, context_channels, output_concat_elu):
  """Return the size of a `Conditioner`; arguments as of that layer, the context after `context_block`."""
  height, width, channels = image_shape
  filters = network.filters
  output_inputs = 2 * filters if output_concat_elu else filters
  input_conv = _linear(channels, filters, 3, network.weight_norm)
  output_conv = _linear(output_inputs, outputs, 3, network.weight_norm)
  size = _LAYER + input_conv + _blocks(network, context_channels) + output_conv
  if network.padding == "zeros":
    size += ModelSize(height * width * filters)  # the position embedding
  return size


def _flow(structure, shape, config: CouplingConfig, context_size=None):
  """Return the size of a `CouplingFlow`."""
  flow = _LAYER
  for stage in parse_structure(structure, shape):
    if stage.kind == "squeeze":
      continue
    height, width, channels = stage.split_shape
    half = channels // 2
    rows, columns = context_size or (height, width)
    coupling = registered(COUPLINGS, config.model.coupling)
    conditioner = _conditioner(
      (height, width, half),
      half * coupling.num_parameters(config.model.components),
      config.network,
      config.context_channels * (rows // height) * (columns // width),
      config.model.output_concat_elu,
    )
    parameters = 2 * channels  # ActNorm
    if config.model.act_norm_of_positions:
      parameters *= height * width
    if config.model.invertible_conv != "none":
      parameters += 2 * half * half  # a matrix for each half
    flow += stage.couplings * (ModelSize(parameters, 1) + conditioner)
  return flow


def _posterior(config, channels, couplings):
  """Return the size of the dequantizer or of the augmenter, which draw `channels` channels."""
  flow = _flow(config.dequant_structure, (*config.image_shape[:2], channels), couplings)
  context_net = _context_net(config.image_shape, config.context_network)
  return _LAYER + context_net + flow + _embedding(config.num_classes, config.context_channels)


def _context_net(image_shape, network):
  """Return the size of a `ContextNet`."""
  height, width, channels = image_shape
  input_conv = _linear(2 * channels, network.filters, 3, network.weight_norm)
  size = _LAYER + input_conv + _blocks(network, output_kernel_size=3)
  if network.mixer != "none" and network.padding == "zeros":
    size += ModelSize(height * (width // 2) * network.filters)  # the position embedding
  return size


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
  whitening = 0 if context_size else event_size**2
  fitted = ModelSize(2 * (event_size + context_size) + whitening)  # with means and standard deviations
  return _LAYER + fitted + couplings * coupling


def _embedding(num_classes, channels):
  return ModelSize((num_classes + 1) * channels, 1) if num_classes else ModelSize()


def _linear(inputs, outputs, kernel_size=1, weight_norm=False):
  """Return the size of an `InitNormDense`, or of an `InitNormConv2D` with a kernel of that side."""
  parameters = kernel_size**2 * inputs * outputs + outputs
  if weight_norm:
    parameters += outputs  # the gain
  return ModelSize(parameters, 1)
