"""A bijector together with its context: y = f(x; c).

The context is a parameter of the bijector. Its batch is the bijector's, TFP slices both, and bijectors of different
contexts differ.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.base import evaluate
from flowpp_tf.bijectors.chain import Chain, variables_of
from flowpp_tf.bijectors.coupling import Coupling
from flowpp_tf.bijectors.parameters import Parameter, TensorParameter, as_parameters
from flowpp_tf.core.checks import check_type
from flowpp_tf.core.context import EvalContext
from flowpp_tf.core.errors import InputError

ParameterProperties = tfp.util.ParameterProperties


class Conditioned(Chain):
  """Bijector whose couplings get a context.

  Args:
    bijector: any; its couplings have conditioners `(x1, ctx=...)`, which read `ctx.condition`.
    context: tensor or variable `[..., *event]`, whose event has as many dimensions as an event of `x`: `[..., C]` for
      vectors, `[..., H, W, C]` for images, where H and W may be 1. Its leading dimensions are the batch.

  `x` and the context are broadcast against each other.

  Raises:
    ValueError: if the context has fewer dimensions than an event, or the bijector has a context already; from an
      evaluation, if its `ctx` has a condition too.

  Examples:
    >>> network = fpp.layers.DenseConditioner(3, 3 * fpp.bijectors.num_parameters("affine", 0), context_size=3)
    >>> coupling = fpp.bijectors.Coupling(network, fpp.bijectors.affine_coupling_bijector, event_ndims=1)
    >>> bijector = fpp.bijectors.Conditioned(coupling, context=tf.zeros([5, 3]))
    >>> bijector.forward(tf.zeros([6])).shape
    TensorShape([5, 6])
  """

  def __init__(
    self, bijector: tfp.bijectors.Bijector, context: Any, validate_args: bool = False, name: str = "conditioned"
  ) -> None:
    parameters = dict(locals())
    check_type("bijector", bijector, tfp.bijectors.Bijector)
    if isinstance(bijector, Conditioned):
      raise InputError(f"`bijector` must be without a context, got {bijector.name!r}, which has one already")
    [self._context] = as_parameters(context=context)
    rank = tf.TensorShape(self._context.shape).rank
    if rank is not None and rank < bijector.forward_min_event_ndims:
      wanted = "[..., C]"
      hint = ""
      if bijector.forward_min_event_ndims == 3:
        wanted = "[..., H, W, C]"
        hint = ", for a vector of each image give [N, 1, 1, C]"
      raise InputError(f"`context` must be of shape {wanted}, got {[*self._context.shape]}{hint}")
    self._set_parts([bijector], parameters)

  @property
  def bijector(self) -> tfp.bijectors.Bijector:
    """The bijector without its context."""
    return self.bijectors[0]

  context = TensorParameter("What the bijector is conditioned on.")

  @classmethod
  def _parameter_properties(cls, dtype):
    event_ndims = lambda self, x_event_ndims: x_event_ndims
    return dict(
      bijector=tfp.util.BatchedComponentProperties(event_ndims=event_ndims),
      context=ParameterProperties(event_ndims=event_ndims),
    )

  def _evaluate(self, x, inverse, ctx):
    event_ndims = self.inverse_min_event_ndims if inverse else self.forward_min_event_ndims
    context = tf.convert_to_tensor(self.context)
    ctx = ctx or EvalContext()
    if ctx.condition is not None:
      raise InputError(f"`ctx.condition` must be None: {self.name!r} has a context already, which would replace it")
    ctx = ctx.with_condition(context).fold_in(f"0_{self.bijector.name}")
    x = _with_batch_of(context, x, event_ndims)
    return evaluate(self.bijector, x, inverse, event_ndims, ctx)


class ContextTransform(Chain):
  """Bijector whose context goes through another one first: y = f(x; g(c)).

  Args:
    bijector: f; its couplings have conditioners `(x1, ctx=...)`, which read `ctx.condition`.
    transform: g, such as `Standardization`; it is initialised by the context, when f is initialised by x.

  Examples:
    >>> network = fpp.layers.DenseConditioner(3, 3 * fpp.bijectors.num_parameters("affine", 0), context_size=3)
    >>> coupling = fpp.bijectors.Coupling(network, fpp.bijectors.affine_coupling_bijector, event_ndims=1)
    >>> years = fpp.bijectors.Standardization(mean=[2000.0], stddev=[10.0])
    >>> bijector = fpp.bijectors.ContextTransform(coupling, years)
    >>> fpp.bijectors.Conditioned(bijector, context=[[1990.0, 2000.0, 2010.0]]).forward(tf.zeros([6])).shape
    TensorShape([1, 6])
  """

  def __init__(
    self,
    bijector: tfp.bijectors.Bijector,
    transform: tfp.bijectors.Bijector,
    validate_args: bool = False,
    name: str = "context_transform",
  ) -> None:
    parameters = dict(locals())
    check_type("bijector", bijector, tfp.bijectors.Bijector)
    check_type("transform", transform, tfp.bijectors.Bijector)
    self._transform = transform
    self._variables_of_transform = variables_of([transform])
    self._set_parts([bijector], parameters)

  @property
  def bijector(self) -> tfp.bijectors.Bijector:
    """The bijector of the transformed context."""
    return self.bijectors[0]

  transform = Parameter("The bijector that the context goes through.")

  @classmethod
  def _parameter_properties(cls, dtype):
    component = tfp.util.BatchedComponentProperties(event_ndims=lambda self, x_event_ndims: x_event_ndims)
    return dict(bijector=component, transform=component)

  def _evaluate(self, x, inverse, ctx):
    if ctx is not None and ctx.condition is not None:
      context, _ = evaluate(self.transform, tf.cast(ctx.condition, self.transform.dtype), ctx=ctx)
      ctx = ctx.with_condition(context)
    return super()._evaluate(x, inverse, ctx)


def context_size(bijector: tfp.bijectors.Bijector) -> int | None:
  """Return the size of the last axis of the context that a bijector's couplings take, 0 if they take none.

  None means that it is unknown: a conditioner has neither `context_size` nor `context_channels`.
  """
  if isinstance(bijector, Coupling):
    conditioner = bijector.conditioner
    return getattr(conditioner, "context_size", getattr(conditioner, "context_channels", None))
  parts = getattr(bijector, "bijectors", [])
  if hasattr(bijector, "bijector"):
    parts = [bijector.bijector]
  largest = 0
  for part in tf.nest.flatten(parts):
    size = context_size(part)
    if size is None:
      return None
    largest = max(largest, size)
  return largest


def _with_batch_of(context, x, event_ndims):
  """Broadcast `x` to the batch of the context."""
  batch_ndims = len(x.shape) - event_ndims
  context_batch_ndims = len(context.shape) - event_ndims
  if _covers(x.shape[:batch_ndims], context.shape[:context_batch_ndims]):
    return x
  shape = tf.shape(x)
  batch = tf.broadcast_dynamic_shape(shape[:batch_ndims], tf.shape(context)[:context_batch_ndims])
  return tf.broadcast_to(x, tf.concat([batch, shape[batch_ndims:]], axis=0))


def _covers(batch, context_batch):
  """Return whether broadcasting to a context's batch surely leaves a batch as it is."""
  if len(context_batch) > len(batch):
    return False
  sizes = zip(batch[::-1], context_batch[::-1])
  return all(wanted == 1 or (size is not None and size == wanted) for size, wanted in sizes)
