"""Bits/dim of a model's validation split, measured once and kept in a file, for the typicality score."""

from collections.abc import Callable
import dataclasses
import json

import numpy as np

from flowpp_tf.core.checks import check_arguments
from flowpp_tf.core.errors import InputError
from flowpp_tf.data.source import Images, as_images
from flowpp_tf.evaluation.scores import Scorer
from flowpp_tf.io.files import write_file
from flowpp_tf.io.gate import read_json
from flowpp_tf.types import Path


@dataclasses.dataclass(frozen=True)
class ValidationStatistics:
  """Bits/dim over images of the validation split.

  Attributes:
    images: number of images.
    mean: bits/dim.
    std: bits/dim, over the images; None for one image.

  Examples:
    >>> from flowpp_tf.evaluation import ValidationStatistics
    >>> ValidationStatistics(images=180, mean=1.82, std=0.25).save("typicality.json", {"seed": 0})
  """

  images: int
  mean: float
  std: float | None

  @check_arguments
  def save(self, path: Path, key: dict) -> None:
    """Write a JSON file; `key` holds everything that the values depend on."""
    write_file(
      path, json.dumps({"key": key, "bits_per_dim": dataclasses.asdict(self)}, indent=2, allow_nan=False) + "\n"
    )


@check_arguments
def load_typical(path: Path, key: dict) -> ValidationStatistics | None:
  """Return what `ValidationStatistics.save` wrote with the same key, or None if there is no such file.

  Examples:
    >>> from flowpp_tf.evaluation import ValidationStatistics, load_typical
    >>> ValidationStatistics(images=180, mean=1.82, std=0.25).save("typicality.json", {"seed": 0})
    >>> load_typical("typicality.json", {"seed": 0}).mean
    1.82
  """
  try:
    kept = read_json(path)
    return ValidationStatistics(**kept["bits_per_dim"]) if kept["key"] == key else None
  except (OSError, ValueError, TypeError, KeyError):
    return None  # a damaged file counts as missing: the caller measures again and overwrites it


@check_arguments
def measure_typical(
  scorer: Scorer,
  images: Images,
  most_images: int,
  batch_size: int = 100,
  progress: Callable[[int], None] = lambda done: None,
) -> ValidationStatistics:
  """Measure the bits/dim of a validation split.

  Args:
    scorer: `Scorer`.
    images: `[N, H, W, C]`, anything that NumPy can index.
    most_images: number of images to measure, spread evenly over the split; all if it has fewer.
    batch_size: batch size.
    progress: called after each batch with the number of its images.

  Raises:
    InputError (a ValueError): if a count is not positive, or the images do not fit the scorer's model.

  Examples:
    >>> from flowpp_tf.data import load_dataset
    >>> from flowpp_tf.evaluation import Scorer, measure_typical
    >>> images = load_dataset("digits").test[:4]
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> measure_typical(Scorer(model, num_samples=1), images, most_images=3).images
    3
  """
  for name, value in (("most_images", most_images), ("batch_size", batch_size)):
    if value < 1:
      raise InputError(f"`{name}` must be at least 1, got {value}")
  images = as_images("images", images)
  chosen = typical_indices(len(images), most_images)
  batches = []
  for i in range(0, len(chosen), batch_size):
    batch = images[chosen[i : i + batch_size]]
    batches.append(scorer.bits_per_dim(batch, batch_size))
    progress(len(batch))
  values = np.concatenate(batches)
  return ValidationStatistics(len(values), float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None)


def typical_indices(count: int, most: int) -> np.ndarray:
  """Return up to `most` of the integers below `count`, spread evenly."""
  return np.arange(min(count, most)) * count // min(count, most)
