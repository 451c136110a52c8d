"""Bits-back coding as a sequence of invertible steps.

The encoder's `push(stack, x)` returns y, and the decoder's `pop(stack, y)` returns x and leaves the stack as it was. A
step that draws y or a part of it pops bits, and pushes what the decoder cannot know from y. These are the codecs of
BB-ANS (Townsend, Bird and Barber 2019) and Craystack. A distribution (stack.py) becomes a step as a `Prior`.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any, Protocol

import numpy as np

from flowpp_tf.compression.grids import Grid
from flowpp_tf.compression.maps import ElementwiseMap
from flowpp_tf.compression.stack import Normal, Stack, Uniform

SIGMA = 2.0**-9  # standard deviation of the noise where a map has slope 1, of images with at most 256 levels


class Step(Protocol):
  """An invertible step."""

  def push(self, stack: Stack, x: Any, /) -> Any:
    """Return y."""

  def pop(self, stack: Stack, y: Any, /) -> Any:
    """Return x."""


@dataclasses.dataclass(frozen=True)
class Sequence(Step):
  """Push through the steps in order; pop through them in reverse order."""

  steps: list[Step]

  def push(self, stack: Stack, x: Any) -> Any:
    for step in self.steps:
      x = step.push(stack, x)
    return x

  def pop(self, stack: Stack, y: Any) -> Any:
    for step in self.steps[::-1]:
      y = step.pop(stack, y)
    return y


@dataclasses.dataclass(frozen=True)
class Inverse(Step):
  """Push where a step pops, and pop where it pushes."""

  step: Step

  def push(self, stack: Stack, x: Any) -> Any:
    return self.step.pop(stack, x)

  def pop(self, stack: Stack, y: Any) -> Any:
    return self.step.push(stack, y)


@dataclasses.dataclass(frozen=True)
class Bijection(Step):
  """Apply a bijection of integers, which costs no bits."""

  forward: Callable[[np.ndarray], np.ndarray]
  inverse: Callable[[np.ndarray], np.ndarray]

  def push(self, stack: Stack, x: np.ndarray) -> np.ndarray:
    return self.forward(x)

  def pop(self, stack: Stack, y: np.ndarray) -> np.ndarray:
    return self.inverse(y)


@dataclasses.dataclass(frozen=True)
class Prior(Step):
  """End a sequence: push z under its distribution and return the batch size, from which the decoder begins.

  Attributes:
    distribution: of a batch of a given size.
  """

  distribution: Callable[[int], Normal | Uniform]

  def push(self, stack: Stack, z: np.ndarray) -> int:
    self.distribution(len(z)).push(stack, z)
    return len(z)

  def pop(self, stack: Stack, count: int) -> np.ndarray:
    return self.distribution(count).pop(stack)


@dataclasses.dataclass(frozen=True)
class BitsBack(Step):
  """Pop a latent variable u from q(u | x) and join it with x: y = (x, u).

  Attributes:
    posterior: the step that pushes u under q(u | x), given x, and returns the batch size.
    join: y of x and u.
    split: x and u of y.
  """

  posterior: Callable[[np.ndarray], Step]
  join: Callable[[np.ndarray, np.ndarray], np.ndarray]
  split: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

  def push(self, stack: Stack, x: np.ndarray) -> np.ndarray:
    return self.join(x, self.posterior(x).pop(stack, len(x)))

  def pop(self, stack: Stack, y: np.ndarray) -> np.ndarray:
    x, u = self.split(y)
    self.posterior(x).push(stack, u)
    return x


@dataclasses.dataclass(frozen=True)
class LocalBitsBack(Step):
  """Apply an elementwise map y = f(x) of slope J to integers on grids.

  Pop y from q(y | x) = N(f(x), sigma^2 J), then push x under p(x | y) = N(f^-1(y), sigma^2 / J).

  Attributes:
    elementwise: f.
    before: grid of x.
    after: grid of y.
    size: the integers of y lie in 0 .. size - 1; None for no bounds.
    sigma: standard deviation of the noise where f has slope 1.
  """

  elementwise: ElementwiseMap
  before: Grid
  after: Grid
  size: int | None = None
  sigma: float = SIGMA

  def push(self, stack: Stack, x: np.ndarray) -> np.ndarray:
    y = self._y_given(x).pop(stack)
    self._x_given(y).push(stack, x)
    return y

  def pop(self, stack: Stack, y: np.ndarray) -> np.ndarray:
    x = self._x_given(y).pop(stack)
    self._y_given(x).push(stack, y)
    return x

  def _y_given(self, x):
    y, slope = self.elementwise.forward(self.before.values(x))
    std = self.sigma * np.sqrt(slope) / self.after.part(*x.shape[1:3]).scale
    return Normal(self.after.places(y), std, noise=True, size=self.size)

  def _x_given(self, y):
    x, slope = self.elementwise.inverse(self.after.values(y), self.sigma)
    scale = self.before.part(*y.shape[1:3]).scale
    std = self.sigma / np.sqrt(slope) / np.abs(scale)
    return Normal(self.before.places(x), std)


@dataclasses.dataclass(frozen=True)
class Coupling(Step):
  """Transform the second half of the channels given the first, and swap the halves.

  Attributes:
    transform: the step of the second half, given the first.
  """

  transform: Callable[[np.ndarray], Step]

  def push(self, stack: Stack, x: np.ndarray) -> np.ndarray:
    kept, rest = _halves(x)
    return np.concatenate([self.transform(kept).push(stack, rest), kept], axis=-1)

  def pop(self, stack: Stack, y: np.ndarray) -> np.ndarray:
    transformed, kept = _halves(y)
    return np.concatenate([kept, self.transform(kept).pop(stack, transformed)], axis=-1)


def _halves(n):
  return tuple(np.ascontiguousarray(half) for half in np.split(n, 2, axis=-1))
