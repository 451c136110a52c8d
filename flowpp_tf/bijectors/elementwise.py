"""Elementwise maps around the mixture's CDF: the affine map, logits, and the ends of a flow.

BoundedAffine      y = x exp(tanh a) + b                              Flow++ section 3.2.1, equation 11
PixelsToLogit      y = logit(alpha + (1 - 2 alpha) x / levels)        section 4, after RealNVP
Sigmoid            u = sigmoid(v)                                     section 3.1, the end of the dequantizer
LogitMargin        y = logit((1 - 2 m) sigmoid(x) + m)                VFlow (Chen et al. 2020)
AsinhTransform     y = levels (asinh(w(x)) - asinh(w(0))) / (asinh(w(levels)) - asinh(w(0))),
                   w(x) = (x / levels - offset) / scale               Lupton, Gunn and Szalay 1999
"""

import math
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.base import Elementwise
from flowpp_tf.bijectors.coupling_kinds import CouplingKind
from flowpp_tf.bijectors.parameters import Parameter, TensorParameter, as_elementwise_parameters
from flowpp_tf.core.checks import INT32_MAX, as_tensor, check_count, check_number
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.tensors import finfo, shape_of


class BoundedAffine(Elementwise, tfp.bijectors.AutoCompositeTensorBijector):
  """y = x exp(tanh(scale_logit)) + shift, elementwise.

  The log scale goes through tanh, so that one coupling scales by a factor between 1/e and e. By itself it is the affine
  coupling of the paper's ablation; after `LogitMixtureLogisticCDF` it is equation 11.

  Args:
    scale_logit: any real numbers, broadcast against `x`; their tanh is the log scale.
    shift: any real numbers, broadcast against `x`.

  The log-det is tanh(scale_logit) nats per element.

  Examples:
    >>> affine = fpp.bijectors.BoundedAffine(scale_logit=[0.0, 100.0], shift=[1.0, 0.0])
    >>> affine.forward([1.0, 1.0]).numpy().round(3)
    array([2.   , 2.718], dtype=float32)
  """

  def __init__(self, scale_logit: Any, shift: Any, validate_args: bool = False, name: str = "bounded_affine") -> None:
    parameters = dict(locals())
    self._scale_logit, self._shift = as_elementwise_parameters(scale_logit=scale_logit, shift=shift)
    super().__init__(parameters, dtype=self._shift.dtype, is_constant_jacobian=True)

  scale_logit = TensorParameter("Argument of tanh, which gives the log scale.")
  shift = TensorParameter("Number added after scaling.")

  def _forward_and_log_det(self, x, ctx):
    log_scale = tf.tanh(self.scale_logit)
    y = x * tf.exp(log_scale) + self.shift
    return y, log_scale

  def _inverse_and_log_det(self, y, ctx):
    log_scale = tf.tanh(self.scale_logit)
    x = (y - self.shift) * tf.exp(-log_scale)
    return x, -log_scale


class PixelsToLogit(Elementwise, tfp.bijectors.AutoCompositeTensorBijector):
  """Elementwise map of dequantized pixels in [0, levels] to the reals: y = logit(alpha + (1 - 2 alpha) x / levels).

  With alpha = 0.05 the closed interval [0, levels] goes to [-2.94, 2.94]: the ends stay finite.

  Args:
    levels: number of pixel values, Python `int`: 256 for 8 bits.
    alpha: margin at either end, in (0, 1/2).

  The log-det is in nats per element. The inverse is defined on all reals and can leave [0, levels] by up to
  `alpha / (1 - 2 alpha) levels` on either side.

  Examples:
    >>> fpp.bijectors.PixelsToLogit(levels=256).forward([0.0, 128.0, 256.0]).numpy().round(2)
    array([-2.94,  0.  ,  2.94], dtype=float32)
  """

  def __init__(
    self, levels: int = 256, alpha: float = 0.05, validate_args: bool = False, name: str = "pixels_to_logit"
  ) -> None:
    parameters = dict(locals())
    check_count("levels", levels, high=INT32_MAX)
    check_number("alpha", alpha, 0, 0.5, ends=False)
    self._levels = levels
    self._alpha = alpha
    super().__init__(parameters)

  levels = Parameter("Number of pixel values.")
  alpha = Parameter("Margin at either end.")

  def _forward_and_log_det(self, x, ctx):
    slope = (1 - 2 * self.alpha) / self.levels
    log_p = tf.math.log(self.alpha + slope * x)
    # The distance of x to the upper end is as exact as the distance to the lower end, which 1 - p is not.
    log_q = tf.math.log(self.alpha + slope * (self.levels - x))
    return log_p - log_q, math.log(slope) - log_p - log_q

  def _inverse_and_log_det(self, y, ctx):
    slope = (1 - 2 * self.alpha) / self.levels
    inverse_slope = self.levels / (1 - 2 * self.alpha)
    x = (tf.sigmoid(y) - self.alpha) * inverse_slope
    return x, _log_sigmoid_slope(y) - math.log(slope)


# `AutoCompositeTensorBijector` would register its type as `tfp.bijectors.Sigmoid`, in place of TFP's own.
@tfp.experimental.auto_composite_tensor(
  omit_kwargs=("parameters",), non_identifying_kwargs=("name",), module_name="flowpp_tf.bijectors"
)
class Sigmoid(Elementwise, tfp.experimental.AutoCompositeTensor):
  """y = sigmoid(x) elementwise, kept between the smallest normal number and the last one below 1.

  In float32 sigmoid(17) rounds to 1. A pixel x with noise u = 1 would be taken for x + 1, and the density at u = 1
  would be the density at v = infinity.

  The log-det of the sigmoid is returned everywhere, in nats per element. The inverse takes 0 and 1 for the numbers next
  to them. Numbers outside of [0, 1] have no inverse, and give NaN.

  Examples:
    >>> (fpp.bijectors.Sigmoid().forward([0.0, 100.0]) < 1).numpy()
    array([ True,  True])
  """

  def __init__(self, validate_args: bool = False, name: str = "sigmoid") -> None:
    super().__init__(dict(locals()))

  def _forward_and_log_det(self, x, ctx):
    return _inside(tf.sigmoid(x)), _log_sigmoid_slope(x)

  def _inverse_and_log_det(self, y, ctx):
    is_probability = (y >= 0) & (y <= 1)
    p = tf.where(is_probability, _inside(y), tf.constant(math.nan, y.dtype))
    log_p = tf.math.log(p)
    log_q = tf.math.log1p(-p)
    return log_p - log_q, -log_p - log_q


def _inside(p):
  """Return probabilities, but those next to 0 and 1 in place of 0 and 1."""
  numbers = finfo(p.dtype)
  return tf.clip_by_value(p, numbers.tiny, 1 - numbers.epsneg)


def _log_sigmoid_slope(x):
  """Return log sigmoid'(x) = log sigmoid(x) + log sigmoid(-x)."""
  return -tf.nn.softplus(x) - tf.nn.softplus(-x)


class LogitMargin(Elementwise, tfp.bijectors.AutoCompositeTensorBijector):
  """y = logit((1 - 2 margin) sigmoid(x) + margin), elementwise, from the reals to (logit margin, -logit margin).

  After `LogitMixtureLogisticCDF` this is logit((1 - 2 m) F + m), F the CDF of the mixture: VFlow's couplings. The tails
  of F end at +-logit(m), as pixels end in `PixelsToLogit`. Here x is a logit, which keeps both tails exact.

  Args:
    margin: m, in (0, 1/2).

  The log-det is in nats per element. The inverse keeps sigmoid(x) between eps and 1 - eps, eps the spacing of the
  dtype's numbers at 1: a y outside of the range gives the x of its end, which is finite (15.9 in float32, 36.0 in
  float64), and the log-det there. So every latent of a flow of such couplings gives a finite sample, if not always one
  whose latent it is.

  Raises:
    InputError (a ValueError): for another margin.

  Examples:
    >>> margin = fpp.bijectors.LogitMargin(0.05)
    >>> margin.forward([-100.0, 0.0, 100.0]).numpy().round(2)
    array([-2.94,  0.  ,  2.94], dtype=float32)
    >>> margin.inverse([-5.0, 0.0, 5.0]).numpy().round(2)
    array([-15.94,   0.  ,  15.94], dtype=float32)
  """

  def __init__(self, margin: float, validate_args: bool = False, name: str = "logit_margin") -> None:
    parameters = dict(locals())
    check_number("margin", margin, 0, 0.5, ends=False)
    self._margin = margin
    super().__init__(parameters)

  margin = Parameter("What y lacks of 0 and 1 as a probability.")

  def _forward_and_log_det(self, x, ctx):
    slope = 1 - 2 * self.margin
    log_p = tf.math.log(self.margin + slope * tf.sigmoid(x))
    log_q = tf.math.log(self.margin + slope * tf.sigmoid(-x))
    log_slope_of_p = math.log(slope) - tf.nn.softplus(x) - tf.nn.softplus(-x)
    return log_p - log_q, log_slope_of_p - log_p - log_q

  def _inverse_and_log_det(self, y, ctx):
    # Each tail has its own sigmoid: 1 - p would lose the upper one.
    x = self._log_probability(tf.sigmoid(y)) - self._log_probability(tf.sigmoid(-y))
    x = tf.where(tf.math.is_nan(y), y, x)  # on some devices the minimum of NaN and a number is the number
    _, log_det = self._forward_and_log_det(x, ctx)
    return x, -log_det

  def _log_probability(self, p):
    """Return the log of the probability that the margin takes to p, at least eps and at most 1."""
    p = (p - self.margin) / (1 - 2 * self.margin)
    eps = float(finfo(p.dtype).eps)
    return tf.math.log(tf.clip_by_value(p, eps, 1.0))


class AsinhTransform(Elementwise, tfp.bijectors.AutoCompositeTensorBijector):
  """Increasing map of dequantized pixels in [0, levels] onto [0, levels], elementwise.

  Frames of 16 bits are dark except for a few bright stars: in the logit of x / levels, the noise of a dark frame is a
  thousandth of the range. This map stretches the dark part. It is linear near `offset`, the brightness of the sky, and
  logarithmic far from it.

  Args:
    offset: scalar, the brightness around which the map is linear, as a part of `levels`. A tensor or a variable of
      TensorFlow or Keras.
    scale: scalar > 0, as a part of `levels`: at this distance from `offset` the slope is smaller by sqrt(2).
    levels: number of pixel values, Python `int`.

  The log-det is in nats per element. The inverse is defined on all reals, and grows as exp outside of [0, levels].

  Examples:
    >>> transform = fpp.bijectors.AsinhTransform(offset=0.01, scale=0.001, levels=65536)
    >>> transform.forward([0.0, 655.36, 65536.0]).numpy().round()
    array([    0., 18556., 65536.], dtype=float32)
  """

  def __init__(
    self, offset: Any, scale: Any, levels: int = 256, validate_args: bool = False, name: str = "asinh_transform"
  ) -> None:
    parameters = dict(locals())
    check_count("levels", levels, high=INT32_MAX)
    self._offset, self._scale = as_elementwise_parameters(offset=offset, scale=scale)
    self._levels = levels
    super().__init__(parameters, dtype=self._scale.dtype)

  offset = TensorParameter("Brightness around which the map is linear, as a part of `levels`.")
  scale = TensorParameter(
    "Distance from it at which the slope is smaller by sqrt(2), as a part of `levels`.", low=lambda dtype: 1e-6
  )
  levels = Parameter("Number of pixel values.")

  def _constants(self):
    """Return offset, scale, asinh(w) at x = 0, and the difference to asinh(w) at x = `levels`."""
    offset = tf.convert_to_tensor(self.offset)
    scale = tf.convert_to_tensor(self.scale)
    start = tf.asinh(-offset / scale)
    length = tf.asinh((1 - offset) / scale) - start
    return offset, scale, start, length

  def _forward_and_log_det(self, x, ctx):
    offset, scale, start, length = self._constants()
    w = (x - offset * self.levels) / (scale * self.levels)
    y = (tf.asinh(w) - start) * (self.levels / length)
    return y, _log_asinh_slope(w, scale * length)

  def _inverse_and_log_det(self, y, ctx):
    offset, scale, start, length = self._constants()
    w = tf.sinh(y * (length / self.levels) + start)
    x = (w * scale + offset) * self.levels
    return x, -_log_asinh_slope(w, scale * length)


def _log_asinh_slope(w, factor):
  """Return log(asinh'(w) / factor), where asinh'(w) = 1 / sqrt(1 + w^2)."""
  far = tf.abs(w) > 1 / float(finfo(w.dtype).eps)  # there w^2 may overflow, and 1 + w^2 is w^2
  near_w = tf.where(far, tf.zeros_like(w), w)
  far_w = tf.where(far, w, tf.ones_like(w))
  near_log_root = 0.5 * tf.math.log1p(near_w * near_w)
  far_log_root = tf.math.log(tf.abs(far_w))
  log_root = tf.where(far, far_log_root, near_log_root)
  return -log_root - tf.math.log(factor)


def affine_coupling_bijector(parameters: tf.Tensor) -> BoundedAffine:
  """Return the paper's affine coupling, y = x exp(tanh s) + t, with log-det tanh(s) nats per value.

  Args:
    parameters: `[..., C 2]`; for each value in the order scale, shift.

  Raises:
    ValueError: if the last axis is odd.

  Examples:
    >>> bijector = fpp.bijectors.affine_coupling_bijector(tf.constant([[0.0, 1.0, 0.0, 2.0]]))  # of two values
    >>> bijector.forward(tf.zeros([1, 2])).numpy()
    array([[1., 2.]], dtype=float32)
  """
  parameters = per_value(as_tensor("parameters", parameters, None, tf.float32), 2)
  scale_logit, shift = tf.unstack(parameters, axis=-1)
  return BoundedAffine(scale_logit, shift)


def _affine_without_components(parameters, components):  # by name, as a lambda cannot be pickled
  del components
  return affine_coupling_bijector(parameters)


def per_value(parameters: tf.Tensor, size: int) -> tf.Tensor:
  """Return parameters `[..., C size]` as `[..., C, size]`; raise a `ValueError` for another number of them."""
  if not parameters.shape.rank or not parameters.shape[-1] or parameters.shape[-1] % size:
    raise InputError(
      f"the conditioner must give {size} parameters for each transformed value, got "
      f"parameters of shape {parameters.shape}"
    )
  *batch, count = shape_of(parameters)
  return tf.reshape(parameters, [*batch, count // size, size])


AFFINE = CouplingKind(lambda components: 2, _affine_without_components)
