"""Gated residual layers of the conditioner, Flow++ section 3.2.2 and appendix, and the block that they form.

    Gate(x) = a sigmoid(b), with a and b the two halves of the channels of x
    GatedConv        x + Gate(1x1(dropout(concat_elu(3x3(concat_elu(x)) [+ 1x1(concat_elu(c))]))))
    GatedAttention   x + Gate(1x1(dropout(attention(1x1(x + p)))))       p: position embedding
    GatedPointwise   x + Gate(1x1(dropout(max over triples(1x1(x + p)))))  the ablation without attention
    ConvAttentionBlock   LayerNorm(GatedAttention(LayerNorm(GatedConv(x))))

c is an optional context of the same height and width. The layers come from PixelCNN++ and PixelSNAIL.

Gradients keep the inputs of the cheap functions between products, and recompute these functions. The scale of dropout
is applied to a kernel. Residual sum, gate and layer norm are one function.
"""

import dataclasses
from typing import Any

from jaxtyping import Float
import keras
import tensorflow as tf

from flowpp_tf.config.model import NetworkConfig
from flowpp_tf.core.checks import as_tensor, check_arguments, check_count, check_tensor, check_type
from flowpp_tf.core.context import EvalContext
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.tensors import shape_of
from flowpp_tf.layers.dropout import Dropout
from flowpp_tf.layers.init_norm import InitNormConv2D, InitNormDense
from flowpp_tf.layers.kernels import pointwise
from flowpp_tf.layers.kernels.attention import self_attention

_RESIDUAL_INIT_SCALE = 0.1  # each residual starts small compared with what it is added to


def concat_elu(x: Float[tf.Tensor, "*n c"]) -> Float[tf.Tensor, "*n 2*c"]:
  """Return elu of `[x, -x]`, which doubles the channels (Shang et al. 2016).

  Examples:
    >>> fpp.layers.concat_elu(tf.constant([1.0, -1.0])).numpy().round(2)
    array([ 1.  , -0.63, -0.63,  1.  ], dtype=float32)
  """
  return pointwise.kept_concat_elu(_floats(x))


def gate(x: Float[tf.Tensor, "*n c"]) -> Float[tf.Tensor, "*n c//2"]:
  """Return a sigmoid(b), with a and b the halves of the last axis.

  Examples:
    >>> fpp.layers.gate(tf.constant([4.0, 0.0])).numpy()
    array([2.], dtype=float32)
  """
  x = _floats(x)
  if (x.shape[-1] or 0) % 2:
    raise InputError(f"`x` must have an even last axis, got shape {x.shape}")
  return pointwise.gate(x)


def _floats(x):
  """Return a floating-point tensor with a last axis."""
  x = as_tensor("x", x, None if tf.is_tensor(x) else tf.float32)
  check_tensor("x", x, [..., None])
  return x


class _Gated(keras.layers.Layer):
  """Base class of layers that end in dropout, output projection, gate and residual sum."""

  def __init__(self, filters, weight_norm, **kwargs):
    super().__init__(**kwargs)
    check_count("filters", filters)
    self.filters = filters
    self.weight_norm = weight_norm

  def _add_output_layers(self, dropout, kernel_size=1, padding="zeros"):
    """Add dropout and output projection; after the other layers, since files have the weights in this order."""
    self.dropout = Dropout(dropout, name="dropout", dtype=self.dtype_policy)
    options: dict[str, Any] = dict(
      init_scale=_RESIDUAL_INIT_SCALE, weight_norm=self.weight_norm, name="output_projection", dtype=self.dtype_policy
    )
    self.output_projection: InitNormDense | InitNormConv2D
    if kernel_size == 1:
      self.output_projection = InitNormDense(2 * self.filters, **options)
    else:
      self.output_projection = InitNormConv2D(2 * self.filters, kernel_size, padding=padding, **options)

  def _add_gated(self, x, kept_function, h, mask_shape, norm, ctx):
    """Return x + Gate(output_projection(dropout(function(h)))), normalised if `norm`, a layer, is not None."""
    keep = self.dropout.keep_mask(mask_shape, ctx.training, ctx.stream("dropout"), ctx.batch_offset)
    scale = self.dropout.scale(keep)
    h = self.output_projection.after(kept_function, h, keep, input_scale=scale, initialize=ctx.initialize)
    if norm is None:
      return pointwise.gated_sum(x, h)
    gamma = tf.convert_to_tensor(norm.gamma)
    beta = tf.convert_to_tensor(norm.beta)
    return pointwise.gated_sum(x, h, gamma, beta)

  def get_config(self) -> dict[str, Any]:
    config = {"filters": self.filters, "dropout": self.dropout.rate, "weight_norm": self.weight_norm}
    return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("flowpp_tf")
class GatedConv(_Gated):
  """Gated residual convolution.

  Args:
    filters: channels of input and output.
    output_kernel_size: side of the last convolution's kernel: 1 in couplings, 3 in the context net of the dequantizer.
    use_context: whether calls have a `context [N, H, W, any]`; N, H and W may be 1.
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
    super().__init__(filters, weight_norm, **kwargs)
    check_count("output_kernel_size", output_kernel_size)
    self.output_kernel_size = output_kernel_size
    self.use_context = use_context
    self.padding = padding
    options: dict[str, Any] = dict(weight_norm=weight_norm, dtype=self.dtype_policy)
    self.conv = InitNormConv2D(filters, padding=padding, name="conv", **options)
    self.context_projection = None
    if use_context:
      self.context_projection = InitNormDense(filters, name="context_projection", **options)
    self._add_output_layers(dropout, output_kernel_size, padding)

  def build(self, x_shape: tuple, context_shape: tuple | None = None) -> None:
    doubled = (*x_shape[:-1], 2 * x_shape[-1])  # by concat_elu
    self.conv.build(doubled)
    if self.context_projection is not None:
      if context_shape is None:
        raise InputError("`context` must be given: see `use_context`")
      self.context_projection.build((*context_shape[:-1], 2 * context_shape[-1]))
    self.output_projection.build(doubled)

  def call(
    self,
    x: Float[tf.Tensor, "n h w c"],
    context: Float[tf.Tensor, "... #h #w k"] | None = None,
    ctx: EvalContext = EvalContext(),
  ) -> Float[tf.Tensor, "n h w c"]:
    return self._normalized(x, context, ctx)

  def _normalized(self, x, context, ctx, norm=None):
    """Return what `call` does, normalised by a layer."""
    check_type("ctx", ctx, EvalContext)
    check_tensor("x", x, [None, None, None, self.filters])
    self._check_context(x, context)
    h = self.conv.after(pointwise.kept_concat_elu, x, initialize=ctx.initialize)
    if self.context_projection is not None:
      h += self.context_projection.after(pointwise.kept_concat_elu, context, initialize=ctx.initialize)
    mask_shape = (*shape_of(h)[:-1], 2 * self.filters)
    return self._add_gated(x, pointwise.kept_concat_elu, h, mask_shape, norm, ctx)

  def _check_context(self, x, context):
    """Raise an `InputError` for a context that is missing, not expected, or would change the shape of x."""
    projection = self.context_projection
    if context is None or projection is None:
      if (context is None) == self.use_context:
        raise InputError(f"`context` must be {'given' if self.use_context else 'None'}: see `use_context`")
      return
    channels = projection.kernel.shape[0] // 2
    check_tensor("context", context, [..., None, None, channels])
    sizes = zip(reversed(context.shape[:-1]), reversed(x.shape[:-1]))  # from the right: N may be missing
    can_broadcast = all(size in (1, x_size, None) or x_size is None for size, x_size in sizes)
    if context.shape.rank > 4 or not can_broadcast:
      raise InputError(f"`context` must be of shape [N, H, W, {channels}] for `x` of {x.shape}, got {context.shape}")

  def get_config(self) -> dict[str, Any]:
    config = {"output_kernel_size": self.output_kernel_size, "use_context": self.use_context, "padding": self.padding}
    return {**super().get_config(), **config}


class _GatedMixer(_Gated):
  """Base class of gated mixers: 1x1 to 3 times the channels, `mix` back to once, dropout, 1x1, gate, residual."""

  @check_arguments
  def __init__(self, filters: int, dropout: float = 0.0, weight_norm: bool = False, **kwargs: Any) -> None:
    super().__init__(filters, weight_norm, **kwargs)
    self.input_projection = InitNormDense(
      3 * filters, weight_norm=weight_norm, name="input_projection", dtype=self.dtype_policy
    )
    self._add_output_layers(dropout)

  def build(self, x_shape: tuple, position_embedding_shape: tuple | None = None) -> None:
    self.input_projection.build(x_shape)
    self.output_projection.build(x_shape)

  def call(
    self,
    x: Float[tf.Tensor, "n h w c"],
    position_embedding: Float[tf.Tensor, "... h w c"] | None = None,
    ctx: EvalContext = EvalContext(),
  ) -> Float[tf.Tensor, "n h w c"]:
    return self._normalized(x, position_embedding, ctx)

  def _normalized(self, x, position_embedding, ctx, norm=None):
    """Return what `call` does, normalised by a layer."""
    check_type("ctx", ctx, EvalContext)
    check_tensor("x", x, [None, None, None, self.filters])
    if position_embedding is not None:
      check_tensor("position_embedding", position_embedding, [..., *x.shape[1:]])
    h = self.input_projection.after(_with_position, x, position_embedding, initialize=ctx.initialize)
    h = self.mix(h)
    return self._add_gated(x, pointwise.kept_values, h, shape_of(h), norm, ctx)


def _with_position(x, position_embedding=None):
  return x if position_embedding is None else x + position_embedding


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
      raise InputError(f"`heads` must divide `filters`, got {heads} heads and {filters} filters")
    self.heads = heads

  def mix(self, h: Float[tf.Tensor, "n h w c"]) -> Float[tf.Tensor, "n h w c//3"]:
    """Return the attention `[N, H, W, filters]` of queries, keys and values `[N, H, W, 3 filters]`."""
    height, width = h.shape[1:3]
    qkv = tf.reshape(h, [-1, height * width, 3 * self.filters])
    o = self_attention(qkv, self.heads)
    return tf.reshape(o, [-1, height, width, self.filters])

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), "heads": self.heads}


@keras.saving.register_keras_serializable("flowpp_tf")
class GatedPointwise(_GatedMixer):
  """Gated residual layer that replaces attention in the paper's ablation: the same weights, no mixing of positions.

  Arguments and `call` as in `GatedAttention`, without `heads`.

  Examples:
    >>> fpp.layers.GatedPointwise(16)(tf.zeros([2, 8, 8, 16])).shape
    TensorShape([2, 8, 8, 16])
  """

  def mix(self, h: Float[tf.Tensor, "n h w c"]) -> Float[tf.Tensor, "n h w c//3"]:
    """Return the maximum of each three channels, from `[N, H, W, 3 filters]` to `[N, H, W, filters]`."""
    height, width = h.shape[1:3]
    triples = tf.reshape(h, [-1, height, width, self.filters, 3])
    return tf.reduce_max(triples, axis=-1)


@keras.saving.register_keras_serializable("flowpp_tf")
class ConvAttentionBlock(keras.layers.Layer):
  """GatedConv, then optionally LayerNorm and a mixer of positions with its own LayerNorm.

  Args:
    network: `NetworkConfig`; its `blocks` and `remat` are not used, since this is one block.
    use_context: whether calls have a context.
    output_kernel_size: as in `GatedConv`.

  `call(x [N, H, W, filters], position_embedding=None, context=None, ctx=EvalContext())`.

  Examples:
    >>> block = fpp.layers.ConvAttentionBlock(fpp.layers.NetworkConfig(16, blocks=1))
    >>> block(tf.zeros([2, 8, 8, 16])).shape
    TensorShape([2, 8, 8, 16])
  """

  @check_arguments
  def __init__(
    self, network: NetworkConfig | dict[str, Any], use_context: bool = False, output_kernel_size: int = 1, **kwargs: Any
  ) -> None:
    super().__init__(**kwargs)
    # Blocks of networks that differ only in these two share one graph (blocks.py).
    self.network = network = dataclasses.replace(NetworkConfig.from_config(network), blocks=1, remat=False)
    self.use_context = use_context
    self.output_kernel_size = output_kernel_size
    filters = network.filters
    options: dict[str, Any] = dict(dropout=network.dropout, weight_norm=network.weight_norm, dtype=self.dtype_policy)
    self.conv = GatedConv(filters, output_kernel_size, use_context, padding=network.padding, name="conv", **options)
    self.conv_norm = self._norm("conv_norm")
    self.mixer: _GatedMixer | None = None
    self.mixer_norm = None
    if network.mixer == "attention":
      self.mixer = GatedAttention(filters, network.heads, name="mixer", **options)
    elif network.mixer == "pointwise":
      self.mixer = GatedPointwise(filters, name="mixer", **options)
    if self.mixer is not None:
      self.mixer_norm = self._norm("mixer_norm")

  def _norm(self, name):
    """Return a layer norm that holds the weights, or None. Nothing calls it: its second derivatives are wrong."""
    if not self.network.layer_norm:
      return None
    return keras.layers.LayerNormalization(epsilon=pointwise.LAYER_NORM_EPSILON, name=name, dtype=self.dtype_policy)

  def build(
    self, x_shape: tuple, position_embedding_shape: tuple | None = None, context_shape: tuple | None = None
  ) -> None:
    self.conv.build(x_shape, context_shape)
    for layer in (self.conv_norm, self.mixer, self.mixer_norm):
      if layer is not None:
        layer.build(x_shape)

  def call(
    self,
    x: Float[tf.Tensor, "n h w c"],
    position_embedding: Float[tf.Tensor, "... h w c"] | None = None,
    context: Float[tf.Tensor, "... #h #w k"] | None = None,
    ctx: EvalContext = EvalContext(),
  ) -> Float[tf.Tensor, "n h w c"]:
    check_type("ctx", ctx, EvalContext)
    x = self.conv._normalized(x, context, ctx.fold_in("conv"), self.conv_norm)
    if self.mixer is not None:
      x = self.mixer._normalized(x, position_embedding, ctx.fold_in("mixer"), self.mixer_norm)
    return x

  def get_config(self) -> dict[str, Any]:
    config = {"use_context": self.use_context, "output_kernel_size": self.output_kernel_size}
    return {**super().get_config(), "network": dataclasses.asdict(self.network), **config}
