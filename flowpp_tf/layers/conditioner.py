"""The network inside a coupling, Flow++ section 3.2.2: convolution, then blocks of

    GatedConv, LayerNorm, GatedAttention, LayerNorm

then a convolution to the parameters of the coupling's transformation.
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

from jaxtyping import Float
import keras
import tensorflow as tf

from flowpp_tf.config.model import NetworkConfig
from flowpp_tf.core.checks import check_arguments, check_count, check_shape_of_images, check_tensor, check_type
from flowpp_tf.core.context import EvalContext
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.tensors import shape_of
from flowpp_tf.layers.blocks import apply_blocks, variables_of
from flowpp_tf.layers.gated import ConvAttentionBlock
from flowpp_tf.layers.init_norm import InitNormConv2D
from flowpp_tf.layers.kernels.pointwise import kept_concat_elu
from flowpp_tf.types import Shape

_OUTPUT_INIT_SCALE = 0.1  # couplings start near the identity


@keras.saving.register_keras_serializable("flowpp_tf")
class Conditioner(keras.layers.Layer):
  """The network that gives a coupling its parameters.

  Args:
    image_shape: `(H, W, C)` of the input, so that the layer is built when constructed.
    outputs: channels of the output.
    network: `NetworkConfig` of the blocks.
    context_channels: channels of the context's condition, `[N, H, W, context_channels]`; 0 for none. Its height and
      width may be 1.
    output_concat_elu: whether concat_elu comes before the last convolution.
    context_block: rows and columns of the condition's pixels that become one position; (1, 1) for a condition of the
      input's height and width.

  `call(x [N, H, W, C], ctx=EvalContext())` gives `[N, H, W, outputs]`. The blocks share a position embedding. With
  mixer "none" nothing uses it: it is kept, not trainable, as the published models have it. A network with periodic
  padding has none: it treats all positions of a torus alike, and its attention knows positions only from the features.

  Raises:
    InputError (a ValueError): from a call, if a condition is missing or not expected.

  Examples:
    >>> network = fpp.layers.Conditioner((8, 4, 1), outputs=2, network=fpp.layers.NetworkConfig(16, blocks=1))
    >>> network(tf.zeros([2, 8, 4, 1])).shape
    TensorShape([2, 8, 4, 2])
  """

  @check_arguments
  def __init__(
    self,
    image_shape: Shape,
    outputs: int,
    network: NetworkConfig | dict[str, Any],
    context_channels: int = 0,
    output_concat_elu: bool = False,
    context_block: Sequence[int] = (1, 1),
    **kwargs: Any,
  ) -> None:
    super().__init__(**kwargs)
    height, width, _ = check_shape_of_images("image_shape", image_shape)
    network = NetworkConfig.from_config(network)
    check_count("outputs", outputs)
    check_count("context_channels", context_channels, 0)
    if len(context_block) != 2 or min(context_block) < 1:
      raise InputError(f"`context_block` must be (rows, columns), got {tuple(context_block)}")
    self.image_shape = tuple(image_shape)
    self.outputs = outputs
    self.network = network
    self.context_channels = context_channels
    self.output_concat_elu = output_concat_elu
    self.context_block = tuple(context_block)
    options: dict[str, Any] = dict(weight_norm=network.weight_norm, padding=network.padding, dtype=self.dtype_policy)
    self.input_conv = InitNormConv2D(network.filters, name="input_conv", **options)
    self.blocks = [
      ConvAttentionBlock(network, context_channels > 0, name=f"block_{i}", dtype=self.dtype_policy)
      for i in range(network.blocks)
    ]
    self.output_conv = InitNormConv2D(outputs, init_scale=_OUTPUT_INIT_SCALE, name="output_conv", **options)

    self.position_embedding = None
    if network.padding == "zeros":
      self.position_embedding = self.add_weight(
        name="position_embedding",
        shape=(height, width, network.filters),
        initializer=keras.initializers.RandomNormal(stddev=0.01),
        trainable=network.mixer != "none",
      )
    inside = (None, height, width, network.filters)
    output_filters = 2 * network.filters if output_concat_elu else network.filters
    with keras.name_scope(self.name, caller=self):  # part of the weights' paths
      self.input_conv.build((None, *image_shape))
      for block in self.blocks:
        block.build(inside, context_shape=(*inside[:-1], context_channels * math.prod(context_block)))
      self.output_conv.build((*inside[:-1], output_filters))
    self._in_lists = variables_of(self.blocks)
    self.built = True

  def call(self, x: Float[tf.Tensor, "n h w c"], ctx: EvalContext = EvalContext()) -> Float[tf.Tensor, "n h w outputs"]:
    check_type("ctx", ctx, EvalContext)
    check_tensor("x", x, [None, *self.image_shape])
    context = ctx.condition
    if (context is not None) != (self.context_channels > 0):
      shape = None if context is None else tuple(context.shape)
      raise InputError(f"this conditioner has {self.context_channels} context channels, got context {shape}")
    h = self.input_conv(x, initialize=ctx.initialize)
    embedding = None if self.position_embedding is None else tf.cast(self.position_embedding, h.dtype)
    if context is not None:
      context = _blocks_to_channels(tf.cast(context, h.dtype), self.context_block)
    h = apply_blocks(self.blocks, h, embedding, context, ctx=ctx, remat=self.network.remat)
    if self.output_concat_elu:
      return self.output_conv.after(kept_concat_elu, h, initialize=ctx.initialize)
    return self.output_conv(h, initialize=ctx.initialize)

  def get_config(self) -> dict[str, Any]:
    names = ("image_shape", "outputs", "context_channels", "output_concat_elu", "context_block")
    config = {name: getattr(self, name) for name in names}
    return {**super().get_config(), **config, "network": dataclasses.asdict(self.network)}


def _blocks_to_channels(context, block):
  """Return `[N, a H, b W, C]` as `[N, H, W, a b C]` for a block `(a, b)`."""
  if math.prod(block) == 1:
    return context
  rows, columns = block
  count, height, width, channels = shape_of(context)
  height //= rows
  width //= columns
  grid = tf.reshape(context, [count, height, rows, width, columns, channels])
  grid = tf.transpose(grid, [0, 1, 3, 2, 4, 5])
  return tf.reshape(grid, [count, height, width, rows * columns * channels])
