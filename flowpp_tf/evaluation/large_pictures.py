"""Pictures larger than a model's images, by tiles of the model's size: bits of each pixel, and samples.

A picture is cut into tiles as an archive cuts it (tiles/cutting.py), row by row from the top left corner. A model whose
tiles see their neighbours is given them, and measures of a tile at the right or lower edge the part that lies inside.
For other models such tiles repeat the last column or row, whose bits are added to those of the pixel that is repeated.
So the sum over a map is the bound of the picture as an archive codes it, tile by tile. Real-valued pictures must
consist of whole tiles: the sum then is the log density of a model in which tiles are independent.

Samples come from a model whose tiles see their neighbours, p(picture) = prod over tiles of p(tile | left, upper and
upper left neighbour), in which each tile is a Flow++ image. Tiles of a wave (tiles/neighbours.py) are drawn in batches,
those at the right and lower edges at their own size, of which a few rows and columns are cut off.
"""

from collections.abc import Iterator, Sequence
import functools
import itertools

import numpy as np

from flowpp_tf.core.checks import INT32_MAX, as_array, check_arguments, check_count, check_pixels, pixel_dtype, shown
from flowpp_tf.core.errors import InputError
from flowpp_tf.evaluation.positions import PositionScorer
from flowpp_tf.models import FlowPlusPlus
from flowpp_tf.tiles.cutting import KEPT_SIZES, by_size, check_whole_tiles, count_tiles, from_tiles, to_tiles
from flowpp_tf.tiles.neighbours import TileLayout
from flowpp_tf.types import Seed


@check_arguments
def bit_maps(
  model: FlowPlusPlus,
  pictures: Sequence[np.ndarray] | np.ndarray,
  num_samples: int = 1,
  seed: Seed = 0,
  batch_size: int = 100,
) -> list[np.ndarray]:
  """Return the bits of each pixel of pictures of any size; the sum over a map is the negative bound of its picture.

  Args:
    model: `FlowPlusPlus`.
    pictures: integers in 0 .. levels - 1, `[H, W, C]` each, with the model's number of channels; real numbers for a
      model of them.
    num_samples: samples of the importance-weighted bound, of each tile.
    seed: seed of the draws, the same for all tiles.
    batch_size: tiles in a batch.

  Returns:
    float64 `[H, W]` for each picture, bits; a pixel has all of its channels.

  Raises:
    InputError (a ValueError): if pictures do not fit the model, or there is none, or the model needs a label or a
      condition.

  Examples:
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> (bits,) = fpp.bit_maps(model, [np.zeros([20, 30, 1], np.uint8)])
    >>> bits.shape
    (20, 30)
  """
  return list(BitMaps(model, num_samples, seed)(pictures, batch_size))


class BitMaps:
  """Makes maps of pictures; `bit_maps` with a function that is traced once.

  Args:
    model: `FlowPlusPlus`.
    num_samples: samples of the importance-weighted bound.
    seed: seed of the draws.

  Raises:
    InputError (a ValueError): if `num_samples` is not positive, or the model needs a label or a condition.

  Examples:
    >>> from flowpp_tf.evaluation import BitMaps
    >>> maps = BitMaps(fpp.FlowPlusPlus.from_preset("digits"))
    >>> next(maps(np.zeros([2, 20, 30, 1], np.uint8))).shape
    (20, 30)
  """

  @check_arguments
  def __init__(self, model: FlowPlusPlus, num_samples: int = 1, seed: Seed = 0) -> None:
    if model.config.is_conditional and not model.config.tile_neighbours:
      raise InputError("`model` must need no label and no condition: a picture is all that a map is made from")
    self._model = model
    self._of_size = functools.lru_cache(KEPT_SIZES)(PositionScorer(model, num_samples, seed).cropped)

  @check_arguments
  def __call__(self, pictures: Sequence[np.ndarray] | np.ndarray, batch_size: int = 100) -> Iterator[np.ndarray]:
    """Yield the map of each picture; arguments, results and errors as of `bit_maps`."""
    check_count("batch_size", batch_size, high=INT32_MAX)
    if not hasattr(pictures, "__iter__"):
      raise InputError(f"`pictures` must be a list of arrays, got {shown(pictures)}")
    checked = [self._checked(picture) for picture in pictures]
    if not checked:
      raise InputError("`pictures` must hold at least one picture")
    return self._maps(checked, batch_size)

  def _checked(self, picture):
    channels = self._model.config.image_shape[2]
    picture = as_array("pictures", picture, [None, None, channels])
    levels = self._model.config.pixel_levels
    check_pixels(picture, levels, "pictures")
    check_whole_tiles("pictures", picture.shape, self._model.config.image_shape, levels)
    return picture

  def _maps(self, pictures, batch_size):
    height, width, channels = self._model.config.image_shape
    waiting: list[np.ndarray] = []  # maps of tiles, ahead of the pictures that have been yielded
    tiles = (tile for picture in pictures for tile in _tiles(picture, self._model.config))
    for picture in pictures:
      count = count_tiles(picture.shape[0], picture.shape[1], (height, width, channels))
      while len(waiting) < count:
        batch, sizes, contexts = map(np.stack, zip(*itertools.islice(tiles, batch_size)))
        waiting += self._of_batch(batch, sizes, contexts)
      yield _stitched(np.stack(waiting[:count]), *picture.shape[:2])
      del waiting[:count]

  def _of_batch(self, tiles, sizes, contexts):
    """Return the maps of tiles, 0 outside of their sizes."""
    maps = np.zeros(tiles.shape[:3])
    for (height, width), chosen in by_size(sizes):
      neighbours = contexts[chosen, :height, :width] if self._model.config.tile_neighbours else None
      scorer = self._of_size(height, width)
      bits = scorer(tiles[chosen, :height, :width], batch_size=len(chosen), condition=neighbours).total
      maps[chosen, :height, :width] = bits
    return [*maps]


def _tiles(picture, config):
  """Yield the tiles `[h, w, C]` of a picture, each with how much of it is coded, and the context of its neighbours."""
  tiles = to_tiles(picture, config.image_shape)
  layout = TileLayout.from_runs(config.image_shape, [(*picture.shape[:2], 0, len(tiles))], config.tile_step)
  for i, (tile, size) in enumerate(zip(tiles, layout.sizes)):
    yield tile, size, layout.context(tiles, np.array([i]), config.levels)[0] if config.tile_neighbours else 0


def _stitched(maps, height, width):
  """Return the map `[height, width]` of the maps of tiles `[N, h, w]`."""
  _, h, w = maps.shape
  columns = -(-width // w)
  whole = maps.reshape(-1, columns, h, w).swapaxes(1, 2).reshape(-1, columns * w)
  whole[height - 1] += whole[height:].sum(axis=0)
  whole[:, width - 1] += whole[:, width:].sum(axis=1)
  return whole[:height, :width].copy()


@check_arguments
def sample_pictures(
  model: FlowPlusPlus,
  n: int,
  height: int,
  width: int,
  temperature: float = 1.0,
  seed: Seed = None,
  batch_size: int = 100,
) -> np.ndarray:
  """Draw pictures of any size.

  Args:
    model: with `tile_neighbours`.
    n: how many.
    height: of the pictures.
    width: of the pictures.
    temperature: factor of the standard deviation of the latents, at least 0.
    seed: integer or stateless seed; None for other pictures in each call.
    batch_size: tiles in a batch.

  Returns:
    Integers `[n, height, width, C]`.

  Raises:
    InputError (a ValueError): for a model of images that are no tiles, or a size or temperature that is invalid.

  Examples:
    >>> import dataclasses
    >>> config = dataclasses.replace(fpp.get_config("digits"), levels=256, tile_neighbours=True)
    >>> fpp.evaluation.sample_pictures(fpp.FlowPlusPlus(config), n=1, height=20, width=12, seed=0).shape
    (1, 20, 12, 1)
  """
  if not model.config.tile_neighbours:
    raise InputError("`model` must see the neighbours of tiles (`tile_neighbours`): others draw images of one size")
  for name, size in (("height", height), ("width", width)):
    check_count(name, size)
  check_count("batch_size", batch_size, high=INT32_MAX)
  (h, w, channels), levels = model.config.image_shape, model.config.levels
  shape = h, w, channels
  count = count_tiles(height, width, shape)
  z = model.sample_latents(n * count, temperature, seed).numpy()
  layout = TileLayout.from_runs(shape, [(height, width, 0, count)] * n, model.config.tile_step)
  tiles = np.zeros((n * count, *shape), pixel_dtype(levels))
  of_size = functools.cache(lambda *size: model if size == shape[:2] else model.cropped(*size))
  for wave in range(int(layout.waves.max()) + 1):
    of_wave = np.flatnonzero(layout.waves == wave)
    rows, columns = layout.sizes[of_wave[0]].tolist()
    part = of_size(rows, columns)
    for first in range(0, len(of_wave), batch_size):
      chosen = of_wave[first : first + batch_size]
      neighbours = layout.context(tiles, chosen, levels)[:, :rows, :columns]
      latents = z[chosen][tuple(map(slice, (len(chosen), *part.coupling_flow.latent_shape)))]
      drawn = part.decode(latents, condition=neighbours).numpy()
      tiles[chosen] = np.pad(drawn, ((0, 0), (0, h - rows), (0, w - columns), (0, 0)), mode="edge")
  return np.stack([from_tiles(part, height, width) for part in np.split(tiles, n)])
