"""The stack of bits, and the distributions under which integers are pushed on it and popped.

An asymmetric numeral system (Duda 2009) is a stack: what was encoded last is decoded first. Any bits on it can be
decoded as integers of a distribution, and encoding these integers gives the bits back, which is what bits-back coding
needs. The coder is constriction's (Bamler 2022).

Each distribution has `push(stack, n)` and `pop(stack)`; one undoes the other.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from flowpp_tf.compression.threads import check_stopped
from flowpp_tf.core.environment import import_extra

_HIGH_BITS = 6  # the standard deviation of the high part is at most 2^6
_SMALLEST_STD = 1e-3  # of the high part
# An image that exceeds these, or has NaN, is coded plainly.
_LARGEST_MEAN = 2.0**50
_LARGEST_STD = 2.0**28
# Half width of the window around the mean. constriction gives every integer in a window at least 2^-24, so that now
# and then noise is drawn from anywhere in it. So noise has a window for each power of two of the standard deviation,
# which reaches at most 20 standard deviations to either side. Data is never drawn: it has one window, in which it must
# fit where noise has moved it.
_NOISE_WIDTHS = tuple(10 << k for k in range(_HIGH_BITS + 1))
_DATA_WIDTH = 1280
# First and end of each window: of noise around its mean, of noise from a bound, of data.
_WINDOWS = [(-width, width) for width in _NOISE_WIDTHS]
_WINDOWS += [(0, 2 * width) for width in _NOISE_WIDTHS]
_WINDOWS += [(-_DATA_WIDTH, _DATA_WIDTH)]
_FIRST, _END = np.array(_WINDOWS).T
_DATA = len(_WINDOWS) - 1


class WindowError(ValueError):
  """Raised if an integer is too far from the mean of its distribution to be coded.

  Attributes:
    examples: bool, `[N]`: the examples of the batch that hold such integers.
  """

  def __init__(self, examples: np.ndarray) -> None:
    super().__init__(f"{int(examples.sum())} of {len(examples)} images hold a value outside of the coder's window")
    self.examples = examples


class EmptyStackError(ValueError):
  """Raised if more bits are needed than the stack holds."""


@functools.cache
def _stream() -> Any:
  """The coders and models of constriction."""
  return import_extra("constriction", "compression", "compression").stream


def check_inside(inside: np.ndarray, shape: tuple[int, ...]) -> None:
  """Raise a `WindowError` unless all of `inside` is true; it may be flat."""
  if not inside.all():
    raise WindowError(np.asarray(~inside.reshape(shape[0], -1).all(axis=1)))


class Stack:
  """A stack of bits over some initial content.

  Args:
    words: its content, uint32.
    sealed: whether the words are arbitrary, as of initial content, or what `words()` of another stack returned.
  """

  def __init__(self, words: np.ndarray, sealed: bool) -> None:
    self._coder = _stream().stack.AnsCoder(np.ascontiguousarray(words, np.uint32), sealed)

  def copy(self) -> Stack:
    """Return a stack of the same content."""
    copy = object.__new__(Stack)
    copy._coder = self._coder.clone()
    return copy

  def words(self) -> np.ndarray:
    """Return the whole content, for `Stack(words, sealed=False)`."""
    return self._coder.get_compressed()

  def initial_words(self) -> np.ndarray:
    """Return the content of a stack that is back at its initial one.

    Raises:
      ValueError: if it is not.
    """
    return self._coder.get_compressed(unseal=True)

  @property
  def num_bits(self) -> int:
    """Bits on the stack."""
    return self._coder.num_valid_bits()

  def push(self, n: np.ndarray, model: Any, *parameters: np.ndarray) -> None:
    """Push flat integers under a model of constriction, with an array for each of its parameters."""
    check_stopped()
    self._coder.encode_reverse(n.astype(np.int32), model, *parameters)

  def pop(self, model: Any, *parameters: np.ndarray | int) -> np.ndarray:
    """Pop flat int32 integers; without parameters their number is given.

    Raises:
      EmptyStackError: if the stack holds too few bits.
    """
    check_stopped()
    n = self._coder.decode(model, *parameters)
    if self.num_bits < 64:
      raise EmptyStackError("the stack holds too few bits")
    return n


class Uniform:
  """Integers in 0 .. size - 1, int64.

  Args:
    size: at most 2^23.
    shape: of the array of integers.
  """

  def __init__(self, size: int, shape: tuple[int, ...]) -> None:
    self._model = _stream().model.Uniform(size)
    self._shape = shape

  def push(self, stack: Stack, n: np.ndarray) -> None:
    """Push the integers."""
    stack.push(n.reshape(-1), self._model)

  def pop(self, stack: Stack) -> np.ndarray:
    """Pop the integers; errors as for `Stack.pop`."""
    n = stack.pop(self._model, int(np.prod(self._shape)))
    return n.astype(np.int64).reshape(self._shape)


class Normal:
  """Integers under normal distributions rounded to integers, int64.

  constriction codes masses of 24 bits, too few for a standard deviation of thousands. So an integer is coded in two
  parts, n = (high << e) + low: high under a normal whose standard deviation is 32 to 64 steps, low uniformly.

  Args:
    mean: float64 `[N, ...]`.
    std: float64 > 0, broadcast to the shape of `mean`.
    noise: whether the encoder pops these integers, which are then noise, rather than pushes them.
    size: cuts noise off at the bounds 0 and size - 1, at least 2^12 of at most 64 standard deviations; None for no
      bounds. An integer whose window reaches over a bound is coded as its distance from that bound.

  Raises:
    WindowError: if a distribution is invalid.
  """

  def __init__(self, mean: np.ndarray, std: np.ndarray | float, noise: bool = False, size: int | None = None) -> None:
    self._shape = mean.shape
    self._size = size
    stds = np.broadcast_to(std, mean.shape).reshape(-1)
    mean = mean.reshape(-1)
    valid = (np.abs(mean) < _LARGEST_MEAN) & (stds > 0) & (stds < _LARGEST_STD)
    check_inside(valid, self._shape)
    exponent = np.maximum(np.frexp(stds)[1] - _HIGH_BITS, 0).astype(np.int64)
    self._exponent = exponent if size is None else np.zeros_like(exponent)
    self._split = self._exponent > 0
    step = np.ldexp(1.0, self._exponent)
    mean = (mean - (step - 1) / 2) / step
    stds = np.maximum(stds / step, _SMALLEST_STD)
    origin = np.floor(mean)
    self._sign = np.ones(1, np.int64)
    kinds = np.clip(np.frexp(stds)[1], 0, _HIGH_BITS) if noise else np.array([_DATA])
    if size is not None:
      width = np.take(_NOISE_WIDTHS, kinds)
      lower, upper = mean < width, mean > size - 1 - width
      origin = np.where(lower, 0, np.where(upper, size - 1, origin))
      self._sign = np.where(upper, -1, 1)
      kinds = kinds + len(_NOISE_WIDTHS) * (lower | upper)
    mean = self._sign * (mean - origin)
    self._origin = origin.astype(np.int64)
    self._kinds = kinds
    # Which integers are in a window, and their distribution; in the order of popping.
    present = np.flatnonzero(np.bincount(kinds)).tolist() if noise else [_DATA]
    self._windows = []
    for kind in present:
      at = kinds == kind if noise else slice(None)
      distribution = _gaussian(*_WINDOWS[kind]), mean[at], stds[at]
      self._windows.append((at, distribution))

  def push(self, stack: Stack, n: np.ndarray) -> None:
    """Push the integers.

    Raises:
      WindowError: if an integer is too far from its mean; the stack is then as before.
    """
    n = n.reshape(-1)
    high = n >> self._exponent
    low = n - (high << self._exponent)
    high = self._sign * (high - self._origin)
    inside = (high >= _FIRST[self._kinds]) & (high < _END[self._kinds])
    if self._size is not None:
      inside = inside & (n >= 0) & (n < self._size)
    check_inside(inside, self._shape)
    if self._split.any():
      stack.push(low[self._split], *self._low())
    for at, distribution in self._windows[::-1]:
      stack.push(high[at], *distribution)

  def pop(self, stack: Stack) -> np.ndarray:
    """Pop the integers; errors as for `Stack.pop`."""
    n = np.empty(len(self._exponent), np.int64)
    for at, distribution in self._windows:
      n[at] = stack.pop(*distribution)
    n *= self._sign
    n += self._origin
    n <<= self._exponent
    if self._split.any():
      n[self._split] += stack.pop(*self._low())
    return n.reshape(self._shape)

  def _low(self):
    return _stream().model.Uniform(), (1 << self._exponent[self._split]).astype(np.int32)


@functools.cache
def _gaussian(low: int, high: int) -> Any:
  return _stream().model.QuantizedGaussian(low, high - 1)
