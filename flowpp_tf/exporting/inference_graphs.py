"""The inference graphs of a model: what each computes from which inputs, for any backend.

Of images, with labels and a condition of models that take them as further inputs:

    log_prob   images uint8, noise -> log_prob (nats), bits_per_dim, position_bits, latents
    decode     latents -> images uint8, valid

Of vectors, with a context of flows that take one:

    log_prob   x -> log_prob (nats), latents
    sample     latents -> x

position_bits are the terms of the bound at each pixel, whose sum is the bound: evaluation/positions.py explains them,
and computes them in TensorFlow.

The batch size is free; all else is fixed. Weights are folded, nothing is drawn inside: noise and latents are inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools
import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow_probability as tfp

from flowpp_tf.core.errors import InputError
from flowpp_tf.core.finite import check_weights_finite
from flowpp_tf.distributions import FlowDistribution
from flowpp_tf.exporting import flow_graph, network_graph
from flowpp_tf.exporting.flow_graph import Tensor
from flowpp_tf.exporting.ops import Ops, Value
from flowpp_tf.layers import Flow
from flowpp_tf.models import FlowPlusPlus
from flowpp_tf.models.conditioning import lowest_label
from flowpp_tf.models.dequantizer import FlowAugmenter, VariationalDequantizer

TERMS = ("log_det", "prior", "dequantization")


class Spec(NamedTuple):
  """An input or an output: its dtype, and the shape that follows the batch."""

  dtype: str
  shape: tuple[int, ...]


class Graph(NamedTuple):
  """A function of tensors by name, `compute(ops, **inputs)`, to a dict of tensors by name."""

  inputs: Mapping[str, Spec]
  outputs: Mapping[str, Spec]
  compute: Callable[..., dict[str, Value]]


def inference_graphs(model: FlowPlusPlus | Flow | FlowDistribution) -> tuple[dict[str, Graph], dict[str, Any]]:
  """Return the graphs by name, and what their user must know, for JSON.

  Raises:
    InputError (a ValueError): if a weight is not finite, a flow has a base that `vector_flow` has not, or a flow of
      images is given a context. A part that inference graphs do not have is an error where a graph computes.
  """
  return _of_images(model) if isinstance(model, FlowPlusPlus) else _of_vectors(model)


# --- Images -------------------------------------------------------------------------------------


def _check_has_graphs(model):
  """Raise an `InputError` for a model of images that inference graphs do not have."""
  config = model.config
  if model.has_exact_density:
    kind = "real-valued images"
  elif config.padding != "zeros":
    kind = f"`padding` {config.padding}"
  elif config.levels > 256:
    kind = f"{config.levels:,} levels"
  else:
    return
  raise InputError(f"a model of {kind} cannot be exported to this format: export it as a SavedModel")


def _of_images(model):
  check_weights_finite(model)
  _check_has_graphs(model)
  config = model.config
  images, number = Spec("uint8", config.image_shape), Spec("float32", ())
  latents = Spec("float32", model.coupling_flow.latent_shape)
  bits = Spec("float32", (*config.image_shape[:2], len(TERMS)))
  conditioning = {}
  if config.num_classes:
    conditioning["labels"] = Spec("int32", ())
  if config.condition_shape:
    conditioning["condition"] = Spec("float32", tuple(config.condition_shape))
  graphs = {
    "log_prob": Graph(
      {"images": images, "noise": Spec("float32", model.noise_shape), **conditioning},
      {"log_prob": number, "bits_per_dim": number, "position_bits": bits, "latents": latents},
      functools.partial(_log_prob_of_images, model),
    ),
    "decode": Graph(
      {"latents": latents, **conditioning},
      {"images": images, "valid": Spec("bool", ())},
      functools.partial(_decode_images, model),
    ),
  }
  noise = ["uniform" if _has_uniform_noise(model) else "normal"] * config.image_shape[2]
  noise += ["normal"] * config.augment_channels
  about = {
    "image_shape": [*config.image_shape],
    "levels": config.levels,
    "noise_shape": [*model.noise_shape],
    "noise": noise[0] if len({*noise}) == 1 else noise,
    "latent_shape": [*latents.shape],
    "num_classes": config.num_classes,
    "lowest_label": lowest_label(config),
    "condition_shape": [*config.condition_shape],
    "units": {"log_prob": "nats per image", "bits_per_dim": "bits per value", "position_bits": "bits"},
    "position_bits": [*TERMS],
  }
  return graphs, about


def _has_uniform_noise(model):
  return not isinstance(model.dequantizer, VariationalDequantizer)


def _log_prob_of_images(model, ops, images, noise, labels=None, condition=None):
  config = model.config
  size, channels = math.prod(config.image_shape), config.image_shape[2]
  x = ops.cast(images, "float32")
  rows = _rows_of_labels(ops, config, labels)
  dequantized, log_q = _dequantize(ops, model, x, noise, rows)
  context = _context(ops, model, rows, condition)
  z = flow_graph.transform(model.flow.bijector, ops, dequantized, True, context)
  prior = flow_graph.normal_log_probs(z.value)
  log_det, prior = (ops.sum(z.moved_back(ops, y, dequantized.shape), -1) for y in (z.log_dets, prior))  # by position
  bound = flow_graph.sum_of_event(ops, log_det + prior - log_q, config.image_shape[:2])
  valid = x <= config.levels - 1.0
  if _has_uniform_noise(model):
    u = ops.split(noise, [channels, config.augment_channels])[0] if config.augment_channels else noise
    valid = valid & (u >= 0.0) & (u < 1.0)
  valid = _everywhere(ops, valid, size)
  bound = ops.where(valid, bound, math.nan)
  bits = ops.concat([log_det, prior, -log_q]) * (-1 / math.log(2))
  bits = ops.where(ops.reshape(valid, [-1, 1, 1, 1]), bits, math.nan)
  bits_per_dim = bound * (-1 / (size * math.log(2)))
  return {"log_prob": bound, "bits_per_dim": bits_per_dim, "position_bits": bits, "latents": z.value}


def _decode_images(model, ops, latents, labels=None, condition=None):
  config = model.config
  context = _context(ops, model, _rows_of_labels(ops, config, labels), condition)
  z = Tensor.first(ops, latents, model.coupling_flow.latent_shape)
  x = flow_graph.transform(model.flow.bijector, ops, z, False, context).value
  if config.augment_channels:
    x, _ = ops.split(x, [config.image_shape[2], config.augment_channels])
  is_finite = ops.abs(x) < float(np.finfo(np.float32).max)
  valid = _everywhere(ops, is_finite, math.prod(config.image_shape))
  pixels = ops.maximum(ops.floor(x), 0.0)
  pixels = ops.minimum(pixels, config.levels - 1.0)
  return {"images": ops.cast(pixels, "uint8"), "valid": valid}


def _rows_of_labels(ops, config, labels):
  """Return the rows of `apply_embedding` for labels, the last one for those that the model does not have."""
  if labels is None:
    return None
  is_known = (labels >= lowest_label(config)) & (labels < config.num_classes)
  return ops.where(is_known, labels + 1, ops.constant(config.num_classes + 1, "int32"))


def _everywhere(ops, conditions, size):
  """Return of each image whether a condition holds at all its values, which it does not for NaN."""
  rows = ops.reshape(ops.cast(conditions, "float32"), [-1, size])
  return ops.reshape(ops.min(rows, -1) > 0.5, [-1])


def _context(ops, model, rows, condition):
  if model.condition_net is None:
    return None
  return network_graph.apply_condition_net(ops, model.condition_net, rows, condition)


def _dequantize(ops, model, images, noise, rows):
  """Return what the flow transforms, and log q of what was drawn at each position, `[N, H, W, 1]`."""
  shape, augmented = model.config.image_shape, model.config.augment_channels
  e = None
  if augmented:
    noise, e = ops.split(noise, [shape[2], augmented])
  if _has_uniform_noise(model):
    log_q = ops.sum(images * 0.0, -1)
  else:
    noise, log_q = _posterior(ops, model.dequantizer, images, noise, rows)
  # The pixel value is the floor: x + u may round to x + 1.
  below_one = 1 - float(np.finfo(np.float32).epsneg)
  x = ops.minimum(images + noise, (images + 1.0) * below_one)
  if e is None:
    return Tensor.first(ops, x, shape), log_q
  if isinstance(model.augmenter, FlowAugmenter):
    logits = flow_graph.transform(model.logits_of_pixels, ops, Tensor.first(ops, x, shape), False, None).value
    e, log_q_e = _posterior(ops, model.augmenter, logits, e, rows)
  else:
    log_q_e = ops.sum(flow_graph.normal_log_probs(e), -1)
  both = Tensor.first(ops, ops.concat([x, e]), (*shape[:2], shape[2] + augmented))
  return both, log_q + log_q_e


def _posterior(ops, layer, images, noise, rows):
  """Return a draw of a conditional flow, and its log density at each position, `[N, H, W, 1]`."""
  context = network_graph.apply_context_net(ops, layer.context_net, images)
  if layer.label_embedding is not None:
    context = context + network_graph.apply_embedding(ops, layer.label_embedding, rows)
  draw = flow_graph.transform(layer.bijector, ops, Tensor.first(ops, noise, layer.event_shape), False, context)
  log_dets = draw.moved_back(ops, draw.log_dets, layer.event_shape)
  return draw.value, ops.sum(flow_graph.normal_log_probs(noise) - log_dets, -1)


# --- Vectors ------------------------------------------------------------------------------------


def _of_vectors(model):
  flow = model.distribution if isinstance(model, Flow) else model
  if not isinstance(flow, FlowDistribution):
    raise InputError(f"`model` must hold a `FlowDistribution`, got {flow}")
  shape, context_size = tuple(flow.event_shape), flow.context_size
  if context_size and len(shape) != 1:
    raise InputError(f"a flow given a context must be one of vectors to be exported, got events of shape {[*shape]}")
  base, log_probs = _base(flow.distribution)
  for variable in flow.variables:
    if not np.all(np.isfinite(variable.numpy())):
      raise InputError(f"the weights of the flow must be finite, got NaN or infinity in {variable.name}")

  def log_prob(ops: Ops, x: Value, context: Value | None = None) -> dict[str, Value]:
    z = flow_graph.transform(flow.bijector, ops, Tensor.first(ops, x, shape), True, context)
    densities = log_probs(ops, z.value) + z.log_dets
    return {"log_prob": flow_graph.sum_of_event(ops, densities, shape), "latents": z.value}

  def sample(ops: Ops, latents: Value, context: Value | None = None) -> dict[str, Value]:
    return {"x": flow_graph.transform(flow.bijector, ops, Tensor.first(ops, latents, shape), False, context).value}

  event, number = Spec("float32", shape), Spec("float32", ())
  conditioning = {}
  if context_size:
    conditioning["context"] = Spec("float32", (context_size,))
  graphs = {
    "log_prob": Graph({"x": event, **conditioning}, {"log_prob": number, "latents": event}, log_prob),
    "sample": Graph({"latents": event, **conditioning}, {"x": event}, sample),
  }
  about = {
    "event_shape": [*shape],
    "latent_shape": [*shape],
    "base": base,
    "context_size": context_size,
    "units": {"log_prob": "nats per vector"},
  }
  return graphs, about


def _base(distribution):
  """Return what the latents' distribution is, for JSON, and its log density at each value, `f(ops, z)`."""
  tfd = tfp.distributions
  values = distribution.distribution if isinstance(distribution, tfd.Sample) else None
  if isinstance(values, (tfd.Normal, tfd.StudentT)) and np.all(values.loc == 0) and np.all(values.scale == 1):
    if isinstance(values, tfd.Normal):
      return "normal", lambda ops, z: flow_graph.normal_log_probs(z)
    if np.ndim(values.df) == 0:
      df = float(values.df)
      log_beta = math.lgamma((df + 1) / 2) - math.lgamma(df / 2)
      constant = log_beta - 0.5 * math.log(df * math.pi)

      def student_t_log_probs(ops, z):
        log_factor = ops.log(z * z * (1 / df) + 1.0)
        return log_factor * (-(df + 1) / 2) + constant

      return {"student_t": df}, student_t_log_probs
  raise InputError(
    f"the base of the flow must be `tfd.Sample` of a standard normal or Student's t distribution, got {distribution}"
  )
