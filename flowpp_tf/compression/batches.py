"""Push images in batches, and decode each batch before it is committed, in a thread beside the next one's pushing.

A batch whose noise leaves its range, or that does not decode, is pushed again above some bytes of salt, which change
the draws. An image that still fails is left out.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools

import numpy as np

from flowpp_tf.compression.codec import Codec
from flowpp_tf.compression.kernels import KERNELS
from flowpp_tf.compression.stack import EmptyStackError, Stack, Uniform, WindowError, check_inside
from flowpp_tf.compression.steps import Bijection, Sequence, Step
from flowpp_tf.compression.threads import in_background
from flowpp_tf.tiles.neighbours import TileLayout

SPARE_BITS = 128
# Limits of a decoder, so that a hostile segment cannot make it take all memory.
_MAX_BATCH = 1024
_MAX_BATCH_DIMS = 1 << 20
_FAST_BATCH = 64  # images
_FAST_BATCH_DIMS = 1 << 15  # or as many images as have this number of values
_IMAGES_FOR_ONE = 16  # how many leave the bits that one more image of a batch needs, about
_SALT = 0x9D
_MOST_SALTS = 3


def max_batch(codec: Codec) -> int:
  """Return the largest batch size that a decoder accepts."""
  return min(_MAX_BATCH, max(_MAX_BATCH_DIMS // codec.num_dims, 1))


def largest_batch(codec: Codec, wanted: int | None = None) -> int:
  """Return the largest batch size of an encoder: the one that is wanted, None for one that is fast."""
  if wanted is None:
    wanted = max(_FAST_BATCH, _FAST_BATCH_DIMS // codec.num_dims)
  return min(wanted, max_batch(codec))


def initial_bits(codec: Codec, index: int, layout: TileLayout | None) -> int:
  """Return how many bits the stack must have for an image, the first of its batch."""
  height, width, _ = codec.shape
  size = height * width if layout is None else int(np.prod(layout.sizes[index]))
  return codec.initial_bits * codec.num_dims * size // (height * width)


def segment_pays_in_threads(codec: Codec, count: int) -> bool:
  """Return whether a segment of so many images is coded faster beside another one: its batches become large enough.

  One without images is, as what packs its bytes needs no GIL.
  """
  return not count or codec.pays_in_threads(min(count // _IMAGES_FOR_ONE, largest_batch(codec)))


@dataclasses.dataclass(frozen=True)
class Salt(Step):
  """Push bytes of salt below a batch, which change the draws of its noise."""

  count: int

  def push(self, stack: Stack, x: np.ndarray) -> np.ndarray:
    Uniform(256, (self.count,)).push(stack, np.full(self.count, _SALT))
    return x

  def pop(self, stack: Stack, y: np.ndarray) -> np.ndarray:
    Uniform(256, (self.count,)).pop(stack)
    return y


def push_batches(
  codec: Codec,
  stack: Stack,
  images: np.ndarray,
  indices: list[int],
  largest: int | None,
  layout: TileLayout | None = None,
) -> tuple[Stack, list[tuple[int, int]], list[int]]:
  """Push images in batches that grow with the stack.

  Args:
    codec: `Codec`.
    stack: with bits for one image.
    images: uint8 or uint16 `[N, H, W, C]`.
    indices: of the images to push, in this order.
    largest: the largest batch; None for one that is fast.
    layout: where the images lie, if they are tiles that see their neighbours.

  Returns:
    The stack with the batches; number of images and bytes of salt of each; indices of images that were left out.
  """
  largest = largest_batch(codec, largest)
  batches = list[tuple[int, int]]()
  left_out = list[int]()
  waiting = list(indices)

  def next_of(waiting: list[int], stack: Stack) -> list[int]:
    enough = (stack.num_bits - SPARE_BITS) // initial_bits(codec, waiting[0], layout)
    batch = waiting[: max(1, min(enough, largest))]
    return layout.first_wave(batch) if layout else batch

  # One core checks a batch while another pushes the next one, as if the check had passed.
  following: _Trial | None = None
  while waiting:
    trial = following or _Trial(codec, stack, images, next_of(waiting, stack), layout)
    left = waiting[len(trial.indices) :]
    following = None
    if left and trial.is_pushed:
      following = _Trial(codec, trial.stack, images, next_of(left, trial.stack), layout)
    done = trial.indices
    failed = list[int]()
    error = trial.error()
    if error is not None:
      following = None
      done, failed, trial = _try_again(codec, stack, images, done, layout, error)
    if done:
      stack = trial.stack
      batches.append((len(done), trial.salts))
    left_out += failed
    coded = {*done, *failed}
    waiting = [i for i in waiting if i not in coded]
  return stack, batches, sorted(left_out)


class _Trial:
  """A batch on a copy of a stack.

  Attributes:
    indices: of its images.
    salts: bytes of salt below it.
    stack: the copy.
    is_pushed: whether the batch is on it.
    error: waits for the check, and returns why the batch is not right, or None.
  """

  error: Callable[[], ValueError | None]

  def __init__(self, codec, stack, images, indices, layout, salts=0):
    self.indices = indices
    self.salts = salts
    self.stack = stack.copy()
    self.is_pushed = True
    batch = images[indices]
    step = Sequence([Salt(salts), batch_step(codec, images, indices, layout)])
    try:
      step.push(self.stack, batch)
    except (EmptyStackError, WindowError) as error:
      self.is_pushed = False
      self.error = functools.partial(lambda found: found, error)
      return
    begin = in_background if codec.pays_in_threads(len(indices)) else functools.partial
    self.error = begin(_check, step, self.stack.copy(), stack.copy(), batch)


def batch_step(
  codec: Codec, images: np.ndarray, indices: np.typing.NDArray | list[int], layout: TileLayout | None
) -> Step:
  """Return the step that codes a batch: `codec`, or for tiles the one conditioned on their neighbours in `images`.

  All tiles are of one wave. It codes the part of them that lies inside their pictures, and repeats the last row and
  column of what it decodes.
  """
  KERNELS.count(len(indices) * codec.num_dims)
  if layout is None:
    return codec
  height, width = layout.sizes[indices[0]]
  neighbours = layout.context(images, np.asarray(indices), codec.levels)[:, :height, :width]
  conditioned = codec.conditioned_on(neighbours)
  below, right = codec.shape[0] - height, codec.shape[1] - width
  missing = (0, 0), (0, below), (0, right), (0, 0)
  inside = Bijection(lambda x: x[:, :height, :width], lambda x: np.pad(x, missing, mode="edge"))
  return Sequence([inside, conditioned])


def _try_again(codec, stack, images, indices, layout, error):
  """Push images after a first trial and its error.

  Returns:
    The indices of those that were pushed, the indices that failed, and the last trial.
  """
  failed = list[int]()
  salts = 0
  trial = None
  while error is not None:
    if isinstance(error, WindowError):
      salts += 1
    elif len(indices) > 1:
      indices = indices[: len(indices) // 2]
    else:
      return [], failed + indices, trial
    if salts > _MOST_SALTS:
      bad = error.examples if error.examples.any() else np.ones(len(indices), bool)
      failed += [i for i, is_bad in zip(indices, bad) if is_bad]
      indices = [i for i, is_bad in zip(indices, bad) if not is_bad]
      salts = 0
    if not indices:
      break
    trial = _Trial(codec, stack, images, indices, layout, salts)
    error = trial.error()
  return indices, failed, trial


def _check(step, stack, before, images):
  """Pop images from a stack; return an error unless they come back, and the stack before them, otherwise None."""
  try:
    decoded = step.pop(stack, len(images))
    if not np.array_equal(stack.words(), before.words()):
      return WindowError(np.zeros(len(images), bool))
    check_inside(decoded == images, images.shape)
  except (EmptyStackError, WindowError) as error:
    return error
  return None
