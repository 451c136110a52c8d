"""Archives measured: size beside the bound, speed each way, and what other codecs need for the same images.

python benchmarks/compression.py --preset=digits --tier=exact-build
python benchmarks/compression.py --preset=fashion_mnist --tier=portable --limit=1000 --codecs

The images are the test split of the preset's data. The excess is what the archive takes beyond the single-sample bound
(the mean of --draws), in percent; the constant is what is left of it beyond 0.5 percent, in bytes.
"""

import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import app, flags

FLAGS = flags.FLAGS


def main(argv):
  del argv
  import json

  import numpy as np

  import flowpp_tf as fpp
  from flowpp_tf.compression import TieredCodec
  from flowpp_tf.data import load_dataset
  from flowpp_tf.evaluation import evaluate_bits_per_dim, measure_codecs

  model = fpp.FlowPlusPlus.from_preset(FLAGS.preset)
  settings = json.loads((ROOT / "flowpp_tf" / "pretrained" / FLAGS.preset / "config.json").read_text())["training"]
  dataset = load_dataset(
    settings["dataset"], FLAGS.data_dir, image_shape=model.config.image_shape, levels=model.config.levels
  )
  images = np.asarray(dataset.split(FLAGS.split)[: FLAGS.limit])
  coder = TieredCodec(model, FLAGS.tier)
  begin = time.monotonic()
  data = fpp.compress(coder, images)
  middle = time.monotonic()
  back = fpp.decompress(coder, data)
  end = time.monotonic()
  draws = [evaluate_bits_per_dim(model, images, 1, seed=seed) for seed in range(FLAGS.draws)]
  bound = np.mean([draw.bounds[0].bits_per_dim for draw in draws])
  ideal = bound * images.size / 8
  row = {
    "images": f"{FLAGS.preset}, {len(images)}",
    "tier": FLAGS.tier,
    "bytes": len(data),
    "bits/dim": f"{8 * len(data) / images.size:.4f}",
    "bound": f"{bound:.4f}",
    "excess": f"{100 * (len(data) / ideal - 1):+.2f} %",
    "constant": f"{len(data) - 1.005 * ideal:+.0f}",
    "encode, images/s": f"{len(images) / (middle - begin):.1f}",
    "decode, images/s": f"{len(images) / (end - middle):.1f}",
    "same": np.array_equal(back, images),
  }
  for line in (row, len(row) * ("---",), row.values()):
    print(f"| {' | '.join(map(str, line))} |", flush=True)
  for codec in measure_codecs(images) if FLAGS.codecs else []:
    print(codec, flush=True)


if __name__ == "__main__":
  flags.DEFINE_string("preset", "digits", "Preset.")
  flags.DEFINE_string("data_dir", None, "Folder of its data set.")
  flags.DEFINE_string("split", "test", "Split.")
  flags.DEFINE_string("tier", "portable", "Tier.")
  flags.DEFINE_integer("limit", None, "Number of images.")
  flags.DEFINE_integer("draws", 5, "Draws of the bound.")
  flags.DEFINE_bool("codecs", False, "Measure the other codecs too.")
  app.run(main)
