"""Posteriors in exports: supports, ensembles and embeddings in inference graphs, and flows as SavedModels.

Graphs are made of the operations of ops.py, in float32. These lack the quantile of the normal distribution, for which
algorithm AS 241 (Wichura 1988) has seven digits.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools
import math
import operator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.core.errors import InputError
from flowpp_tf.exporting.ops import Ops, Value
from flowpp_tf.posterior.support import TOLERANCE, Box, Simplex

_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST = float(np.finfo(np.float32).tiny)
_ACTIVATIONS = "linear", "relu", "elu", "tanh", "sigmoid", "softplus"
# Coefficients of numerators and denominators, from the highest power.
_CENTRE = (  # in (p - 1/2)^2
  (59.109374720, 159.29113202, 50.434271938, 3.3871327179),
  (67.187563600, 78.757757664, 17.895169469, 1.0),
)
_TAIL = (  # in sqrt(-log p) - 1.6
  (0.17023821103, 1.3067284816, 2.7568153900, 1.4234372777),
  (0.12021132975, 0.73700164250, 1.0),
)
_FAR = (  # in sqrt(-log p) - 5
  (0.017337203997, 0.42868294337, 3.0812263860, 6.6579051150),
  (0.012258202635, 0.24197894225, 1.0),
)


def _rational(x, coefficients):
  numerator, denominator = coefficients
  return _polynomial(x, numerator) / _polynomial(x, denominator)


def _polynomial(x, coefficients):
  return functools.reduce(lambda y, coefficient: y * x + coefficient, coefficients)


def normal_quantile(ops: Ops, p: Value) -> Value:
  """Return the quantile of the normal distribution at p in (0, 1/2]."""
  q = p - 0.5
  r = ops.sqrt(-ops.log(p))
  tail = ops.where(r > 5.0, _rational(r - 5.0, _FAR), _rational(r - 1.6, _TAIL))
  return ops.where(q < -0.425, -tail, q * _rational(-(q * q) + 0.180625, _CENTRE))


@functools.singledispatch
def transform(bijector: Any, ops: Ops, x: Value, inverse: bool, size: int) -> tuple[Value, Value]:
  """Return the value of a bijector onto a support, or of its inverse, at `x [N, size]`, and the log-det of each value.

  A bijector that changes the size returns the log-det of the vector, `[N, 1]`. Outside of the support the inverse has
  a finite value, and the log-det is -inf.

  Raises:
    InputError (a ValueError): for a support that graphs do not have.
  """
  parts = getattr(bijector, "bijectors", [])
  has_blocks = hasattr(bijector, "block_sizes")  # as both classes of `tfb.Blockwise`
  if not has_blocks or any(part.forward_min_event_ndims for part in parts):
    raise InputError(f"the support {bijector.name!r} cannot be exported to this format: export it as a SavedModel")
  with tf.init_scope():
    sizes = [*map(int, bijector.block_sizes)]
  columns = zip(parts, ops.split(x, sizes, -1), sizes)
  mapped = [transform(part, ops, column, inverse, count) for part, column, count in columns]
  values, log_dets = map(list, zip(*mapped))
  return ops.concat(values, -1), ops.concat(log_dets, -1)


@transform.register
def _(bijector: Box, ops, x, inverse, size):
  with tf.init_scope():
    bounds = [np.asarray(bound) for bound in bijector._bounds(tf.float32)]
  low, high, first, last = map(ops.constant, bounds)
  width = high - low
  constant = ops.log(width) - 0.5 * math.log(2 * math.pi)
  if inverse:
    is_outside = (x < low) | (x > high)
    x = ops.minimum(ops.maximum(x, first), last)
    below = (x - low) / width
    above = (high - x) / width
    z = normal_quantile(ops, ops.minimum(below, above))
    z = ops.where(below < above, z, -z)
    return z, z * z * 0.5 - constant + _log_inside(ops, is_outside)
  tail = (ops.erf(ops.abs(x) * math.sqrt(0.5)) * -0.5 + 0.5) * width
  y = ops.where(x < 0.0, low + tail, high - tail)
  return ops.minimum(ops.maximum(y, first), last), constant - x * x * 0.5


@transform.register(tfp.bijectors.Exp)
def _(bijector, ops, x, inverse, size):
  if inverse:  # subnormal numbers are 0 to some processors
    z = ops.log(ops.minimum(ops.maximum(x, _SMALLEST), _LARGEST))
    return z, _log_inside(ops, (x < _SMALLEST) | (x > _LARGEST)) - z
  return ops.minimum(ops.maximum(ops.exp(x), _SMALLEST), _LARGEST), x


@transform.register
def _(bijector: Simplex, ops, x, inverse, size):
  count = size - inverse  # of the real numbers
  offset = ops.constant(np.log(np.arange(count, 0, -1)))
  if inverse:
    is_outside = (ops.min(x) < _SMALLEST) | (ops.abs(ops.sum(x) - 1.0) > TOLERANCE)
    y = ops.where(is_outside, ops.constant(1 / size), x)
    log_y = ops.log(y)
    rest = ops.matmul(y, ops.constant(np.tri(size, count, -1)))
    first, _ = ops.split(log_y, [count, 1], -1)
    return first - ops.log(rest) + offset, _log_inside(ops, is_outside) - ops.sum(log_y)
  x = x - offset
  parts = -ops.softplus(x)
  rest = ops.matmul(parts, ops.constant(np.tri(count).T))
  log_y = ops.concat([rest + x, ops.sum(parts)], -1)
  return ops.maximum(ops.exp(log_y), _SMALLEST), ops.sum(log_y)


def _log_inside(ops, is_outside):
  """Return 0, or -inf outside; LiteRT's converter would make a constant -inf finite."""
  return ops.log(1.0 - ops.cast(is_outside, "float32"))


@transform.register(tfp.bijectors.Identity)
def _(bijector, ops, x, inverse, size):
  is_outside = ops.abs(x) > _LARGEST  # as in `OnSupport`
  return ops.where(is_outside, ops.constant(0.0), x), _log_inside(ops, is_outside)


def mixture(members: Sequence[dict[str, Any]], weights: Sequence[float], member: tf.TensorSpec) -> dict[str, Any]:
  """Return the graphs of a mixture from its members' graphs; `sample` takes the number of the member to draw from."""
  log_prob = members[0]["log_prob"]
  sample = members[0]["sample"]

  def mean_log_prob(ops, **inputs):
    log_probs = []
    for graphs, weight in zip(members, weights):
      outputs = graphs["log_prob"].compute(ops, **inputs)
      log_probs.append(outputs["log_prob"] + math.log(weight))
    largest = ops.maximum(functools.reduce(ops.maximum, log_probs), -_LARGEST)  # all may be -inf
    total = functools.reduce(operator.add, [ops.exp(member - largest) for member in log_probs])
    return {"log_prob": ops.log(total) + largest}

  def sample_member(ops, member, **inputs):
    x, *others = [graphs["sample"].compute(ops, **inputs)["x"] for graphs in members]
    number = ops.reshape(ops.cast(member, "float32"), [-1, 1])
    for i, other in enumerate(others):
      x = ops.where(number > i + 0.5, other, x)
    return {"x": x}

  return {
    "log_prob": log_prob._replace(outputs={"log_prob": log_prob.outputs["log_prob"]}, compute=mean_log_prob),
    "sample": sample._replace(inputs={**sample.inputs, "member": member}, compute=sample_member),
  }


def embed(embedding: keras.Model | None, ops: Ops, x: Value) -> Value:
  """Return the context that a network makes, if any; raise an `InputError` for a layer that graphs do not have."""
  if embedding is None:
    return x
  layers = embedding.layers if isinstance(embedding, keras.Sequential) else [embedding]
  for layer in layers:
    if isinstance(layer, keras.layers.Dense) and len(layer.input.shape) == 2:
      with tf.init_scope():
        kernel, *bias = layer.get_weights()
      x = ops.product(x, kernel, *(bias or [np.zeros(layer.units)]))
      name = keras.activations.serialize(layer.activation)
      if name not in _ACTIVATIONS:
        raise InputError(f"the activation {name!r} of `embedding` cannot be exported: export it as a SavedModel")
      if name != "linear":
        x = getattr(ops, name)(x)
    elif isinstance(layer, keras.layers.Flatten):
      x = ops.reshape(x, [-1, math.prod(layer.input.shape[1:])])
    else:
      kind = type(layer).__name__
      raise InputError(f"the layer {kind} of `embedding` cannot be exported to this format: export it as a SavedModel")
  return x


def saved_module(flow: tfp.distributions.Distribution) -> tf.Module:
  """Return a flow of vectors for a SavedModel: `log_prob(x, context)`, and `sample(n, seed, context)` per context."""
  number_spec = tf.TensorSpec([], tf.int32)
  x_spec = tf.TensorSpec([None, *flow.event_shape], flow.dtype)
  context_shapes = [flow.context_shape] if getattr(flow, "context_size", 0) else []
  context_specs = [tf.TensorSpec([None, *shape], flow.dtype) for shape in context_shapes]

  def given(context):
    return flow.given(*context) if context else flow

  def sample(n, seed, *context):
    return given(context).sample(n, seed=[seed, 0])

  module = tf.Module()
  module.weights = flow.variables
  module.log_prob = tf.function(lambda x, *context: given(context).log_prob(x), [x_spec, *context_specs])
  module.sample = tf.function(sample, [number_spec, number_spec, *context_specs])
  return module
