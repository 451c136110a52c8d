"""The bijectors of a flow in an inference graph, in both directions.

1x1 convolutions become matrices, their inverses and log-dets constants, in float64. A log-det is a tensor `[N, 1]`, or
a number where it is the same for all values.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools
import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf import bijectors as fb
from flowpp_tf.bijectors.act_norm import SMALLEST_SCALE
from flowpp_tf.bijectors.coupling import SMALLEST_LOG_SCALE
from flowpp_tf.core.errors import InputError
from flowpp_tf.exporting import mixture_graph
from flowpp_tf.exporting.network_graph import apply_network, array_of, num_outputs
from flowpp_tf.exporting.ops import Ops, Value

_SMALLEST, _BELOW_ONE = float(np.finfo(np.float32).tiny), 1 - float(np.finfo(np.float32).epsneg)


class Tensor(NamedTuple):
  """A tensor of the graph, whose event, without the batch, has this shape; and the log-det so far."""

  value: Value
  shape: tuple[int, ...]
  log_det: Any = 0.0

  def moved(self, value: Value, shape: Sequence[int], log_det: Any = 0.0) -> Tensor:
    """Return what a bijector makes of this, of which `log_det` is the bijector's."""
    return Tensor(value, tuple(shape), _add(self.log_det, log_det))


def transform(ops: Ops, bijector: Any, x: Tensor, inverse: bool = False, context: Value | None = None) -> Tensor:
  """Apply a bijector, or its inverse.

  Raises:
    InputError (a ValueError): if inference graphs do not have the bijector, or a part of it.
  """
  return _transform(bijector, ops, x, inverse, context)


def normal_log_prob(ops: Ops, x: Tensor) -> Value:
  """Return the log density of the standard normal distribution, `[N, 1]`."""
  squares = _sum_of_event(ops, x.value * x.value, x.shape)
  return squares * -0.5 - math.prod(x.shape) * 0.5 * math.log(2 * math.pi)


@functools.singledispatch
def _transform(bijector: Any, ops: Ops, x: Tensor, inverse: bool, context: Value | None) -> Tensor:
  raise InputError(f"the bijector {type(bijector).__name__} {getattr(bijector, 'name', '')!r} cannot be exported")


@_transform.register
def _(bijector: fb.Chain, ops, x, inverse, context):
  for part in bijector.bijectors if inverse else reversed(bijector.bijectors):
    x = _transform(part, ops, x, inverse, context)
  return x


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
  parts = ops.split(x.value, sizes)
  parts = [
    _transform(part, ops, Tensor(value, (*x.shape[:-1], size)), inverse, context)
    for part, value, size in zip(bijector.bijectors, parts, sizes)
  ]
  log_det = functools.reduce(_add, (part.log_det for part in parts))
  return x.moved(ops.concat([part.value for part in parts]), x.shape, log_det)


@_transform.register
def _(bijector: fb.ActNorm, ops, x, inverse, context):
  scale, bias = np.maximum(array_of(bijector.scale), SMALLEST_SCALE), array_of(bijector.bias)
  log_det = float(np.sum(np.log(np.broadcast_to(scale, x.shape))))
  if inverse:
    return x.moved((x.value - ops.constant(bias)) / ops.constant(scale), x.shape, -log_det)
  return x.moved(x.value * ops.constant(scale) + ops.constant(bias), x.shape, log_det)


@_transform.register(fb.Invertible1x1Conv)
@_transform.register(fb.Invertible1x1ConvLU)
def _(bijector, ops, x, inverse, context):
  with tf.init_scope():
    kernel, log_det = (bijector._inverse_kernel_and_log_det if inverse else bijector._kernel_and_log_det)()
  kernel = array_of(kernel)
  size = kernel.shape[-1]
  kernel = kernel.reshape(-1, size, size)
  matrix = np.zeros([len(kernel) * size] * 2)
  for i, block in enumerate(kernel):
    matrix[i * size : (i + 1) * size, i * size : (i + 1) * size] = block
  log_det = math.prod(x.shape[:-1]) * float(log_det)
  return x.moved(ops.matmul(x.value, ops.constant(matrix)), x.shape, -log_det if inverse else log_det)


@_transform.register
def _(bijector: fb.SwapHalves, ops, x, inverse, context):
  return x.moved(ops.concat(ops.split(x.value, [x.shape[-1] // 2] * 2)[::-1]), x.shape)


@_transform.register
def _(bijector: fb.ColumnsToChannels, ops, x, inverse, context):
  height, width, channels = x.shape
  shape = (height, 2 * width, channels // 2) if inverse else (height, width // 2, 2 * channels)
  return x.moved(ops.reshape(x.value, [-1, *shape]), shape)


@_transform.register
def _(bijector: fb.Squeeze, ops, x, inverse, context):
  (height, width, channels), size = x.shape, bijector.block_size
  if inverse:
    shape = height * size, width * size, channels // size**2
    blocks = ops.reshape(x.value, [-1, height, width, size, size, shape[2]])
  else:
    shape = height // size, width // size, channels * size**2
    blocks = ops.reshape(x.value, [-1, shape[0], size, shape[1], size, channels])
  return x.moved(ops.reshape(ops.transpose(blocks, [0, 1, 3, 2, 4, 5]), [-1, *shape]), shape)


@_transform.register
def _(bijector: fb.PixelsToLogit, ops, x, inverse, context):
  alpha, levels = bijector.alpha, bijector.levels
  if inverse:  # only samples are made so: their log-det is not used
    return x.moved((ops.sigmoid(x.value) - alpha) * (levels / (1 - 2 * alpha)), x.shape, math.nan)
  slope = (1 - 2 * alpha) / levels
  log_p, log_q = (ops.log(d * slope + alpha) for d in (x.value, levels - x.value))
  log_det = _sum_of_event(ops, math.log(slope) - log_p - log_q, x.shape)
  return x.moved(log_p - log_q, x.shape, log_det)


@_transform.register
def _(bijector: fb.Sigmoid, ops, x, inverse, context):
  if inverse:
    raise InputError("the inverse of the bijector Sigmoid cannot be exported")
  y = ops.minimum(ops.maximum(ops.sigmoid(x.value), _SMALLEST), _BELOW_ONE)
  return x.moved(y, x.shape, _sum_of_event(ops, -ops.softplus(x.value) - ops.softplus(-x.value), x.shape))


@_transform.register
def _(bijector: fb.Coupling, ops, x, inverse, context):
  kept = bijector.kept or x.shape[-1] // 2
  sizes = [kept, x.shape[-1] - kept]
  event = (*x.shape[:-1], sizes[1])
  x1, x2 = ops.split(x.value, sizes)
  elementwise = _Elementwise.of(bijector, sizes[1])
  parameters = apply_network(bijector.conditioner, ops, x1, context)
  parameters = ops.reshape(parameters, [-1, len(elementwise.start)])
  y2, log_det = elementwise.apply(ops, ops.reshape(x2, [-1, 1]), parameters, inverse)
  y = ops.concat([x1, ops.reshape(y2, [-1, *event])])
  return x.moved(y, x.shape, _sum_of_event(ops, log_det, event))


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
  def of(cls, coupling, size):
    """Find the map in the bijectors that a coupling makes of zeros, and of random parameters to check how it reads
    them: in the order of equation 11, with `start` added."""
    count = num_outputs(coupling.conditioner) // size
    probes = np.zeros([1, size, count]), np.random.RandomState(0).randn(1, size, count)
    with tf.init_scope():
      results = [_read(coupling.bijector_fn(tf.constant(p.reshape(1, -1), coupling.dtype)), p.shape) for p in probes]
    if None not in results:
      (start, margin), (of_random, _) = results
      if np.all(start == start[0, 0]) and np.allclose(of_random - probes[1], start, atol=1e-5):
        return cls(start[0, 0], (count - 2) // 3, margin)
    raise InputError(f"the map of the coupling {coupling.name!r} cannot be exported: mixture_logistic and affine can")

  def apply(self, ops, x, parameters, inverse):
    """Return the map, or its inverse, of `x [N, 1]`, and the log-det of each value, for `parameters [N, size]`."""
    if np.any(self.start):
      parameters = parameters + ops.constant(self.start)
    k = self.components
    scale_logit, shift, *mixture = ops.split(parameters, [1, 1, *([k] * 3 if k else [])])
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
      log_det = log_det - mixture_graph.margin_forward(ops, y, self.margin)[1]
    x = mixture_graph.logit_quantile(ops, y, *mixture)
    return x, log_det - mixture_graph.logit_cdf(ops, x, *mixture)[1]


def _read(bijector, shape):
  """Return the parameters that an elementwise bijector has, and its margin; None if it is none of those here."""
  parts = list(bijector.bijectors) if isinstance(bijector, fb.Chain) else [bijector]
  margin = parts.pop(1).margin if len(parts) == 3 and isinstance(parts[1], fb.LogitMargin) else 0.0
  if [type(part) for part in parts] not in ([fb.BoundedAffine], [fb.BoundedAffine, fb.LogitMixtureLogisticCDF]):
    return None
  affine, *mixture = parts
  values = [array_of(affine.scale_logit)[..., np.newaxis], array_of(affine.shift)[..., np.newaxis]]
  for part in mixture:
    values += map(array_of, (part.logits, part.loc, part.log_scale))
  found = np.concatenate(values, axis=-1)
  return None if found.shape != shape else (found, margin)


def _add(a, b):
  """Add two log-dets, of which each is a tensor or a number; a 0 adds no node."""
  return b if isinstance(a, float) and a == 0 else a if isinstance(b, float) and b == 0 else a + b


def _sum_of_event(ops, x, shape):
  """The sum over the event, `[N, 1]`."""
  return ops.sum(ops.reshape(x, [-1, math.prod(shape)]), -1)
