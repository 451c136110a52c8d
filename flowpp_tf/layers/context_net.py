"""The network that reads the image for the variational dequantizer, Flow++ section 3.1 and appendix.

The image, scaled to [-1/2, 1/2), is split by columns and both halves are laid on the channels, so
that the context has the height and width of what the dequantizer's couplings transform. Then a 3x3
convolution and gated convolutions; the ImageNet models add layer norm and attention.
"""

import keras
import tensorflow as tf

from flowpp_tf.layers.blocks import apply_blocks
from flowpp_tf.layers.conditioner import ConvAttentionBlock
from flowpp_tf.layers.init_norm import InitNormConv2D


class ContextNet(keras.layers.Layer):
  """Integer images to the context of the dequantizer's couplings.

  Args:
    image_shape: `(H, W, C)`, so that the layer is built when constructed; W is even.
    levels: number of pixel values.
    channels: of the context.
    blocks: number of blocks.
    layer_norm: whether each residual sum is normalised.
    mixer: "none", or "attention" with a position embedding shared by the blocks.
    heads: of the attention.
    dropout: rate.
    weight_norm: as in `InitNormConv2D`.
    remat: whether a gradient evaluates the blocks again rather than keep what is inside of them.

  `call(images [N, H, W, C], training=False, seed=None, initialize=False)` gives
  `[N, H, W / 2, channels]`.
  """

  def __init__(self, image_shape, levels, channels=32, blocks=3, layer_norm=False, mixer="none",
               heads=4, dropout=0.0, weight_norm=False, remat=False, **kwargs):
    super().__init__(**kwargs)
    image_shape = tuple(image_shape)
    height, width, image_channels = image_shape
    self._config = dict(
        image_shape=image_shape, levels=levels, channels=channels, blocks=blocks,
        layer_norm=layer_norm, mixer=mixer, heads=heads, dropout=dropout, weight_norm=weight_norm,
        remat=remat)
    self.remat = remat
    self.levels = levels
    options = dict(weight_norm=weight_norm, dtype=self.dtype_policy)
    self.input_conv = InitNormConv2D(channels, name="input_conv", **options)
    self.blocks = [
        ConvAttentionBlock(channels, mixer, heads, layer_norm, output_kernel_size=3,
                           dropout=dropout, name=f"block_{i}", **options) for i in range(blocks)]

    self.half_shape = (height, width // 2, 2 * image_channels)
    self.input_conv.build((None, *self.half_shape))
    for block in self.blocks:
      block.build((None, *self.half_shape[:2], channels))
    self.position_embedding = None
    if mixer != "none":
      self.position_embedding = self.add_weight(
          name="position_embedding", shape=(*self.half_shape[:2], channels),
          initializer=keras.initializers.RandomNormal(stddev=0.01))
    # Keras does not show `tf.train.Checkpoint` the layers that it has in lists.
    self._in_lists = tf.Module()
    self._in_lists.variables_of_blocks = [v.value for block in self.blocks for v in block.variables]
    self.built = True

  def build(self, input_shape):
    """Does nothing: the layer is built when constructed."""

  def call(self, images, training=False, seed=None, initialize=False):
    x = tf.cast(images, self.compute_dtype) / self.levels - 0.5
    h = self.input_conv(tf.reshape(x, [-1, *self.half_shape]), initialize=initialize)
    embedding = None if self.position_embedding is None else tf.cast(
        self.position_embedding, h.dtype)
    return apply_blocks(self.blocks, h, embedding, training=training, seed=seed,
                        initialize=initialize, remat=self.remat)

  def get_config(self):
    return {**super().get_config(), **self._config}
