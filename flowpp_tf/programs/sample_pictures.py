"""The kinds of picture that `bin/sample` makes, each a function of the flags and the model."""

import dataclasses
import functools
import math

from absl import flags
import numpy as np
from PIL import Image

from flowpp_tf.errors import InputError
from flowpp_tf.evaluation import Reconstruction
from flowpp_tf.evaluation import image_grid
from flowpp_tf.evaluation import interpolate
from flowpp_tf.evaluation import nearest_neighbours
from flowpp_tf.evaluation import reconstruct
from flowpp_tf.programs import data_flags
from flowpp_tf.programs.named_images import named_images
from flowpp_tf.programs.named_images import short_name

FLAGS = flags.FLAGS
_WIDEST = 16  # images in a row


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
  """What is written: a grid, the images in it as they are, and what its file is called by default."""
  name: str
  grid: Image.Image
  images: np.ndarray


def samples(batched, settings, temperatures):
  """Draws images."""
  del settings
  temperature, = temperatures
  images = batched.sample(FLAGS.n or 64, temperature, FLAGS.seed)
  return Picture(f"samples_t{temperature}", image_grid(images, batched.model.config.levels), images)


def sweep(batched, settings, temperatures):
  """A row for each temperature, the same latents in each column."""
  del settings
  n = FLAGS.n or 10
  images = batched.decode(np.concatenate([
      batched.model.sample_latents(n, temperature, FLAGS.seed) for temperature in temperatures]))
  for row, temperature in enumerate(temperatures, start=1):
    print(f"row {row}: temperature {temperature}")
  return Picture(f"sweep_t{'-'.join(map(str, temperatures))}",
                 image_grid(images, batched.model.config.levels, columns=n),
                 images.reshape(len(temperatures), n, *images.shape[1:]))


def interpolation(batched, settings, temperatures):
  """From one image to another through latent space."""
  del temperatures
  ends = _named(FLAGS.interpolate, batched, settings, limit=2)
  if len(ends) != 2:
    raise InputError("--interpolate must be two images, such as test:3,test:7, and no whole splits or "
                     f"folders, got {','.join(FLAGS.interpolate)!r}")
  frames = FLAGS.frames or (30 if animated() else 12)
  images = interpolate(batched, *ends, frames, FLAGS.seed)
  print(f"ends: {Reconstruction(ends, images[[0, -1]])}")
  return Picture("interpolation_" + "_".join(map(short_name, FLAGS.interpolate)),
                 image_grid(images, batched.model.config.levels, columns=min(frames, _WIDEST)), images)


def reconstruction(batched, settings, temperatures):
  """Images, what decode(encode(x)) makes of them, and the difference, in rows below each other."""
  del temperatures
  images = _named(FLAGS.reconstruct, batched, settings, FLAGS.n or _WIDEST)
  result = reconstruct(batched, images, FLAGS.seed)
  print(result)
  levels, columns = batched.model.config.levels, min(len(images), _WIDEST)
  rows = np.stack([images, result.decoded, result.visible_differences(levels)])
  blank = np.full([3, -len(images) % columns, *images.shape[1:]], levels - 1, np.uint8)
  blocks = np.concatenate([rows, blank], axis=1).reshape(3, -1, columns, *images.shape[1:])
  grid = image_grid(blocks.swapaxes(0, 1).reshape(-1, *images.shape[1:]), levels, columns=columns,
                    wide_rows=range(3, 3 * blocks.shape[1], 3))
  return Picture(f"reconstruction_{short_name(FLAGS.reconstruct[0])}", grid, rows[:2])


def neighbours(batched, settings, temperatures):
  """A row for each sample: the sample, and beside it the training images closest to it."""
  temperature, = temperatures
  n, count, config = FLAGS.n or 10, FLAGS.neighbours, batched.model.config
  dataset, _ = data_flags.load_data_of_run(settings, config)
  images = batched.sample(n, temperature, FLAGS.seed)
  test = dataset.test[:n]  # the yardstick: images that the model has not seen
  indices, distances = nearest_neighbours(np.concatenate([images, test]), dataset.train, count)
  distances /= math.sqrt(math.prod(config.image_shape))
  for row in range(n):
    print(f"sample {row}: " + ", ".join(
        f"train:{index} at {distance:.2f}" for index, distance in zip(indices[row], distances[row])))
  print(f"closest of train, median: {np.median(distances[:n, 0]):.2f} levels from the samples, "
        f"{np.median(distances[n:, 0]):.2f} from the first {len(test)} images of test (root mean "
        "squares over pixels)")
  found = np.asarray(dataset.train[indices[:n].ravel()]).reshape(n, count, *config.image_shape)
  rows = np.concatenate([images[:, np.newaxis], found], axis=1)
  grid = image_grid(rows.reshape(-1, *config.image_shape), config.levels, columns=1 + count,
                    wide_columns=[1])
  return Picture(f"neighbours_t{temperature}", grid, rows)


def animated():
  """Whether the flags ask for an animation."""
  return FLAGS.animate or bool(FLAGS.output) and FLAGS.output.lower().endswith((".gif", ".apng"))


def _named(names, batched, settings, limit):
  config = batched.model.config
  load_data = functools.cache(lambda: data_flags.load_data_of_run(settings, config)[0])
  return named_images(names, config, load_data, limit)
