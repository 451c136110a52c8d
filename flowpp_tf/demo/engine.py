"""What the page asks of a model, the same for a trained one and for a SavedModel: arrays in, arrays out.

No function is traced more than once, whatever is asked.
"""

import numpy as np

from flowpp_tf.errors import InputError
from flowpp_tf.evaluation import Batched
from flowpp_tf.evaluation import Scorer
from flowpp_tf.evaluation import scores_of
from flowpp_tf.evaluation.batched import batches

_MOST_SAMPLES = 100


class Engine:
  """A `FlowPlusPlus`, by the functions of `bin/sample` and `bin/score`: the same seed gives the same.

  Args:
    model: `FlowPlusPlus`.
    num_samples: of the importance-weighted bound in the scores.
    typical: mean bits/dim of the validation split by `Scorer`, for typicality; None if it is not known.

  Attributes:
    config: `FlowPlusPlusConfig`.
    parameters: how many.
    num_samples: as above.
    most_samples: images that may be asked for at once.

  `sample`, `encode` and `decode` are those of `FlowPlusPlus`, with NumPy arrays; `scores(images)` is a
  `dict` of arrays `[N]` by the names in `evaluation.SCORES`.
  """

  def __init__(self, model, num_samples=16, typical=None):
    self.config = model.config
    self.parameters = model.count_params()
    self.num_samples = num_samples
    self.most_samples = _MOST_SAMPLES
    batched = Batched(model)
    self.sample, self.encode, self.decode = batched.sample, batched.encode, batched.decode
    self.scores = Scorer(model, num_samples, typical=typical)


class SavedModelEngine:
  """The same of what `fpp.load_saved_model` gives; typicality is not known.

  Raises:
    InputError (a ValueError): if `num_samples` is more than the SavedModel allows.
  """

  def __init__(self, loaded, num_samples=16):
    self._loaded = loaded
    self._max_batch = loaded.metadata["max_batch"]
    if not 1 <= num_samples <= self._max_batch:
      raise InputError(f"`num_samples` must be from 1 to {self._max_batch}, the `max_batch` of the "
                       f"SavedModel, got {num_samples}")
    self.config = loaded.config
    self.parameters = sum(int(np.prod(weight.shape)) for weight in loaded.saved_model.weights)
    self.num_samples = num_samples
    self.most_samples = min(_MOST_SAMPLES, self._max_batch)

  def sample(self, n, temperature=1.0, seed=None):
    return self._loaded.sample(n, temperature, seed).numpy()

  def encode(self, images, seed=None):
    return self._loaded.encode(images, seed).numpy()

  def decode(self, z):
    return np.concatenate([self._loaded.decode(z[part]).numpy()
                           for part in batches(len(z), self._max_batch)])

  def scores(self, images):
    bound = self._loaded.log_prob_bound(images, self.num_samples, seed=0)
    return scores_of(images, bound.numpy().astype(np.float64))
