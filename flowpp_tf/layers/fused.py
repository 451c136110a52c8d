"""`ConvAttentionBlock` as graphs compute it: the same numbers as its `call`, in less time and memory.

Gradients keep the inputs of the cheap functions between products, and compute these functions again. The scale of
dropout is a factor of a kernel, and residual sum, gate and layer norm are one function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float
import tensorflow as tf

from flowpp_tf.core.context import EvalContext
from flowpp_tf.core.tensors import shape_of
from flowpp_tf.layers.gated import check_context, check_position_embedding
from flowpp_tf.layers.kernels.pointwise import gated_sum, kept_concat_elu, kept_values
from flowpp_tf.layers.kernels.products import product_of

if TYPE_CHECKING:
  from flowpp_tf.layers.conditioner import ConvAttentionBlock


def conv_attention_block(
  block: ConvAttentionBlock,
  x: Float[tf.Tensor, "n h w c"],
  position_embedding: Float[tf.Tensor, "... h w c"] | None,
  context: Float[tf.Tensor, "... #h #w k"] | None,
  ctx: EvalContext,
) -> Float[tf.Tensor, "n h w c"]:
  """Return `block(x, position_embedding, context, ctx)`."""
  conv, mixer = block.conv, block.mixer
  check_context(conv, x, context)
  h = _product(conv.conv, kept_concat_elu, x)
  if conv.context_projection is not None:
    h += _product(conv.context_projection, kept_concat_elu, context)
  mask_shape = (*shape_of(h)[:-1], 2 * conv.filters)
  x = _end(conv, kept_concat_elu, mask_shape, x, h, block.conv_norm, ctx.fold_in("conv"))
  if mixer is None:
    return x
  check_position_embedding(x, position_embedding)
  h = mixer.mix(_product(mixer.input_projection, _with_position, x, position_embedding))
  return _end(mixer, kept_values, shape_of(h), x, h, block.mixer_norm, ctx.fold_in("mixer"))


def _end(layer, function, mask_shape, x, h, norm, ctx):
  """Apply dropout to a function of h, then output projection, gate, residual sum and layer norm."""
  keep = layer.dropout.keep_mask(mask_shape, ctx.training, ctx.stream("dropout"), ctx.batch_offset)
  h = _product(layer.output_projection, function, h, keep, input_scale=layer.dropout.scale(keep))
  return gated_sum(x, h, *([] if norm is None else map(tf.convert_to_tensor, (norm.gamma, norm.beta))))


def _product(layer, function, *arguments, input_scale=1.0):
  kernel, bias = layer.effective_weights()
  return product_of(function, layer.product, *arguments, kernel=kernel, bias=bias, input_scale=input_scale)


def _with_position(x, position_embedding):
  return x if position_embedding is None else x + position_embedding
