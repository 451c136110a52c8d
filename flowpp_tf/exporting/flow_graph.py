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


def transform(ops: Ops, bijector: Any, x: Tensor, inverse: bool = False, context: Value | None = None) -> Tensor:
  """Apply a bijector, or its inverse.

  Raises:
    InputError (a ValueError): if inference graphs do not have the bijector, or a part of it.
  """
  return _transform(bijector, ops, x, inverse, context)


def normal_log_probs(x: Value) -> Value:
  """Return the log density of the standard normal distribution at each value."""
  return x * x * -0.5 - 0.5 * math.log(2 * math.pi)


def sum_of_event(ops: Ops, x: Value, shape: Shape) -> Value:
  """Return the sum over an event of a shape, `[N]`."""
  rows = ops.reshape(x, [-1, math.prod(shape)])
  return ops.reshape(ops.sum(rows, -1), [-1])


@functools.singledispatch
def _transform(bijector: Any, ops: Ops, x: Tensor, inverse: bool, context: Value | None) -> Tensor:
  raise InputError(f"the bijector {type(bijector).__name__} {getattr(bijector, 'name', '')!r} cannot be exported")


@_transform.register
def _(bijector: fb.Chain, ops, x, inverse, context):
  for part in bijector.bijectors if inverse else reversed(bijector.bijectors):
    x = _transform(part, ops, x, inverse, context)
  return x


@_transform.register
def _(bijector: fb.Conditioned, ops, x, inverse, context):
  raise InputError(
    "a flow that is `given` a context cannot be exported: export the one without, whose functions take it"
  )


@_transform.register
def _(bijector: fb.ContextTransform, ops, x, inverse, context):
  if context is not None:
    size = array_of(bijector.transform.mean).size
    transformed = _transform(bijector.transform, ops, Tensor.first(ops, context, (size,)), False, None)
    context = transformed.value
  return _transform(bijector.bijector, ops, x, inverse, context)


@_transform.register
def _(bijector: fb.Invert, ops, x, inverse, context):
  return _transform(bijector.bijector, ops, x, not inverse, context)


@_transform.register
def _(bijector: tfp.bijectors.Identity, ops, x, inverse, context):
  return x


@_transform.register
def _(bijector: tfp.bijectors.Blockwise, ops, x, inverse, context):
  with tf.init_scope():
    sizes = [int(size) for size in bijector.block_sizes]
  places = np.split(x.places, np.cumsum(sizes)[:-1], axis=-1)
  blocks = map(Tensor, ops.split(x.value, sizes), ops.split(x.log_dets, sizes), places)
  done = [_transform(part, ops, block, inverse, context) for part, block in zip(bijector.bijectors, blocks)]
  values, log_dets, moved = zip(*done)
  return Tensor(ops.concat(values), ops.concat(log_dets), np.concatenate(moved, axis=-1))


@_transform.register
def _(bijector: fb.ActNorm, ops, x, inverse, context):
  scale, bias = np.maximum(array_of(bijector.scale), SMALLEST_SCALE), array_of(bijector.bias)
  return _affine(ops, x, scale, bias, inverse)


@_transform.register
def _(bijector: fb.Standardization, ops, x, inverse, context):
  return _affine(ops, x, array_of(bijector.stddev), array_of(bijector.mean), not inverse)


def _affine(ops, x, scale, shift, inverse):
  log_dets = np.log(np.broadcast_to(scale, (1, *x.shape)))
  scale, shift = ops.constant(scale), ops.constant(shift)
  if inverse:
    return x.mapped((x.value - shift) / scale, ops.constant(-log_dets))
  return x.mapped(x.value * scale + shift, ops.constant(log_dets))


@_transform.register(fb.Invertible1x1Conv)
@_transform.register(fb.Invertible1x1ConvLU)
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


@_transform.register
def _(bijector: Rearrangement, ops, x, inverse, context):
  with tf.init_scope():
    numbers = tf.reshape(tf.range(x.places.size, dtype=tf.float64), [1, *x.shape])
    order, _ = evaluate(bijector, numbers, inverse)
  return x.rearranged(ops, order.numpy()[0].astype(int))


@_transform.register
def _(bijector: fb.PixelsToLogit, ops, x, inverse, context):
  alpha, levels = bijector.alpha, bijector.levels
  if inverse:  # only samples are made so: their log-det is not used
    return x.mapped((ops.sigmoid(x.value) - alpha) * (levels / (1 - 2 * alpha)), math.nan)
  slope = (1 - 2 * alpha) / levels
  complement = levels - x.value
  log_p = ops.log(x.value * slope + alpha)
  log_q = ops.log(complement * slope + alpha)
  return x.mapped(log_p - log_q, math.log(slope) - log_p - log_q)


@_transform.register
def _(bijector: fb.Sigmoid, ops, x, inverse, context):
  if inverse:
    raise InputError("the inverse of the bijector Sigmoid cannot be exported")
  y = ops.maximum(ops.sigmoid(x.value), _SMALLEST)
  y = ops.minimum(y, _BELOW_ONE)
  return x.mapped(y, -ops.softplus(x.value) - ops.softplus(-x.value))


@_transform.register
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
    """Find the map in the bijectors that a coupling makes of zeros, and of random parameters to check how it reads
    them: in the order of equation 11, with `start` added."""
    count = num_outputs(coupling.conditioner) // size
    zeros = np.zeros([1, size, count])
    random = np.random.RandomState(0).randn(1, size, count)
    results = []
    for parameters in (zeros, random):
      with tf.init_scope():
        row = tf.constant(parameters.reshape(1, -1), coupling.dtype)
        bijector = coupling.bijector_fn(row)
        results.append(_read(bijector, parameters.shape))
    if None not in results:
      (start, margin), (of_random, _) = results
      if np.all(start == start[0, 0]) and np.allclose(of_random - random, start, atol=1e-5):
        return cls(start[0, 0], (count - 2) // 3, margin)
    raise InputError(f"the map of the coupling {coupling.name!r} cannot be exported: mixture_logistic and affine can")

  def apply(self, ops, x, parameters, inverse):
    """Return the map, or its inverse, of `x [N, 1]`, and the log-det of each value, for `parameters [N, size]`."""
    if np.any(self.start):
      parameters = parameters + ops.constant(self.start)
    k = self.components
    sizes = [1, 1, k, k, k] if k else [1, 1]
    scale_logit, shift, *mixture = ops.split(parameters, sizes)
    log_scale = ops.tanh(scale_logit)
    if k:
      mixture[2] = ops.maximum(mixture[2], SMALLEST_LOG_SCALE)
    if not inverse:
      if not k:
        return x * ops.exp(log_scale) + shift, log_scale
      y, log_det = mixture_graph.logit_cdf(ops, x, *mixture)
      if self.margin:
        y, log_det_of_margin = mixture_graph.margin_forward(ops, y, self.margin)
        log_det = log_det + log_det_of_margin
      return y * ops.exp(log_scale) + shift, log_det + log_scale
    y = (x - shift) * ops.exp(-log_scale)
    if not k:
      return y, -log_scale
    log_det = -log_scale
    if self.margin:
      y = mixture_graph.margin_inverse(ops, y, self.margin)
      _, log_det_of_margin = mixture_graph.margin_forward(ops, y, self.margin)
      log_det = log_det - log_det_of_margin
    x = mixture_graph.logit_quantile(ops, y, *mixture)
    _, log_det_of_mixture = mixture_graph.logit_cdf(ops, x, *mixture)
    return x, log_det - log_det_of_mixture


def _read(bijector, shape):
  """Return the parameters that an elementwise bijector has, and its margin; None if it is none of those here."""
  parts = list(bijector.bijectors) if isinstance(bijector, fb.Chain) else [bijector]
  margin = 0.0
  if len(parts) == 3 and isinstance(parts[1], fb.LogitMargin):
    margin = parts.pop(1).margin
  types = [type(part) for part in parts]
  if types not in ([fb.BoundedAffine], [fb.BoundedAffine, fb.LogitMixtureLogisticCDF]):
    return None
  affine, *mixture = parts
  scale_logit, shift = array_of(affine.scale_logit), array_of(affine.shift)
  values = [scale_logit[..., np.newaxis], shift[..., np.newaxis]]
  for part in mixture:
    values += map(array_of, (part.logits, part.loc, part.log_scale))
  found = np.concatenate(values, axis=-1)
  return None if found.shape != shape else (found, margin)


def _zeros(ops, x):
  """Zeros like x, even where it is infinite."""
  return ops.minimum(ops.abs(x), 0.0)
