"""The bijectors of a flow in an inference graph, in both directions.

1x1 convolutions become matrices, their inverses and log-dets constants, in float64. Each value has its part of the
log-det, as in `bijectors.by_element`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf import bijectors as fb
from flowpp_tf.bijectors.mixture_logistic_cdf import SMALLEST_LOG_SCALE
from flowpp_tf.bijectors.normalization import SMALLEST_SCALE
from flowpp_tf.core.errors import InputError
from flowpp_tf.exporting import mixture_graph
from flowpp_tf.exporting.network_graph import apply_network, array_of, num_outputs
from flowpp_tf.exporting.ops import Ops, Value
from flowpp_tf.types import Shape

_SMALLEST = float(np.finfo(np.float32).tiny)
_BELOW_ONE = 1 - float(np.finfo(np.float32).epsneg)
Move = Callable[[Any, Any], Any]


class Tensor(NamedTuple):
  """A tensor of the graph, and what its values have collected on the way.

  Attributes:
    value: `[N, *shape]`.
    shape: of the event.
    log_dets: of each value, `[N, *shape]`; None for 0.
    constants: what is to be added to them in every image, `[1, *shape]` or a number.
    moves: the rearrangements so far, as functions `(ops, y)` that undo them.
  """

  value: Value
  shape: tuple[int, ...]
  log_dets: Value | None = None
  constants: np.ndarray | float = 0.0
  moves: tuple[Move, ...] = ()

  def mapped(self, value: Value, log_dets: Value | None = None, constants: np.ndarray | float = 0.0) -> Tensor:
    """Return what a bijector makes of this, of which the log-dets are the bijector's."""
    log_dets = _add(self.log_dets, log_dets)
    return self._replace(value=value, log_dets=log_dets, constants=self.constants + constants)

  def rearranged(self, ops: Ops, move: Move, back: Move, shape: Shape) -> Tensor:
    """Return this moved by `move(ops, y)`, which `back` undoes."""
    log_dets = None if self.log_dets is None else move(ops, self.log_dets)
    constants = self.constants
    if isinstance(constants, np.ndarray):
      constants = move(_Arrays, constants)
    return Tensor(move(ops, self.value), tuple(shape), log_dets, constants, (*self.moves, back))

  def moved_back(self, ops: Ops, y: Value) -> Value:
    """Return a tensor like this one with each value where it came from."""
    for back in reversed(self.moves):
      y = back(ops, y)
    return y

  def all_log_dets(self, ops: Ops) -> Value:
    """Return the log-det of each value, `[N, *shape]`."""
    log_dets = self.log_dets
    if log_dets is None:
      log_dets = _zeros(ops, self.value)
    if isinstance(self.constants, np.ndarray):
      return log_dets + ops.constant(self.constants)
    return log_dets + self.constants if self.constants else log_dets


class _Arrays:
  """The rearrangements of `Ops`, of NumPy's arrays."""

  reshape = staticmethod(np.reshape)
  transpose = staticmethod(np.transpose)

  @staticmethod
  def split(x: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    return np.split(x, np.cumsum(sizes)[:-1], axis=-1)

  @staticmethod
  def concat(values: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(values, axis=-1)


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
    transformed = _transform(bijector.transform, ops, Tensor(context, (size,)), False, None)
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
  blocks = []
  for part, value, size in zip(bijector.bijectors, ops.split(x.value, sizes), sizes):
    block = Tensor(value, (*x.shape[:-1], size))
    blocks.append(_transform(part, ops, block, inverse, context))

  def back(ops, y):
    parts = ops.split(y, sizes)
    return ops.concat([block.moved_back(ops, part) for block, part in zip(blocks, parts)])

  if any(block.moves for block in blocks):
    x = x.rearranged(ops, lambda ops, y: y, back, x.shape)
  value = ops.concat([block.value for block in blocks])
  log_dets = ops.concat([block.all_log_dets(ops) for block in blocks])
  return x.mapped(value, log_dets)


@_transform.register
def _(bijector: fb.ActNorm, ops, x, inverse, context):
  scale, bias = np.maximum(array_of(bijector.scale), SMALLEST_SCALE), array_of(bijector.bias)
  log_dets = np.log(np.broadcast_to(scale, (1, *x.shape)))
  if inverse:
    return x.mapped((x.value - ops.constant(bias)) / ops.constant(scale), constants=-log_dets)
  return x.mapped(x.value * ops.constant(scale) + ops.constant(bias), constants=log_dets)


@_transform.register
def _(bijector: fb.Standardization, ops, x, inverse, context):
  mean, stddev = array_of(bijector.mean), array_of(bijector.stddev)
  log_dets = np.log(np.broadcast_to(stddev, (1, *x.shape)))
  if inverse:
    return x.mapped(x.value * ops.constant(stddev) + ops.constant(mean), constants=log_dets)
  return x.mapped((x.value - ops.constant(mean)) / ops.constant(stddev), constants=-log_dets)


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
  return x.mapped(y, constants=-log_det if inverse else log_det)


@_transform.register
def _(bijector: fb.SwapHalves, ops, x, inverse, context):
  half = x.shape[-1] // 2

  def swap(ops, y):
    y1, y2 = ops.split(y, [half, half])
    return ops.concat([y2, y1])

  return x.rearranged(ops, swap, swap, x.shape)


@_transform.register
def _(bijector: fb.ColumnsToChannels, ops, x, inverse, context):
  height, width, channels = x.shape
  shape = (height, 2 * width, channels // 2) if inverse else (height, width // 2, 2 * channels)

  def move(ops, y):
    return ops.reshape(y, [-1, *shape])

  def back(ops, y):
    return ops.reshape(y, [-1, *x.shape])

  return x.rearranged(ops, move, back, shape)


@_transform.register
def _(bijector: fb.Squeeze, ops, x, inverse, context):
  height, width, channels = x.shape
  size = bijector.block_size
  if inverse:
    shape = height * size, width * size, channels // size**2
    return x.rearranged(ops, _unsqueeze(shape, size), _squeeze(shape, size), shape)
  shape = height // size, width // size, channels * size**2
  return x.rearranged(ops, _squeeze(x.shape, size), _unsqueeze(x.shape, size), shape)


def _squeeze(shape, size):
  """The move of blocks of pixels of an image `[H, W, C]` to the channels."""
  height, width = shape[0] // size, shape[1] // size
  channels = shape[2]

  def move(ops, y):
    blocks = ops.reshape(y, [-1, height, size, width, size, channels])
    blocks = ops.transpose(blocks, [0, 1, 3, 2, 4, 5])
    return ops.reshape(blocks, [-1, height, width, size**2 * channels])

  return move


def _unsqueeze(shape, size):
  """The move back to the image."""
  height, width = shape[0] // size, shape[1] // size
  channels = shape[2]

  def move(ops, y):
    blocks = ops.reshape(y, [-1, height, width, size, size, channels])
    blocks = ops.transpose(blocks, [0, 1, 3, 2, 4, 5])
    return ops.reshape(blocks, [-1, *shape])

  return move


@_transform.register
def _(bijector: fb.PixelsToLogit, ops, x, inverse, context):
  alpha, levels = bijector.alpha, bijector.levels
  if inverse:  # only samples are made so: their log-det is not used
    return x.mapped((ops.sigmoid(x.value) - alpha) * (levels / (1 - 2 * alpha)), constants=math.nan)
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


def _add(a, b):
  return b if a is None else a if b is None else a + b


def _zeros(ops, x):
  """Zeros like x, even where it is infinite."""
  return ops.minimum(ops.abs(x), 0.0)
