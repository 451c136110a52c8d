"""How many bits the pixels of a file take in an archive: what decides whether they are coded or the file is kept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flowpp_tf.compression.batches import push_batches
from flowpp_tf.compression.lzma_images import encode_lzma_images
from flowpp_tf.compression.stack import Stack
from flowpp_tf.compression.tiered_codec import TieredCodec
from flowpp_tf.tiles.cutting import to_tiles
from flowpp_tf.tiles.neighbours import TileLayout

_WORDS = 64  # of 32 bits for each dimension, from which the first batch takes its noise
_NEAR = 0.03  # of the size of the file: nearer to it than this, the bound is not enough


class PictureBits:
  """Measures all tiles of a picture.

  Coding them on a stack of their own is exact, and takes as long as coding them in the archive. The model's bound,
  which differs by less than 1 % for pictures, takes much less; it decides where the difference to the file is larger.

  Args:
    coder: `TieredCodec`.
    bound: returns the bits of a picture `[H, W, C]` in the model's bound; None without TensorFlow.
  """

  def __init__(self, coder: TieredCodec, bound: Callable[[np.ndarray], float] | None = None) -> None:
    self._coder, self._bound = coder, bound

  def __call__(self, pixels: np.ndarray, size: int) -> float:
    """Return the bits of pixels `[H, W, C]`: the exact number if it is near `size` bytes, else as the bound says."""
    codec, shape = self._coder.codec, self._coder.model.image_shape
    if self._bound is not None and pixels.max() < codec.levels:
      bits = self._bound(pixels)
      if abs(bits - 8 * size) > _NEAR * 8 * size:  # False for a NaN
        return bits
    tiles, layout = to_tiles(pixels, shape), None
    if codec.sees_neighbours:
      layout = TileLayout.from_runs(shape, [(*pixels.shape[:2], 0, len(tiles))], codec.tile_step)
    return self.exact(tiles, layout)

  def exact(self, tiles: np.ndarray, layout: TileLayout | None = None) -> int:
    """Return the bits of tiles in a long segment; those that the coder leaves out are LZMA images.

    Args:
      tiles: `[N, h, w, C]`.
      layout: where they lie, if the model sees their neighbours, else None.
    """
    codec = self._coder.codec
    count = _WORDS * codec.num_dims * codec.dtype.itemsize
    stack = Stack(np.random.Generator(np.random.PCG64(0)).integers(1 << 32, size=count, dtype=np.uint32), sealed=True)
    before, order = stack.num_bits, layout.order if layout else np.arange(len(tiles))
    fits = tiles.max(axis=(1, 2, 3)) < codec.levels
    _, left_out = push_batches(codec, stack, tiles, order[fits[order]].tolist(), None, lambda count: None, layout)
    others = np.sort(np.concatenate([np.flatnonzero(~fits), np.array(left_out, np.int64)]))
    bits = stack.num_bits - before
    if len(others):
      bits += 8 * len(encode_lzma_images(tiles[others])) + 32 * len(others)
    return bits
