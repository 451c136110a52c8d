"""How large the model of a config is, from the config: exact numbers of parameters and layers, without building it.

A config of a few bytes can describe a model that no memory holds. `pretrained/stored_config.py` claims its size before
anything is built.
"""

import functools
import math
from typing import NamedTuple

from flowpp_tf.config.model import CouplingConfig, FlowPlusPlusConfig
from flowpp_tf.config.network import NetworkConfig
from flowpp_tf.config.structure import parse_structure
from flowpp_tf.core.registry import COUPLINGS, registered
from flowpp_tf.types import Shape

BYTES_OF_LAYER = 64 << 10  # of memory that Keras takes for a layer besides its weights; measured: 41 KiB
_COPIES = 2  # of the weights: the model's, and those that are read
# Of couplings whose number of parameters for a value is known here, so that this module needs no TensorFlow.
_OUTPUTS = {
  "mixture_logistic": lambda components: 2 + 3 * components,
  "affine": lambda components: 2,
  "rational_quadratic": lambda components: 2 + 3 * components,
}


class ModelSize(NamedTuple):
  """Number of parameters and of Keras layers of a model or a part of it."""

  parameters: int = 0
  layers: int = 0

  def memory(self, itemsize: int = 4) -> int:
    """Return the bytes that the model takes while its weights are loaded; `itemsize` is of a parameter."""
    return _COPIES * itemsize * self.parameters + BYTES_OF_LAYER * self.layers


_ONE_LAYER = ModelSize(0, 1)


def model_size(config: FlowPlusPlusConfig) -> ModelSize:
  """Return the size of a config's model.

  Examples:
    >>> from flowpp_tf.config.size import model_size
    >>> config = fpp.get_config("digits")
    >>> model_size(config).parameters == fpp.FlowPlusPlus(config).count_params()
    True
  """
  context_size = config.image_shape[:2] if config.condition_shape else None
  parts = [
    _ONE_LAYER,
    _flow(config.structure, config.flow_shape, config.flow_couplings, context_size),
    _ONE_LAYER if config.dequantization != "variational" else _posterior(config, 0, config.dequantizer_couplings),
  ]
  if config.pixel_levels is None:
    parts.append(ModelSize(2 * config.image_shape[2]))  # mean and standard deviation of each channel
  if config.augment_channels:
    by_flow = config.augment_posterior == "flow"
    parts.append(_posterior(config, config.augment_channels, config.augmenter_couplings) if by_flow else _ONE_LAYER)
  if config.pixel_transform != "none":
    parts.append(ModelSize(2, 1))  # its weights
  if config.is_conditional:
    parts += [_condition_net(config), _ONE_LAYER]  # and the dropout of labels
  return _sum(*parts)


def network_size(network: NetworkConfig, context_channels: int = 0, output_kernel_size: int = 1) -> ModelSize:
  """Return the size of a network's blocks.

  Args:
    network: config of the blocks.
    context_channels: channels of the context of each block; 0 for none.
    output_kernel_size: side of the kernel of the last convolution of a block.
  """
  filters, norm = network.filters, [ModelSize(2 * network.filters, 1)] if network.layer_norm else []
  linear = functools.partial(_linear, weight_norm=network.weight_norm)
  block = [
    *3 * [_ONE_LAYER],  # the block, its gated convolution, and the dropout of that
    linear(2 * filters, filters, kernel_size=3),
    *([linear(2 * context_channels, filters)] if context_channels else []),
    linear(2 * filters, 2 * filters, kernel_size=output_kernel_size),
    *norm,
  ]
  if network.mixer != "none":
    block += [*2 * [_ONE_LAYER], linear(filters, 3 * filters), linear(filters, 2 * filters), *norm]
  return _times(network.blocks, _sum(*block))


def conditioner_size(
  image_shape: Shape, outputs: int, network: NetworkConfig, context_channels: int = 0, output_concat_elu: bool = False
) -> ModelSize:
  """Return the size of a `Conditioner`; arguments as of that layer, the context after `context_block`."""
  height, width, channels = image_shape
  filters, weight_norm = network.filters, network.weight_norm
  return _sum(
    ModelSize(height * width * filters if network.padding == "zeros" else 0, 1),  # with the position embedding
    _linear(channels, filters, 3, weight_norm),
    network_size(network, context_channels),
    _linear(filters * (2 if output_concat_elu else 1), outputs, 3, weight_norm),
  )


def _flow(structure, shape, config: CouplingConfig, context_size=None):
  """The size of a `CouplingFlow`."""
  parts = [_ONE_LAYER]
  for stage in parse_structure(structure, shape):
    if stage.kind != "squeeze":
      height, width, channels = stage.split_shape
      half, size = channels // 2, context_size or (height, width)
      block = (size[0] // height) * (size[1] // width)
      matrices = 0 if config.invertible_conv == "none" else 2 * half * half
      step = _sum(
        ModelSize(2 * (math.prod(stage.split_shape) if config.per_position else channels) + matrices, 1),
        conditioner_size(
          (height, width, half),
          half * _outputs(config),
          config.network,
          config.context_channels * block,
          config.output_concat_elu,
        ),
      )
      parts.append(_times(stage.couplings, step))
  return _sum(*parts)


def _outputs(config):
  """How many parameters a coupling takes for a value."""
  if config.coupling in _OUTPUTS:
    return _OUTPUTS[config.coupling](config.components)
  return registered(COUPLINGS, config.coupling).num_parameters(config.components)


def _posterior(config, channels, couplings):
  """The size of the dequantizer, or of the augmenter of so many channels."""
  height, width, of_images = config.image_shape
  return _sum(
    _ONE_LAYER,
    context_net_size(config.image_shape, config.context_network),
    _flow(config.dequant_structure, (height, width, channels or of_images), couplings),
    _embedding(config.num_classes, config.context_channels),
  )


def context_net_size(image_shape: Shape, network: NetworkConfig) -> ModelSize:
  """Return the size of a `ContextNet`."""
  height, width, channels = image_shape
  embedding = 0 if network.mixer == "none" or network.padding == "periodic" else height * (width // 2) * network.filters
  return _sum(
    ModelSize(embedding, 1),
    _linear(2 * channels, network.filters, 3, network.weight_norm),
    network_size(network, output_kernel_size=3),
  )


def _condition_net(config):
  network = config.condition_network
  parts = [_ONE_LAYER, _embedding(config.num_classes, network.filters)]
  if config.condition_shape:
    parts.append(_linear(config.condition_shape[2], network.filters, 3, network.weight_norm))
    parts.append(network_size(network, output_kernel_size=3))
  return _sum(*parts)


def vector_flow_size(
  event_size: int, context_size: int, couplings: int, components: int, hidden: int, blocks: int
) -> ModelSize:
  """Return the size of a `VectorFlow`; arguments as of that layer."""
  kept = event_size // 2
  coupling = _sum(
    ModelSize(event_size * (event_size + 2), 1),  # a matrix, ActNorm; the conditioner
    _linear(kept + context_size, hidden),
    _times(2 * blocks, _linear(hidden, hidden)),
    _linear(hidden, (event_size - kept) * _OUTPUTS["mixture_logistic"](components)),
  )
  standardizations = ModelSize(2 * (event_size + context_size), 0)
  return _sum(_ONE_LAYER, standardizations, _times(couplings, coupling))


def _embedding(num_classes, channels):
  return ModelSize((num_classes + 1) * channels, 1) if num_classes else ModelSize()


def _linear(inputs, outputs, kernel_size=1, weight_norm=False):
  """The size of an `InitNormDense`, or of an `InitNormConv2D` with a kernel of that side."""
  return ModelSize(kernel_size**2 * inputs * outputs + outputs * (2 if weight_norm else 1), 1)


def _sum(*parts):
  return ModelSize(sum(part.parameters for part in parts), sum(part.layers for part in parts))


def _times(count, part):
  return ModelSize(count * part.parameters, count * part.layers)
