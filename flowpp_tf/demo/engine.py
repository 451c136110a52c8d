"""Run a trained model or a SavedModel for the page, on NumPy arrays.

Each function is traced only once, regardless of the requests. A function that the model cannot offer raises an
`InputError`, and the page shows its message instead.
"""

from collections.abc import Callable
import dataclasses
import functools

import numpy as np
import tensorflow as tf

from flowpp_tf.compression import Codec, compress
from flowpp_tf.core.errors import InputError
from flowpp_tf.data.random_crops import photographs_of
from flowpp_tf.data.source import Images
from flowpp_tf.evaluation import BatchedModel, PositionBits, PositionScorer, Scorer, nearest_neighbours, scores_of
from flowpp_tf.evaluation.batched_model import DistributedFunction, batches
from flowpp_tf.evaluation.calibration import typical_indices
from flowpp_tf.evaluation.likelihood import importance_weighted
from flowpp_tf.evaluation.sample_quality import compared_images
from flowpp_tf.exporting import LoadedModel
from flowpp_tf.models import FlowPlusPlus
from flowpp_tf.types import Seed

_MOST_SAMPLES = 100
_MOST_REFERENCES = 100  # images whose bits/dim an upload is compared with, measured at the start


@dataclasses.dataclass(frozen=True, eq=False)
class KnownImages:
  """Images of a model's data set; each field may be missing.

  Attributes:
    train: training images.
    test: test images, for comparison with an upload's bits/dim.
    classes: names of the classes.
    what: describes the images in `train`.
  """

  train: Images | None = None
  test: Images | None = None
  classes: tuple[str, ...] = ()
  what: str = "training images"


class _References:
  """Comparison of an upload with other images, for both engines."""

  known: KnownImages
  most_samples: int
  bound: Callable[[np.ndarray], np.ndarray]
  sample: Callable[..., np.ndarray]

  @functools.cached_property
  def references(self) -> tuple[str, np.ndarray]:
    """A description of at most 100 reference images, and their single-sample bounds in bits/dim."""
    test = self.known.test
    if test is not None:
      chosen = typical_indices(len(test), _MOST_REFERENCES)
      return "test images", self.bound(np.asarray(test[chosen]))
    samples = self.sample(min(_MOST_REFERENCES, self.most_samples), 1.0, seed=1)
    return "of the model's own samples", self.bound(samples)

  def neighbours(self, image: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the nearest training images, their L2 distances in levels, and the number of images searched."""
    train = self.known.train
    if train is None or photographs_of(train) is not None:
      raise InputError("the training images are not on this machine, or are crops, others in each step")
    compared = compared_images(train)
    indices, distances = nearest_neighbours(image[np.newaxis], compared, min(count, len(compared)))
    return np.asarray(compared[indices[0]]), distances[0], len(compared)


class Engine(_References):
  """Runs a `FlowPlusPlus`; the same seed gives the same results as in `bin/sample` and `bin/score`.

  `encode` and `decode` are methods of a `BatchedModel`, without labels. `scores(images)` returns arrays `[N]` by the
  names in `evaluation.SCORES`.

  Args:
    model: the model.
    num_samples: number of samples of the importance-weighted bound in the scores.
    typical: mean bits/dim of the validation split by `Scorer`, for typicality; None if unknown.
    known: `KnownImages`.

  Attributes:
    config: `FlowPlusPlusConfig`.
    parameters: number of parameters.
    most_samples: maximum number of samples per request.
    can_guide: whether `sample` takes `guidance`.
    can_compress: whether `compress` works.
  """

  def __init__(
    self, model: FlowPlusPlus, num_samples: int = 16, typical: float | None = None, known: KnownImages = KnownImages()
  ) -> None:
    self.config = model.config
    self.parameters = model.count_params()
    self.num_samples = num_samples
    self.most_samples = _MOST_SAMPLES
    self.known = known
    self.can_guide = model.config.label_dropout > 0
    self.can_compress = not model.config.is_conditional
    self._model = model
    self._batched = BatchedModel(model)
    self.encode = self._batched.encode
    self.decode = self._batched.decode
    self.scores = Scorer(model, num_samples, typical=typical)
    self._single = self.scores.first_draws(1)
    self._positions = PositionScorer(model, num_samples)
    if self.can_guide:
      dtype = tf.as_dtype(model.variable_dtype)
      specs = [(model.coupling_flow.latent_shape, dtype), ((), tf.int32), ((), dtype)]

      def decode_guided(z, labels, guidance):
        return model.decode(z, labels, guidance=guidance[0])

      self._decode_guided = DistributedFunction(model, decode_guided, specs)

  def sample(
    self, n: int, temperature: float = 1.0, seed: Seed = None, labels: np.ndarray | None = None, guidance: float = 0.0
  ) -> np.ndarray:
    """Return uint8 images `[n, H, W, C]`, as `FlowPlusPlus.sample`."""
    if not guidance:
      return self._batched.sample(n, temperature, seed, labels)
    z = self._model.sample_latents(n, temperature, seed)
    guidances = np.full(n, guidance, z.dtype.as_numpy_dtype)
    return self._decode_guided(z, np.asarray(labels, np.int32), guidances)

  def bound(self, images: np.ndarray) -> np.ndarray:
    """Return the single-sample bound in bits/dim, `[N]`, with the first draw of `scores`."""
    return self._single.bits_per_dim(images)

  def class_log_likelihoods(self, images: np.ndarray) -> np.ndarray:
    """Return the bound given each class, `[N, num_classes]` nats."""
    return self.scores.class_log_likelihoods(images)[:, : self.config.num_classes]

  def positions(self, images: np.ndarray, label: int | None = None) -> PositionBits:
    """Return the bits of each position; they add up to the bound of `scores`, given the label unless it is None."""
    return self._positions(images, label)

  def compress(self, images: np.ndarray) -> bytes:
    """Return the images as an archive that `bin/decompress` reads."""
    return compress(self._codec, images)

  @functools.cached_property
  def _codec(self):
    return Codec(self._model)


class SavedModelEngine(_References):
  """`Engine` for a `LoadedModel`, without typicality; `num_samples` above its `max_batch` is an `InputError`.

  `encode` and the bounds take at most `max_batch` images; the page passes one image.
  """

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
    data = loaded.metadata.get("data") or {}
    self.known = KnownImages(classes=tuple(data.get("classes") or ()))
    self.can_guide = self.can_compress = False

  def sample(
    self, n: int, temperature: float = 1.0, seed: Seed = None, labels: np.ndarray | None = None, guidance: float = 0.0
  ) -> np.ndarray:
    if guidance:
      raise InputError("a SavedModel has no guidance")
    return self._loaded.sample(n, temperature, seed, **self._conditioning(n, labels)).numpy()

  def encode(self, images: np.ndarray, seed: Seed = None) -> np.ndarray:
    return self._loaded.encode(images, seed, **self._conditioning(len(images))).numpy()

  def decode(self, z: np.ndarray) -> np.ndarray:
    images = []
    for rows in batches(len(z), self._max_batch):
      batch = z[rows]
      images.append(self._loaded.decode(batch, **self._conditioning(len(batch))).numpy())
    return np.concatenate(images)

  def scores(self, images: np.ndarray) -> dict[str, np.ndarray]:
    return scores_of(images, self._log_likelihoods(images, self.num_samples))

  def bound(self, images: np.ndarray) -> np.ndarray:
    return scores_of(images, self._log_likelihoods(images, 1))["bits_per_dim"]

  def class_log_likelihoods(self, images: np.ndarray) -> np.ndarray:
    return self._class_bounds(images, self.num_samples)

  def positions(self, images: np.ndarray, label: int | None = None) -> PositionBits:
    del images, label
    raise InputError("a SavedModel gives the bound of an image, not that of its positions: use --workdir or --preset")

  def compress(self, images: np.ndarray) -> bytes:
    del images
    raise InputError("a SavedModel cannot compress: use --workdir or --preset")

  def _log_likelihoods(self, images, num_samples):
    if self.config.num_classes:
      return importance_weighted(self._class_bounds(images, num_samples), axis=1)
    return self._loaded.log_prob_bound(images, num_samples, seed=0).numpy().astype(np.float64)

  def _class_bounds(self, images, num_samples):
    bounds = []
    for label in range(self.config.num_classes):
      labels = np.full(len(images), label)
      bounds.append(self._loaded.log_prob_bound(images, num_samples, seed=0, labels=labels).numpy())
    return np.stack(bounds, axis=1).astype(np.float64)

  def _conditioning(self, count, labels=None):
    if not self.config.num_classes:
      return {}
    return {"labels": np.full(count, -1) if labels is None else labels}
