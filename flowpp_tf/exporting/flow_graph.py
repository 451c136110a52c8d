"""The bijectors of a flow in an inference graph, in both directions.

1x1 convolutions become matrices; their inverses and log-dets are constants, computed in float64. Each value has its
part of the log-det, as in `bijectors.by_element`.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from flowpp_tf import bijectors as fb
from flowpp_tf.bijectors.base import evaluate
from flowpp_tf.bijectors.mixture_logistic_cdf import SMALLEST_LOG_SCALE
from flowpp_tf.bijectors.normalization import SMALLEST_SCALE
from flowpp_tf.bijectors.squeeze import Rearrangement
from flowpp_tf.core.errors import InputError
from flowpp_tf.exporting import mixture_graph, posterior_graph
from flowpp_tf.exporting.network_graph import apply_network, array_of
from flowpp_tf.exporting.ops import Ops, Value
from flowpp_tf.posterior.support import OnSupport
from flowpp_tf.types import Shape

_SMALLEST = float(np.finfo(np.float32).tiny)
BELOW_ONE = 1 - float(np.finfo(np.float32).epsneg)


class Tensor(NamedTuple):
  """A tensor of the graph, and what its values have collected on the way.

  Attributes:
    value: `[N, *shape]`.
    log_dets: of each value, `[N, *shape]`.
    places: which value of the first tensor each value comes from, integers of the shape.
  """

  value: Value
  log_dets: Value
  places: np.ndarray

  @classmethod
  def first(cls, ops: Ops, value: Value, shape: Shape) -> Tensor:
    """Return a tensor whose values have collected nothing."""
    return cls(value, _zeros(ops, value), np.arange(math.prod(shape)).reshape(shape))

  @property
  def shape(self) -> Shape:
    return self.places.shape

  def mapped(self, value: Value, log_dets: Value | float) -> Tensor:
    """Return a bijector's output; the bijector's log-dets are added to those so far."""
    return self._replace(value=value, log_dets=self.log_dets + log_dets)

  def rearranged(self, ops: Ops, order: np.ndarray) -> Tensor:
    """Return the tensor with its values in another order, in the shape of `order`."""
    places = self.places.reshape(-1)[order]
    return Tensor(_taken(ops, self.value, order), _taken(ops, self.log_dets, order), places)

  def moved_back(self, ops: Ops, y: Value, shape: Shape) -> Value:
    """Return a value of this shape with each element where it came from; `shape` is the first tensor's."""
    return _taken(ops, y, np.argsort(self.places.reshape(-1)).reshape(shape))


def _taken(ops, x, order):
  rows = ops.reshape(x, [-1, order.size])
  taken = ops.gather(rows, ops.constant(order.reshape(-1), "int32"), axis=1)
  return ops.reshape(taken, [-1, *order.shape])


def normal_log_probs(x: Value) -> Value:
  """Return the log density of the standard normal distribution at each value."""
  return x * x * -0.5 - 0.5 * math.log(2 * math.pi)


def reduce_events(ops: Ops, reduction: Callable[[Value], Value], x: Value, shape: Shape) -> Value:
  """Reduce all values of each event, which has a shape, to one: `[N]`."""
  rows = ops.reshape(x, [-1, math.prod(shape)])
  return ops.reshape(reduction(rows), [-1])


@functools.singledispatch
def transform(bijector: Any, ops: Ops, x: Tensor, inverse: bool, context: Value | None) -> Tensor:
  """Apply a bijector, or its inverse.

  Raises:
    InputError (a ValueError): if inference graphs do not have the bijector, or a part of it.
  """
  raise InputError(f"the bijector {type(bijector).__name__} {getattr(bijector, 'name', '')!r} cannot be exported")


@transform.register
def _(bijector: fb.Chain, ops, x, inverse, context):
  bijectors = bijector.bijectors if inverse else reversed(bijector.bijectors)
  for part in bijectors:
    x = transform(part, ops, x, inverse, context)
  return x


@transform.register
def _(bijector: fb.Conditioned, ops, x, inverse, context):  # a `Chain`, whose context would be left out
  raise InputError("a flow that is `given` a context cannot be exported: export the one without, which takes it")


@transform.register
def _(bijector: fb.ContextTransform, ops, x, inverse, context):
  size = array_of(bijector.transform.mean).size
  transformed = transform(bijector.transform, ops, Tensor.first(ops, context, (size,)), False, None)
  return transform(bijector.bijector, ops, x, inverse, transformed.value)


@transform.register
def _(bijector: fb.Invert, ops, x, inverse, context):
  return transform(bijector.bijector, ops, x, not inverse, context)


@transform.register
def _(bijector: OnSupport, ops, x, inverse, context):
  value, log_dets = posterior_graph.transform(bijector.bijector, ops, x.value, inverse, x.places.size)
  event_shape = bijector.inverse_event_shape if inverse else bijector.forward_event_shape
  (size,) = event_shape([x.places.size])
  if size == x.places.size:
    return x.mapped(value, log_dets)
  mean = (ops.sum(x.log_dets) + log_dets) * (1 / size)  # the new values share the log-det
  return Tensor.first(ops, value, (size,)).mapped(value, mean)


@transform.register
def _(bijector: fb.ActNorm, ops, x, inverse, context):
  scale = np.maximum(array_of(bijector.scale), SMALLEST_SCALE)
  return _affine(ops, x, scale, array_of(bijector.bias), inverse)


@transform.register
def _(bijector: fb.Standardization, ops, x, inverse, context):
  return _affine(ops, x, array_of(bijector.stddev), array_of(bijector.mean), not inverse)


def _affine(ops, x, scale, shift, inverse):
  log_dets = np.log(np.broadcast_to(scale, (1, *x.shape)))
  scale = ops.constant(scale)
  shift = ops.constant(shift)
  if inverse:
    return x.mapped((x.value - shift) / scale, ops.constant(-log_dets))
  return x.mapped(x.value * scale + shift, ops.constant(log_dets))


@transform.register(fb.Invertible1x1Conv)
@transform.register(fb.Invertible1x1ConvLU)
def _(bijector, ops, x, inverse, context):
  with tf.init_scope():
    if inverse:
      kernel, log_det = bijector._inverse_kernel_and_log_det()
      log_det = -log_det
    else:
      kernel, log_det = bijector._kernel_and_log_det()
  channels = x.shape[-1]
  size = kernel.shape[-1]
  blocks = np.arange(channels // size)
  matrix = np.zeros([len(blocks), size, len(blocks), size])  # block-diagonal
  matrix[blocks, :, blocks] = array_of(kernel)
  y = ops.matmul(x.value, ops.constant(matrix.reshape(channels, channels)))
  return x.mapped(y, float(log_det) / channels)


@transform.register
def _(bijector: Rearrangement, ops, x, inverse, context):
  with tf.init_scope():
    numbers = tf.range(x.places.size, dtype=tf.float64)
    order, _ = evaluate(bijector, tf.reshape(numbers, [1, *x.shape]), inverse)
  return x.rearranged(ops, order.numpy()[0].astype(int))


@transform.register
def _(bijector: fb.PixelsToLogit, ops, x, inverse, context):
  alpha = bijector.alpha
  levels = bijector.levels
  if inverse:  # only for samples, which do not need the log-det
    y = ops.sigmoid(x.value) - alpha
    return x.mapped(y * (levels / (1 - 2 * alpha)), math.nan)
  slope = (1 - 2 * alpha) / levels
  complement = levels - x.value
  log_p = ops.log(x.value * slope + alpha)
  log_q = ops.log(complement * slope + alpha)
  return x.mapped(log_p - log_q, math.log(slope) - log_p - log_q)


@transform.register
def _(bijector: fb.Sigmoid, ops, x, inverse, context):
  if inverse:
    raise InputError("the inverse of the bijector Sigmoid cannot be exported")
  y = ops.maximum(ops.sigmoid(x.value), _SMALLEST)
  y = ops.minimum(y, BELOW_ONE)
  return x.mapped(y, -ops.softplus(x.value) - ops.softplus(-x.value))


@transform.register
def _(bijector: fb.Coupling, ops, x, inverse, context):
  kept = x.shape[-1] // 2 if bijector.kept is None else bijector.kept
  sizes = [kept, x.shape[-1] - kept]
  event = (*x.shape[:-1], sizes[1])
  if kept:
    x1, x2 = ops.split(x.value, sizes, -1)
  else:  # runtimes have no empty tensors
    x1 = _zeros(ops, ops.sum(x.value))
    x2 = x.value
  parameters = apply_network(bijector.conditioner, ops, x1, context)
  components, offsets = _components_and_offsets(bijector)
  parameters = ops.reshape(parameters, [-1, 2 + 3 * components])
  if any(offsets):
    parameters = parameters + ops.constant(offsets)
  x2 = ops.reshape(x2, [-1, 1])
  y2, log_det = _mapped(ops, x2, parameters, components, inverse)
  y2 = ops.reshape(y2, [-1, *event])
  log_det = ops.reshape(log_det, [-1, *event])
  if not kept:
    return x.mapped(y2, log_det)
  y = ops.concat([x1, y2], -1)
  return x.mapped(y, ops.concat([_zeros(ops, x1), log_det], -1))


def _components_and_offsets(coupling):
  """Return how many components the map of a coupling has, 0 if it is affine, and what it adds to the parameters."""
  bijector_fn = coupling.bijector_fn
  if bijector_fn is fb.affine_coupling_bijector:
    return 0, ()
  if isinstance(bijector_fn, fb.CouplingMap) and not bijector_fn.margin:
    if bijector_fn.coupling == "affine":
      return 0, bijector_fn.offsets
    if bijector_fn.coupling == "mixture_logistic":
      return bijector_fn.components, bijector_fn.offsets
  raise InputError(f"the map of the coupling {coupling.name!r} cannot be exported: mixture_logistic and affine can")


def _mapped(ops, x, parameters, components, inverse):
  """Return equation 11, or its inverse, of `x [N, 1]`, and the log-det of each value, for `parameters [N, size]`."""
  sizes = [1, 1, *[components] * 3] if components else [1, 1]
  log_scale, shift, *mixture = ops.split(parameters, sizes, -1)
  log_scale = ops.tanh(log_scale)
  if mixture:
    mixture[2] = ops.maximum(mixture[2], SMALLEST_LOG_SCALE)
  if inverse:
    x = (x - shift) * ops.exp(-log_scale)
    if mixture:
      x = mixture_graph.logit_quantile(ops, x, *mixture)
  y = x
  log_det = log_scale
  if mixture:
    y, log_slope = mixture_graph.logit_cdf(ops, x, *mixture)
    log_det = log_det + log_slope
  if inverse:
    return x, -log_det
  return y * ops.exp(log_scale) + shift, log_det


def _zeros(ops, x):
  """Return zeros like x, even where it is infinite."""
  return ops.minimum(ops.abs(x), 0.0)
