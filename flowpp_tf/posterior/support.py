"""The support of a density: where it is not 0. A flow on a support is a flow on the reals and a bijector onto it.

    box(low, high)    y = low + (high - low) Phi(z)    elementwise, Phi the CDF of the normal distribution
    positive()        y = exp(z)                       elementwise: `tfb.Exp` within the numbers of the dtype
    simplex()         stick-breaking                      values above 0 that sum to 1: `Simplex`

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

from flowpp_tf.bijectors.base import Bijector, Elementwise, evaluate
from flowpp_tf.bijectors.chain import shape_by_part, variables_of
from flowpp_tf.bijectors.parameters import Parameter, TensorParameter, as_elementwise_parameters
from flowpp_tf.core.checks import as_array, check_type
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.tensors import finfo

__all__ = ["box", "positive", "simplex"]
tfb = tfp.bijectors
# A bijector from the reals onto the support, of a vector or of each of its values, or one for each value.
Support: TypeAlias = tfp.bijectors.Bijector | Sequence[tfp.bijectors.Bijector | None]
_LOG_NORMAL = -0.5 * math.log(2 * math.pi)  # log density of the normal distribution at 0
_MOST_LOST = 0.1  # the largest error of numbers that come back from a support
TOLERANCE = 1e-4  # of values that come back to a support, relative to the largest one
_MARGIN = 2.0**-60  # of a box, relative to its width: processors round the number next to 0 to 0


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
  low = as_array("low", low).astype(np.float64)
  high = as_array("high", high).astype(np.float64)
  if low.size != high.size and 1 not in (low.size, high.size):
    raise InputError(f"`low` and `high` must be numbers, or as many each, got {low.size} and {high.size}")
  if not np.all(np.isfinite(low) & np.isfinite(high) & (low < high)):
    raise InputError(f"`low` and `high` must be finite, and `low` the smaller one, got {low} and {high}")
  return Box(tf.constant(low), tf.constant(high))


def positive() -> Positive:
  """Return the support of values above 0, the bijector `Positive`.

  Examples:
    >>> flow = fpp.vector_flow(2, support=[fpp.support.positive(), None])  # the second value is any real number
    >>> bool(tf.reduce_all(flow.sample(100)[:, 0] > 0))
    True
  """
  return Positive()


def simplex() -> Simplex:
  """Return the support of vectors of shares: values above 0 whose sum is 1, the bijector `Simplex`.

  The density is over all values except the last one, as in TFP's `Dirichlet`.

  Examples:
    >>> flow = fpp.vector_flow(3, support=fpp.support.simplex())
    >>> tf.reduce_sum(flow.sample(), axis=-1).numpy().round(3)
    np.float32(1.0)
  """
  return Simplex()


class Box(Elementwise):
  """y = low + (high - low) Phi(x), elementwise, Phi the CDF of the normal distribution: `box`.

  Args:
    low: number or `[D]`.
    high: likewise, larger.

  The inverse takes a bound for the number next to it inside, and gives NaN outside. The log-det is in nats per element.

  Examples:
    >>> fpp.support.Box(0.0, 2.0).forward([0.0, 100.0]).numpy()
    array([1.       , 1.9999998], dtype=float32)
  """

  def __init__(self, low: Any, high: Any, validate_args: bool = False, name: str = "box") -> None:
    parameters = dict(locals())
    self._low, self._high = as_elementwise_parameters(low=low, high=high)
    super().__init__(parameters)  # any dtype of x

  low = TensorParameter("The lower bounds.")
  high = TensorParameter("The upper bounds.")

  def _bounds(self, dtype):
    """Return the bounds, and the first and the last number inside."""
    low = tf.cast(self.low, dtype)
    high = tf.cast(self.high, dtype)
    limits = finfo(dtype)
    least = tf.maximum((high - low) * _MARGIN, tf.constant(limits.tiny, dtype))
    first = low + tf.maximum(tf.abs(low) * limits.eps, least)
    last = high - tf.maximum(tf.abs(high) * limits.eps, least)
    return low, high, first, last

  def _forward_and_log_det(self, x, ctx):
    low, high, first, last = self._bounds(x.dtype)
    width = high - low
    tail = 0.5 * tf.math.erfc(tf.abs(x) * math.sqrt(0.5)) * width  # from the nearer bound: exact close to it
    y = tf.where(x < 0, low + tail, high - tail)
    log_det = _LOG_NORMAL - 0.5 * x * x + tf.math.log(width)
    return tf.minimum(tf.maximum(y, first), last), log_det

  def _inverse_and_log_det(self, y, ctx):
    low, high, first, last = self._bounds(y.dtype)
    is_inside = (y >= low) & (y <= high)
    y = tf.minimum(tf.maximum(y, first), last)
    y = tf.where(is_inside, y, tf.constant(math.nan, y.dtype))
    below = (y - low) / (high - low)
    above = (high - y) / (high - low)
    x = tf.math.ndtri(tf.minimum(below, above))
    x = tf.where(below < above, x, -x)
    return x, 0.5 * x * x - _LOG_NORMAL - tf.math.log(high - low)


class Positive(tfp.bijectors.Exp):
  """`tfb.Exp` whose values are the nearest normal number where exp would be 0 or infinite: `positive`.

  Examples:
    >>> fpp.support.Positive().forward([0.0, -1000.0]).numpy()
    array([1.0000000e+00, 1.1754944e-38], dtype=float32)
  """

  def _forward(self, x):
    limits = finfo(x.dtype)
    return tf.clip_by_value(super()._forward(x), limits.tiny, limits.max)

  def _inverse(self, y):
    return super()._inverse(_normal(y))


def _normal(y):
  """Return y with NaN below the normal numbers, which only some kernels round to 0."""
  return tf.where(y < finfo(y.dtype).tiny, tf.constant(math.nan, y.dtype), y)


class Simplex(Bijector):
  r"""Stick-breaking, from D - 1 real numbers to D shares: `simplex`.

  The first share is a part of 1, each next one a part of what the shares before it leave, and the last one the rest:

  $$
  y_k = \sigma(t_k) \prod_{j < k} \sigma(-t_j), \quad t_k = x_k - \log(D - k), \quad
  y_D = \prod_{j < D} \sigma(-t_j)
  $$

  This is `tfb.IteratedSigmoidCentered`, in logarithms: shares near 0 are as exact as others, and never 0. The log-det,
  in nats per vector, is the sum of the logarithms of all shares.

  Examples:
    >>> fpp.support.Simplex().forward([0.0, 0.0, 0.0]).numpy()
    array([0.25, 0.25, 0.25, 0.25], dtype=float32)
  """

  def __init__(self, validate_args: bool = False, name: str = "simplex") -> None:
    super().__init__(forward_min_event_ndims=1, parameters=dict(locals()))  # any dtype of x

  def _offset(self, x):
    """Return log(D - k), `[D - 1]`, with which x = 0 gives equal shares."""
    remaining = tf.range(tf.shape(x)[-1], 0, -1)
    return tf.math.log(tf.cast(remaining, x.dtype))

  def _forward_and_log_det(self, x, ctx):
    x = x - self._offset(x)
    rest = -tf.cumsum(tf.math.softplus(x), axis=-1)  # log of what is left after each share
    log_y = tf.concat([rest + x, rest[..., -1:]], axis=-1)
    y = tf.maximum(tf.exp(log_y), tf.constant(finfo(x.dtype).tiny, x.dtype))
    return y, tf.reduce_sum(log_y, axis=-1)

  def _inverse_and_log_det(self, y, ctx):
    rest = tf.cumsum(y, axis=-1, exclusive=True, reverse=True)[..., :-1]  # 1 - sum loses the digits of small shares
    log_y = tf.math.log(_normal(y))
    x = log_y[..., :-1] - tf.math.log(rest)
    return x + self._offset(x), -tf.reduce_sum(log_y, axis=-1)

  def _forward_event_shape(self, shape):
    return _resized(shape, 1)

  def _forward_event_shape_tensor(self, shape):
    return tf.concat([shape[:-1], shape[-1:] + 1], axis=0)

  def _inverse_event_shape(self, shape):
    return _resized(shape, -1)

  def _inverse_event_shape_tensor(self, shape):
    return tf.concat([shape[:-1], shape[-1:] - 1], axis=0)


def _resized(shape, difference):
  """Return a shape whose last size is larger by a difference."""
  size = shape[-1]
  if size is not None:
    size += difference
  return shape[:-1] + [size]


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
    parameters = dict(locals())
    check_type("bijector", bijector, tfb.Bijector)
    self._bijector = bijector
    self._variables_of_parts = variables_of([bijector])
    super().__init__(forward_min_event_ndims=1, parameters=parameters)

  bijector = Parameter("The bijector onto the support.")

  def contains(self, y: tf.Tensor) -> Bool[tf.Tensor, "..."]:
    """Return whether vectors `[..., D]` lie in the support: whether they have an inverse that maps back to them."""
    y = tf.stop_gradient(self._as_tensor("y", y))
    x = self.bijector.inverse(y)
    error = self.bijector.forward(tf.identity(x)) - y  # identity: not TFP's cached y
    size = tf.maximum(tf.abs(y), tf.abs(self._inside(y)))
    is_close = tf.reduce_max(tf.abs(error), axis=-1) <= TOLERANCE * tf.reduce_max(size, axis=-1)
    return tf.reduce_all(tf.math.is_finite(x), axis=-1) & is_close

  def _inside(self, y):
    """Return a vector that lies in the support."""
    shape = self.inverse_event_shape_tensor(tf.shape(y)[-1:])
    return self.bijector.forward(tf.zeros(shape, y.dtype))

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


def on_support(support: Support, size: int, dtype: str = "float32") -> OnSupport:
  """Return the bijector onto a support of vectors.

  Args:
    support: as in `vector_flow`.
    size: number of values of a vector.
    dtype: of the flow.

  Raises:
    InputError (a ValueError): for a support of other vectors; or if numbers from -3 to 3, where nearly all of a normal
      base lies, do not come back from the support, as from `tfb.Square`, or from a box of less than about 1,000 numbers
      of the dtype, in which a density means little.
  """
  if isinstance(support, Sequence):
    parts = [tfb.Identity() if part is None else part for part in support]
    for part in parts:
      check_type("support", part, tfb.Bijector)
    if len(parts) != size or any(part.forward_min_event_ndims for part in parts):
      raise InputError(f"`support` must have a bijector of single values, or None, for each of {size} values")
    support = tfb.Blockwise(parts)
  check_type("support", support, tfb.Bijector)
  bijector = OnSupport(support)
  z = None
  with contextlib.suppress(Exception):  # TFP raises many
    latent_shape = bijector.inverse_event_shape([size])
    zeros = tf.zeros(latent_shape, support.dtype or dtype)
    if latent_shape[0] and bijector.forward(zeros).shape == [size]:
      row = np.arange(32)[:, np.newaxis]
      column = np.arange(latent_shape[0])
      z = np.linspace(-3, 3, 32)[(row + 7 * column) % 32]  # each number in each column, different ones in a row
  if z is None:
    raise InputError(f"`support` must be one of vectors of {size} values, got {support.name!r}")
  with contextlib.suppress(Exception), tf.init_scope():
    y, _ = evaluate(support, tf.constant(z, dtype), event_ndims=1)
    back, log_det = evaluate(support, tf.identity(y), True, 1)  # not TFP's cached z
    if np.all(np.abs(back - z) <= _MOST_LOST) and np.all(np.isfinite(log_det)):
      return bijector
  raise InputError(
    f"`support` must take all real numbers to values of {dtype} and back, which {support.name!r} does not; if its "
    "values are too large, too small or too close to each other, take `dtype` float64, or scale or shift the data"
  )


def to_config(support: Support | None) -> Any:
  """Return a support as lists and numbers, for JSON; raise an `InputError` for other bijectors of TFP."""
  if isinstance(support, Sequence):
    return [to_config(part) for part in support]
  if support is None:
    return None
  if isinstance(support, Box):
    return {"box": [np.asarray(bound).tolist() for bound in (support.low, support.high)]}
  if type(support) in _WORD_OF:
    return _WORD_OF[type(support)]
  raise InputError(f"a layer with the `support` {support.name!r} cannot be saved: save its weights, or use fpp.support")


def from_config(config: Any) -> Support | None:
  """Return the support of `to_config`."""
  if isinstance(config, list):
    return [from_config(part) for part in config]
  if isinstance(config, dict):
    return box(*config["box"])
  return None if config is None else _WORDS[config]()


_WORDS = {"positive": positive, "simplex": simplex}
_WORD_OF = {Positive: "positive", tfb.Exp: "positive", Simplex: "simplex"}
