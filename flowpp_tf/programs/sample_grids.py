"""Draw the grids of `bin/sample`: samples, interpolations, reconstructions, neighbours."""

from collections.abc import Sequence
import itertools
import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from flowpp_tf.config import FlowPlusPlusConfig
from flowpp_tf.core.errors import InputError
from flowpp_tf.data.dataset import ImageDataset
from flowpp_tf.evaluation import (
  BatchedModel,
  Reconstruction,
  image_grid,
  interpolate,
  nearest_neighbours,
  reconstruct,
  sample_pictures,
)
from flowpp_tf.programs import process
from flowpp_tf.programs.data_options import short_name

_LONGEST_ROW = 16  # images
_TRIPLES = 5  # triples of images in a row
_ROUNDING_SHARE = 1e-5  # share of pixels that may differ by float32's rounding, as their noise is so close to 0 or 1


class ImageGrid(NamedTuple):
  """A grid, its images as an array, and the default name of its file."""

  name: str
  grid: Image.Image
  images: np.ndarray


def samples(
  batched: BatchedModel,
  n: int | None,
  temperatures: Sequence[float],
  labels: Sequence[int],
  seed: int,
  size: Sequence[int] | None = None,
) -> ImageGrid:
  """Draw samples in a grid; with several temperatures or labels, each has a row, and columns share latents.

  Args:
    batched: the model.
    n: number of samples, or of samples per row; None for 64, 10 per row, or 4 pictures of tiles that see their
      neighbours.
    temperatures: factors of the standard deviation of the latents.
    labels: labels of a model with classes, -1 for no label; empty for rows of temperatures only.
    seed: seed of the latents.
    size: height and width of pictures of tiles that see their neighbours; None for 4 x 4 tiles.
  """
  config = batched.model.config
  temperature_text = "-".join(map(str, temperatures))
  title = f"samples, temperature {temperature_text}, seed {seed}"
  if config.tile_neighbours:
    height, width = size or (4 * config.image_shape[0], 4 * config.image_shape[1])
    images = sample_pictures(batched.model, n or 4, height, width, temperatures[0], seed, batched.batch_size)
    grid = image_grid(images, config.levels, gap=4, title=title)
    return ImageGrid(f"samples_{height}x{width}_t{temperature_text}", grid, images)
  labels_or_none: Sequence[int | None] = labels or [None]
  rows = list(itertools.product(temperatures, labels_or_none))
  has_rows = bool(labels) or len(temperatures) > 1
  n = n or (10 if has_rows else 64)
  z = np.concatenate([batched.model.sample_latents(n, temperature, seed) for temperature, _ in rows])
  name = "samples"
  row_labels = None
  if labels:
    name += f"_labels{'-'.join(map(str, labels))}"
    row_labels = np.repeat([label for _, label in rows], n)
  images = batched.decode(z, row_labels)
  name += f"_t{temperature_text}"
  if not has_rows:
    return ImageGrid(name, image_grid(images, config.pixel_levels, title=title), images)
  texts = [_row_label(temperature, label) for temperature, label in rows]
  grid = image_grid(images, config.pixel_levels, columns=n, title=title, row_labels=texts)
  return ImageGrid(name, grid, images.reshape(len(rows), n, *images.shape[1:]))


def _row_label(temperature, label):
  if label is None:
    return str(temperature)
  return f"label {label}" if label >= 0 else "no label"


def interpolation(batched: BatchedModel, ends: np.ndarray, names: Sequence[str], frames: int, seed: int) -> ImageGrid:
  """Interpolate between two images in latent space; the file is named after `names`."""
  if len(ends) != 2:
    raise InputError(
      "--interpolate must be two images, such as test:3,test:7, and no whole splits or "
      f"folders, got {','.join(names)!r}"
    )
  images = interpolate(batched, ends[0], ends[1], frames, seed)
  print(f"ends: {Reconstruction(ends, images[[0, -1]])}")
  title = f"from {short_name(names[0])} to {short_name(names[1])} in latent space"
  columns = min(frames, _LONGEST_ROW)
  grid = image_grid(images, batched.model.config.pixel_levels, columns=columns, title=title)
  return ImageGrid("interpolation_" + "_".join(map(short_name, names)), grid, images)


def reconstruction(batched: BatchedModel, images: np.ndarray, names: Sequence[str], seed: int) -> ImageGrid:
  """Show each image next to decode(encode(x)) and the difference."""
  result = reconstruct(batched, images, seed)
  print(result)
  warn_of_differences(result, batched.model.config)
  levels = batched.model.config.levels
  columns = 3 * min(len(images), _TRIPLES)
  triples = np.stack([images, result.decoded, result.visible_differences(levels)], axis=1)
  grid = image_grid(
    triples.reshape(-1, *images.shape[1:]),
    levels,
    columns=columns,
    wide_columns=range(3, columns, 3),
    title=f"original | back | difference: {result}",
  )
  return ImageGrid(f"reconstruction_{short_name(names[0])}", grid, np.stack([images, result.decoded]))


def warn_of_differences(result: Reconstruction, config: FlowPlusPlusConfig) -> None:
  """Warn if more pixels differ than rounding in float32 explains, and name the cause."""
  if np.count_nonzero(result.differences) <= max(1, _ROUNDING_SHARE * result.differences.size):
    return
  if config.precision in ("float32", "float64"):
    cause = (
      "The flow spreads them too far for its precision, as where training images hardly differ: --flow_dtype=float64 "
      "helps, or more varied images"
    )
  else:
    cause = (
      f"The networks round to {config.precision}, which turns the last bit of a float32 into some per cent of their "
      "outputs: leave --precision out"
    )
  process.warn(f"decode(encode(image)) is not exact: {result} in {len(result.images)} images. {cause}")


def neighbours(
  batched: BatchedModel, dataset: ImageDataset, count: int, n: int, temperature: float, seed: int
) -> ImageGrid:
  """Draw `n` samples, each in a row with the `count` training images closest to it."""
  config = batched.model.config
  images = batched.sample(n, temperature, seed)
  indices, distances = nearest_neighbours(images, dataset.train, count)
  distances /= math.sqrt(math.prod(config.image_shape))
  for row in range(n):
    nearest = [f"train:{index} at {distance:.2f}" for index, distance in zip(indices[row], distances[row])]
    print(f"sample {row}: {', '.join(nearest)}")
  nearest_images = np.asarray(dataset.train[indices.ravel()]).reshape(n, count, *config.image_shape)
  rows = np.concatenate([images[:, np.newaxis], nearest_images], axis=1)
  grid = image_grid(
    rows.reshape(-1, *config.image_shape),
    config.pixel_levels,
    columns=1 + count,
    wide_columns=[1],
    title="samples | closest training images, and distance of the first in levels",
    row_labels=[f"{distance:.2f}" for distance in distances[:, 0]],
  )
  return ImageGrid(f"neighbours_t{temperature}", grid, rows)
