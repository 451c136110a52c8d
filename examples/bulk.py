"""Score and compress a data set on several worker processes, or a cluster, by Ray Data; docs/bulk.md explains it.

pip install 'flowpp_tf[bulk,compression,data]'
python examples/bulk.py --preset=fashion_mnist --dataset=fashion_mnist --output=bulk
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags
import numpy as np
import ray

from flowpp_tf.bulk import CompressImages, ScoreImages
from flowpp_tf.data import load_dataset

FLAGS = flags.FLAGS
_BATCH, _ARCHIVE = 100, 1000


def main(argv):
  del argv
  output = pathlib.Path(FLAGS.output).absolute()
  output.mkdir(parents=True)  # a new one: Ray adds to tables that are there
  images = load_dataset(FLAGS.dataset).test[: FLAGS.limit]
  # On a cluster: ray.init(address="auto"), and ray.data.read_images, read_parquet ... in place of from_items.
  ray.init(num_cpus=FLAGS.workers, include_dashboard=False, log_to_driver=False)
  rows = [{"index": i, "image": np.asarray(image)} for i, image in enumerate(images)]
  data = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // _BATCH))  # the batches of bin/score
  workers = ray.data.ActorPoolStrategy(size=FLAGS.workers)
  scored = data.map_batches(
    ScoreImages,
    fn_constructor_kwargs={"model": FLAGS.preset, "num_samples": FLAGS.num_samples},
    batch_size=_BATCH,
    compute=workers,
  )
  scored.drop_columns(["image"]).write_parquet(str(output / "scores"))
  compressed = data.map_batches(
    CompressImages,
    fn_constructor_kwargs={"model": FLAGS.preset, "output": str(output / "archives")},
    batch_size=_ARCHIVE,
    compute=workers,
  )
  compressed.write_parquet(str(output / "index"))
  print(f"wrote {output}")


if __name__ == "__main__":
  flags.DEFINE_string("preset", "fashion_mnist", "Name or folder of a preset, or folder of a run.")
  flags.DEFINE_string("dataset", "fashion_mnist", "Data set, whose test split is read.")
  flags.DEFINE_string("output", "bulk", "Folder to make, with scores/ and index/ (Parquet), archives/.")
  flags.DEFINE_integer("workers", 2, "Number of worker processes.", lower_bound=1)
  flags.DEFINE_integer("num_samples", 1, "Samples of the importance-weighted bound.", lower_bound=1)
  flags.DEFINE_integer("limit", None, "Number of images, from the start; all if not given.", lower_bound=1)
  app.run(main)
