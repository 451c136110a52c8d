"""The stack of bits: integers are pushed and popped under discretised normal and uniform distributions.

An asymmetric numeral system (Duda 2009) is a stack: what was encoded last is decoded first, and whatever bits lie on
it can be decoded as if they were integers of a distribution, which encoding them gives back. Bits-back coding lives on
that. The coder is constriction's (Bamler 2022).

constriction codes masses of 24 bits, too few for integers with a standard deviation of thousands. So an integer n is
coded in two parts, n = (h << e) + l: h under a normal whose standard deviation is 32 to 64 steps, l uniformly.
"""

from __future__ import annotations

import numpy as np

from flowpp_tf.core.errors import InputError

try:
  import constriction
except ImportError:
  constriction = None

_HIGH_BITS = 6  # the standard deviation of h is at most 2^6
_SMALLEST_STD = 1e-3  # of h
_LARGEST_MEAN, _LARGEST_STD = 2.0**50, 2.0**28  # beyond, and for NaN, an image is coded plainly
# Half width of the window of h around the mean. constriction gives every integer in a window at least 2^-24, so that
# noise is now and then drawn from anywhere in it: the window of noise is at most 20 standard deviations wide on either
# side, one for each power of two. Data must fit where noise has moved it; as it is never drawn, one window does.
_NOISE_WIDTHS = tuple(10 << k for k in range(_HIGH_BITS + 1))
_DATA_WIDTH = 1280


class WindowError(Exception):
  """Raised if an integer is too far from the mean of its distribution to be coded.

  Attributes:
    examples: bool, `[N]`: the examples of the batch that hold such integers.
  """

  def __init__(self, examples: np.ndarray) -> None:
    super().__init__(f"{int(examples.sum())} of {len(examples)} images hold a value outside of the coder's window")
    self.examples = examples


class EmptyStackError(Exception):
  """Raised if more bits are needed than the stack holds."""


def check_constriction() -> None:
  """Raise an `InputError` if the extra `compression` is not installed."""
  if constriction is None:
    raise InputError("compression needs constriction: pip install 'flowpp_tf[compression]'")


class Stack:
  """A stack of bits over some initial content.

  Args:
    words: its content, uint32.
    sealed: whether the words are arbitrary, as of initial content, or what `words()` of another stack returned.
  """

  def __init__(self, words: np.ndarray, sealed: bool) -> None:
    check_constriction()
    self._coder = constriction.stream.stack.AnsCoder(np.ascontiguousarray(words, np.uint32), sealed)
    model = constriction.stream.model
    self._uniform = model.Uniform()
    self._data = model.QuantizedGaussian(-_DATA_WIDTH, _DATA_WIDTH - 1)
    self._noise = [model.QuantizedGaussian(-width, width - 1) for width in _NOISE_WIDTHS]
    self._edges = [model.QuantizedGaussian(0, 2 * width - 1) for width in _NOISE_WIDTHS]

  def copy(self) -> Stack:
    """Return a stack of the same content."""
    copy = object.__new__(Stack)
    copy.__dict__.update(self.__dict__, _coder=self._coder.clone())
    return copy

  def replace(self, other: Stack) -> None:
    """Take the content of another stack."""
    self._coder = other._coder

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

  def push(self, n: np.ndarray, mean: np.ndarray, std: np.ndarray, noise: bool = False) -> None:
    """Push int64 `n [N, ...]` under normals rounded to integers.

    Args:
      n: the integers.
      mean: float64 of its shape, or broadcast to it.
      std: float64 of its shape, or broadcast to it, > 0.
      noise: whether the encoder pops these integers, which are then noise, rather than pushes them.

    Raises:
      WindowError: if an integer is too far from its mean, or a distribution has no meaning; the stack is then as
        before.
    """
    shape, n = n.shape, n.reshape(-1)
    exponent, base, offset, std = _split(mean, std, shape)
    high = n >> exponent
    low = n - (high << exponent)
    high -= base
    kinds = _kinds(std) if noise else None
    width = _DATA_WIDTH if kinds is None else np.take(_NOISE_WIDTHS, kinds)
    check_inside((high >= -width) & (high < width), shape)
    split = exponent > 0
    if split.any():
      self._coder.encode_reverse(low[split].astype(np.int32), self._uniform, (1 << exponent[split]).astype(np.int32))
    self._encode(high, self._noise if noise else [self._data], kinds, offset, std)

  def pop(self, mean: np.ndarray, std: np.ndarray, shape: tuple[int, ...], noise: bool = False) -> np.ndarray:
    """Pop int64 `[N, ...]` of a shape, with arguments as for `push`.

    Raises:
      EmptyStackError: if the stack holds too few bits.
      WindowError: if a distribution has no meaning.
    """
    exponent, base, offset, std = _split(mean, std, shape)
    n = self._decode(self._noise if noise else [self._data], _kinds(std) if noise else None, offset, std)
    n += base
    n <<= exponent
    split = exponent > 0
    if split.any():
      n[split] += self._coder.decode(self._uniform, (1 << exponent[split]).astype(np.int32))
    self._check_not_empty()
    return n.reshape(shape)

  def push_bounded(self, n: np.ndarray, mean: np.ndarray, std: np.ndarray, size: int) -> None:
    """Push int64 `n [N, ...]` in 0 .. size - 1 under normals that are cut off at these bounds, noise to the encoder.

    Args:
      n: the integers.
      mean: float64 of its shape.
      std: float64 of its shape, in (0, 64].
      size: at least 2^12.

    Raises:
      WindowError: as in `push`.
    """
    shape, n = n.shape, n.reshape(-1)
    kinds, (low, high), mean, base, std = _split_bounded(mean, std, size)
    relative = np.where(low, n, np.where(high, size - 1 - n, n - base))
    width = np.take(_NOISE_WIDTHS, kinds)
    edge = low | high
    check_inside(
      (n >= 0) & (n < size) & (relative >= np.where(edge, 0, -width)) & (relative < np.where(edge, 2 * width, width)),
      shape,
    )
    for normals, chosen in ((self._edges, edge), (self._noise, ~edge)):
      self._encode(relative[chosen], normals, kinds[chosen], mean[chosen], std[chosen])

  def pop_bounded(self, mean: np.ndarray, std: np.ndarray, size: int) -> np.ndarray:
    """Pop int64 of the shape of `mean`, with arguments as for `push_bounded`.

    Raises:
      EmptyStackError: if the stack holds too few bits.
    """
    shape = mean.shape
    kinds, (low, high), mean, base, std = _split_bounded(mean, std, size)
    edge = low | high
    relative = np.empty(len(mean), np.int64)
    for normals, chosen in ((self._noise, ~edge), (self._edges, edge)):
      relative[chosen] = self._decode(normals, kinds[chosen], mean[chosen], std[chosen])
    self._check_not_empty()
    return np.where(low, relative, np.where(high, size - 1 - relative, base + relative)).reshape(shape)

  def push_uniform(self, n: np.ndarray, size: int) -> None:
    """Push integers in 0 .. size - 1, size at most 2^23."""
    self._coder.encode_reverse(n.reshape(-1).astype(np.int32), constriction.stream.model.Uniform(size))

  def pop_uniform(self, size: int, shape: tuple[int, ...]) -> np.ndarray:
    """Pop int64 in 0 .. size - 1.

    Raises:
      EmptyStackError: if the stack holds too few bits.
    """
    n = self._coder.decode(constriction.stream.model.Uniform(size), int(np.prod(shape)))
    self._check_not_empty()
    return n.astype(np.int64).reshape(shape)

  def _encode(self, n, normals, kinds, mean, std):
    """Encode integers, each by the normal of its kind."""
    n = n.astype(np.int32)
    for kind in reversed(range(len(normals))):
      chosen = slice(None) if kinds is None else kinds == kind
      self._coder.encode_reverse(n[chosen], normals[kind], mean[chosen], std[chosen])

  def _decode(self, normals, kinds, mean, std):
    n = np.empty(len(mean), np.int64)
    for kind, normal in enumerate(normals):
      chosen = slice(None) if kinds is None else kinds == kind
      n[chosen] = self._coder.decode(normal, mean[chosen], std[chosen])
    return n

  def _check_not_empty(self):
    if self.num_bits < 64:
      raise EmptyStackError("the stack holds too few bits")


def _split(mean, std, shape):
  """Exponent e, and of h: the whole part of its mean, the rest of it, and its standard deviation; all flat."""
  mean = np.broadcast_to(mean, shape).reshape(-1)
  std = np.broadcast_to(std, shape).reshape(-1)
  check_inside((np.abs(mean) < _LARGEST_MEAN) & (std > 0) & (std < _LARGEST_STD), shape)
  exponent = np.maximum(np.frexp(std)[1] - _HIGH_BITS, 0).astype(np.int64)
  size = np.ldexp(1.0, exponent)
  mean = (mean - (size - 1) / 2) / size
  base = np.floor(mean)
  return exponent, base.astype(np.int64), mean - base, np.maximum(std / size, _SMALLEST_STD)


def _split_bounded(mean, std, size):
  """Kinds; which integers are near the lower and the upper bound; mean and standard deviation of what codes them; the
  base of those that are far from both; all flat."""
  check_inside((np.abs(mean) < _LARGEST_MEAN) & (std >= 0) & (std < _LARGEST_STD), mean.shape)
  mean, std = mean.reshape(-1), np.maximum(std.reshape(-1), _SMALLEST_STD)
  kinds = _kinds(std)
  width = np.take(_NOISE_WIDTHS, kinds)
  low, high = mean < width, mean > size - 1 - width
  base = np.floor(mean)
  mean = np.where(low, mean, np.where(high, size - 1 - mean, mean - base))
  return kinds, (low, high), mean, base.astype(np.int64), std


def _kinds(std):
  """Index of the window of noise: the power of two that a standard deviation does not reach."""
  return np.clip(np.frexp(std)[1], 0, _HIGH_BITS)


def check_inside(inside: np.ndarray, shape: tuple[int, ...]) -> None:
  """Raise a `WindowError` unless all of `inside` is true; it may be flat."""
  if not inside.all():
    raise WindowError(np.asarray(~inside.reshape(shape[0], -1).all(axis=1)))
