"""The network that reads the image for the variational dequantizer, Flow++ section 3.1 and appendix.

The integer image, scaled to [-1/2, 1/2), is split by columns and both halves are laid on the channels, so that the
context has the height and width of what the dequantizer's couplings transform. Then a 3x3 convolution and gated
convolutions; the ImageNet models add layer norm and attention. The posterior of augmented channels reads the image by
the same network.
"""

import dataclasses
from typing import Any

from jaxtyping import Float, Num
import keras
import tensorflow as tf

from flowpp_tf.config.network import NetworkConfig
from flowpp_tf.core.checks import check_arguments, check_count, check_shape, check_shape_of_images
from flowpp_tf.core.context import EvalContext
from flowpp_tf.layers.blocks import apply_blocks, variables_of
from flowpp_tf.layers.conditioner import ConvAttentionBlock
from flowpp_tf.layers.init_norm import InitNormConv2D
from flowpp_tf.types import Shape


@keras.saving.register_keras_serializable("flowpp_tf")
class ContextNet(keras.layers.Layer):
  """The network from images to the context of the dequantizer's couplings.

  Args:
    image_shape: `(H, W, C)`, so that the layer is built when constructed; W is even.
    levels: number of pixel values of integer images; None for images that are not scaled.
    network: `NetworkConfig`; its `filters` are the channels of the context. A mixer "attention" has a position
      embedding shared by the blocks.

  `call(images [N, H, W, C], ctx=EvalContext())` gives `[N, H, W / 2, filters]`.

  Examples:
    >>> net = fpp.layers.ContextNet((8, 8, 1), levels=17, network=fpp.layers.NetworkConfig(16, 1, "none"))
    >>> net(tf.zeros([2, 8, 8, 1])).shape
    TensorShape([2, 8, 4, 16])
  """

  @check_arguments
  def __init__(
    self, image_shape: Shape, levels: int | None, network: NetworkConfig | dict[str, Any], **kwargs: Any
  ) -> None:
    super().__init__(**kwargs)
    # Keras would cast images before they are scaled; weights are cast as ever. `call` takes arrays too.
    self._convert_input_args, self._allow_non_tensor_positional_args = False, True
    height, width, channels = check_shape_of_images("image_shape", image_shape)
    if width % 2:
      raise ValueError(f"`image_shape` must have an even width, got {tuple(image_shape)}")
    if levels is not None:
      check_count("levels", levels)
    network = NetworkConfig.of(network)
    self.image_shape = tuple(image_shape)
    self.levels = levels
    self.network = network
    self.input_conv = InitNormConv2D(
      network.filters,
      name="input_conv",
      weight_norm=network.weight_norm,
      padding=network.padding,
      dtype=self.dtype_policy,
    )
    self.blocks = [
      ConvAttentionBlock.of_network(network, output_kernel_size=3, name=f"block_{i}", dtype=self.dtype_policy)
      for i in range(network.blocks)
    ]

    self.half_shape = (height, width // 2, 2 * channels)
    inside = (height, width // 2, network.filters)
    with keras.name_scope(self.name, caller=self):  # of the weights' paths
      self.input_conv.build((None, *self.half_shape))
      for block in self.blocks:
        block.build((None, *inside))
    self.position_embedding = None
    if network.mixer != "none" and network.padding == "zeros":
      self.position_embedding = self.add_weight(
        name="position_embedding", shape=inside, initializer=keras.initializers.RandomNormal(stddev=0.01)
      )
    self._in_lists = variables_of(self.blocks)
    self.built = True

  def build(self, input_shape: tuple) -> None:
    """Do nothing: the layer is built when constructed."""

  @check_arguments
  def call(self, images: Num[tf.Tensor, "n h w c"], ctx: EvalContext = EvalContext()) -> Float[tf.Tensor, "n h w//2 k"]:
    check_shape("images", images.shape, [None, *self.image_shape])
    x = tf.cast(images, self.compute_dtype if self.levels is None else self.variable_dtype)
    if self.levels is not None:  # before a narrow dtype: float16 has no numbers above 65,504
      x = tf.cast(x / self.levels - 0.5, self.compute_dtype)
    h = self.input_conv(tf.reshape(x, [-1, *self.half_shape]), initialize=ctx.initialize)
    embedding = None if self.position_embedding is None else tf.cast(self.position_embedding, h.dtype)
    return apply_blocks(self.blocks, h, embedding, ctx=ctx, remat=self.network.remat)

  def get_config(self) -> dict[str, Any]:
    return {
      **super().get_config(),
      "image_shape": self.image_shape,
      "levels": self.levels,
      "network": dataclasses.asdict(self.network),
    }
