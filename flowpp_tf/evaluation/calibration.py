r"""Compare scores with the scores of sound images: conformal thresholds, and mean bits/dim for the typicality score.

Thresholds hold for any model, by split conformal prediction. If n sound images and a new sound image are exchangeable,
each rank of the new score among all n + 1 scores is equally likely. So it exceeds the ceil((n + 1) (1 - a))-th smallest
of the n scores with a probability of at most a, and

$$
p = \frac{1 + |\{i : s_i \ge s\}|}{n + 1}
$$

is at most a with a probability of at most a (Vovk et al. 2005; Laxhammar and Falkman 2010 for anomalies). It does not
say how many anomalous images are detected. If a score that is too low is anomalous too, the two-sided p-value, twice
the smaller of both sides' p-values and at most 1, has the same property.
"""

import dataclasses
import math

import numpy as np

from flowpp_tf.core.checks import as_array, check_all_finite, check_arguments, check_count, check_number
from flowpp_tf.core.errors import InputError
from flowpp_tf.data.source import Images, as_images
from flowpp_tf.evaluation.batched_model import batches
from flowpp_tf.evaluation.scores import Scorer
from flowpp_tf.io.files import write_json
from flowpp_tf.io.gate import read_json
from flowpp_tf.types import Path


@check_arguments
def conformal_threshold(calibration: np.ndarray, false_alarms: float) -> float:
  """Return a threshold that at most a given share of sound images exceeds.

  Args:
    calibration: scores of sound images that the model was not trained on, `[N]`; higher is more anomalous.
    false_alarms: the share, between 0 and 1.

  Returns:
    One of the scores; infinity for fewer than `1 / false_alarms - 1` scores.

  Raises:
    InputError (a ValueError): if scores are missing or not finite, or `false_alarms` is not between 0 and 1.

  Examples:
    >>> from flowpp_tf.evaluation import conformal_threshold
    >>> conformal_threshold(np.arange(99.0), false_alarms=0.05)
    94.0
  """
  calibration = _scores("calibration", calibration)
  check_number("false_alarms", false_alarms, 0, 1, ends=False)
  # Round before ceil: in float64, 100 * (1 - 0.05) is a little more than 95.
  exact_rank = round((len(calibration) + 1) * (1 - false_alarms), 9)
  rank = max(1, math.ceil(exact_rank))
  if rank > len(calibration):
    return math.inf
  return float(np.sort(calibration)[rank - 1])


@check_arguments
def conformal_p_value(calibration: np.ndarray, scores: np.ndarray, two_sided: bool = False) -> np.ndarray:
  """Return for each score the p-value of the hypothesis that its image is sound, `[M]`.

  Args:
    calibration: scores of sound images as in `conformal_threshold`, `[N]`.
    scores: `[M]`.
    two_sided: whether low scores are anomalous too. For bits/dim they are: an image can be too simple.

  Raises:
    InputError (a ValueError): if scores are missing or not finite.

  Examples:
    >>> from flowpp_tf.evaluation import conformal_p_value
    >>> conformal_p_value(np.arange(99.0), np.array([50.0, 200.0]))
    array([0.5 , 0.01])
    >>> conformal_p_value(np.arange(99.0), np.array([50.0, -1.0]), two_sided=True)
    array([1.  , 0.02])
  """
  calibration = np.sort(_scores("calibration", calibration))
  scores = _scores("scores", scores)
  at_least = len(calibration) - np.searchsorted(calibration, scores, side="left")
  high = (1 + at_least) / (len(calibration) + 1)
  if not two_sided:
    return high
  low = (1 + np.searchsorted(calibration, scores, side="right")) / (len(calibration) + 1)
  return np.minimum(2 * np.minimum(high, low), 1)


def _scores(name, values):
  values = as_array(name, values, [None]).astype(np.float64)
  check_all_finite(name, values)
  if not len(values):
    raise InputError(f"`{name}` must have at least one score")
  return values


@dataclasses.dataclass(frozen=True)
class ValidationStatistics:
  """Bits/dim over images of the validation split.

  Attributes:
    images: number of images.
    mean: mean bits/dim.
    std: standard deviation of bits/dim over the images; None for one image.

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
    write_json(path, {"key": key, "bits_per_dim": dataclasses.asdict(self)})


@check_arguments
def load_typical(path: Path, key: dict) -> ValidationStatistics | None:
  """Load what `ValidationStatistics.save` wrote with the same key, or return None if that is missing.

  Examples:
    >>> from flowpp_tf.evaluation import ValidationStatistics, load_typical
    >>> ValidationStatistics(images=180, mean=1.82, std=0.25).save("typicality.json", {"seed": 0})
    >>> load_typical("typicality.json", {"seed": 0}).mean
    1.82
  """
  try:
    stored = read_json(path)
    statistics = ValidationStatistics(**stored["bits_per_dim"])
    return statistics if stored["key"] == key else None
  except (OSError, ValueError, TypeError, KeyError):
    return None  # a damaged file counts as missing: the caller measures again and overwrites it


@check_arguments
def measure_typical(scorer: Scorer, images: Images, most_images: int, batch_size: int = 100) -> ValidationStatistics:
  """Measure the bits/dim of a validation split.

  Args:
    scorer: `Scorer`.
    images: `[N, H, W, C]`, anything that NumPy can index.
    most_images: number of images to measure, spread evenly over the split; all if it has fewer.
    batch_size: batch size.

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
  check_count("most_images", most_images, high=2**63 - 1)
  check_count("batch_size", batch_size, high=2**63 - 1)
  images = as_images("images", images)
  chosen = typical_indices(len(images), most_images)
  batched_indices = [chosen[rows] for rows in batches(len(chosen), batch_size)]
  values = np.concatenate([scorer.bits_per_dim(images[indices], batch_size) for indices in batched_indices])
  std = float(values.std(ddof=1)) if len(values) > 1 else None
  return ValidationStatistics(len(values), float(values.mean()), std)


def typical_indices(count: int, most: int) -> np.ndarray:
  """Return up to `most` of the integers below `count`, spread evenly."""
  return np.arange(min(count, most)) * count // min(count, most)
