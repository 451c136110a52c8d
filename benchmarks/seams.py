"""What the seams of tiles cost: bits/dim by the distance from a tile's edge, with the neighbours of tiles and without.

python benchmarks/seams.py --workdir=runs/elpv --tiles=1000

The tiles are those of the run's test split that have all three neighbours and lie inside of their picture. Bits belong
to positions as in `evaluation.PositionScorer`. "Seen" are the left and the upper edges, beyond which the tile sees its
neighbours; beyond the right and the lower edge it sees nothing, as these pixels are coded later.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import app, flags

FLAGS = flags.FLAGS
_RINGS = (0, 1, 2, 4, 8)  # distances from an edge at which a row of the table begins


def main(argv):
  del argv
  import numpy as np

  from flowpp_tf.data.pipeline import grid_tiles
  from flowpp_tf.evaluation import PositionScorer
  from flowpp_tf.programs import data_flags
  from flowpp_tf.tiles.neighbours import NEIGHBOURS
  from flowpp_tf.training import Workdir

  model, settings = Workdir(FLAGS.workdir).load()
  if not model.config.tile_neighbours:
    raise app.UsageError(f"--workdir={FLAGS.workdir} is a run of a model without tile_neighbours")
  height, width, channels = model.config.image_shape
  images = data_flags.load_data_of_run(settings, model.config, {})[0].split("test")
  tiles, contexts = grid_tiles(images, np.arange(len(images)))
  flags_of = contexts[..., len(NEIGHBOURS) * channels :].reshape(len(tiles), -1, len(NEIGHBOURS) + 1)
  chosen = np.flatnonzero((flags_of == 1).all(axis=(1, 2)))[: FLAGS.tiles]
  scorer = PositionScorer(model, num_samples=1)
  without = contexts[chosen].copy()
  without[..., :-1] = 0
  print(f"{len(chosen)} tiles of {height}x{width}, bits/dim")
  row, column = np.indices((height, width))
  seen, unseen = np.minimum(row, column), np.minimum(height - 1 - row, width - 1 - column)
  print(f"{'':<22}{'seen edges':>12}{'other edges':>13}")
  for name, condition in (("with neighbours", contexts[chosen]), ("without", without)):
    bits = scorer(tiles[chosen], condition=condition).total / channels
    each = bits.mean(axis=(1, 2))
    print(f"{name}: {each.mean():.4f} +- {each.std(ddof=1) / len(each) ** 0.5:.4f}")
    for first, end in zip(_RINGS, (*_RINGS[1:], max(height, width))):
      columns = []
      for distance, other in ((seen, unseen), (unseen, seen)):
        ring = (distance >= first) & (distance < end) & (other >= _RINGS[-1])
        columns.append(bits[:, ring].mean() if ring.any() else np.nan)
      label = (
        f"{first}" if end == first + 1 else f"{first} and more" if end >= max(height, width) else f"{first}-{end - 1}"
      )
      print(f"  {'distance ' + label:<20}{columns[0]:>12.4f}{columns[1]:>13.4f}")


if __name__ == "__main__":
  flags.DEFINE_string("workdir", None, "Run of a model with tile_neighbours.", required=True)
  flags.DEFINE_integer("tiles", 1000, "Number of tiles.")
  app.run(main)
