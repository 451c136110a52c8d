"""How much of some files is coded, from how many of their tiles are."""

import collections
from collections.abc import Mapping
import threading

import tqdm

from flowpp_tf.compression.files.entries import ImageFile
from flowpp_tf.tiles.cutting import count_tiles


class FileProgress:
  """Moves a bar of bytes while the tiles of files are coded, about in their order, in any thread.

  Args:
    bar: whose total is the bytes of all files.
    sizes: bytes of the files by name.
    tile_shape: of the model.
  """

  def __init__(self, bar: tqdm.tqdm, sizes: Mapping[str, int], tile_shape: tuple[int, int, int]) -> None:
    self._bar, self._sizes, self._tile_shape = bar, sizes, tile_shape
    self._waiting: collections.deque[tuple[int, float]] = collections.deque()  # tiles, and bytes of one
    self._bytes, self._lock = 0.0, threading.Lock()

  def read(self, picture: ImageFile) -> ImageFile:
    """Take a file that has been read, and return it."""
    size = self._sizes[picture.name]
    if picture.pixels is None:  # stored verbatim
      self._move(size)
    else:
      height, width, _ = picture.pixels.shape
      tiles = count_tiles(height, width, self._tile_shape)
      self._waiting.append((tiles, size / tiles))
    return picture

  def coded(self, count: int) -> None:
    """Take the number of further tiles that have been coded."""
    while count and self._waiting:
      tiles, size = self._waiting.popleft()
      done = min(count, tiles)
      if done < tiles:
        self._waiting.appendleft((tiles - done, size))
      count -= done
      self._move(done * size)

  def _move(self, size):
    with self._lock:
      self._bytes += size
      self._bar.update(int(self._bytes) - self._bar.n)
