"""From images to the terms of their bound, and from latents back to images. Flow++ section 3.1, equation 7.

    log P(x) >= E log mean_k p(x + u_k) / q(u_k|x),  u_k ~ q(.|x)

The functions are pure: they take the parts of a model and `Inputs` that were checked. With augmented channels (VFlow,
Chen et al. 2020) the flow transforms x + u and e, and the bound has the further term -log q(e|x + u).
"""

import dataclasses
import math
from typing import Any, NamedTuple, Protocol

from jaxtyping import Float, Num
import tensorflow as tf

from flowpp_tf import bijectors as fb
from flowpp_tf.bijectors.base import evaluate
from flowpp_tf.config.model import FlowPlusPlusConfig
from flowpp_tf.core.checks import pixels_are_valid
from flowpp_tf.core.context import EvalContext
from flowpp_tf.core.tensors import shape_of
from flowpp_tf.distributions import FlowDistribution
from flowpp_tf.layers.guided import Guided


class BoundTerms(NamedTuple):
  """The terms of equation 7, log p(x + u) - log q(u|x), for each draw of u: their sum is the bound.

  For an augmented model they are the terms of log p(x + u, e) - log q(u|x) - log q(e|x + u), for each draw of u and e.
  """

  log_det: Float[tf.Tensor, "s b"]  # log|det dz/dx|, of the logit and of all couplings
  prior: Float[tf.Tensor, "s b"]  # log N(z)
  dequantization: Float[tf.Tensor, "s b"]  # -log q(u|x), and -log q(e|x + u)


@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
  """What the bound is computed from.

  Attributes:
    images: `[B, H, W, C]`.
    conditioning: labels and conditions by name, `[B, ...]`.
    noise: `[S, B, *noise_shape]`, S draws for each image.
    ctx: of the evaluation.
  """

  images: Num[tf.Tensor, "b h w c"]
  conditioning: dict[str, tf.Tensor]
  noise: Float[tf.Tensor, "s b h w n"]
  ctx: EvalContext = EvalContext()


class Parts(Protocol):
  """The parts of `FlowPlusPlus` that the bound needs; the class documents them."""

  config: FlowPlusPlusConfig
  variable_dtype: Any
  dequantizer: Any
  augmenter: Any
  logits_of_pixels: Any
  condition_net: Any
  label_dropout: Any
  flow: FlowDistribution


def latents_and_terms(model: Parts, inputs: Inputs) -> tuple[Float[tf.Tensor, "s b h w c"], BoundTerms]:
  """Return the latents of images, and the terms of their bound."""
  ctx = inputs.ctx
  conditioning = with_label_dropout(model, inputs.conditioning, ctx)
  noise = inputs.noise
  if noise.shape[0] == 1:  # couplings need not flatten the batch of a single draw
    noise = noise[0]
  x, log_q = dequantize(model, inputs.images, noise, conditioning, ctx)
  flow_ctx = ctx.fold_in("flow").with_condition(flow_context(model, conditioning, ctx))
  z, log_det = evaluate(model.flow.bijector.bijector, x, ctx=flow_ctx)
  terms = BoundTerms(log_det, model.flow.distribution.log_prob(z), -log_q)
  if inputs.noise.shape[0] == 1:
    return z[tf.newaxis], BoundTerms(*(term[tf.newaxis] for term in terms))
  return z, terms


def importance_weighted(terms: BoundTerms) -> Float[tf.Tensor, " b"]:
  """Return the log-mean-exp of the bounds over their draws (IWAE)."""
  bounds = terms.prior + terms.log_det + terms.dequantization
  if bounds.shape[0] == 1:  # the gradient of `reduce_logsumexp` would not be 1 to the last bit
    return bounds[0]
  num_samples = tf.cast(tf.shape(bounds)[0], bounds.dtype)
  return tf.reduce_logsumexp(bounds, axis=0) - tf.math.log(num_samples)


def dequantize(
  model: Parts, images: tf.Tensor, noise: tf.Tensor, conditioning: dict[str, tf.Tensor], ctx: EvalContext
) -> tuple[Float[tf.Tensor, "*s b h w c"], Float[tf.Tensor, "*s b"]]:
  """Return what the flow transforms, x + u with e behind the channels of images, and log q(u|x) + log q(e|x + u).

  In a graph, wrong pixels become NaN.
  """
  x = tf.cast(images, model.variable_dtype)
  if not tf.executing_eagerly():
    x = tf.where(pixels_are_valid(images, model.config.pixel_levels), x, math.nan)
  labels = conditioning.get("labels")
  channels = model.dequantizer.event_shape[-1]
  x, log_q = model.dequantizer.dequantize(x, noise[..., :channels], ctx.fold_in("dequantizer"), labels)
  e_noise = noise[..., channels:]
  x, log_q_e = model.augmenter.augment(x, model.logits_of_pixels, e_noise, ctx.fold_in("augmenter"), labels)
  return x, log_q + log_q_e


def with_label_dropout(model: Parts, conditioning: dict[str, tf.Tensor], ctx: EvalContext) -> dict[str, tf.Tensor]:
  """Return the conditioning; in training, some of its labels are replaced by -1, no label."""
  labels = conditioning.get("labels")
  if labels is None or not ctx.training:
    return conditioning
  shape = [shape_of(labels)[0], 1]
  keep = model.label_dropout.keep_mask(shape, True, ctx.stream("label_dropout"), ctx.batch_offset)
  if keep is None:
    return conditioning
  return {**conditioning, "labels": tf.where(keep[:, 0], labels, -1)}


def flow_context(
  model: Parts, conditioning: dict[str, tf.Tensor], ctx: EvalContext = EvalContext()
) -> Float[tf.Tensor, "b h w c"] | None:
  """Return the context of the flow's couplings, or None for a model without labels and condition."""
  if model.condition_net is None:
    return None
  return model.condition_net(**conditioning, ctx=ctx.fold_in("condition_net"))


def from_latents(
  model: Parts, z: Float[tf.Tensor, "b zh zw zc"], conditioning: dict[str, tf.Tensor], guidance: float | tf.Tensor = 0.0
) -> Float[tf.Tensor, "b h w c"]:
  """Return the flow's values at latents, with guidance unless it is 0."""
  to_latents = model.flow.bijector.bijector
  context = flow_context(model, conditioning)
  if tf.is_tensor(guidance) or guidance != 0:
    no_labels = tf.fill(tf.shape(conditioning["labels"]), -1)
    unlabelled = flow_context(model, {**conditioning, "labels": no_labels})
    context = tf.concat([context, unlabelled], axis=-1)
    to_latents = fb.Chain([_guided(bijector, guidance) for bijector in to_latents.bijectors])
  x, _ = evaluate(to_latents, z, inverse=True, ctx=EvalContext(condition=context))
  return x


def _guided(bijector, guidance):
  """Return a coupling that extrapolates its parameters; any other bijector as it is."""
  if not isinstance(bijector, fb.Coupling):
    return bijector
  return bijector.copy(conditioner=Guided(bijector.conditioner, guidance))
