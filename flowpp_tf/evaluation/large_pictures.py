"""Bit maps and samples of pictures larger than a model's images, by tiles of the model's size.

A picture is cut into tiles as an archive cuts it (tiles/cutting.py), row by row from the top left corner. A model whose
tiles see their neighbours gets the neighbours of each tile, and crops the tiles at the right and lower edges. For other
models, edge tiles repeat the last column or row, and the bits of the copies are added to the bits of the repeated
pixel. So the sum over a map is the bound of the picture as an archive codes it, tile by tile. Real-valued pictures must
consist of whole tiles: the sum then is the log density of a model in which tiles are independent.

Samples come from a model whose tiles see their neighbours, p(picture) = prod over tiles of p(tile | left, upper and
upper left neighbour), in which each tile is a Flow++ image. Tiles of a wave (tiles/neighbours.py) are drawn in batches.
Tiles at the right and lower edges are drawn at the cropped size, rounded up to what the model allows.
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
      model of real-valued images.
    num_samples: samples of the importance-weighted bound of each tile.
    seed: seed of the draws, the same for all tiles.
    batch_size: tiles in a batch.

  Returns:
    float64 `[H, W]` for each picture, in bits summed over the channels of a pixel.

  Raises:
    InputError (a ValueError): if pictures are missing or do not fit the model, or the model needs a label or a
      condition.

  Examples:
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> (bits,) = fpp.bit_maps(model, [np.zeros([20, 30, 1], np.uint8)])
    >>> bits.shape
    (20, 30)
  """
  return list(BitMaps(model, num_samples, seed)(pictures, batch_size))


class BitMaps:
  """`bit_maps` as an object, whose functions are traced only once.

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
    self._cropped_scorer = functools.lru_cache(KEPT_SIZES)(PositionScorer(model, num_samples, seed).cropped)

  @check_arguments
  def __call__(self, pictures: Sequence[np.ndarray] | np.ndarray, batch_size: int = 100) -> Iterator[np.ndarray]:
    """Yield the map of each picture; arguments, results and errors as in `bit_maps`."""
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
    h, w, channels = self._model.config.image_shape
    pending: list[np.ndarray] = []  # maps of tiles whose pictures have not been yielded yet
    tiles = (tile for picture in pictures for tile in _tiles(picture, self._model.config))
    for picture in pictures:
      height, width = picture.shape[:2]
      count = count_tiles(height, width, (h, w, channels))
      while len(pending) < count:
        batch, sizes, contexts = map(np.stack, zip(*itertools.islice(tiles, batch_size)))
        pending += self._tile_maps(batch, sizes, contexts)
      yield _stitch(np.stack(pending[:count]), height, width)
      del pending[:count]

  def _tile_maps(self, tiles, sizes, contexts):
    """Return the maps of tiles, 0 outside of the coded size of each tile."""
    maps = np.zeros(tiles.shape[:3])
    for (height, width), chosen in by_size(sizes):
      neighbours = contexts[chosen, :height, :width] if self._model.config.tile_neighbours else None
      scorer = self._cropped_scorer(height, width)
      bits = scorer(tiles[chosen, :height, :width], batch_size=len(chosen), condition=neighbours).total
      maps[chosen, :height, :width] = bits
    return [*maps]


def _tiles(picture, config):
  """Yield each tile `[h, w, C]` of a picture with its coded size and the context of its neighbours, 0 without."""
  tiles = to_tiles(picture, config.image_shape)
  run = (*picture.shape[:2], 0, len(tiles))
  layout = TileLayout.from_runs(config.image_shape, [run], config.tile_step)
  for i, (tile, size) in enumerate(zip(tiles, layout.sizes)):
    context = layout.context(tiles, np.array([i]), config.levels)[0] if config.tile_neighbours else 0
    yield tile, size, context


def _stitch(maps, height, width):
  """Join the maps of tiles `[N, h, w]` to the map `[height, width]` of their picture."""
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
    model: `FlowPlusPlus` with `tile_neighbours`.
    n: number of pictures.
    height: height of the pictures.
    width: width of the pictures.
    temperature: factor of the standard deviation of the latents, at least 0.
    seed: integer or stateless seed; None for different pictures in each call.
    batch_size: tiles in a batch.

  Returns:
    Integers `[n, height, width, C]`.

  Raises:
    InputError (a ValueError): for a model without `tile_neighbours`, or an invalid size or temperature.

  Examples:
    >>> import dataclasses
    >>> config = dataclasses.replace(fpp.get_config("digits"), levels=256, tile_neighbours=True)
    >>> fpp.evaluation.sample_pictures(fpp.FlowPlusPlus(config), n=1, height=20, width=12, seed=0).shape
    (1, 20, 12, 1)
  """
  if not model.config.tile_neighbours:
    raise InputError("`model` must see the neighbours of tiles (`tile_neighbours`): others draw images of one size")
  check_count("height", height)
  check_count("width", width)
  check_count("batch_size", batch_size, high=INT32_MAX)
  h, w, channels = model.config.image_shape
  shape = h, w, channels
  levels = model.config.levels
  count = count_tiles(height, width, shape)
  z = model.sample_latents(n * count, temperature, seed).numpy()
  layout = TileLayout.from_runs(shape, [(height, width, 0, count)] * n, model.config.tile_step)
  tiles = np.zeros((n * count, *shape), pixel_dtype(levels))

  @functools.cache
  def cropped_model(rows, columns):
    return model if (rows, columns) == shape[:2] else model.cropped(rows, columns)

  for wave in range(int(layout.waves.max()) + 1):
    wave_tiles = np.flatnonzero(layout.waves == wave)
    rows, columns = layout.sizes[wave_tiles[0]].tolist()
    cropped = cropped_model(rows, columns)
    padding = [(0, 0), (0, h - rows), (0, w - columns), (0, 0)]
    for start in range(0, len(wave_tiles), batch_size):
      chosen = wave_tiles[start : start + batch_size]
      neighbours = layout.context(tiles, chosen, levels)[:, :rows, :columns]
      latents = z[chosen][tuple(map(slice, (len(chosen), *cropped.coupling_flow.latent_shape)))]
      drawn = cropped.decode(latents, condition=neighbours).numpy()
      tiles[chosen] = np.pad(drawn, padding, mode="edge")
  return np.stack([from_tiles(picture_tiles, height, width) for picture_tiles in np.split(tiles, n)])
