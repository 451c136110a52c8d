"""Bits/dim of a model's validation split, measured once and kept in a file, for the typicality score."""

from collections.abc import Callable
import dataclasses
import json
import pathlib

import numpy as np

from flowpp_tf.data.dataset import Images
from flowpp_tf.evaluation.scores import Scorer
from flowpp_tf.io.files import write_file
from flowpp_tf.io.gate import read_json


@dataclasses.dataclass(frozen=True)
class ValidationStatistics:
  """Bits/dim over images of the validation split."""

  images: int
  mean: float  # bits/dim
  std: float | None  # bits/dim, over the images; None for one image

  def save(self, path: pathlib.Path, key: dict) -> None:
    """Write a JSON file; `key` holds everything that the values depend on."""
    write_file(
      path, json.dumps({"key": key, "bits_per_dim": dataclasses.asdict(self)}, indent=2, allow_nan=False) + "\n"
    )


def load_typical(path: pathlib.Path, key: dict) -> ValidationStatistics | None:
  """Return what `ValidationStatistics.save` wrote with the same key, or None if there is no such file."""
  try:
    kept = read_json(path)
    return ValidationStatistics(**kept["bits_per_dim"]) if kept["key"] == key else None
  except (OSError, ValueError, TypeError, KeyError):
    return None  # a damaged file counts as missing: the caller measures again and overwrites it


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
    images: integers `[N, H, W, C]`, anything that NumPy can index.
    most_images: number of images to measure, spread evenly over the split; all if it has fewer.
    batch_size: batch size.
    progress: called after each batch with the number of its images.
  """
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
