"""The bijectors of a flow in an inference graph, in both directions.

1x1 convolutions become matrices, their inverses and log-dets constants, in float64. Each value has its part of the
log-det, as in `bijectors.by_element`.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf import bijectors as fb
from flowpp_tf.bijectors.base import evaluate
from flowpp_tf.bijectors.mixture_logistic_cdf import SMALLEST_LOG_SCALE
from flowpp_tf.bijectors.normalization import SMALLEST_SCALE
from flowpp_tf.bijectors.squeeze import Rearrangement
from flowpp_tf.core.errors import InputError
from flowpp_tf.exporting import mixture_graph
from flowpp_tf.exporting.network_graph import apply_network, array_of, num_outputs
from flowpp_tf.exporting.ops import Ops, Value
from flowpp_tf.types import Shape

_SMALLEST = float(np.finfo(np.float32).tiny)
_BELOW_ONE = 1 - float(np.finfo(np.float32).epsneg)


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
    """Return what a bijector makes of this, of which the log-dets are the bijector's."""
    return self._replace(value=value, log_dets=self.log_dets + log_dets)

  def rearranged(self, ops: Ops, order: np.ndarray) -> Tensor:
    """Return this with its values in another order, whose shape is the new one."""
    return Tensor(_taken(ops, self.value, order), _taken(ops, self.log_dets, order), self.places.reshape(-1)[order])

  def moved_back(self, ops: Ops, y: Value, shape: Shape) -> Value:
    """Return a tensor like this one with each value where it came from; `shape` is that of the first tensor."""
    return _taken(ops, y, np.argsort(self.places.reshape(-1)).reshape(shape))


def _taken(ops, x, order):
  rows = ops.reshape(x, [-1, order.size])
  taken = ops.take(rows, ops.constant(order.reshape(-1), "int32"), axis=1)
  return ops.reshape(taken, [-1, *order.shape])


def normal_log_probs(x: Value) -> Value:
  """Return the log density of the standard normal distribution at each value."""
  return x * x * -0.5 - 0.5 * math.log(2 * math.pi)


def sum_of_event(ops: Ops, x: Value, shape: Shape) -> Value:
  """Return the sum over an event of a shape, `[N]`."""
  rows = ops.reshape(x, [-1, math.prod(shape)])
  return ops.reshape(ops.sum(rows, -1), [-1])


@functools.singledispatch
def transform(bijector: Any, ops: Ops, x: Tensor, inverse: bool, context: Value | None) -> Tensor:
  """Apply a bijector, or its inverse.

  Raises:
    InputError (a ValueError): if inference graphs do not have the bijector, or a part of it.
  """
  raise InputError(f"the bijector {type(bijector).__name__} {getattr(bijector, 'name', '')!r} cannot be exported")


@transform.register
def _(bijector: fb.Chain, ops, x, inverse, context):
  for part in bijector.bijectors if inverse else reversed(bijector.bijectors):
    x = transform(part, ops, x, inverse, context)
  return x


@transform.register
def _(bijector: fb.Conditioned, ops, x, inverse, context):
  raise InputError(
    "a flow that is `given` a context cannot be exported: export the one without, whose functions take it"
  )


@transform.register
def _(bijector: fb.ContextTransform, ops, x, inverse, context):
  if context is not None:
    size = array_of(bijector.transform.mean).size
    transformed = transform(bijector.transform, ops, Tensor.first(ops, context, (size,)), False, None)
    context = transformed.value
  return transform(bijector.bijector, ops, x, inverse, context)


@transform.register
def _(bijector: fb.Invert, ops, x, inverse, context):
  return transform(bijector.bijector, ops, x, not inverse, context)


@transform.register
def _(bijector: tfp.bijectors.Identity, ops, x, inverse, context):
  return x


@transform.register
def _(bijector: tfp.bijectors.Blockwise, ops, x, inverse, context):
  with tf.init_scope():
    sizes = [int(size) for size in bijector.block_sizes]
  places = np.split(x.places, np.cumsum(sizes)[:-1], axis=-1)
  blocks = map(Tensor, ops.split(x.value, sizes), ops.split(x.log_dets, sizes), places)
  done = [transform(part, ops, block, inverse, context) for part, block in zip(bijector.bijectors, blocks)]
  values, log_dets, moved = zip(*done)
  return Tensor(ops.concat(values), ops.concat(log_dets), np.concatenate(moved, axis=-1))


@transform.register
def _(bijector: fb.ActNorm, ops, x, inverse, context):
  scale, bias = np.maximum(array_of(bijector.scale), SMALLEST_SCALE), array_of(bijector.bias)
  return _affine(ops, x, scale, bias, inverse)


@transform.register
def _(bijector: fb.Standardization, ops, x, inverse, context):
  return _affine(ops, x, array_of(bijector.stddev), array_of(bijector.mean), not inverse)


def _affine(ops, x, scale, shift, inverse):
  log_dets = np.log(np.broadcast_to(scale, (1, *x.shape)))
  scale, shift = ops.constant(scale), ops.constant(shift)
  if inverse:
    return x.mapped((x.value - shift) / scale, ops.constant(-log_dets))
  return x.mapped(x.value * scale + shift, ops.constant(log_dets))


@transform.register(fb.Invertible1x1Conv)
@transform.register(fb.Invertible1x1ConvLU)
def _(bijector, ops, x, inverse, context):
  with tf.init_scope():
    if inverse:
      kernel, log_det = bijector._inverse_kernel_and_log_det()
    else:
      kernel, log_det = bijector._kernel_and_log_det()
  kernel = array_of(kernel)
  size = kernel.shape[-1]
  blocks = kernel.reshape(-1, size, size)
  matrix = np.zeros([len(blocks) * size] * 2)  # block-diagonal
  for i, block in enumerate(blocks):
    place = slice(i * size, (i + 1) * size)
    matrix[place, place] = block
  log_det = float(log_det) / x.shape[-1]  # of each value
  y = ops.matmul(x.value, ops.constant(matrix))
  return x.mapped(y, -log_det if inverse else log_det)


@transform.register
def _(bijector: Rearrangement, ops, x, inverse, context):
  with tf.init_scope():
    numbers = tf.reshape(tf.range(x.places.size, dtype=tf.float64), [1, *x.shape])
    order, _ = evaluate(bijector, numbers, inverse)
  return x.rearranged(ops, order.numpy()[0].astype(int))


@transform.register
def _(bijector: fb.PixelsToLogit, ops, x, inverse, context):
  alpha, levels = bijector.alpha, bijector.levels
  if inverse:  # only samples are made so: their log-det is not used
    return x.mapped((ops.sigmoid(x.value) - alpha) * (levels / (1 - 2 * alpha)), math.nan)
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
  y = ops.minimum(y, _BELOW_ONE)
  return x.mapped(y, -ops.softplus(x.value) - ops.softplus(-x.value))


@transform.register
def _(bijector: fb.Coupling, ops, x, inverse, context):
  kept = bijector.kept or x.shape[-1] // 2
  sizes = [kept, x.shape[-1] - kept]
  event = (*x.shape[:-1], sizes[1])
  x1, x2 = ops.split(x.value, sizes)
  elementwise = _Elementwise.from_coupling(bijector, sizes[1])
  parameters = apply_network(bijector.conditioner, ops, x1, context)
  parameters = ops.reshape(parameters, [-1, len(elementwise.start)])
  y2, log_det = elementwise.apply(ops, ops.reshape(x2, [-1, 1]), parameters, inverse)
  y = ops.concat([x1, ops.reshape(y2, [-1, *event])])
  log_dets = ops.concat([_zeros(ops, x1), ops.reshape(log_det, [-1, *event])])
  return x.mapped(y, log_dets)


class _Elementwise(NamedTuple):
  """The elementwise map of a coupling: affine, of the mixture's logit or not, with a margin or not.

  Attributes:
    start: what is added to a value's parameters.
    components: of the mixture; 0 for an affine map.
    margin: of the logit; 0 for none.
  """

  start: np.ndarray
  components: int
  margin: float

  @classmethod
  def from_coupling(cls, coupling, size):
    """Find the map in the bijector that a coupling makes of zeros, in the first row, and of random parameters, in the
    second, which show that it reads them in the order of equation 11, with `start` added."""
    count = num_outputs(coupling.conditioner) // size
    parameters = np.random.RandomState(0).randn(2, size, count)
    parameters[0] = 0
    with tf.init_scope():
      bijector = coupling.bijector_fn(tf.constant(parameters.reshape(2, -1), coupling.dtype))
    parts = [*bijector.bijectors] if isinstance(bijector, fb.Chain) else [bijector]
    margin = 0.0
    if len(parts) == 3 and isinstance(parts[1], fb.LogitMargin):
      margin = parts.pop(1).margin
    if [*map(type, parts)] in ([fb.BoundedAffine], [fb.BoundedAffine, fb.LogitMixtureLogisticCDF]):
      affine, *mixtures = parts
      values = [array_of(affine.scale_logit)[..., np.newaxis], array_of(affine.shift)[..., np.newaxis]]
      for mixture in mixtures:
        values += map(array_of, (mixture.logits, mixture.loc, mixture.log_scale))
      found = np.concatenate(values, axis=-1)
      start = found[0, 0]
      if found.shape == parameters.shape and np.allclose(found - parameters, start, atol=1e-5):
        return cls(start, (count - 2) // 3, margin)
    raise InputError(f"the map of the coupling {coupling.name!r} cannot be exported: mixture_logistic and affine can")

  def apply(self, ops, x, parameters, inverse):
    """Return the map, or its inverse, of `x [N, 1]`, and the log-det of each value, for `parameters [N, size]`."""
    if np.any(self.start):
      parameters = parameters + ops.constant(self.start)
    k = self.components
    log_scale, shift, *mixture = ops.split(parameters, [1, 1, k, k, k] if k else [1, 1])
    log_scale = ops.tanh(log_scale)
    if k:
      mixture[2] = ops.maximum(mixture[2], SMALLEST_LOG_SCALE)
    if not inverse:
      return self._forward(ops, x, log_scale, shift, mixture)
    y = (x - shift) * ops.exp(-log_scale)
    if self.margin:
      y = mixture_graph.margin_inverse(ops, y, self.margin)
    if k:
      y = mixture_graph.logit_quantile(ops, y, *mixture)
    _, log_det = self._forward(ops, y, log_scale, shift, mixture)
    return y, -log_det

  def _forward(self, ops, x, log_scale, shift, mixture):
    log_det = log_scale
    if mixture:
      x, log_slope = mixture_graph.logit_cdf(ops, x, *mixture)
      log_det = log_det + log_slope
    if self.margin:
      x, log_slope = mixture_graph.margin_forward(ops, x, self.margin)
      log_det = log_det + log_slope
    return x * ops.exp(log_scale) + shift, log_det


def _zeros(ops, x):
  """Zeros like x, even where it is infinite."""
  return ops.minimum(ops.abs(x), 0.0)
