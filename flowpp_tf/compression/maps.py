"""The elementwise maps of the model, with the same bits on every machine. Flow++ sections 3.1 and 3.2.1.

    MixtureLogistic   y = logit(sum_i pi_i sigmoid((x - mu_i) / s_i)) exp(tanh a) + b     (equation 11)
                      with a margin m: of (1 - 2 m) sum_i ... + m                         (VFlow)
    BoundedAffine     y = x exp(tanh a) + b                                               (the ablation)
    Sigmoid           y = sigmoid(x)                                                      (end of the dequantizer)
    PixelsToLogit     y = logit(alpha + (1 - 2 alpha) x / levels)
                      with a transform T: of (T(x) - T(0)) / (T(levels) - T(0)) in place of x / levels

Each computes the same as the bijector of its name. The codec needs the value, the slope dy/dx, and an inverse whose
error is far below the noise that the codec adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from flowpp_tf.compression import portable_math
from flowpp_tf.compression.kernels import KERNELS
from flowpp_tf.compression.portable_math import choose

_SMALLEST_LOG_SCALE = -7.0
MOST_ITERATIONS = 100
_ERROR = 1e-3  # of an inverse, relative to the noise's standard deviation
_STD_BEYOND = 4.0
# Of a coupling with a margin: about a step of y's grid, as a step of F. Smaller values of F look the same in y.
_SMALLEST_CDF = 2.0**-20


class ElementwiseMap(Protocol):
  """An increasing elementwise map."""

  def forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return y and dy/dx."""

  def inverse(self, y: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Return x, with an error below 0.001 sigma / sqrt(slope), and dy/dx there."""


class MixtureLogistic(ElementwiseMap):
  """Equation 11.

  Args:
    parameters: `[..., C (2 + 3 K)]` of the conditioner, for inputs `[..., C]`.
    components: K.
    margin: m; 0 for logit(F). With one, the y next to the ends of the range and beyond stand for all x of F below 2^-20
      or above 1 - 2^-20: the standard deviation of x given y is 4 scales there, for any sigma.
  """

  def __init__(self, parameters: np.ndarray, components: int, margin: float = 0.0) -> None:
    values = parameters.reshape(-1, 2 + 3 * components)
    self._count = len(values)
    size = max(portable_math.BLOCK // components, 1)
    self._blocks = [slice(start, start + size) for start in range(0, len(values), size)]
    self._mixtures = [Mixture(np.ascontiguousarray(values[block].T), margin) for block in self._blocks]

  def forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return self._by_blocks(x, lambda mixture, x: mixture.forward(x))

  def inverse(self, y: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    return self._by_blocks(y, lambda mixture, y: mixture.inverse(y, sigma))

  def _by_blocks(self, values, function):
    flat = values.reshape(-1)
    if len(flat) != self._count:  # of an archive's model: compiled loops do not look
      raise ValueError(f"there are parameters of {self._count} mixtures for {len(flat)} values")
    results = [function(mixture, flat[block]) for mixture, block in zip(self._mixtures, self._blocks)]
    first, second = (np.concatenate(parts).reshape(values.shape) for parts in zip(*results))
    return first, second


class Mixture:
  """The map of N values.

  Args:
    parameters: `[2 + 3 K, N]` of the values.
    margin: as above.
  """

  def __init__(self, parameters: np.ndarray, margin: float) -> None:
    self.margin = margin
    components = (len(parameters) - 2) // 3
    scale_logit, shift = parameters[:2]
    logits, loc, log_scales = parameters[2:].reshape(3, components, -1)
    weights = portable_math.exp(logits - logits.max(axis=0))
    self.factor = portable_math.exp(portable_math.tanh(scale_logit))
    self.shift = np.ascontiguousarray(shift)
    self.pi = weights / portable_math.total(weights, axis=0)
    self.loc = np.ascontiguousarray(loc)
    self.scale = portable_math.exp(np.maximum(log_scales, _SMALLEST_LOG_SCALE))
    self.rate = 1 / self.scale

  def forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logit, slope = self._logit_cdf(x)
    if self.margin:
      logit, slope_of_margin = _with_margin(logit, self.margin)
      slope *= slope_of_margin
    return logit * self.factor + self.shift, slope * self.factor

  def inverse(self, y: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    target = (y - self.shift) / self.factor
    if not self.margin:
      x, slope = self._quantile(target, sigma)
      return x, slope * self.factor
    target, inside = _without_margin(target, self.margin)
    x, slope = self._quantile(target, sigma)
    _, slope_of_margin = _with_margin(target, self.margin)
    slope_inside = slope * slope_of_margin * self.factor
    slope_beyond = (slope * sigma / _STD_BEYOND) ** 2
    return x, np.where(inside, slope_inside, slope_beyond)

  def _logit_cdf(self, x):
    loops = KERNELS.loops
    if loops is None:
      return _logit_cdf(x, self.pi, self.loc, self.rate)
    x = np.ascontiguousarray(x, np.float64)
    logit, slope = np.empty_like(x), np.empty_like(x)
    loops.logit_cdf(x, self.pi, self.loc, self.rate, logit, slope)
    return logit, slope

  def _quantile(self, target, sigma):
    """Return the x with logit F(x) = target, as exact as `inverse` must be, and the slope of logit F there."""
    loops = KERNELS.loops
    if loops is not None:
      x, slope = np.empty_like(target), np.empty_like(target)
      parameters = self.pi, self.loc, self.scale, self.rate, self.factor
      loops.quantile(target, _ERROR * sigma, *parameters, x, slope)
      return x, slope
    quantiles = self.loc + self.scale * target
    low, high = quantiles.min(axis=0), quantiles.max(axis=0)
    start = np.clip(portable_math.total(self.pi * quantiles, axis=0), low, high)
    x, slope = np.empty_like(start), np.empty_like(start)
    active = np.arange(len(start))
    bound = _ERROR * sigma * self.scale.min(axis=0)
    arrays = [target, self.pi, self.loc, self.rate, self.factor, bound, start, low, high, high - low]
    for _ in range(MOST_ITERATIONS):
      target, pi, loc, rate, factor, bound, here, low, high, length = arrays
      value, slope_here = _logit_cdf(here, pi, loc, rate)
      following, low, high, is_done = newton_step(here, low, high, length, value - target, slope_here, factor, bound)
      x[active] = following
      slope[active] = slope_here
      going = ~is_done
      if not going.any():
        break
      active = active[going]
      arrays = [target, pi, loc, rate, factor, bound, following, low, high, np.abs(following - here)]
      arrays = [array[..., going] for array in arrays]
    return x, slope


def newton_step(
  here: Any, low: Any, high: Any, last_length: Any, error: Any, slope: Any, factor: Any, bound: Any
) -> tuple[Any, Any, Any, Any]:
  """Take a Newton step to a root, or halve the interval around it; of arrays or numbers.

  Args:
    here: place of the iteration.
    low: one end of the interval.
    high: the other end.
    last_length: of the step before; the one that follows is at most half as long.
    error: the function's value here.
    slope: the function's slope here.
    factor: of the slope of y.
    bound: for the error of x at the end.

  Returns:
    The following place, the ends of a smaller interval, and whether this was the last step.
  """
  low, high = choose(error <= 0, here, low), choose(error >= 0, here, high)
  newton = here - error / slope
  length = np.abs(newton - here)
  is_safe = (newton >= low) & (newton <= high) & (length + length <= last_length)
  following = choose(is_safe, newton, low + (high - low) / 2)
  # A Newton iteration leaves an error of about its length squared over the scale.
  is_near = is_safe & (length * length * np.sqrt(slope * factor) <= bound)
  is_closed = high - low <= 4e-16 * (np.abs(low) + np.abs(high))
  return following, low, high, is_near | is_closed


def _logit_cdf(x, pi, loc, rate):
  """Return logit F and its slope F' / (F (1 - F)), for x `[N]` and parameters `[K, N]`."""
  below, above = portable_math.sigmoids((x - loc) * rate)
  terms = pi * below
  cdf = portable_math.total(terms, axis=0)
  survival = portable_math.total(pi * above, axis=0)
  terms *= above
  terms *= rate
  density = portable_math.total(terms, axis=0)
  return portable_math.log(cdf / survival), density / (cdf * survival)


def _with_margin(logit, margin):
  """Return logit((1 - 2 m) F + m) for a logit of F, and its derivative, which is below 1."""
  below, above = portable_math.sigmoids(logit)
  inner = 1 - 2 * margin
  p, q = inner * below + margin, inner * above + margin
  return portable_math.log(p / q), inner * (below * above) / (p * q)


def _without_margin(logit, margin):
  """Return the logit of F for one of (1 - 2 m) F + m, with F kept off 0 and 1, and where that changed nothing."""
  p, q = portable_math.sigmoids(logit)
  inner = 1 - 2 * margin
  below, above = (p - margin) / inner, (q - margin) / inner
  inside = (below > _SMALLEST_CDF) & (above > _SMALLEST_CDF)
  below = np.clip(below, _SMALLEST_CDF, 1 - _SMALLEST_CDF)
  above = np.clip(above, _SMALLEST_CDF, 1 - _SMALLEST_CDF)
  return portable_math.log(below / above), inside


class BoundedAffine(ElementwiseMap):
  """The affine map of the paper's ablation.

  Args:
    parameters: `[..., C 2]` of the conditioner, for inputs `[..., C]`.
    components: not used.
  """

  def __init__(self, parameters: np.ndarray, components: int = 0) -> None:
    del components
    by_value = parameters.reshape(*parameters.shape[:-1], -1, 2)
    self._factor = portable_math.exp(portable_math.tanh(by_value[..., 0]))
    self._shift = by_value[..., 1]

  def forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x * self._factor + self._shift, self._factor

  def inverse(self, y: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    return (y - self._shift) / self._factor, self._factor


# By kind of coupling; archives cannot hold images of models with another kind.
COUPLING_MAPS = {"mixture_logistic": MixtureLogistic, "affine": BoundedAffine}


class Sigmoid(ElementwiseMap):
  """The last map of the dequantizer.

  Args:
    cell: step of the grid of y. Its first and last cell stand for all x beyond, so that the standard deviation of x
      given y is 4 there, for any sigma.
  """

  def __init__(self, cell: float) -> None:
    self._cell = cell

  def forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    below, above = portable_math.sigmoids(x)
    return below, below * above

  def inverse(self, y: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    inside = (y > self._cell) & (y < 1 - self._cell)
    slope = np.where(inside, y * (1 - y), (sigma / _STD_BEYOND) ** 2)
    return portable_math.log(y / (1 - y)), slope


class PixelsToLogit(ElementwiseMap):
  """Map dequantized pixels in [0, levels] to logits.

  Args:
    levels: number of pixel values.
    alpha: margin at either end.
    transform: of the pixels before their logit, as in the description of a model: `kind`, `offset`, `scale`.
  """

  def __init__(self, levels: int, alpha: float, transform: Mapping[str, Any] | None = None) -> None:
    self._levels = levels
    self._alpha = alpha
    self._slope = (1 - 2 * alpha) / levels
    self._transform = None if transform is None else AsinhTransform(levels, **transform)

  def forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, slope = (x, 1.0) if self._transform is None else self._transform.forward(x)
    below = self._alpha + self._slope * x
    above = self._alpha + self._slope * (self._levels - x)
    return portable_math.log(below / above), slope * (self._slope / (below * above))

  def inverse(self, y: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    below, above = portable_math.sigmoids(y)
    x = (below - self._alpha) / self._slope
    x, slope = (x, 1.0) if self._transform is None else self._transform.inverse(x)
    return x, slope * (self._slope / (below * above))


class AsinhTransform:
  """Map [0, levels] onto itself, as the bijector of this name.

  Args:
    levels: number of pixel values.
    kind: "asinh", the only one.
    offset: as of the bijector.
    scale: as of the bijector.
  """

  def __init__(self, levels: int, kind: str, offset: float, scale: float) -> None:
    if kind != "asinh" or not 0 <= offset < 2 or not 0 < scale < 2**20:
      raise ValueError(f"the pixel transform {kind!r} with offset {offset} and scale {scale} is invalid")
    self._offset = offset * levels
    self._scale = scale * levels
    ends = np.array([-self._offset, levels - self._offset])
    self._start, end = _asinh(ends / self._scale)
    self._factor = levels / (end - self._start)

  def forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return T(x) and its slope."""
    w = (x - self._offset) / self._scale
    return (_asinh(w) - self._start) * self._factor, self._slope(w)

  def inverse(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the x of T(x) = y, and the slope of T there."""
    e = portable_math.exp(y / self._factor + self._start)
    w = (e - 1 / e) / 2
    return w * self._scale + self._offset, self._slope(w)

  def _slope(self, w):
    return (self._factor / self._scale) / np.sqrt(w * w + 1)


def _asinh(w):
  size = np.abs(w)
  return np.copysign(portable_math.log(size + np.sqrt(size * size + 1)), w)
