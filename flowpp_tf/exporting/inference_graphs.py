"""The inference graphs of a model: what each computes from which inputs, for any backend.

For images, with labels and a condition as further inputs if the model takes them:

    log_prob   images uint8, noise -> log_prob (nats), bits_per_dim, position_bits, latents
    decode     latents -> images uint8, valid

For vectors, with a context if the flow takes one, with a row for each vector or one row for all:

    log_prob   x -> log_prob (nats), latents
    sample     latents -> x

An ensemble has no latents of its own: log_prob has only the log density, and the input `member` chooses the flow to
sample from. Ensembles in an ensemble become one ensemble of all flows.

position_bits are the three terms of the bound at each pixel; their sum is the bound. evaluation/positions.py explains
them and computes them in TensorFlow.

The batch size is free; all else is fixed. Weights are folded, nothing is drawn inside: noise and latents are inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools
import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.core.errors import InputError
from flowpp_tf.distributions import FlowDistribution
from flowpp_tf.exporting import flow_graph, network_graph, posterior_graph
from flowpp_tf.exporting.flow_graph import Tensor
from flowpp_tf.exporting.ops import Value
from flowpp_tf.layers import Flow
from flowpp_tf.models import FlowPlusPlus
from flowpp_tf.models.conditioning import conditioning_specs, lowest_label
from flowpp_tf.posterior.conditional import Ensemble, single_flows

_BITS = -1 / math.log(2)  # of a nat of log density


class Graph(NamedTuple):
  """A function of tensors by name, `compute(ops, **inputs)`, to a dict of tensors by name."""

  inputs: Mapping[str, tf.TensorSpec]
  outputs: Mapping[str, tf.TensorSpec]
  compute: Callable[..., dict[str, Value]]


def inference_graphs(
  model: FlowPlusPlus | Flow | FlowDistribution | Ensemble,
) -> tuple[dict[str, Graph], dict[str, Any]]:
  """Return the graphs by name, and a description for their users, for JSON.

  Raises:
    InputError (a ValueError): if a weight is not finite, a flow has another base than `vector_flow` gives, or a flow of
      images is given a context. A part that inference graphs do not have is an error where a graph computes.
  """
  return _image_graphs(model) if isinstance(model, FlowPlusPlus) else _vector_graphs(model)


def _spec(*shape, dtype=tf.float32):
  """Return the spec of an input or an output, of any batch size."""
  return tf.TensorSpec([None, *shape], dtype)


# --- Images -------------------------------------------------------------------------------------


def _image_graphs(model):
  config = model.config
  if model.has_exact_density or config.levels > 256 or config.padding != "zeros" or config.augment_channels:
    raise InputError(
      "a model of real-valued images, of more than 256 levels, or with periodic `padding` or `augment_channels` cannot "
      "be exported to this format: export it as a SavedModel"
    )
  images = _spec(*config.image_shape, dtype=tf.uint8)
  latents = _spec(*model.coupling_flow.latent_shape)
  number = _spec()
  bits = _spec(*config.image_shape[:2], 3)
  conditioning = conditioning_specs(config, tf.float32)
  graphs = {
    "log_prob": Graph(
      {"images": images, "noise": _spec(*model.noise_shape), **conditioning},
      {"log_prob": number, "bits_per_dim": number, "position_bits": bits, "latents": latents},
      functools.partial(_log_prob_of_images, model),
    ),
    "decode": Graph(
      {"latents": latents, **conditioning},
      {"images": images, "valid": _spec(dtype=tf.bool)},
      functools.partial(_decode_images, model),
    ),
  }
  about = {
    "image_shape": [*config.image_shape],
    "levels": config.levels,
    "noise_shape": [*model.noise_shape],
    "noise": "uniform" if config.dequantization == "uniform" else "normal",
    "latent_shape": [*model.coupling_flow.latent_shape],
    "num_classes": config.num_classes,
    "lowest_label": lowest_label(config),
    "condition_shape": [*config.condition_shape],
  }
  return graphs, about


def _log_prob_of_images(model, ops, images, noise, labels=None, condition=None):
  config = model.config
  shape = config.image_shape
  x = ops.cast(images, "float32")
  valid = x <= config.levels - 1.0
  rows, context = _conditioning(ops, model, labels, condition)
  if config.dequantization == "uniform":
    valid = valid & (noise >= 0.0) & (noise < 1.0)
    u = noise
    log_q = ops.sum(x * 0.0)
  else:
    u, log_q = _posterior(ops, model.dequantizer, x, noise, rows)
  # The pixel value is the floor: x + u may round to x + 1.
  dequantized = Tensor.first(ops, ops.minimum(x + u, (x + 1.0) * flow_graph.BELOW_ONE), shape)
  z = flow_graph.transform(model.flow.bijector, ops, dequantized, True, context)
  prior = z.moved_back(ops, flow_graph.normal_log_probs(z.value), shape)
  prior = ops.sum(prior)  # at each position
  log_det = ops.sum(z.moved_back(ops, z.log_dets, shape))
  bound = flow_graph.reduce_events(ops, ops.sum, log_det + prior - log_q, shape[:2])
  valid = _everywhere(ops, valid, shape)
  bound = ops.where(valid, bound, math.nan)
  bits = ops.concat([log_det, prior, -log_q], -1) * _BITS
  valid = ops.reshape(valid, [-1, 1, 1, 1])
  bits = ops.where(valid, bits, math.nan)
  bits_per_dim = bound * (_BITS / math.prod(shape))
  return {"log_prob": bound, "bits_per_dim": bits_per_dim, "position_bits": bits, "latents": z.value}


def _decode_images(model, ops, latents, labels=None, condition=None):
  config = model.config
  _, context = _conditioning(ops, model, labels, condition)
  z = Tensor.first(ops, latents, model.coupling_flow.latent_shape)
  x = flow_graph.transform(model.flow.bijector, ops, z, False, context).value
  is_finite = ops.abs(x) < float(np.finfo(np.float32).max)
  valid = _everywhere(ops, is_finite, config.image_shape)
  pixels = ops.maximum(ops.floor(x), 0.0)
  pixels = ops.minimum(pixels, config.levels - 1.0)
  return {"images": ops.cast(pixels, "uint8"), "valid": valid}


def _conditioning(ops, model, labels, condition):
  """Return the rows of `apply_embedding` for labels, and the context of the flow's couplings; None without."""
  config = model.config
  rows = context = None
  if labels is not None:  # unknown labels get the last row
    is_known = (labels >= lowest_label(config)) & (labels < config.num_classes)
    rows = ops.where(is_known, labels + 1, ops.constant(config.num_classes + 1, "int32"))
  if model.condition_net is not None:
    context = network_graph.apply_condition_net(ops, model.condition_net, rows, condition)
  return rows, context


def _everywhere(ops, conditions, shape):
  """Return for each image whether a condition holds at all its values, which it does not for NaN."""
  return flow_graph.reduce_events(ops, ops.min, ops.cast(conditions, "float32"), shape) > 0.5


def _posterior(ops, layer, images, noise, rows):
  """Return a draw of a conditional flow, and its log density at each position, `[N, H, W, 1]`."""
  context = network_graph.apply_context_net(ops, layer.context_net, images)
  if layer.label_embedding is not None:
    context = context + network_graph.apply_embedding(ops, layer.label_embedding, rows)
  draw = flow_graph.transform(layer.bijector, ops, Tensor.first(ops, noise, layer.event_shape), False, context)
  log_dets = draw.moved_back(ops, draw.log_dets, layer.event_shape)
  return draw.value, ops.sum(flow_graph.normal_log_probs(noise) - log_dets)


# --- Vectors ------------------------------------------------------------------------------------


def _vector_graphs(model):
  flow = model.distribution if isinstance(model, Flow) else model
  if isinstance(flow, Ensemble):
    return _ensemble_graphs(flow)
  if not isinstance(flow, FlowDistribution):
    raise InputError(f"`model` must hold a `FlowDistribution`, got {flow}")
  shape = tuple(flow.event_shape)
  latent_shape = tuple(flow.distribution.event_shape)
  if flow.context_size and len(shape) != 1:
    raise InputError(f"a flow given a context must be one of vectors to be exported, got events of shape {[*shape]}")
  base, log_probs = _base(flow.distribution)
  embed = functools.partial(posterior_graph.embed, getattr(flow, "embedding", None))

  def transform(ops, value, value_shape, inverse, context):
    x = Tensor.first(ops, value, value_shape)
    return flow_graph.transform(flow.bijector, ops, x, inverse, embed(ops, context))

  def log_prob(ops, x, context=None):
    z = transform(ops, x, shape, True, context)
    densities = log_probs(ops, z.value) + z.log_dets
    return {"log_prob": flow_graph.reduce_events(ops, ops.sum, densities, latent_shape), "latents": z.value}

  def sample(ops, latents, context=None):
    return {"x": transform(ops, latents, latent_shape, False, context).value}

  event_spec = _spec(*shape)
  latent_spec = _spec(*latent_shape)
  context_shape = None
  conditioning = {}
  if flow.context_size:
    context_shape = [*flow.context_shape]
    if None in context_shape:
      raise InputError(f"`embedding` must have an input of one shape to be exported, got {context_shape}")
    conditioning = {"context": _spec(*context_shape)}
  graphs = {
    "log_prob": Graph({"x": event_spec, **conditioning}, {"log_prob": _spec(), "latents": latent_spec}, log_prob),
    "sample": Graph({"latents": latent_spec, **conditioning}, {"x": event_spec}, sample),
  }
  shapes = {"event_shape": [*shape], "latent_shape": [*latent_shape], "context_shape": context_shape}
  return graphs, {**shapes, "base": base}


def _ensemble_graphs(ensemble):
  flows, weights = zip(*single_flows(ensemble))
  members, abouts = zip(*map(_vector_graphs, flows))
  bases = [about.pop("base") for about in abouts]
  if any(about != abouts[0] for about in abouts):
    raise InputError("the flows of an ensemble must have latents of one shape to be exported")
  about = {**abouts[0], "members": [dict(base=base, weight=weight) for base, weight in zip(bases, weights)]}
  return posterior_graph.mixture(members, weights, _spec(dtype=tf.int32)), about


def _base(distribution):
  """Return a description of the latents' distribution, for JSON, and its log density at each value, `f(ops, z)`."""
  tfd = tfp.distributions
  values: Any = distribution.distribution if isinstance(distribution, tfd.Sample) else None
  is_known = isinstance(values, (tfd.Normal, tfd.StudentT)) and values.batch_shape == []
  if is_known and values.loc == 0 and values.scale == 1:
    if isinstance(values, tfd.Normal):
      return "normal", lambda ops, z: flow_graph.normal_log_probs(z)
    df = float(values.df)
    at_zero = float(values.log_prob(0.0))

    def student_t_log_probs(ops, z):
      size = ops.abs(z) * (1 / math.sqrt(df))  # the square of a large one is infinite
      largest = ops.maximum(size, 1.0)
      log_largest = ops.log(largest)
      ratio = size / largest
      log_factor = ops.log(ratio * ratio + ops.exp(log_largest * -2.0)) + log_largest * 2.0
      return log_factor * (-(df + 1) / 2) + at_zero

    return {"student_t": df}, student_t_log_probs
  raise InputError(
    f"the base of the flow must be `tfd.Sample` of a standard normal or Student's t distribution, got {distribution}"
  )
