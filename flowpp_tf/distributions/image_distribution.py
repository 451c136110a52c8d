"""Integer images as a TFP distribution: samples of the model, and its bound as their log density.

    log P(x) >= E log mean_k p(x + u_k) / q(u_k|x),  u_k ~ q(.|x)    (equation 7, importance-weighted)
"""

from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.errors import InputError
from flowpp_tf.types import Seed

tfd = tfp.distributions


class ImageDistribution(tfp.distributions.Distribution):
  """The distribution of a model's images, to be a part of other models.

  `log_prob` estimates a lower bound of the log probability, which has no closed form; the bound grows towards it with
  `num_samples`: `copy(num_samples=64)` makes it tighter. All images get the same draws of noise, which follow from
  `seed`:
  `log_prob` is a function of only the image, whatever stands beside it in the batch, in eager mode as in a graph.

  Args:
    model: `FlowPlusPlus`.
    num_samples: draws of the dequantization noise per image.
    seed: integer or stateless seed of the draws; None for other draws in each call, as for training.
    validate_args: Python `bool`, whether pixel values are checked in graphs too.
    name: Python `str`.

  Values are int32, like those of TFP's discrete distributions, so that arithmetic on them does not wrap around. Events
  are `[H, W, C]` in 0 .. levels - 1, the batch shape is []. `seed` of `sample` means what it does in TFP.
  """

  def __init__(self, model: Any, num_samples: int = 1, seed: Seed = 0, validate_args: bool = False,
               name: str = "image_distribution") -> None:
    parameters = dict(locals())
    if not num_samples > 0:
      raise InputError(f"`num_samples` must be a positive integer, got {num_samples}")
    self._model = model
    self._num_samples = num_samples
    self._seed = seed
    self._weights = [v.value for v in model.weights]  # Keras models are no `tf.Module`s
    super().__init__(
        dtype=tf.int32, reparameterization_type=tfd.NOT_REPARAMETERIZED, validate_args=validate_args,
        allow_nan_stats=False, parameters=parameters, name=name)

  @classmethod
  def _parameter_properties(cls, dtype, num_classes=None):
    return dict()

  @property
  def num_samples(self) -> int:
    """Draws of the dequantization noise per image."""
    return self._num_samples

  def _event_shape(self):
    return tf.TensorShape(self._model.config.image_shape)

  def _event_shape_tensor(self):
    return tf.constant(self._model.config.image_shape)

  def _default_event_space_bijector(self):
    return None  # as of TFP's discrete distributions

  def _sample_n(self, n, seed=None):
    images = self._model.sample(n, seed=tfp.random.sanitize_seed(seed))
    return tf.cast(images, self.dtype)

  def _log_prob(self, images):
    shape = self.event_shape
    if not images.shape[-3:].is_compatible_with(shape):
      raise InputError(f"images must be of shape [..., {', '.join(map(str, shape))}], got "
                       f"{images.shape}")
    flat = tf.reshape(images, [-1, *shape])
    noise = self._model.sample_noise([self.num_samples, 1], self._seed)
    noise = tf.broadcast_to(noise, [self.num_samples, tf.shape(flat)[0], *self._model.noise_shape])
    bound = self._model.log_prob_bound(flat, noise=noise, seed=0)
    return tf.reshape(bound, tf.shape(images)[:-3])

  def _sample_control_dependencies(self, images):
    if not self.validate_args:
      return []
    message = f"images must lie in 0 .. {self._model.config.levels - 1}"
    return [tf.debugging.assert_non_negative(images, message),
            tf.debugging.assert_less(images, tf.cast(self._model.config.levels, images.dtype), message)]
