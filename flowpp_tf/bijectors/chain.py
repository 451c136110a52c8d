"""Compositions: one bijector after the other, and the inverse of one.

    y = f_n(... f_1(x)),    log|det dy/dx| = sum_i log|det df_i / dx_i|

As in TFP, a composition of composite tensors is a composite tensor, and goes in and out of a `tf.function`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.base import Bijector, evaluate
from flowpp_tf.bijectors.parameters import Parameter, copied, is_composite
from flowpp_tf.core.checks import check_type


class Chain(Bijector):
  """Bijectors one after the other; as in `tfb.Chain`, the last of the list is applied first.

  Args:
    bijectors: of this package or TFP's own. Each gets the context with its place and name folded in.

  Examples:
    >>> affine = fpp.bijectors.BoundedAffine(scale_logit=tf.zeros(4), shift=tf.ones(4))
    >>> chain = fpp.bijectors.Chain([fpp.bijectors.SwapHalves(), affine])  # the last is applied first
    >>> y, log_det = chain.forward_and_log_det(tf.constant([1.0, 2.0, 3.0, 4.0]))
    >>> y.numpy()
    array([4., 5., 2., 3.], dtype=float32)
  """

  def __new__(cls, bijectors: Any = None, *args: Any, **kwargs: Any) -> Chain:
    # Subclasses have other arguments; `copy` and `pickle` give none, and the class that the chain has.
    if cls is Chain and isinstance(bijectors, Sequence) and all(map(is_composite, bijectors)):
      cls = _CompositeChain
    return super().__new__(cls)

  def __init__(
    self, bijectors: Sequence[tfp.bijectors.Bijector], validate_args: bool = False, name: str = "chain"
  ) -> None:
    parameters = dict(locals())
    check_type("bijectors", bijectors, Sequence)
    for part in bijectors:
      check_type("bijectors", part, tfp.bijectors.Bijector)
    self._set_parts(copied(bijectors), parameters)

  def _set_parts(self, bijectors, parameters):
    """Keep the bijectors; subclasses call it from constructors with other arguments, which `parameters` has."""
    self._bijectors = bijectors
    self._variables_of_parts = variables_of(bijectors)
    forward_ndims, inverse_ndims = _min_event_ndims(bijectors)
    Bijector.__init__(
      self,
      forward_min_event_ndims=forward_ndims,
      inverse_min_event_ndims=inverse_ndims,
      dtype=next((part.dtype for part in bijectors if part.dtype is not None), None),
      is_constant_jacobian=all(part.is_constant_jacobian for part in bijectors),
      parameters=parameters,
    )

  bijectors = Parameter("The parts; the last is applied first.")

  def _evaluate(self, x, inverse, ctx):
    event_ndims = self.inverse_min_event_ndims if inverse else self.forward_min_event_ndims
    parts = list(enumerate(reversed(self.bijectors)))
    if inverse:
      parts.reverse()
    log_dets = []
    for i, part in parts:
      part_ctx = ctx and ctx.fold_in(f"{i}_{part.name}")
      x, log_det = evaluate(part, x, inverse, event_ndims, part_ctx)
      log_dets.append(log_det)
      added_ndims = part.inverse_min_event_ndims - part.forward_min_event_ndims
      event_ndims += -added_ndims if inverse else added_ndims
    if not log_dets:
      return x, tf.zeros([], x.dtype)
    return x, functools.reduce(tf.add, log_dets)  # which broadcasts batch dimensions

  @classmethod
  def _parameter_properties(cls, dtype):
    def event_ndims(self, x_event_ndims):
      ndims = []
      for part in reversed(self.bijectors):
        ndims.append(x_event_ndims)
        x_event_ndims = part.forward_event_ndims(x_event_ndims)
      return ndims[::-1]

    return dict(bijectors=tfp.util.BatchedComponentProperties(event_ndims=event_ndims))

  def _is_increasing(self):
    increasing = True
    for part in self.bijectors:
      increasing = tf.equal(increasing, part._is_increasing())
    return increasing

  def _walk(self, method, shape):
    bijectors = self.bijectors if method.startswith("inverse") else reversed(self.bijectors)
    for part in bijectors:
      shape = getattr(part, method)(shape)
    return shape

  _forward_event_shape = functools.partialmethod(_walk, "forward_event_shape")
  _forward_event_shape_tensor = functools.partialmethod(_walk, "forward_event_shape_tensor")
  _inverse_event_shape = functools.partialmethod(_walk, "inverse_event_shape")
  _inverse_event_shape_tensor = functools.partialmethod(_walk, "inverse_event_shape_tensor")


class _CompositeChain(Chain, tfp.bijectors.AutoCompositeTensorBijector):
  """A chain of composite tensors."""


def shape_by_part(method: str) -> Callable[[Any, Any], Any]:
  """Return the method of a bijector that returns the shape by a method of its `bijector`."""
  return lambda self, shape: getattr(self.bijector, method)(shape)


class Invert(Bijector):
  """The inverse of a bijector: `tfb.Invert`, with value and log-det from one call.

  Args:
    bijector: any.

  Examples:
    >>> affine = fpp.bijectors.BoundedAffine(scale_logit=0.0, shift=1.0)
    >>> float(fpp.bijectors.Invert(affine).forward(3.0))
    2.0
  """

  def __new__(cls, bijector: Any = None, *args: Any, **kwargs: Any) -> Invert:
    if cls is Invert and is_composite(bijector):
      cls = _CompositeInvert
    return super().__new__(cls)

  def __init__(self, bijector: tfp.bijectors.Bijector, validate_args: bool = False, name: str = "invert") -> None:
    parameters = dict(locals())
    check_type("bijector", bijector, tfp.bijectors.Bijector)
    self._bijector = bijector
    self._variables_of_parts = variables_of([bijector])
    super().__init__(
      forward_min_event_ndims=bijector.inverse_min_event_ndims,
      inverse_min_event_ndims=bijector.forward_min_event_ndims,
      dtype=bijector.dtype,
      is_constant_jacobian=bijector.is_constant_jacobian,
      parameters=parameters,
    )

  bijector = Parameter("The bijector whose inverse this is.")

  def _evaluate(self, x, inverse, ctx):
    return evaluate(self.bijector, x, not inverse, ctx=ctx)

  @classmethod
  def _parameter_properties(cls, dtype):
    return dict(
      bijector=tfp.util.BatchedComponentProperties(
        event_ndims=lambda self, x_event_ndims: self.bijector.inverse_event_ndims(x_event_ndims)
      )
    )

  def _is_increasing(self):
    return self.bijector._is_increasing()

  _forward_event_shape = shape_by_part("inverse_event_shape")
  _forward_event_shape_tensor = shape_by_part("inverse_event_shape_tensor")
  _inverse_event_shape = shape_by_part("forward_event_shape")
  _inverse_event_shape_tensor = shape_by_part("forward_event_shape_tensor")


class _CompositeInvert(Invert, tfp.bijectors.AutoCompositeTensorBijector):
  """The inverse of a composite tensor."""


def variables_of(bijectors: Sequence[tfp.bijectors.Bijector]) -> list[tf.Variable]:
  """Return all `tf.Variable`s of bijectors: a `tf.Module` does not find the Keras variables of composite tensors."""
  return [variable for part in bijectors for variable in part.variables]


def _min_event_ndims(bijectors):
  """Return the least numbers of event dimensions of a chain: of its input, and of its output."""
  least = present = 0
  for part in reversed(bijectors):
    missing = max(0, part.forward_min_event_ndims - present)
    least += missing
    present += missing + part.inverse_min_event_ndims - part.forward_min_event_ndims
  return least, present
