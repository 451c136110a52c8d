"""Images as a TFP distribution: samples of the model, and their log density.

The log density of real-valued images is exact. For integer images it is a bound (equation 7, importance-weighted):

    log P(x) >= E log mean_k p(x + u_k) / q(u_k|x),  u_k ~ q(.|x)
"""

from typing import Any

from jaxtyping import Float
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.parameters import check_broadcast
from flowpp_tf.core.checks import INT32_MAX, as_sample_shape, as_tensor, check_arguments, check_count, check_event
from flowpp_tf.core.context import tfp_seed
from flowpp_tf.models.conditioning import conditioning_tensors
from flowpp_tf.pretrained.stored_config import FlowPlusPlusLike
from flowpp_tf.types import Seed, TensorLike

ParameterProperties = tfp.util.ParameterProperties


class ImageDistribution(tfp.distributions.Distribution):
  """The distribution of a model's images, to be a part of other models.

  `log_prob` of integer images estimates a lower bound of the log probability, which has no closed form; more samples,
  `copy(num_samples=64)`, make it tighter. For real-valued images (`dequantization` "none") it is exact. All images get
  the same draws of noise, which follow from `seed`. So `log_prob` depends on the image only, and not on the others in
  the batch, in eager mode and in a graph.

  Args:
    model: `FlowPlusPlus`.
    num_samples: draws of the dequantization noise per image.
    seed: integer or stateless seed of the draws; None for other draws in each call, as for training.
    validate_args: Python `bool`, as in TFP; values of a graph that are wrong give NaN in any case.
    name: Python `str`.
    labels: of a model with classes, `[...]`: the batch of this distribution.
    condition: of a model with a condition, `[..., *condition_shape]`, whose leading dimensions are the batch.

  Events are `[H, W, C]`. Integers in 0 .. levels - 1 are int32, as in TFP's discrete distributions, so that arithmetic
  on them does not wrap around; real values have the model's dtype. Without labels and condition the batch shape is [].
  `seed` of `sample` means the same as in TFP.

  Examples:
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> images = model.distribution  # or model.given(labels=...)
    >>> images.log_prob(images.sample(3)).shape
    TensorShape([3])
  """

  @check_arguments
  def __init__(
    self,
    model: FlowPlusPlusLike,
    num_samples: int = 1,
    seed: Seed = 0,
    validate_args: bool = False,
    name: str = "image_distribution",
    labels: TensorLike | None = None,
    condition: TensorLike | None = None,
  ) -> None:
    parameters = dict(locals())
    check_count("num_samples", num_samples, high=INT32_MAX)
    tfp_seed(seed)  # raises an `InputError` unless it is a seed
    self.model: Any = model
    self.num_samples = num_samples
    self.seed = seed
    conditioning = conditioning_tensors(model.config, model.variable_dtype, labels, condition)
    self.labels = conditioning.get("labels")
    self.condition = conditioning.get("condition")
    if len(conditioning) == 2:
      check_broadcast(labels=conditioning["labels"], condition=conditioning["condition"][..., 0, 0, 0])
    self._weights = [v.value for v in model.weights]  # a Keras model is not a `tf.Module`
    dtype = self.model.image_dtype
    if dtype.is_integer:
      dtype = tf.int32
    super().__init__(
      dtype=dtype,
      reparameterization_type=tfp.distributions.NOT_REPARAMETERIZED,
      validate_args=validate_args,
      allow_nan_stats=False,
      parameters=parameters,
      name=name,
    )

  @classmethod
  def _parameter_properties(cls, dtype, num_classes=None):
    return dict(labels=ParameterProperties(event_ndims=0), condition=ParameterProperties(event_ndims=3))

  def _event_shape(self):
    return tf.TensorShape(self.model.config.image_shape)

  def _default_event_space_bijector(self):
    if self.dtype.is_integer:  # as in TFP's discrete distributions
      return None
    return tfp.bijectors.Identity()

  def _flat_conditioning(self, batch_shape):
    """Return the conditioning of images by name, with the batch flattened to one dimension."""
    flat = {}
    for name, spec in self.model.conditioning_specs.items():
      event = spec.shape[1:]
      value = tf.broadcast_to(getattr(self, name), tf.concat([batch_shape, event], axis=0))
      flat[name] = tf.reshape(value, [-1, *event])
    return flat

  def _sample_n(self, n, seed=None):
    batch_shape = tf.concat([[n], self.batch_shape_tensor()], axis=0)
    z = self.model.sample_latents(tf.reduce_prod(batch_shape), seed=tfp.random.sanitize_seed(seed))
    images = self.model._decode_or_nan(z, **self._flat_conditioning(batch_shape))
    if self.dtype.is_integer:
      images = tf.debugging.check_numerics(images, "the images of the model must be finite")
      images = tf.where(tf.math.is_nan(images), -1, tf.cast(images, self.dtype))  # XLA drops the check
    images = tf.cast(images, self.dtype)
    return tf.reshape(images, tf.concat([batch_shape, self.event_shape], axis=0))

  def sample(self, sample_shape: Any = (), seed: Any = None, name: str = "sample", **kwargs: Any) -> tf.Tensor:
    """Draw images `[*sample_shape, *batch_shape, H, W, C]`; an `InputError` for an invalid shape or seed."""
    sample_shape = as_sample_shape("sample_shape", sample_shape)
    return super().sample(sample_shape, tfp_seed(seed), name, **kwargs)

  def log_prob(self, value: TensorLike, name: str = "log_prob", **kwargs: Any) -> Float[tf.Tensor, "..."]:
    """Return the log density of images `[..., H, W, C]`, nats per image; errors as in `FlowPlusPlus`."""
    return super().log_prob(self._checked(value), name, **kwargs)

  def prob(self, value: TensorLike, name: str = "prob", **kwargs: Any) -> Float[tf.Tensor, "..."]:
    """Return exp(log_prob(value))."""
    return super().prob(self._checked(value), name, **kwargs)

  def _checked(self, images):
    """Return images as a tensor. The model checks their values; TFP would convert to integers silently."""
    images = as_tensor("images", images)
    check_event("images", images.shape, self.event_shape)
    check_broadcast(images=tf.TensorSpec(images.shape[:-3]), batch_shape=tf.TensorSpec(self.batch_shape))
    return images

  def _log_prob(self, images):
    shape = self.event_shape
    batch_shape = tf.broadcast_dynamic_shape(tf.shape(images)[:-3], self.batch_shape_tensor())
    images = tf.broadcast_to(images, tf.concat([batch_shape, shape], axis=0))
    flat_images = tf.reshape(images, [-1, *shape])
    noise = self.model.sample_noise([self.num_samples, 1], self.seed)
    noise = tf.broadcast_to(noise, [self.num_samples, tf.shape(flat_images)[0], *self.model.noise_shape])
    bound = self.model.log_prob_bound(flat_images, noise=noise, seed=0, **self._flat_conditioning(batch_shape))
    return tf.reshape(bound, batch_shape)
