"""Images on a stack, batch by batch, each of them decoded before it is committed.

A batch whose noise leaves its range, or that does not decode, is pushed again with another draw: some bytes of salt
come first. An image that cannot be coded that way is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from flowpp_tf.compression.bits_back_coder import INITIAL_BITS, BitsBackCoder
from flowpp_tf.compression.stack import EmptyStackError, Stack, WindowError, check_inside

SPARE_BITS = 128
# What a decoder takes, so that a hostile segment cannot make it take all memory.
_MAX_BATCH, _MAX_BATCH_DIMS = 1024, 1 << 20
_FAST_BATCH, _FAST_BATCH_DIMS = 64, 1 << 15  # images, or as many as have so many values
_SALT = 0x9D
_MOST_SALTS = 3


def max_batch(codec: BitsBackCoder) -> int:
  """Return the largest batch that a decoder takes."""
  return min(_MAX_BATCH, max(_MAX_BATCH_DIMS // codec.num_dims, 1))


def pop_salts(stack: Stack, count: int) -> None:
  """Pop the salt of a batch; errors as for `Stack.pop_uniform`."""
  stack.pop_uniform(256, (count,))


def push_batches(
  codec: BitsBackCoder,
  stack: Stack,
  images: np.ndarray,
  indices: Sequence[int],
  largest: int | None,
  progress: Callable[[int], None],
) -> tuple[list[tuple[int, int]], list[int]]:
  """Push images in batches that grow with the stack.

  Args:
    codec: `BitsBackCoder`.
    stack: with bits for one image; changed.
    images: uint8 `[N, H, W, C]`.
    indices: of the images to push, ascending.
    largest: the largest batch; None for one that is fast.
    progress: called with the number of images that were dealt with.

  Returns:
    Number of images and bytes of salt of each batch; the indices of the images that were left out.
  """
  if largest is None:
    largest = max(_FAST_BATCH, _FAST_BATCH_DIMS // codec.num_dims)
  largest = min(largest, max_batch(codec))
  batches, left_out, waiting = list[tuple[int, int]](), list[int](), list(indices)
  while waiting:
    enough = (stack.num_bits - SPARE_BITS) // (INITIAL_BITS * codec.num_dims)
    pushed, salts, failed = _push_batch(codec, stack, images, waiting[: max(1, min(enough, largest))])
    if pushed:
      batches.append((len(pushed), salts))
    left_out += failed
    done = {*pushed, *failed}
    waiting = [i for i in waiting if i not in done]
    progress(len(done))
  return batches, sorted(left_out)


def _push_batch(codec, stack, images, indices):
  """Push images; the indices of those that were pushed, with how many bytes of salt, and of those that cannot be."""
  failed, salts = list[int](), 0
  while indices:
    trial = stack.copy()
    trial.push_uniform(np.full(salts, _SALT), 256)
    try:
      codec.push(trial, images[indices])
      _check(codec, trial, stack, images[indices], salts)
      stack.replace(trial)
      return indices, salts, failed
    except EmptyStackError:
      if len(indices) == 1:
        failed, indices = failed + indices, []
      else:
        indices = indices[: len(indices) // 2]
    except WindowError as error:
      salts += 1
      if salts > _MOST_SALTS:
        bad = error.examples if error.examples.any() else np.ones(len(indices), bool)
        failed += [i for i, is_bad in zip(indices, bad) if is_bad]
        indices, salts = [i for i, is_bad in zip(indices, bad) if not is_bad], 0
  return [], 0, failed


def _check(codec, after, before, images, salts):
  """Raise a `WindowError` unless the images come back from a stack, and the stack before them."""
  stack = after.copy()
  decoded = codec.pop(stack, len(images))
  pop_salts(stack, salts)
  if not np.array_equal(stack.words(), before.words()):
    raise WindowError(np.zeros(len(images), bool))
  check_inside(decoded == images, images.shape)
