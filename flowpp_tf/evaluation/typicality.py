"""What is typical of a model: the bits/dim of its validation split, measured once and kept."""

import dataclasses
import json

import numpy as np

from flowpp_tf.files import replace_file


@dataclasses.dataclass(frozen=True)
class Typical:
  """Bits/dim over images of the validation split."""
  images: int
  mean: float  # bits/dim
  std: float   # bits/dim, over the images; None if there is but one

  def save(self, path, key):
    """Writes a JSON file; `key` is a `dict` of what the figures depend on."""
    text = json.dumps({"key": key, "bits_per_dim": dataclasses.asdict(self)}, indent=2) + "\n"
    replace_file(path, lambda temporary: temporary.write_text(text))


def load_typical(path, key):
  """What `Typical.save` wrote with the same key; None if there is no such file."""
  try:
    kept = json.loads(path.read_text())
    return Typical(**kept["bits_per_dim"]) if kept["key"] == key else None
  except (OSError, ValueError, TypeError, KeyError):
    return None  # as good as not there: it is measured and written again


def measure_typical(scorer, images, most_images, batch_size=100, progress=lambda done: None):
  """Measures a validation split.

  Args:
    scorer: `Scorer`.
    images: integers `[N, H, W, C]`, anything that NumPy can index.
    most_images: if there are more, so many are taken, spread evenly over the split.
    batch_size: images at once.
    progress: called with the number of images done after each batch.

  Returns:
    `Typical`.
  """
  chosen = typical_indices(len(images), most_images)
  values = []
  for i in range(0, len(chosen), batch_size):
    batch = images[chosen[i:i + batch_size]]
    values.append(scorer.bits_per_dim(batch, batch_size))
    progress(len(batch))
  values = np.concatenate(values)
  return Typical(len(values), float(values.mean()),
                 float(values.std(ddof=1)) if len(values) > 1 else None)


def typical_indices(count, most):
  """Up to `most` of the integers below `count`, spread evenly."""
  return np.arange(min(count, most)) * count // min(count, most)
