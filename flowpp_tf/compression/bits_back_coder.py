"""Bits-back coding of a batch of images: a walk over the flow's steps on integers.

Local bits-back coding (Ho, Lohn and Abbeel 2019) turns the flow's bound into a code length. A tensor is integers on a
grid. For each elementwise map y = f(x) with slope J, the encoder

    pops y from N(f(x), sigma^2 J),  then pushes x under N(f^-1(y), sigma^2 / J),

and the decoder undoes both. What is left at the end is pushed under the prior. The three maps of a coupling are one
here, and constant linear maps cost nothing (grids.py), so that the length is the negative bound and some 0.001
bits/dim. The dequantization noise is popped too, as any variational posterior in bits-back coding.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import numpy as np

from flowpp_tf.compression.description import CodecModel
from flowpp_tf.compression.grids import Grid, Lifts
from flowpp_tf.compression.maps import COUPLING_MAPS, ElementwiseMap, PixelsToLogit, Sigmoid
from flowpp_tf.compression.networks import below
from flowpp_tf.compression.stack import Stack, check_inside

GRID_BITS = 16
STEP = 2.0**-GRID_BITS
SIGMA = 2.0**-9  # of the noise where a map has slope 1
INITIAL_BITS = 27  # per dimension of the first batch, measured as 26


class Networks(Protocol):
  """The networks of a model, by the part that they belong to: "flow", "dequantizer" or "augmenter"."""

  def conditioner(self, part: str, index: int, x: np.ndarray, context: np.ndarray | None) -> np.ndarray:
    """Return the parameters of a coupling, float64 `[N, H, W, outputs]`."""

  def context(self, part: str, images: np.ndarray) -> np.ndarray:
    """Return the context of a part's couplings, float64 `[N, H, W / 2, channels]`."""


class BitsBackCoder:
  """Pushes batches of images on a stack, and pops them.

  Args:
    model: `CodecModel`.
    networks: its `Networks`. Encoder and decoder must have networks that give the same bits.
  """

  def __init__(self, model: CodecModel, networks: Networks) -> None:
    description = model.description
    self.shape = model.image_shape
    self.num_dims = model.num_dims
    self.levels = model.levels
    self._networks = networks
    self._pixels_to_logit = PixelsToLogit(self.levels, description["alpha"])
    self._noise_grid = Grid.uniform(self.shape, STEP)
    self._pixel_grid = Grid.uniform(self.shape, STEP, STEP / 2)  # keeps u inside of (0, 1)
    flow = lambda part, grid: _Flow(part, model, networks, grid) if part in model.flows() else None
    self._dequantizer, self._augmenter = flow("dequantizer", self._noise_grid), None
    self._augmented = bool(description["augmenter"])
    grid = self._noise_grid
    if self._augmented:
      self._augmented_shape = (*self.shape[:2], description["augmenter"]["channels"])
      augmented = Grid.uniform(self._augmented_shape, STEP)
      self._augmenter = flow("augmenter", augmented)
      grid = grid.beside(self._augmenter.grid if self._augmenter else augmented)
    self._flow = _Flow("flow", model, networks, grid)

  def push(self, stack: Stack, images: np.ndarray) -> None:
    """Push images, integers `[N, H, W, C]` in 0 .. levels - 1.

    Raises:
      WindowError: if a value leaves the range that can be coded, `EmptyStackError`: if the stack holds too few bits.
        The stack is then of no use.
    """
    images = images.astype(np.int64)
    n = self._push_pixels(stack, images, self._pop_dequantization(stack, images))
    if self._augmented:
      n = np.concatenate([n, self._pop_augmentation(stack, n)], axis=-1)
    n = self._flow.push(stack, n, None)
    stack.push(n, *self._prior())

  def pop(self, stack: Stack, count: int) -> np.ndarray:
    """Pop `count` images, int64 `[count, H, W, C]`; errors as for `push`, from data that no encoder wrote."""
    grid = self._flow.grid
    n = stack.pop(*self._prior(), (count, *grid.scale.shape))
    n = self._flow.pop(stack, n, None)
    if self._augmented:
      channels = self.shape[-1]
      n, augmented = np.ascontiguousarray(n[..., :channels]), np.ascontiguousarray(n[..., channels:])
      self._push_augmentation(stack, n, augmented)
    n = _pop_map(stack, self._pixels_to_logit, n, self._pixel_grid, self._noise_grid)
    images = n >> GRID_BITS
    check_inside((images >= 0) & (images < self.levels), images.shape)
    self._push_dequantization(stack, images, n - (images << GRID_BITS))
    return images

  def _prior(self) -> tuple[np.ndarray, np.ndarray]:
    grid = self._flow.grid
    return grid.places(np.zeros(grid.scale.shape)), 1 / np.abs(grid.scale)

  def _push_pixels(self, stack, images, noise):
    return _push_map(stack, self._pixels_to_logit, (images << GRID_BITS) + noise, self._pixel_grid, self._noise_grid)

  def _pop_dequantization(self, stack, images):
    """The noise u of images, as integers in 0 .. 2^16 - 1."""
    if self._dequantizer is None:
      return stack.pop_uniform(1 << GRID_BITS, images.shape)
    n = stack.pop(np.float64(0), np.float64(1 / STEP), images.shape, noise=True)
    n = self._dequantizer.push(stack, n, self._networks.context("dequantizer", images))
    return _push_map(stack, Sigmoid(STEP), n, self._dequantizer.grid, self._pixel_grid, bounded=True)

  def _push_dequantization(self, stack, images, noise):
    if self._dequantizer is None:
      stack.push_uniform(noise, 1 << GRID_BITS)
      return
    n = _pop_map(stack, Sigmoid(STEP), noise, self._dequantizer.grid, self._pixel_grid, bounded=True)
    n = self._dequantizer.pop(stack, n, self._networks.context("dequantizer", images))
    stack.push(n, np.float64(0), np.float64(1 / STEP), noise=True)

  def _pop_augmentation(self, stack, n):
    """The augmented channels of images whose logits are `n` on the noise grid."""
    e = stack.pop(np.float64(0), np.float64(1 / STEP), (len(n), *self._augmented_shape), noise=True)
    if self._augmenter is None:
      return e
    return self._augmenter.push(stack, e, self._networks.context("augmenter", self._noise_grid.values(n)))

  def _push_augmentation(self, stack, n, e):
    if self._augmenter is not None:
      e = self._augmenter.pop(stack, e, self._networks.context("augmenter", self._noise_grid.values(n)))
    stack.push(e, np.float64(0), np.float64(1 / STEP), noise=True)


class _Flow:
  """The coupling steps of a part.

  Attributes:
    grid: of the output.
  """

  def __init__(self, part, model, networks, grid):
    name, flow = model.flows()[part]
    self._parts: list[_Step | _Rearrangement] = []
    make_map = functools.partial(COUPLING_MAPS[flow["coupling"]], components=flow["components"])
    index = 0
    for kind, couplings in flow["stages"]:
      before, after = {
        "squeeze": (_squeeze, None),
        "columns": (_split_columns, _merge_columns),
        "channels": (None, None),
      }[kind]
      if before:
        self._parts.append(_Rearrangement(before))
        grid = grid.rearranged(before)
      for _ in range(couplings):
        step = _Step(part, index, below(model.weights, f"{name}/{index}"), networks, make_map, grid)
        self._parts.append(step)
        grid, index = step.grid, index + 1
      if after:
        self._parts.append(_Rearrangement(after))
        grid = grid.rearranged(after)
    self.grid = grid

  def push(self, stack, n, context):
    for part in self._parts:
      n = part.push(stack, n, context)
    return n

  def pop(self, stack, n, context):
    for part in self._parts[::-1]:
      n = part.pop(stack, n, context)
    return n


class _Step:
  """ActNorm, 1x1 convolution, coupling, swap of the halves."""

  def __init__(self, part, index, weights, networks, make_map, grid):
    self._lifts = Lifts(grid, weights["scale"], weights["bias"], weights.get("kernel"))
    self._kept, self._before = self._lifts.grid.halves()
    self._after = Grid.uniform(self._before.scale.shape, STEP)
    self.grid = self._after.beside(self._kept)
    self._map = lambda kept, context: make_map(networks.conditioner(part, index, self._kept.values(kept), context))

  def push(self, stack, n, context):
    kept, rest = _halves(self._lifts.forward(n))
    transformed = _push_map(stack, self._map(kept, context), rest, self._before, self._after)
    return np.concatenate([transformed, kept], axis=-1)

  def pop(self, stack, n, context):
    transformed, kept = _halves(n)
    rest = _pop_map(stack, self._map(kept, context), transformed, self._before, self._after)
    return self._lifts.inverse(np.concatenate([kept, rest], axis=-1))


class _Rearrangement:
  """Moves elements."""

  def __init__(self, forward):
    self._forward, self._inverse = forward, _INVERSES[forward]

  def push(self, stack, n, context):
    del stack, context
    return self._forward(n)

  def pop(self, stack, n, context):
    del stack, context
    return self._inverse(n)


def _push_map(
  stack: Stack, elementwise: ElementwiseMap, n: np.ndarray, before: Grid, after: Grid, bounded: bool = False
) -> np.ndarray:
  """Pop the integers of y = f(x) and push those of x, `n`; those of y lie in 0 .. 2^16 - 1 if they are bounded."""
  y, slope = elementwise.forward(before.values(n))
  mean, std = after.places(y), SIGMA * np.sqrt(slope) / after.scale
  result = stack.pop_bounded(mean, std, 1 << GRID_BITS) if bounded else stack.pop(mean, std, n.shape, noise=True)
  x, slope = elementwise.inverse(after.values(result), SIGMA)
  stack.push(n, before.places(x), SIGMA / np.sqrt(slope) / np.abs(before.scale))
  return result


def _pop_map(
  stack: Stack, elementwise: ElementwiseMap, n: np.ndarray, before: Grid, after: Grid, bounded: bool = False
) -> np.ndarray:
  """The inverse of `_push_map`: from the integers of y to those of x."""
  x, slope = elementwise.inverse(after.values(n), SIGMA)
  result = stack.pop(before.places(x), SIGMA / np.sqrt(slope) / np.abs(before.scale), n.shape)
  y, slope = elementwise.forward(before.values(result))
  mean, std = after.places(y), SIGMA * np.sqrt(slope) / after.scale
  if bounded:
    stack.push_bounded(n, mean, std, 1 << GRID_BITS)
  else:
    stack.push(n, mean, std, noise=True)
  return result


def _halves(n: np.ndarray) -> tuple[Any, Any]:
  half = n.shape[-1] // 2
  return np.ascontiguousarray(n[..., :half]), np.ascontiguousarray(n[..., half:])


def _squeeze(n):
  _, height, width, channels = n.shape
  blocks = n.reshape(-1, height // 2, 2, width // 2, 2, channels)
  return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height // 2, width // 2, 4 * channels)


def _unsqueeze(n):
  _, height, width, channels = n.shape
  blocks = n.reshape(-1, height, width, 2, 2, channels // 4)
  return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(-1, 2 * height, 2 * width, channels // 4)


def _split_columns(n):
  _, height, width, channels = n.shape
  return n.reshape(-1, height, width // 2, 2 * channels)


def _merge_columns(n):
  _, height, width, channels = n.shape
  return n.reshape(-1, height, 2 * width, channels // 2)


_INVERSES = {_squeeze: _unsqueeze, _split_columns: _merge_columns, _merge_columns: _split_columns}
