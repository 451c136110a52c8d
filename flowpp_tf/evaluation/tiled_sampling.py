"""Draw pictures larger than a tile from a model whose tiles see their neighbours, wave by wave.

p(picture) = prod over tiles of p(tile | left, upper and upper left neighbour), in which each tile is a Flow++ image.
Tiles of a wave (tiles/neighbours.py) are drawn in batches, those at the right and lower edges at their own size, of
which a few rows and columns are cut off.
"""

import functools

import numpy as np

from flowpp_tf.core.checks import INT32_MAX, check_arguments, check_count, pixel_dtype
from flowpp_tf.core.errors import InputError
from flowpp_tf.models import FlowPlusPlus
from flowpp_tf.tiles.cutting import count_tiles, from_tiles
from flowpp_tf.tiles.neighbours import TileLayout
from flowpp_tf.types import Seed

_LARGEST = 1 << 16  # side of a picture


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
    check_count(name, size, high=_LARGEST)
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
