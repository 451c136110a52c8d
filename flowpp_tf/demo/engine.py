"""The functions of a model that the page calls, on NumPy arrays, for a trained model or a SavedModel.

No function is traced more than once, regardless of the request.
"""

import numpy as np

from flowpp_tf.core.errors import InputError
from flowpp_tf.evaluation import BatchedModel, Scorer, scores_of
from flowpp_tf.evaluation.batched_model import batches
from flowpp_tf.evaluation.likelihood import importance_weighted
from flowpp_tf.exporting import LoadedModel
from flowpp_tf.models import FlowPlusPlus
from flowpp_tf.types import Seed

_MOST_SAMPLES = 100


class Engine:
  """Runs a `FlowPlusPlus`; the same seed gives the same results as in `bin/sample` and `bin/score`.

  `sample`, `encode` and `decode` are those of `FlowPlusPlus`, of a model with classes without a label unless `sample`
  is given `labels`; `scores(images)` returns arrays `[N]` by the names in
  `evaluation.SCORES`.

  Args:
    model: the model.
    num_samples: number of samples of the importance-weighted bound in the scores.
    typical: mean bits/dim of the validation split by `Scorer`, for typicality; None if unknown.

  Attributes:
    config: `FlowPlusPlusConfig`.
    parameters: number of parameters.
    most_samples: maximum number of samples per request.
  """

  def __init__(self, model: FlowPlusPlus, num_samples: int = 16, typical: float | None = None) -> None:
    self.config = model.config
    self.parameters = model.count_params()
    self.num_samples = num_samples
    self.most_samples = _MOST_SAMPLES
    batched = BatchedModel(model)
    self.sample, self.encode, self.decode = batched.sample, batched.encode, batched.decode
    self.scores = Scorer(model, num_samples, typical=typical)


class SavedModelEngine:
  """`Engine` for a `LoadedModel`, without typicality; `num_samples` above its `max_batch` is an `InputError`."""

  def __init__(self, loaded: LoadedModel, num_samples: int = 16) -> None:
    self._loaded = loaded
    self._max_batch = loaded.metadata["max_batch"]
    if not 1 <= num_samples <= self._max_batch:
      raise InputError(
        f"`num_samples` must be from 1 to {self._max_batch}, the `max_batch` of the SavedModel, got {num_samples}"
      )
    self.config = loaded.config
    self.parameters = sum(int(np.prod(weight.shape)) for weight in loaded.saved_model.weights)
    self.num_samples = num_samples
    self.most_samples = min(_MOST_SAMPLES, self._max_batch)

  def sample(self, n: int, temperature: float = 1.0, seed: Seed = None, labels: np.ndarray | None = None) -> np.ndarray:
    return self._loaded.sample(n, temperature, seed, **self._given(n, labels)).numpy()

  def encode(self, images: np.ndarray, seed: Seed = None) -> np.ndarray:
    return self._loaded.encode(images, seed, **self._given(len(images))).numpy()

  def decode(self, z: np.ndarray) -> np.ndarray:
    parts = batches(len(z), self._max_batch)
    return np.concatenate([self._loaded.decode(z[part], **self._given(len(z[part]))).numpy() for part in parts])

  def scores(self, images: np.ndarray) -> dict[str, np.ndarray]:
    labels = [np.full(len(images), label) for label in range(self.config.num_classes)]
    bounds = np.stack(
      [
        self._loaded.log_prob_bound(images, self.num_samples, seed=0, **given).numpy()
        for given in ([{"labels": label} for label in labels] or [{}])
      ]
    )
    return scores_of(images, importance_weighted(bounds.astype(np.float64)))

  def _given(self, count, labels=None):
    if not self.config.num_classes:
      return {}
    return {"labels": np.full(count, -1) if labels is None else labels}
