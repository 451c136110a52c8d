"""Gated residual layers of the conditioner, Flow++ section 3.2.2 and appendix.

    Gate(x) = a sigmoid(b), with a and b the two halves of the channels of x
    GatedConv        x + Gate(1x1(dropout(concat_elu(3x3(concat_elu(x)) [+ 1x1(concat_elu(c))]))))
    GatedAttention   x + Gate(1x1(dropout(attention(1x1(x + p)))))       p: position embedding
    GatedPointwise   x + Gate(1x1(dropout(max over triples(1x1(x + p)))))  the ablation without attention

c is an optional context of the same height and width. The layers are those of PixelCNN++ and PixelSNAIL.
"""

from typing import Any

from jaxtyping import Float
import keras
import tensorflow as tf

from flowpp_tf.core.checks import check_arguments, check_count, check_shape
from flowpp_tf.core.context import EvalContext
from flowpp_tf.core.errors import InputError
from flowpp_tf.layers.activations import concat_elu, gate
from flowpp_tf.layers.dropout import Dropout
from flowpp_tf.layers.init_norm import InitNormConv2D, InitNormDense
from flowpp_tf.layers.kernels.attention import self_attention

_RESIDUAL_INIT_SCALE = 0.1  # each residual starts small compared with what it is added to


@keras.saving.register_keras_serializable("flowpp_tf")
class GatedConv(keras.layers.Layer):
  """Gated residual convolution.

  Args:
    filters: channels of input and output.
    output_kernel_size: side of the kernel of the last convolution: 1 in couplings, 3 in the context net of the
      dequantizer.
    use_context: whether calls come with a `context [N, H, W, any]`; N, H and W may be 1.
    dropout: rate.
    weight_norm: as in `InitNormConv2D`.
    padding: as in `InitNormConv2D`.

  `call(x [N, H, W, filters], context=None, ctx=EvalContext())`.

  Examples:
    >>> fpp.layers.GatedConv(16)(tf.zeros([2, 8, 8, 16])).shape
    TensorShape([2, 8, 8, 16])
  """

  @check_arguments
  def __init__(
    self,
    filters: int,
    output_kernel_size: int = 1,
    use_context: bool = False,
    dropout: float = 0.0,
    weight_norm: bool = False,
    padding: str = "zeros",
    **kwargs: Any,
  ) -> None:
    super().__init__(**kwargs)
    check_count("filters", filters)
    check_count("output_kernel_size", output_kernel_size)
    self.filters = filters
    self.output_kernel_size = output_kernel_size
    self.use_context = use_context
    self.weight_norm = weight_norm
    options = dict(weight_norm=weight_norm, dtype=self.dtype_policy)
    self.padding = padding
    self.conv = InitNormConv2D(filters, padding=padding, name="conv", **options)
    self.context_projection = InitNormDense(filters, name="context_projection", **options) if use_context else None
    self.dropout = Dropout(dropout, name="dropout", dtype=self.dtype_policy)
    output = dict(init_scale=_RESIDUAL_INIT_SCALE, name="output_projection", **options)
    self.output_projection = (
      InitNormDense(2 * filters, **output)
      if output_kernel_size == 1
      else InitNormConv2D(2 * filters, kernel_size=output_kernel_size, padding=padding, **output)
    )

  def build(self, x_shape: tuple, context_shape: tuple | None = None) -> None:
    self.conv.build(_doubled(x_shape))
    if self.context_projection is not None:
      self.context_projection.build(_doubled(context_shape))
    self.dropout.build(_doubled(x_shape))
    self.output_projection.build(_doubled(x_shape))
    self.built = True

  @check_arguments
  def call(
    self,
    x: Float[tf.Tensor, "n h w c"],
    context: Float[tf.Tensor, "... #h #w k"] | None = None,
    ctx: EvalContext = EvalContext(),
  ) -> Float[tf.Tensor, "n h w c"]:
    check_context(self, x, context)
    h = self.conv(concat_elu(x), initialize=ctx.initialize)
    if self.context_projection is not None:
      h += self.context_projection(concat_elu(context), initialize=ctx.initialize)
    h = self.dropout(concat_elu(h), training=ctx.training, seed=ctx.stream("dropout"), batch_offset=ctx.batch_offset)
    return x + gate(self.output_projection(h, initialize=ctx.initialize))

  def get_config(self) -> dict[str, Any]:
    config = {
      **super().get_config(),
      "filters": self.filters,
      "output_kernel_size": self.output_kernel_size,
      "use_context": self.use_context,
      "dropout": self.dropout.rate,
      "weight_norm": self.weight_norm,
    }
    return config if self.padding == "zeros" else {**config, "padding": self.padding}


def check_context(conv: GatedConv, x: tf.Tensor, context: tf.Tensor | None) -> None:
  """Raise an `InputError` unless a context is one that `conv` takes with x.

  It has as many channels as the layer was built for, and the sizes of x, or 1 in place of N, H and W.
  """
  if context is None or conv.context_projection is None:
    if (context is None) != (conv.context_projection is None):
      raise InputError(f"`context` must be {'None' if context is not None else 'given'}: see `use_context`")
    return
  channels = conv.context_projection.kernel.shape[0] // 2
  allowed, found = [(size, 1) for size in x.shape[:3]] + [(channels,)], list(context.shape)
  if len(found) not in (3, 4) or any(
    None not in sizes and size not in (*sizes, None) for size, sizes in zip(found[::-1], allowed[::-1])
  ):
    raise InputError(f"`context` must be of shape [N, H, W, {channels}] for `x` of {x.shape}, got {context.shape}")


def check_position_embedding(x: tf.Tensor, position_embedding: tf.Tensor | None) -> None:
  """Raise an `InputError` unless a position embedding, if there is one, has the sizes of x."""
  if position_embedding is not None:
    check_shape("position_embedding", position_embedding.shape[-3:], x.shape[1:])


def _doubled(shape):
  """The shape of concat_elu."""
  return (*shape[:-1], 2 * shape[-1])


class _GatedMixer(keras.layers.Layer):
  """1x1 to three times the channels, `mix` them back to one, dropout, 1x1, gate, residual."""

  @check_arguments
  def __init__(self, filters: int, dropout: float = 0.0, weight_norm: bool = False, **kwargs: Any) -> None:
    super().__init__(**kwargs)
    check_count("filters", filters)
    self.filters = filters
    self.weight_norm = weight_norm
    options = dict(weight_norm=weight_norm, dtype=self.dtype_policy)
    self.input_projection = InitNormDense(3 * filters, name="input_projection", **options)
    self.dropout = Dropout(dropout, name="dropout", dtype=self.dtype_policy)
    self.output_projection = InitNormDense(
      2 * filters, init_scale=_RESIDUAL_INIT_SCALE, name="output_projection", **options
    )

  def build(self, x_shape: tuple, position_embedding_shape: tuple | None = None) -> None:
    self.input_projection.build(x_shape)
    self.dropout.build(x_shape)
    self.output_projection.build(x_shape)
    self.built = True

  @check_arguments
  def call(
    self,
    x: Float[tf.Tensor, "n h w c"],
    position_embedding: Float[tf.Tensor, "... h w c"] | None = None,
    ctx: EvalContext = EvalContext(),
  ) -> Float[tf.Tensor, "n h w c"]:
    check_position_embedding(x, position_embedding)
    h = x if position_embedding is None else x + position_embedding
    h = self.mix(self.input_projection(h, initialize=ctx.initialize))
    h = self.dropout(h, training=ctx.training, seed=ctx.stream("dropout"), batch_offset=ctx.batch_offset)
    return x + gate(self.output_projection(h, initialize=ctx.initialize))

  def get_config(self) -> dict[str, Any]:
    return {
      **super().get_config(),
      "filters": self.filters,
      "dropout": self.dropout.rate,
      "weight_norm": self.weight_norm,
    }


@keras.saving.register_keras_serializable("flowpp_tf")
class GatedAttention(_GatedMixer):
  """Gated residual multi-head self-attention over all positions.

  Args:
    filters: channels of input and output.
    heads: number of heads; divides `filters`.
    dropout: rate.
    weight_norm: as in `InitNormDense`.

  `call(x [N, H, W, filters], position_embedding=None, ctx=EvalContext())`; the embedding is `[H, W, filters]`.

  Examples:
    >>> fpp.layers.GatedAttention(16, heads=4)(tf.zeros([2, 8, 8, 16])).shape
    TensorShape([2, 8, 8, 16])
  """

  @check_arguments
  def __init__(
    self, filters: int, heads: int = 4, dropout: float = 0.0, weight_norm: bool = False, **kwargs: Any
  ) -> None:
    super().__init__(filters, dropout, weight_norm, **kwargs)
    if heads < 1 or filters % heads:
      raise ValueError(f"`heads` must divide `filters`, got {heads} heads and {filters} filters")
    self.heads = heads

  def mix(self, h: Float[tf.Tensor, "n h w c"]) -> Float[tf.Tensor, "n h w c//3"]:
    """Return the attention `[N, H, W, filters]` of queries, keys and values `[N, H, W, 3 filters]`."""
    height, width = h.shape[1:3]
    h = self_attention(tf.reshape(h, [-1, height * width, 3 * self.filters]), self.heads)
    return tf.reshape(h, [-1, height, width, self.filters])

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), "heads": self.heads}


@keras.saving.register_keras_serializable("flowpp_tf")
class GatedPointwise(_GatedMixer):
  """The replacement of attention in the paper's ablation: the same weights, no mixing of positions.

  Arguments and `call` as in `GatedAttention`, without `heads`.

  Examples:
    >>> fpp.layers.GatedPointwise(16)(tf.zeros([2, 8, 8, 16])).shape
    TensorShape([2, 8, 8, 16])
  """

  def mix(self, h: Float[tf.Tensor, "n h w c"]) -> Float[tf.Tensor, "n h w c//3"]:
    """Return the largest of three channels each, `[N, H, W, filters]` of `[N, H, W, 3 filters]`."""
    return tf.reduce_max(tf.reshape(h, [-1, *h.shape[1:3], self.filters, 3]), axis=-1)
