"""The input pipeline: images a second, and how long a training step waits for its images.

python benchmarks/input_pipeline.py --output=input_pipeline.json

Two tables, the same as JSON:
- batches of 32x32 images a second: from the bundled photos repeated, in memory, and from the cache of a
  folder of the same images as PNG files, mapped from disk; and how long the folder took to decode;
- the share of a training step of `--config` that waits for the next batch.
"""

import os
import pathlib
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from absl import app, flags
import numpy as np
from PIL import Image
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import data
from flowpp_tf.training import TrainingConfig, TrainState, train_step
from tables import print_table, write_json

FLAGS = flags.FLAGS
flags.DEFINE_string("output", None, "JSON file to write; none if not given.")
flags.DEFINE_integer("images", 20_000, "Images in memory and in the folder.")
flags.DEFINE_integer("pipeline_batch_size", 64, "Images in a batch of the first table.")
flags.DEFINE_float("seconds", 5, "How long each pipeline is run.")
flags.DEFINE_string("config", "cifar10", "Model of the second table, of 32x32x3 images.")
flags.DEFINE_integer("batch_size", 4, "Images in a training step.")
flags.DEFINE_integer("steps", 5, "Training steps that are timed, after one that is traced.")


def folder_of(images, folder):
  """Writes images as PNG files."""
  for i, image in enumerate(images):
    path = folder / f"{i // 1000:03d}" / f"{i:06d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, compress_level=1)


def speed(images, **options):
  """Images a second that `training_batches` gives."""
  iterator = iter(data.training_batches(images, FLAGS.pipeline_batch_size, seed=0, **options))
  for _ in range(10):
    next(iterator)
  start, count = time.perf_counter(), 0
  while time.perf_counter() - start < FLAGS.seconds:
    count += len(next(iterator))
  return count / (time.perf_counter() - start)


def waiting(sources):
  """Rows of the second table."""
  model = fpp.FlowPlusPlus(fpp.get_config(FLAGS.config))
  state = TrainState(model, TrainingConfig(steps=1, learning_rate=1e-4))
  step = tf.function(lambda images: train_step(state, images), autograph=False)
  for name, images in sources.items():
    iterator = iter(data.training_batches(images, FLAGS.batch_size, seed=0))
    step(next(iterator))
    waits, steps = [], []
    for _ in range(FLAGS.steps):
      start = time.perf_counter()
      batch = next(iterator)
      waits.append(time.perf_counter() - start)
      step(batch)
      state.step  # waits for the step
      steps.append(time.perf_counter() - start)
    yield dict(
      model=FLAGS.config,
      images=name,
      batch_size=FLAGS.batch_size,
      step_s=float(np.mean(steps)),
      wait_ms=1e3 * float(np.mean(waits)),
      waiting_percent=100 * sum(waits) / sum(steps),
    )


def main(argv):
  del argv
  photos = data.load_dataset("photos").train
  repeated = np.tile(photos, (-(-FLAGS.images // len(photos)), 1, 1, 1))[: FLAGS.images]
  with tempfile.TemporaryDirectory() as temporary:
    folder, cache = pathlib.Path(temporary) / "images", pathlib.Path(temporary) / "cache"
    folder_of(repeated, folder)
    seconds = []
    for _ in range(2):  # from the files, from the cache
      start = time.perf_counter()
      mapped = data.load_dataset(f"folder:{folder}", image_shape=(32, 32, 3), cache_dir=cache).train
      seconds.append(time.perf_counter() - start)
    if not isinstance(mapped, np.memmap):
      raise app.UsageError("--images is so small that the folder is not cached")
    sources = {"photos repeated, in memory": repeated, "folder, from the cache": mapped}
    results = dict(
      pipelines=[
        dict(
          source=name,
          images=len(images),
          flip=flip,
          batch_size=FLAGS.pipeline_batch_size,
          images_per_second=int(speed(images, flip=flip)),
        )
        for name, images in sources.items()
        for flip in (False, True)
      ],
      folder=[
        dict(
          files=FLAGS.images, decoded_s=seconds[0], from_cache_s=seconds[1], files_per_second=FLAGS.images / seconds[0]
        )
      ],
      waiting=[],
    )
    print_table(results["pipelines"])
    print_table(results["folder"])
    results["waiting"] = list(waiting(sources))
    print_table(results["waiting"])
  write_json(FLAGS.output, results)


if __name__ == "__main__":
  app.run(main)
