"""Archives measured: size compared with the bound, speed each way, and what other codecs need for the same images.

python benchmarks/compression.py --preset=digits
python benchmarks/compression.py --preset=fashion_mnist --limit=1000 --codecs

The images are a split of the preset's data. The excess is what the archive takes beyond the single-sample bound (the
mean of --draws), in percent.
"""

import json
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import app, flags
import numpy as np

from tables import print_table, write_json

FLAGS = flags.FLAGS


def main(argv):
  del argv
  import flowpp_tf as fpp
  from flowpp_tf.compression import Codec
  from flowpp_tf.data import load_dataset
  from flowpp_tf.evaluation import evaluate_bits_per_dim, measure_codecs

  model = fpp.FlowPlusPlus.from_preset(FLAGS.preset)
  settings = json.loads((ROOT / "flowpp_tf" / "pretrained" / FLAGS.preset / "config.json").read_text())["training"]
  dataset = load_dataset(
    settings["dataset"], FLAGS.data_dir, image_shape=model.config.image_shape, levels=model.config.levels
  )
  images = np.asarray(dataset.split(FLAGS.split)[: FLAGS.limit])
  codec = Codec(model)
  begin = time.monotonic()
  data = fpp.compress(codec, images)
  middle = time.monotonic()
  back = fpp.decompress(codec, data)
  end = time.monotonic()
  if not np.array_equal(back, images):
    raise AssertionError("the archive did not give the images back")
  draws = [evaluate_bits_per_dim(model, images, 1, seed=seed) for seed in range(FLAGS.draws)]
  bound = float(np.mean([draw.bounds[0].bits_per_dim for draw in draws]))
  row = dict(
    preset=FLAGS.preset,
    split=FLAGS.split,
    images=len(images),
    bytes=len(data),
    bits_per_dim=8 * len(data) / images.size,
    bound=bound,
    excess_percent=100 * (8 * len(data) / images.size / bound - 1),
    encoded_per_second=len(images) / (middle - begin),
    decoded_per_second=len(images) / (end - middle),
  )
  print_table([row])
  codecs = measure_codecs(images) if FLAGS.codecs else []
  print(*codecs, sep="\n", flush=True)
  write_json(FLAGS.output, row | dict(codecs={codec.codec: [codec.each, codec.sheet] for codec in codecs}))


if __name__ == "__main__":
  flags.DEFINE_string("preset", "digits", "Preset.")
  flags.DEFINE_string("data_dir", None, "Folder of its data set.")
  flags.DEFINE_string("split", "test", "Split.")
  flags.DEFINE_integer("limit", None, "Number of images.")
  flags.DEFINE_integer("draws", 5, "Draws of the bound.")
  flags.DEFINE_bool("codecs", False, "Measure the other codecs too.")
  flags.DEFINE_string("output", None, "JSON file to write; none if not given.")
  app.run(main)
