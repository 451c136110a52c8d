"""The support of a density: where it is not 0. A flow on a support is a flow on the reals, behind a bijector onto it.

    box(low, high)    y = low + (high - low) Phi(z)    elementwise, Phi the CDF of the normal distribution
    positive()        y = exp(z)                       elementwise: `tfb.Exp`
    simplex()         stick-breaking                      values above 0 that sum to 1: `tfb.IteratedSigmoidCentered`

By Phi a uniform density, which is most priors', becomes the normal one of the flow's base.
"""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import math
from typing import Any, TypeAlias

from jaxtyping import Bool
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.base import Bijector, Elementwise, Parameter, TensorParameter, evaluate
from flowpp_tf.bijectors.chain import shape_by_part, variables_of
from flowpp_tf.core.checks import as_array, check_type
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.tensors import finfo

__all__ = ["box", "positive", "simplex"]
tfb = tfp.bijectors
# A bijector from the reals onto the support, of a vector or of each of its values, or one for each value.
Support: TypeAlias = tfp.bijectors.Bijector | Sequence[tfp.bijectors.Bijector | None]
_LOG_NORMAL = -0.5 * math.log(2 * math.pi)  # log density of the normal distribution at 0
_TOLERANCE = 1e-4  # of values that an inverse maps back to the support, of the largest one
_MARGIN = 2.0**-60  # of a box: the number next to 0 is one that processors round to 0


def box(low: Any, high: Any) -> Box:
  """Return the support of values between two bounds.

  Args:
    low: number, or one for each value of a vector, `[D]`.
    high: likewise, larger.

  Returns:
    The bijector `Box`.

  Raises:
    InputError (a ValueError): unless all are finite, and `low` < `high`.

  Examples:
    >>> flow = fpp.vector_flow(2, support=fpp.support.box([0.0, -1.0], [1.0, 1.0]))
    >>> flow.log_prob([[0.5, 0.5], [2.0, 0.5]]).numpy()[1]
    np.float32(-inf)
  """
  low, high = as_array("low", low).astype(np.float64), as_array("high", high).astype(np.float64)
  if not np.all(np.isfinite(low) & np.isfinite(high) & (low < high)):
    raise InputError(f"`low` and `high` must be finite, and `low` the smaller one, got {low} and {high}")
  return Box(tf.constant(low), tf.constant(high))


def positive() -> tfp.bijectors.Bijector:
  """Return the support of values above 0, `tfb.Exp`.

  Examples:
    >>> flow = fpp.vector_flow(2, support=[fpp.support.positive(), None])  # the second value is any real number
    >>> bool(tf.reduce_all(flow.sample(100)[:, 0] > 0))
    True
  """
  return tfb.Exp()


def simplex() -> tfp.bijectors.Bijector:
  """Return the support of vectors of shares: values above 0 whose sum is 1, `tfb.IteratedSigmoidCentered`.

  The density is that of all values but the last, as TFP's `Dirichlet` has it.

  Examples:
    >>> flow = fpp.vector_flow(3, support=fpp.support.simplex())
    >>> tf.reduce_sum(flow.sample(), axis=-1).numpy().round(3)
    np.float32(1.0)
  """
  return tfb.IteratedSigmoidCentered()


class Box(Elementwise):
  """y = low + (high - low) Phi(x), elementwise, Phi the CDF of the normal distribution: `box`.

  Args:
    low: number or `[D]`.
    high: likewise, larger.

  The bounds count as the numbers next to them inside; what is outside has no inverse, and gives NaN. The
  log-det is in nats per element.

  Examples:
    >>> fpp.support.Box(0.0, 2.0).forward([0.0, 100.0]).numpy()
    array([1.       , 1.9999998], dtype=float32)
  """

  def __init__(self, low: Any, high: Any, validate_args: bool = False, name: str = "box") -> None:
    self._initialize(locals(), dtype=None)  # that of x

  low = TensorParameter("The lower bounds.")
  high = TensorParameter("The upper bounds.")

  def _bounds(self, dtype):
    """Return the bounds, and the first and the last number that are taken inside."""
    low, high = tf.cast(self.low, dtype), tf.cast(self.high, dtype)
    inside = lambda bound: tf.maximum(tf.abs(bound) * finfo(dtype).eps, (high - low) * _MARGIN)
    return low, high, low + inside(low), high - inside(high)

  def _forward_and_log_det(self, x, ctx):
    low, high, first, last = self._bounds(x.dtype)
    tail = 0.5 * tf.math.erfc(tf.abs(x) * math.sqrt(0.5)) * (high - low)  # from the nearer bound, which is exact there
    y = tf.where(x < 0, low + tail, high - tail)
    return tf.minimum(tf.maximum(y, first), last), _LOG_NORMAL - 0.5 * x * x + tf.math.log(high - low)

  def _inverse_and_log_det(self, y, ctx):
    low, high, first, last = self._bounds(y.dtype)
    is_inside = (y >= low) & (y <= high)
    y = tf.where(is_inside, tf.minimum(tf.maximum(y, first), last), tf.constant(math.nan, y.dtype))
    below, above = (y - low) / (high - low), (high - y) / (high - low)
    x = tf.math.ndtri(tf.minimum(below, above))
    x = tf.where(below < above, x, -x)
    return x, 0.5 * x * x - _LOG_NORMAL - tf.math.log(high - low)


class OnSupport(Bijector):
  """A bijector onto a support, for vectors anywhere: outside the log-det of its inverse is -inf, and so a density is 0.

  Gradients outside are 0, not NaN.

  Args:
    bijector: from the reals onto the support, of vectors or of single values.

  Examples:
    >>> unit = fpp.support.OnSupport(fpp.support.box(0.0, 1.0))
    >>> unit.inverse_log_det_jacobian([[0.5, 0.5], [0.5, 1.5]]).numpy().round(2)
    array([1.84, -inf], dtype=float32)
  """

  def __init__(self, bijector: tfp.bijectors.Bijector, validate_args: bool = False, name: str = "on_support") -> None:
    check_type("bijector", bijector, tfb.Bijector)
    self._variables_of_parts = variables_of([bijector])
    self._initialize(locals(), 1)

  bijector = Parameter("The bijector onto the support.")

  def contains(self, y: tf.Tensor) -> Bool[tf.Tensor, "..."]:
    """Return whether vectors `[..., D]` lie in the support: whether the inverse has a value that gives them."""
    y = tf.stop_gradient(self._to_tensor("y", y))
    x = self.bijector.inverse(y)
    distance = tf.reduce_max(tf.abs(self.bijector.forward(tf.identity(x)) - y), axis=-1)  # not TFP's cached y
    size = tf.reduce_max(tf.maximum(tf.abs(y), tf.abs(self._inside(y))), axis=-1)
    return tf.reduce_all(tf.math.is_finite(x), axis=-1) & (distance <= _TOLERANCE * size)

  def _inside(self, y):
    """Return a vector that lies in the support."""
    return self.bijector.forward(tf.zeros(self.inverse_event_shape_tensor(tf.shape(y)[-1:]), y.dtype))

  def _evaluate(self, x, inverse, ctx):
    if not inverse:
      return evaluate(self.bijector, x, event_ndims=1)
    is_known = self.contains(x) | tf.reduce_any(tf.math.is_nan(x), axis=-1)  # NaN stays NaN
    y = tf.where(is_known[..., tf.newaxis], x, self._inside(x))
    y.set_shape(x.shape)  # `tf.ensure_shape` has no forward-mode gradient in graphs
    z, log_det = evaluate(self.bijector, y, True, 1)
    return z, tf.where(is_known, log_det, tf.constant(-math.inf, x.dtype))

  _forward_event_shape = shape_by_part("forward_event_shape")
  _forward_event_shape_tensor = shape_by_part("forward_event_shape_tensor")
  _inverse_event_shape = shape_by_part("inverse_event_shape")
  _inverse_event_shape_tensor = shape_by_part("inverse_event_shape_tensor")


def on_support(support: Support, size: int) -> OnSupport:
  """Return the bijector of a support of vectors of a size; raise an `InputError` if it is none of such vectors."""
  if isinstance(support, Sequence):
    parts = [tfb.Identity() if part is None else part for part in support]
    for part in parts:
      check_type("support", part, tfb.Bijector)
    if len(parts) != size or any(part.forward_min_event_ndims for part in parts):
      raise InputError(f"`support` must have a bijector of single values, or None, for each of {size} values")
    support = tfb.Blockwise(parts)
  check_type("support", support, tfb.Bijector)
  bijector = OnSupport(support)
  with contextlib.suppress(Exception):  # TFP raises many
    inner = bijector.inverse_event_shape([size])
    if inner[0] and bijector.forward(tf.zeros(inner, support.dtype or tf.float32)).shape == [size]:
      return bijector
  raise InputError(f"`support` must be one of vectors of {size} values, got {support.name!r}")


def to_config(support: Support | None) -> Any:
  """Return a support as lists and numbers, which JSON has; raise an `InputError` for other bijectors of TFP."""
  if isinstance(support, Sequence):
    return [to_config(part) for part in support]
  if support is None:
    return None
  if isinstance(support, Box):
    return {"box": [np.asarray(bound).tolist() for bound in (support.low, support.high)]}
  for word, make in _WORDS.items():
    if type(support) is type(make()):
      return word
  raise InputError(f"a layer with the `support` {support.name!r} cannot be saved: save its weights, or use fpp.support")


def from_config(config: Any) -> Support | None:
  """Return the support of `to_config`."""
  if isinstance(config, list):
    return [from_config(part) for part in config]
  if isinstance(config, dict):
    return box(*config["box"])
  return None if config is None else _WORDS[config]()


_WORDS = {"positive": positive, "simplex": simplex}
