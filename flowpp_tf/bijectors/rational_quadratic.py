"""Rational quadratic spline in place of the mixture's CDF in equation 11, which section 5 leaves to future work.

    y = logit(F(sigmoid(x))),   F a monotone spline from [0, 1] to [0, 1] (Durkan et al. 2019)

In bin k of width w and height h, of mean slope s = h / w, with slopes d0 and d1 at its ends, and with r and 1 - r the
shares of the bin left and right of sigmoid(x):

    P = r (s r + d0 (1 - r)),   Q = (1 - r) (s (1 - r) + d1 r)
    F = (heights of the bins left of k) + h P / (P + Q)
    1 - F = (heights of the bins right of k) + h Q / (P + Q)

The spline stands between a sigmoid and a logit rather than on an interval [-B, B] with the identity outside (Durkan et
al. on the reals). So B need not be chosen, all bins are of use from the first step on, the slopes at both ends are
free, and the tails are logistic, like a mixture's. All terms above are positive, so both tails are exact.

`tfp.bijectors.RationalQuadraticSpline` of sigmoid(x) has no upper tail, as sigmoid(x) is 1 from x = 17 on in float32.
It also has slopes of 1 at both ends, and looks for the bin twice, for the value and for the log-det. The tests compare
the two where TFP's is valid.
"""

import math
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.base import Elementwise
from flowpp_tf.bijectors.chain import Chain
from flowpp_tf.bijectors.coupling_kinds import CouplingKind
from flowpp_tf.bijectors.elementwise import BoundedAffine, per_value
from flowpp_tf.bijectors.mixture_logistic import check_components, softmax_of_any_rank
from flowpp_tf.bijectors.parameters import TensorParameter, as_parameters, check_broadcast
from flowpp_tf.core.checks import as_tensor, check_count
from flowpp_tf.core.tensors import finfo

_UNIFORM = 0.01  # weight of the identity's widths, heights and slopes, so that none reaches 0
_SLOPE_AT_ZERO = 0.5413248546129181  # log(e - 1), whose softplus is 1
_TAIL = 50.0  # where the tails are straight in float64 too; in float16 its sigmoid would be 0


class LogitRationalQuadraticCDF(Elementwise, tfp.bijectors.AutoCompositeTensorBijector):
  r"""y = logit(F(sigmoid(x))), elementwise, F a monotone rational quadratic spline with K bins (Durkan et al. 2019).

  Args:
    width_logits: widths of the bins before a softmax, `[..., K]`; `x` has the shape of the leading dimensions.
    height_logits: heights of the bins before a softmax, `[..., K]`.
    slope_logits: slopes at the K + 1 knots before a softplus, `[..., K + 1]`.

  The map is the identity where all parameters are 0. The log-det is in nats per element. The inverse has a closed form.

  Raises:
    ValueError: if the parameters are not of the same number of bins.

  Examples:
    >>> bijector = fpp.bijectors.LogitRationalQuadraticCDF(tf.zeros(4), [1.0, 0.0, 0.0, 2.0], tf.zeros(5))
    >>> bijector.inverse(bijector.forward([-30.0, 0.5, 30.0])).numpy().round(3)
    array([-30. ,   0.5,  30. ], dtype=float32)
  """

  def __init__(
    self,
    width_logits: Any,
    height_logits: Any,
    slope_logits: Any,
    validate_args: bool = False,
    name: str = "logit_rational_quadratic_cdf",
  ) -> None:
    parameters = dict(locals())
    logits = dict(width_logits=width_logits, height_logits=height_logits, slope_logits=slope_logits)
    tensors = dict(zip(logits, as_parameters(**logits)))
    check_components(one_more="slope_logits", **tensors)
    leading = {name: tf.TensorSpec(tensor.shape[:-1]) for name, tensor in tensors.items()}
    check_broadcast(**leading)
    self._width_logits = tensors["width_logits"]
    self._height_logits = tensors["height_logits"]
    self._slope_logits = tensors["slope_logits"]
    super().__init__(parameters, dtype=self._slope_logits.dtype)

  width_logits = TensorParameter("Widths of the bins before a softmax, `[..., K]`.", size=2)
  height_logits = TensorParameter("Heights of the bins before a softmax, `[..., K]`.", size=2)
  slope_logits = TensorParameter("Slopes at the knots before a softplus, `[..., K + 1]`.", size=3)

  def _bins(self):
    """Return widths `[..., K]`, heights `[..., K]`, and slopes at the knots `[..., K + 1]`."""
    widths = _shares(self.width_logits)
    heights = _shares(self.height_logits)
    slopes = _positive(tf.convert_to_tensor(self.slope_logits))
    return widths, heights, slopes

  def _forward_and_log_det(self, x, ctx):
    return _forward(x, *self._bins())

  def _inverse_and_log_det(self, y, ctx):
    return _inverse(y, *self._bins())


def _shares(logits):
  """Return the softmax of `[..., K]`, mixed with equal shares."""
  shares = softmax_of_any_rank(tf.convert_to_tensor(logits))
  count = tf.cast(tf.shape(shares)[-1], shares.dtype)
  return (1 - _UNIFORM) * shares + _UNIFORM / count


def _positive(logits):
  """Return the softplus of numbers, 1 for 0, mixed with 1."""
  slopes = tf.nn.softplus(logits + tf.constant(_SLOPE_AT_ZERO, logits.dtype))
  return (1 - _UNIFORM) * slopes + _UNIFORM


def _forward(x, widths, heights, slopes):
  """Return y `[...]` and the log-det of x `[...]`; widths and heights are `[..., K]`, slopes `[..., K + 1]`."""
  inner = _without_tails(x)
  u = tf.sigmoid(inner)
  v = tf.sigmoid(-inner)
  place = _find_bin(u, v, widths, widths, heights, slopes)
  r, q = _parts(u, v, place.left, place.right, place.width)
  log_cdf, log_survival, log_density = _spline(r, q, place)
  log_det = log_density - tf.nn.softplus(-inner) - tf.nn.softplus(inner) - log_cdf - log_survival
  return log_cdf - log_survival + (x - inner), log_det


def _inverse(y, widths, heights, slopes):
  """Return x and the log-det of y; shapes as in `_forward`."""
  inner = _without_tails(y)
  cdf = tf.sigmoid(inner)
  survival = tf.sigmoid(-inner)
  place = _find_bin(cdf, survival, heights, widths, heights, slopes)
  p, not_p = _parts(cdf, survival, place.below, place.above, place.height)
  # not_p P = p Q is quadratic in r / q, with one root that is not negative; here without cancellation.
  s = place.height / place.width
  b = not_p * place.left_slope - p * place.right_slope
  larger = tf.abs(b) + tf.sqrt(b**2 + 4 * p * not_p * s**2)
  numerator = tf.where(b > 0, 2 * p * s, larger)
  denominator = tf.where(b > 0, larger, 2 * not_p * s)
  r = numerator / (numerator + denominator)
  q = denominator / (numerator + denominator)
  log_cdf, log_survival, log_density = _spline(r, q, place)
  log_u = tf.math.log(place.left + place.width * r)
  log_v = tf.math.log(place.right + place.width * q)
  log_det = log_cdf + log_survival - log_density - log_u - log_v
  return log_u - log_v + (y - inner), log_det


def _without_tails(x):
  """Return x, cut off where the tails are straight, or where its sigmoid would lose digits."""
  end = min(_TAIL, -math.log(float(finfo(x.dtype).tiny)))
  return tf.clip_by_value(x, -end, end)


def _masks(below, above, sizes):
  """Return which bins are left of a number, which one holds it, and which are right, `[..., K]` each, as 0 and 1.

  Args:
    below, above: the number and its distance from 1, `[...]`. The smaller of the two is the exact one.
    sizes: of the bins, `[..., K]`.
  """
  # In float64, where one sum is exact enough from both ends; a product is faster than `tf.cumsum`.
  exact = lambda t: tf.cast(tf.stop_gradient(t), tf.float64)
  number = tf.where(below < above, exact(below), 1 - exact(above))
  shape = tf.shape(sizes)
  count = shape[-1]
  bin_of_row = tf.range(count)[:, tf.newaxis]
  knot_of_column = tf.range(count - 1)
  is_left = tf.cast(bin_of_row <= knot_of_column, tf.float64)
  knots = tf.reshape(exact(sizes), [-1, count]) @ is_left
  knots = tf.reshape(knots, tf.concat([shape[:-1], [count - 1]], axis=0))
  passed = tf.cast(number[..., tf.newaxis] >= knots, sizes.dtype)
  zero = tf.zeros_like(tf.reduce_sum(passed, axis=-1, keepdims=True))
  before = tf.concat([passed, zero], axis=-1)
  reached = tf.concat([zero + 1, passed], axis=-1)
  return before, reached - before, 1 - reached


class _Bin(NamedTuple):
  """The bin that holds a number: its place and size in both directions, and the slopes at its ends, `[...]` each."""

  left: tf.Tensor
  width: tf.Tensor
  right: tf.Tensor
  below: tf.Tensor
  height: tf.Tensor
  above: tf.Tensor
  left_slope: tf.Tensor
  right_slope: tf.Tensor


def _find_bin(number, complement, sizes, widths, heights, slopes):
  """Return the bin that holds a number, whose distance from 1 is given too; `sizes` are the widths or the heights."""
  is_left, is_bin, is_right = _masks(number, complement, sizes)
  return _Bin(
    left=_sum(is_left, widths),
    width=_sum(is_bin, widths),
    right=_sum(is_right, widths),
    below=_sum(is_left, heights),
    height=_sum(is_bin, heights),
    above=_sum(is_right, heights),
    left_slope=_sum(is_bin, slopes[..., :-1]),
    right_slope=_sum(is_bin, slopes[..., 1:]),
  )


def _sum(mask, values):
  return tf.reduce_sum(mask * values, axis=-1)


def _parts(below, above, before, after, size):
  """Return the shares of a bin left and right of a number, each exact where it is small."""
  left = (below - before) / size
  right = (above - after) / size
  from_left = below < above
  r = tf.where(from_left, left, 1 - right)
  q = tf.where(from_left, 1 - left, right)
  return tf.clip_by_value(r, 0.0, 1.0), tf.clip_by_value(q, 0.0, 1.0)  # a rounding may lie beyond the bin


def _spline(r, q, place):
  """Return log F, log(1 - F) and log F' at the shares r and q = 1 - r of a bin, by the equations above."""
  s = place.height / place.width
  d0 = place.left_slope
  d1 = place.right_slope
  left = r * (s * r + d0 * q)
  right = q * (s * q + d1 * r)
  total = left + right
  slope = d1 * r**2 + 2 * s * r * q + d0 * q**2
  log_density = 2 * (tf.math.log(s) - tf.math.log(total)) + tf.math.log(slope)
  cdf = place.below + place.height * left / total
  survival = place.above + place.height * right / total
  return tf.math.log(cdf), tf.math.log(survival), log_density


def rational_quadratic_coupling_bijector(parameters: tf.Tensor, components: int) -> Chain:
  """Return equation 11 with a rational quadratic spline in place of the mixture: affine after it.

  Args:
    parameters: `[..., C (2 + 3 K)]`, as many as for a mixture; for each value in the order scale, shift, K - 1 width
      logits (the first one is 0 and left out), K height logits, K + 1 slope logits, see `LogitRationalQuadraticCDF`.
    components: K, the number of bins.

  Raises:
    ValueError: if the last axis is not a multiple of 2 + 3 K.

  Examples:
    >>> parameters = tf.zeros([5, 2 * fpp.bijectors.num_parameters("rational_quadratic", 4)])  # of two values
    >>> fpp.bijectors.rational_quadratic_coupling_bijector(parameters, components=4).forward(tf.ones([5, 2])).shape
    TensorShape([5, 2])
  """
  check_count("components", components)
  parameters = per_value(as_tensor("parameters", parameters, None, tf.float32), 2 + 3 * components)
  sizes = [1, 1, components - 1, components, components + 1]
  scale_logit, shift, width_logits, height_logits, slope_logits = tf.split(parameters, sizes, axis=-1)
  first = tf.zeros_like(height_logits[..., :1])  # shares do not change if a number is added to all logits
  cdf = LogitRationalQuadraticCDF(tf.concat([first, width_logits], axis=-1), height_logits, slope_logits)
  return Chain([BoundedAffine(scale_logit=scale_logit[..., 0], shift=shift[..., 0]), cdf])


RATIONAL_QUADRATIC = CouplingKind(lambda components: 2 + 3 * components, rational_quadratic_coupling_bijector)
