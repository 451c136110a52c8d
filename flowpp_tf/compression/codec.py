"""The codec: a model as a sequence of steps on integers, which push and pop batches of images.

Local bits-back coding (Ho, Lohn and Abbeel 2019) turns the flow's bound into a code length. A tensor is integers on a
grid, and each elementwise map of the flow is a `LocalBitsBack` step. The three maps of a coupling are one here, and
constant linear maps cost nothing (grids.py), so that the length is the negative bound and some 0.001 bits/dim. The
dequantization noise is a `BitsBack` step, as any latent variable with a variational posterior.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
from typing import TYPE_CHECKING

import numpy as np

from flowpp_tf.compression.description import CodecModel, below
from flowpp_tf.compression.grids import Grid, Lifts
from flowpp_tf.compression.maps import COUPLING_MAPS, PixelsToLogit, Sigmoid
from flowpp_tf.compression.networks import LEAST_VALUES_FOR_THREADS, CodecMemory, Networks, blocks_to_channels
from flowpp_tf.compression.stack import Normal, Stack, Uniform, check_inside
from flowpp_tf.compression.steps import (
  SIGMA,
  Bijection,
  BitsBack,
  Coupling,
  Inverse,
  LocalBitsBack,
  Prior,
  Sequence,
  Step,
)
from flowpp_tf.core.checks import MOST_LEVELS, check_arguments, pixel_dtype
from flowpp_tf.core.environment import check_extra
from flowpp_tf.core.errors import InputError
from flowpp_tf.io.budget import claim, claim_output

if TYPE_CHECKING:
  from flowpp_tf.models import FlowPlusPlus

GRID_BITS = 16
STEP = 2.0**-GRID_BITS
MAX_DIMS = 1 << 18  # values per image
INITIAL_BITS = 27  # per dimension of the first batch, measured as 26, of images with at most 256 levels
_AS_INTEGERS = Bijection(lambda images: images.astype(np.int64), lambda images: images)


@dataclasses.dataclass(frozen=True)
class Resolution:
  """The grid of the logits and of all that the flow makes of them, and the noise on it.

  A level of 16-bit images is 256 times narrower in the logits than one of 8 bits. So each further bit halves the step,
  and each second one the standard deviation of the noise: the noise of the logits, in steps, stays what it is.

  Attributes:
    step: of the grid.
    sigma: standard deviation of the noise where a map has slope 1.
    initial_bits: per dimension of the first batch, which the codec borrows.
  """

  step: float = STEP
  sigma: float = SIGMA
  initial_bits: int = INITIAL_BITS

  @classmethod
  def from_levels(cls, levels: int) -> Resolution:
    """Return the resolution for images of `levels` levels, at least 256."""
    extra = max((levels - 1).bit_length() - 8, 0)
    return cls(STEP * 2.0**-extra, SIGMA * 2.0 ** -(extra // 2), INITIAL_BITS + extra)


class Codec:
  """A model ready to encode and decode: it pushes batches of images on a stack, and pops them.

  Args:
    model: `FlowPlusPlus`, or a `CodecModel`, for which TensorFlow is not needed.

  Attributes:
    model: `CodecModel`.
    model_hash: first 128 bits of its SHA-256.
    memory: `CodecMemory` of the model.
    initial_bits: per dimension of the first batch, which the codec borrows.
    dtype: of the images, uint8 or uint16.

  Raises:
    InputError (a ValueError): for a model that cannot compress, or without constriction.

  Examples:
    >>> codec = fpp.compression.Codec(fpp.FlowPlusPlus.from_preset("digits"))
    >>> data = fpp.compress(codec, np.zeros([2, 8, 8, 1], np.uint8))
  """

  @check_arguments
  def __init__(self, model: FlowPlusPlus | CodecModel) -> None:
    check_extra("constriction", "compression", "compression")
    self.model = model if isinstance(model, CodecModel) else CodecModel.from_model(model)
    try:
      self._check_size()
      self._build(Networks(self.model))
    except (LookupError, TypeError, AttributeError, ArithmeticError, ValueError) as error:
      if not isinstance(model, CodecModel) or isinstance(error, InputError):
        raise
      raise InputError(f"the codec model is invalid: {type(error).__name__}: {error}") from None
    self.model_hash = self.model.sha256()[:32]

  def _check_size(self):
    shape = self.model.image_shape
    levels = self.model.levels
    num_dims = self.model.num_dims
    if not 0 < num_dims <= MAX_DIMS or min(shape) < 1 or not 2 <= levels <= MOST_LEVELS:
      raise InputError(
        f"the codec is for images of up to {MAX_DIMS} values and 2 to {MOST_LEVELS:,} levels, "
        f"got shape {shape} and {levels} levels"
      )
    self.shape = shape
    self.levels = levels
    self.num_dims = num_dims
    self.memory = CodecMemory.from_model(self.model)
    size = self.memory.model + self.memory.batch(1)
    claim("memory", size, "the codec model")
    if self.model.embedded is not None:
      claim_output(size, self.model.embedded, "the memory of the archive's model")

  def _build(self, networks):
    model = self.model
    self.dtype = pixel_dtype(self.levels)
    self.sees_neighbours = model.sees_neighbours
    self.tile_step = model.tile_step
    fine = Resolution.from_levels(self.levels)
    self.initial_bits = fine.initial_bits
    grid = Grid.uniform(self.shape, fine.step, unit=self.tile_step)
    pixel_grid = Grid.uniform(self.shape, STEP, STEP / 2, self.tile_step)  # keeps u inside of (0, 1)
    pixels_to_logit = PixelsToLogit(self.levels, model.description["alpha"], model.description.get("transform"))
    noise_grid = Grid.uniform(self.shape, STEP, unit=self.tile_step)
    dequantize = self._dequantize(model, networks, noise_grid, pixel_grid)
    steps = [_AS_INTEGERS, dequantize, LocalBitsBack(pixels_to_logit, pixel_grid, grid, sigma=fine.sigma)]
    if model.description["augmenter"]:
      augment, grid = _augment(model, networks, grid)
      steps.append(augment)
    flow = _Flow("flow", model, networks, grid, fine)
    self.networks = networks
    self._steps = steps
    self._flow = flow

  def conditioned_on(self, neighbours: np.ndarray) -> Step:
    """Return the step that codes tiles given the context of their neighbours, `tile_context`.

    The tiles have its height and width, which may be less than the model's, by multiples of `tile_step`.
    """
    return self._sequence(self.networks.condition(neighbours), *neighbours.shape[1:3])

  def _sequence(self, context, height, width):
    whole_height, whole_width, _ = self.shape
    rows, columns, _ = self._flow.grid.scale.shape
    grid = self._flow.grid.part(rows * height // whole_height, columns * width // whole_width)
    shape = grid.scale.shape
    mean = grid.places(np.zeros((1, *shape)))
    std = 1 / np.abs(grid.scale)
    end = Prior(lambda count: Normal(np.broadcast_to(mean, (count, *shape)), std))
    return Sequence([*self._steps, self._flow.steps(context), end])

  def pays_in_threads(self, count: int) -> bool:
    """Return whether threads make the work on batches of so many images faster, rather than wait for each other."""
    return count * self.num_dims >= LEAST_VALUES_FOR_THREADS

  def push(self, stack: Stack, images: np.ndarray) -> int:
    """Push images, integers `[N, H, W, C]` in 0 .. levels - 1; return their number.

    Raises:
      WindowError: if a value leaves the range that can be coded, `EmptyStackError`: if the stack holds too few bits.
        The stack is then of no use.
    """
    return self._sequence(None, *self.shape[:2]).push(stack, images)

  def pop(self, stack: Stack, count: int) -> np.ndarray:
    """Pop `count` images, int64 `[count, H, W, C]`; errors as for `push`, from data that no encoder wrote."""
    return self._sequence(None, *self.shape[:2]).pop(stack, count)

  def _dequantize(self, model, networks, grid, pixel_grid):
    """Return the step from pixels x to the integers of x + u, u in 0 .. 2^16 - 1."""

    def split(n):
      images = n >> GRID_BITS
      check_inside((images >= 0) & (images < self.levels), images.shape)
      return images, n - (images << GRID_BITS)

    posterior: Callable[[np.ndarray], Step]
    if "dequantizer" in model.flows():
      flow = _Flow("dequantizer", model, networks, grid)
      posterior = flow.posterior_in_unit(pixel_grid)
    else:
      posterior = lambda images: Prior(lambda count: Uniform(1 << GRID_BITS, images.shape))
    return BitsBack(posterior, lambda images, u: (images << GRID_BITS) + u, split)


def _augment(model, networks, grid):
  """Return the step that appends augmented channels to the logits, and the grid of both."""
  shape = (*model.image_shape[:2], model.description["augmenter"]["channels"])
  augmented = Grid.uniform(shape, STEP, unit=grid.unit)
  posterior: Callable[[np.ndarray], Step] = lambda x: _noise((*x.shape[1:3], shape[2]))
  bounded = False
  if "augmenter" in model.flows():
    flow = _Flow("augmenter", model, networks, augmented)
    augmented = flow.grid
    posterior = flow.posterior
    bounded = model.description["augmenter"].get("end") == "sigmoid"
    if bounded:
      augmented = Grid.uniform(shape, STEP, STEP / 2, grid.unit)
      posterior = flow.posterior_in_unit(augmented)
  channels = model.image_shape[-1]
  join = lambda n, e: np.concatenate([n, e], axis=-1)

  def split(n):
    e = np.ascontiguousarray(n[..., channels:])
    n = np.ascontiguousarray(n[..., :channels])
    if bounded:
      check_inside((e >= 0) & (e < 1 << GRID_BITS), e.shape)
    return n, e

  return BitsBack(lambda n: posterior(grid.values(n)), join, split), grid.beside(augmented)


def _noise(shape):
  return Prior(lambda count: Normal(np.zeros((count, *shape)), 1 / STEP, noise=True))


class _Flow:
  """The coupling steps of a part.

  Attributes:
    grid: of the output.
  """

  def __init__(self, part, model, networks, grid, resolution=Resolution()):
    self._part = part
    self._networks = networks
    self._resolution = resolution
    self.grid = grid
    self._channels = grid.scale.shape[-1]
    self._steps: list[Callable[[np.ndarray | None], Step]] = []  # each given the context
    name, flow = model.flows()[part]
    margin = {"margin": flow["margin"]} if "margin" in flow else {}
    self._make_map = functools.partial(COUPLING_MAPS[flow["coupling"]], components=flow["components"], **margin)
    index = 0
    for kind, couplings in flow["stages"]:
      before, after = _STAGES[kind]
      self._rearrange(before)
      for _ in range(couplings):
        self._add_coupling(index, below(model.weights, f"{name}/{index}"))
        index += 1
      self._rearrange(after)

  def steps(self, context):
    """Return the steps given the context of a batch."""
    return Sequence([step(context) for step in self._steps])

  def posterior(self, x):
    """Return the step that pushes the flow's output under q(. | x), where `x` are the inputs of the context net."""
    noise = _noise((*x.shape[1:3], self._channels))
    return Sequence([Inverse(self.steps(self._networks.context(self._part, x))), noise])

  def posterior_in_unit(self, unit):
    """Return `posterior` of the flow with a sigmoid behind it, as integers 0 .. 2^16 - 1 on the grid `unit`."""
    sigmoid = LocalBitsBack(Sigmoid(STEP), self.grid, unit, size=1 << GRID_BITS)
    return lambda x: Sequence([Inverse(sigmoid), self.posterior(x)])

  def _rearrange(self, bijection):
    if bijection is not None:
      self._steps.append(lambda context: bijection)
      self.grid = self.grid.rearranged(bijection.forward)

  def _add_coupling(self, index, weights):
    """Add ActNorm, 1x1 convolution, and the coupling, which swaps the halves."""
    lifts = Lifts(self.grid, weights["scale"], weights["bias"], weights.get("kernel"))
    kept_grid, before = lifts.grid.halves()
    after = Grid.uniform(before.scale.shape, self._resolution.step, unit=before.unit)
    sigma = self._resolution.sigma

    def coupling(context):
      def transform(kept):
        values = kept_grid.values(kept)
        parameters = self._networks.conditioner(self._part, index, values, context)
        return LocalBitsBack(self._make_map(parameters), before, after, sigma=sigma)

      return Coupling(transform)

    linear = Bijection(lifts.forward, lifts.inverse)
    self._steps += [lambda context: linear, coupling]
    self.grid = after.beside(kept_grid)


def _rearrangement(rows, columns):
  """Return the bijection that makes blocks of so many rows and columns channels."""

  def forward(n):
    return blocks_to_channels(n, n.shape[1] // rows, n.shape[2] // columns)

  def inverse(n):
    _, height, width, channels = n.shape
    channels //= rows * columns
    blocks = n.reshape(-1, height, width, rows, columns, channels).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(-1, rows * height, columns * width, channels)

  return Bijection(forward, inverse)


_SQUEEZE = _rearrangement(2, 2)
_COLUMNS = _rearrangement(1, 2)
# The rearrangements before and after the couplings of a stage.
_STAGES = {
  "squeeze": (_SQUEEZE, None),
  "columns": (_COLUMNS, Bijection(_COLUMNS.inverse, _COLUMNS.forward)),
  "channels": (None, None),
}
