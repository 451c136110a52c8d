"""The network inside a coupling, Flow++ section 3.2.2: convolution, then blocks of

    GatedConv, LayerNorm, GatedAttention, LayerNorm

then a convolution to the parameters of the coupling's transformation. The context net of the
dequantizer stacks the same blocks.
"""

import keras
import tensorflow as tf

from flowpp_tf.layers.blocks import apply_blocks
from flowpp_tf.layers.dropout import fold_in
from flowpp_tf.layers.gated import GatedAttention
from flowpp_tf.layers.gated import GatedConv
from flowpp_tf.layers.gated import GatedPointwise
from flowpp_tf.layers.gated import concat_elu
from flowpp_tf.layers.init_norm import InitNormConv2D

MIXERS = ("attention", "pointwise", "none")
_OUTPUT_INIT_SCALE = 0.1  # couplings start near the identity


class ConvAttentionBlock(keras.layers.Layer):
  """GatedConv, then optionally LayerNorm and a mixer of positions with a LayerNorm of its own.

  Args:
    filters: channels of input and output.
    mixer: "attention", "pointwise" (the paper's ablation, no mixing of positions) or "none".
    heads: of the attention.
    layer_norm: whether to normalise after each residual sum.
    use_context: whether calls come with a context.
    output_kernel_size: of the gated convolution.
    dropout: rate.
    weight_norm: as in `InitNormConv2D`.

  `call(x [N, H, W, filters], position_embedding=None, context=None, training=False, seed=None,
  initialize=False)`.
  """

  def __init__(self, filters, mixer="attention", heads=4, layer_norm=True, use_context=False,
               output_kernel_size=1, dropout=0.0, weight_norm=False, **kwargs):
    super().__init__(**kwargs)
    if mixer not in MIXERS:
      raise ValueError(f"`mixer` must be one of {', '.join(MIXERS)}, got {mixer!r}")
    self._config = dict(
        filters=filters, mixer=mixer, heads=heads, layer_norm=layer_norm, use_context=use_context,
        output_kernel_size=output_kernel_size, dropout=dropout, weight_norm=weight_norm)
    options = dict(dropout=dropout, weight_norm=weight_norm, dtype=self.dtype_policy)
    normalize = lambda name: keras.layers.LayerNormalization(
        epsilon=1e-5, name=name, dtype=self.dtype_policy) if layer_norm else None
    self.conv = GatedConv(filters, output_kernel_size, use_context, name="conv", **options)
    self.conv_norm = normalize("conv_norm")
    self.mixer = self.mixer_norm = None
    if mixer != "none":
      self.mixer = (GatedAttention(filters, heads, name="mixer", **options) if mixer == "attention"
                    else GatedPointwise(filters, name="mixer", **options))
      self.mixer_norm = normalize("mixer_norm")

  def build(self, x_shape, position_embedding_shape=None, context_shape=None):
    self.conv.build(x_shape, context_shape)
    for layer in (self.conv_norm, self.mixer, self.mixer_norm):
      if layer is not None:
        layer.build(x_shape)
    self.built = True

  def call(self, x, position_embedding=None, context=None, training=False, seed=None,
           initialize=False):
    options = dict(training=training, initialize=initialize)
    x = self.conv(x, context, norm=self.conv_norm, seed=fold_in(seed, 0), **options)
    if self.mixer is not None:
      x = self.mixer(
          x, position_embedding, norm=self.mixer_norm, seed=fold_in(seed, 1), **options)
    return x

  def get_config(self):
    return {**super().get_config(), **self._config}


class Conditioner(keras.layers.Layer):
  """The network that gives a coupling its parameters.

  Args:
    image_shape: `(H, W, C)` of the input, so that the layer is built when constructed.
    outputs: channels of the output.
    filters: channels inside.
    blocks: number of `ConvAttentionBlock`s.
    mixer: "attention", "pointwise" or "none".
    heads: of the attention.
    context_channels: channels of the context `[N, H, W, context_channels]`; 0 for none.
    output_concat_elu: whether concat_elu comes before the last convolution.
    dropout: rate.
    weight_norm: as in `InitNormConv2D`.
    remat: whether a gradient evaluates the blocks again rather than keep what is inside of them.

  `call(x [N, H, W, C], context=None, training=False, seed=None, initialize=False)` gives
  `[N, H, W, outputs]`. The position embedding is shared by the blocks (with mixer "none" it is kept,
  unused, as in the published models).

  Raises:
    ValueError: from a call, if a context is missing or not expected.
  """

  def __init__(self, image_shape, outputs, filters, blocks, mixer="attention", heads=4,
               context_channels=0, output_concat_elu=False, dropout=0.0, weight_norm=False,
               remat=False, **kwargs):
    super().__init__(**kwargs)
    image_shape = tuple(image_shape)
    self._config = dict(
        image_shape=image_shape, outputs=outputs, filters=filters, blocks=blocks, mixer=mixer,
        heads=heads, context_channels=context_channels, output_concat_elu=output_concat_elu,
        dropout=dropout, weight_norm=weight_norm, remat=remat)
    self.remat = remat
    self.context_channels = context_channels
    self.output_concat_elu = output_concat_elu
    options = dict(weight_norm=weight_norm, dtype=self.dtype_policy)
    self.input_conv = InitNormConv2D(filters, name="input_conv", **options)
    self.blocks = [
        ConvAttentionBlock(filters, mixer, heads, use_context=context_channels > 0,
                           dropout=dropout, name=f"block_{i}", **options) for i in range(blocks)]
    self.output_conv = InitNormConv2D(
        outputs, init_scale=_OUTPUT_INIT_SCALE, name="output_conv", **options)

    position = image_shape[:2]
    self.position_embedding = self.add_weight(
        name="position_embedding", shape=(*position, filters),
        initializer=keras.initializers.RandomNormal(stddev=0.01))
    self.input_conv.build((None, *image_shape))
    for block in self.blocks:
      block.build((None, *position, filters),
                  context_shape=(None, *position, context_channels))
    self.output_conv.build((None, *position, filters * (2 if output_concat_elu else 1)))
    self.built = True

  def build(self, input_shape):
    """Does nothing: the layer is built when constructed."""

  def call(self, x, context=None, training=False, seed=None, initialize=False):
    if (context is not None) != (self.context_channels > 0):
      raise ValueError(f"this conditioner has {self.context_channels} context channels, got context "
                       f"{None if context is None else tuple(context.shape)}")
    h = self.input_conv(x, initialize=initialize)
    embedding = tf.cast(self.position_embedding, h.dtype)
    h = apply_blocks(self.blocks, h, embedding, context, training=training, seed=seed,
                     initialize=initialize, remat=self.remat)
    if self.output_concat_elu:
      h = concat_elu(h)
    return self.output_conv(h, initialize=initialize)

  def get_config(self):
    return {**super().get_config(), **self._config}
