"""The kinds of grid that `bin/sample` makes."""

from collections.abc import Sequence
import dataclasses
import math

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
from flowpp_tf.programs.sample import short_name

_LONGEST_ROW = 16  # images
_BY_ROUNDING = 1e-5  # share of pixels whose noise may lie within the rounding of 0 or 1, in float32; or one pixel


@dataclasses.dataclass(frozen=True, eq=False)
class ImageGrid:
  """A grid, the images in it as they are, and the default name of its file."""

  name: str
  grid: Image.Image
  images: np.ndarray


def samples(batched: BatchedModel, n: int, temperature: float, seed: int) -> ImageGrid:
  """Draw `n` samples."""
  images = batched.sample(n, temperature, seed)
  grid = image_grid(images, batched.model.config.pixel_levels, title=f"samples, temperature {temperature}, seed {seed}")
  return ImageGrid(f"samples_t{temperature}", grid, images)


def whole_pictures(
  batched: BatchedModel, n: int, size: Sequence[int] | None, temperature: float, seed: int
) -> ImageGrid:
  """Draw `n` pictures of a size, if it is None of 4 x 4 tiles, from a model whose tiles see their neighbours."""
  config = batched.model.config
  height, width = size or (4 * config.image_shape[0], 4 * config.image_shape[1])
  images = sample_pictures(batched.model, n, height, width, temperature, seed, batched.batch_size)
  grid = image_grid(images, config.levels, gap=4, title=f"samples, temperature {temperature}, seed {seed}")
  return ImageGrid(f"samples_{height}x{width}_t{temperature}", grid, images)


def by_class(batched: BatchedModel, labels: Sequence[int], n: int, temperature: float, seed: int) -> ImageGrid:
  """Draw a row of `n` samples for each label; each column shares its latents."""
  z = np.concatenate([batched.model.sample_latents(n, temperature, seed)] * len(labels))
  images = batched.decode(z, np.repeat(labels, n))
  for row, label in enumerate(labels, start=1):
    print(f"row {row}: label {label if label >= 0 else 'left out'}")
  return ImageGrid(
    f"samples_labels{'-'.join(map(str, labels))}_t{temperature}",
    image_grid(
      images,
      batched.model.config.pixel_levels,
      columns=n,
      title=f"samples, temperature {temperature}",
      row_labels=[f"label {label}" if label >= 0 else "no label" for label in labels],
    ),
    images.reshape(len(labels), n, *images.shape[1:]),
  )


def sweep(batched: BatchedModel, n: int, temperatures: Sequence[float], seed: int) -> ImageGrid:
  """Draw a row of `n` samples for each temperature; each column shares its latents."""
  images = batched.decode(
    np.concatenate([batched.model.sample_latents(n, temperature, seed) for temperature in temperatures])
  )
  for row, temperature in enumerate(temperatures, start=1):
    print(f"row {row}: temperature {temperature}")
  return ImageGrid(
    f"sweep_t{'-'.join(map(str, temperatures))}",
    image_grid(
      images,
      batched.model.config.pixel_levels,
      columns=n,
      title="samples by temperature",
      row_labels=[str(temperature) for temperature in temperatures],
    ),
    images.reshape(len(temperatures), n, *images.shape[1:]),
  )


def interpolation(batched: BatchedModel, ends: np.ndarray, names: Sequence[str], frames: int, seed: int) -> ImageGrid:
  """Interpolate between two images in latent space; the file is named after `names`."""
  if len(ends) != 2:
    raise InputError(
      "--interpolate must be two images, such as test:3,test:7, and no whole splits or "
      f"folders, got {','.join(names)!r}"
    )
  images = interpolate(batched, ends[0], ends[1], frames, seed)
  print(f"ends: {Reconstruction(ends, images[[0, -1]])}")
  return ImageGrid(
    "interpolation_" + "_".join(map(short_name, names)),
    image_grid(
      images,
      batched.model.config.pixel_levels,
      columns=min(frames, _LONGEST_ROW),
      title=f"from {short_name(names[0])} to {short_name(names[1])} in latent space",
    ),
    images,
  )


def reconstruction(batched: BatchedModel, images: np.ndarray, names: Sequence[str], seed: int) -> ImageGrid:
  """Show images, decode(encode(x)) and the differences, in rows below each other."""
  result = reconstruct(batched, images, seed)
  print(result)
  warn_of_differences(result, batched.model.config)
  levels, columns = batched.model.config.levels, min(len(images), _LONGEST_ROW)
  rows = np.stack([images, result.decoded, result.visible_differences(levels)])
  blank = np.full([3, -len(images) % columns, *images.shape[1:]], levels - 1, images.dtype)
  blocks = np.concatenate([rows, blank], axis=1).reshape(3, -1, columns, *images.shape[1:])
  grid = image_grid(
    blocks.swapaxes(0, 1).reshape(-1, *images.shape[1:]),
    levels,
    columns=columns,
    wide_rows=range(3, 3 * blocks.shape[1], 3),
    title=str(result),
    row_labels=["original", "back", "difference"] * blocks.shape[1],
  )
  return ImageGrid(f"reconstruction_{short_name(names[0])}", grid, rows[:2])


def warn_of_differences(result: Reconstruction, config: FlowPlusPlusConfig) -> None:
  """Warn if more pixels differ than rounding in float32 explains, and name the cause."""
  if np.count_nonzero(result.differences) <= max(1, _BY_ROUNDING * result.differences.size):
    return
  cause = (
    "The flow spreads them too far for its precision, as where training images hardly differ: --flow_dtype=float64 "
    "helps, or more varied images"
    if config.precision in ("float32", "float64")
    else f"The networks round to {config.precision}, which turns the last bit of a float32 into some per cent of their "
    "outputs: leave --precision out"
  )
  process.warn(f"decode(encode(image)) is not exact: {result} in {len(result.images)} images. {cause}")


def neighbours(
  batched: BatchedModel, dataset: ImageDataset, count: int, n: int, temperature: float, seed: int
) -> ImageGrid:
  """Draw `n` samples, each in a row with the `count` training images closest to it."""
  config = batched.model.config
  images = batched.sample(n, temperature, seed)
  test = dataset.test[:n]  # for comparison: images that the model has not been trained on
  indices, distances = nearest_neighbours(np.concatenate([images, test]), dataset.train, count)
  distances /= math.sqrt(math.prod(config.image_shape))
  for row in range(n):
    print(
      f"sample {row}: "
      + ", ".join(f"train:{index} at {distance:.2f}" for index, distance in zip(indices[row], distances[row]))
    )
  print(
    f"closest of train, median: {np.median(distances[:n, 0]):.2f} levels from the samples, "
    f"{np.median(distances[n:, 0]):.2f} from the first {len(test)} images of test (root mean "
    "squares over pixels)"
  )
  found = np.asarray(dataset.train[indices[:n].ravel()]).reshape(n, count, *config.image_shape)
  rows = np.concatenate([images[:, np.newaxis], found], axis=1)
  grid = image_grid(
    rows.reshape(-1, *config.image_shape),
    config.pixel_levels,
    columns=1 + count,
    wide_columns=[1],
    title="samples | closest training images, and distance of the first in levels",
    row_labels=[f"{distance:.2f}" for distance in distances[:n, 0]],
  )
  return ImageGrid(f"neighbours_t{temperature}", grid, rows)
