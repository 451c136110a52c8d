"""Distributions given an image: of dequantization noise, and of augmented channels.

Flow++ section 3.1 and appendix; VFlow (Chen et al. 2020) section 3.
"""

from collections.abc import Sequence
import math
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf import bijectors as fb
from flowpp_tf.bijectors.base import evaluate
from flowpp_tf.config.model import CouplingConfig, FlowPlusPlusConfig
from flowpp_tf.core.checks import check_uniform_noise, pixel_dtype
from flowpp_tf.core.context import EvalContext
from flowpp_tf.core.tensors import shape_of
from flowpp_tf.distributions import FlowDistribution, VariationalDequantization, uniform_dequantization
from flowpp_tf.distributions.dequantization import add_noise
from flowpp_tf.distributions.flow_distribution import transform
from flowpp_tf.layers import ContextNet, LabelEmbedding
from flowpp_tf.models.coupling_flow import CouplingFlow
from flowpp_tf.types import TensorLike

tfd = tfp.distributions


class Noise(keras.layers.Layer):
  """Standard normal noise that is independent of the images; it has no weights.

  The flows below transform it. It is itself the augmented channels of `augment_posterior` "normal".
  `posterior(images)` is the distribution of a draw, `[N, *event_shape]`.

  Args:
    config: `FlowPlusPlusConfig`; a draw has the height and width of its images.
    channels: channels of a draw.
  """

  def __init__(self, config: FlowPlusPlusConfig, channels: int, **kwargs: Any) -> None:
    super().__init__(**kwargs)
    self.event_shape = (*config.image_shape[:2], channels)
    self.built = True

  def posterior(
    self, images: tf.Tensor, ctx: EvalContext = EvalContext(), labels: tf.Tensor | None = None
  ) -> FlowDistribution:
    """Return the distribution of a draw for `images [N, H, W, C]`, which does not depend on their values."""
    batch_shape = shape_of(images)[:1]
    noise = tfd.Sample(tfd.Normal(tf.zeros(batch_shape, self.variable_dtype), 1.0), self.event_shape)
    return FlowDistribution(noise, tfp.bijectors.Identity())

  def sample_noise(self, shape: Any, seed: tf.Tensor) -> tf.Tensor:
    """Draw noise `[*shape, *event_shape]`, an input for `transform` of the distribution."""
    return tf.random.stateless_normal([*shape, *self.event_shape], seed, dtype=self.variable_dtype)

  def check_noise(self, noise: tf.Tensor) -> None:
    """Accept any finite noise."""


class _ConditionalFlow(Noise):
  """A distribution of tensors of the images' height and width, by couplings that see the images.

  Args:
    config: `FlowPlusPlusConfig`.
    channels: channels of a draw.
    levels: number of pixel values, as for `ContextNet`.
    couplings: config of the coupling steps, which follow the dequantizer's structure.
    ends: bijectors that follow the couplings, from noise to a draw.
  """

  def __init__(
    self,
    config: FlowPlusPlusConfig,
    channels: int,
    levels: int | None,
    couplings: CouplingConfig,
    ends: Sequence[fb.Bijector],
    **kwargs: Any,
  ) -> None:
    super().__init__(config, channels, **kwargs)
    self.label_embedding = None
    with keras.name_scope(self.name, caller=self):  # prefix of the weights' paths
      self.context_net = ContextNet(
        config.image_shape, levels, config.context_network, name="context_net", dtype=config.dtype
      )
      self.coupling_flow = CouplingFlow(
        config.dequant_structure, self.event_shape, couplings, name=self.name, dtype=self.dtype_policy
      )
      if config.num_classes:
        self.label_embedding = LabelEmbedding(
          config.num_classes, config.context_channels, name="label_embedding", dtype=config.dtype
        )
    self.bijector = fb.Chain([*ends, *self.coupling_flow.bijector.bijectors], name="noise_to_draw")

  def posterior(
    self, images: TensorLike, ctx: EvalContext = EvalContext(), labels: tf.Tensor | None = None
  ) -> VariationalDequantization:
    """Return the distribution of a draw `[N, *event_shape]` for `images [N, H, W, C]`.

    Args:
      images: `[N, H, W, C]`.
      ctx: context of the evaluation.
      labels: `[N]`, for a model with classes.
    """
    context = self.context_net(tf.convert_to_tensor(images), ctx=ctx.fold_in("context_net"))
    variables = [v.value for v in self.context_net.variables]
    if self.label_embedding is not None:
      context += self.label_embedding(labels)
      variables += [v.value for v in self.label_embedding.variables]
    return VariationalDequantization(self.bijector, context, self.event_shape, variables, self.variable_dtype)


# --- Dequantization -----------------------------------------------------------------------------
#
# From images to the input of the flow, and back: a class for each `dequantization` of a config. Each has
#   event_shape, sample_noise: the noise;
#   dequantize: from pixel values `[B, H, W, C]` and noise `[S, B, *event_shape]` to x + u `[S, B, H, W, C]`, and
#     log q(u|x) `[S, B]`;
#   to_pixels: from x + u back to pixel values;
#   image_dtype: dtype of images;
#   draws: the number of different draws among `num_samples`;
#   check_noise: raises an `InputError` unless a user's noise can be a draw.


class NoDequantizer(Noise):
  """Real-valued images, to which no noise is added: their density is exact."""

  def __init__(self, config: FlowPlusPlusConfig, **kwargs: Any) -> None:
    super().__init__(config, 0, **kwargs)

  @property
  def image_dtype(self) -> tf.DType:
    """Dtype of the flow."""
    return tf.as_dtype(self.variable_dtype)

  def draws(self, num_samples: int) -> int:
    """Return 1: draws without noise are equal."""
    return 1

  def dequantize(
    self, x: tf.Tensor, noise: tf.Tensor, ctx: EvalContext = EvalContext(), labels: tf.Tensor | None = None
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Return x once per draw, and 0."""
    batch = shape_of(noise)[:-3]
    repeated = tf.broadcast_to(x, [*batch, *x.shape[1:]])
    return repeated, tf.zeros(batch, x.dtype)

  def to_pixels(self, x: tf.Tensor) -> tf.Tensor:
    """Return x."""
    return x


class _IntegerImages(Noise):
  """Integer images of `levels` pixel values, with noise u in [0, 1) for each."""

  def __init__(self, config: FlowPlusPlusConfig, *args: Any, **kwargs: Any) -> None:
    super().__init__(config, *args, **kwargs)
    self.levels = config.levels

  @property
  def image_dtype(self) -> tf.DType:
    """The unsigned integers of 8 or 16 bits that hold all levels."""
    return tf.as_dtype(pixel_dtype(self.levels))

  def draws(self, num_samples: int) -> int:
    """Return `num_samples`."""
    return num_samples

  def dequantize(
    self, x: tf.Tensor, noise: tf.Tensor, ctx: EvalContext = EvalContext(), labels: tf.Tensor | None = None
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Return x + u, and log q(u|x) in nats."""
    u, log_q = transform(self.posterior(x, ctx, labels), noise, ctx)
    return add_noise(x, u), log_q

  def to_pixels(self, x: tf.Tensor) -> tf.Tensor:
    """Return the pixel values of x + u, in its dtype; NaN where it is not finite."""
    pixels = tf.clip_by_value(tf.floor(x), 0, self.levels - 1)
    return tf.where(tf.math.is_finite(x), pixels, math.nan)


class UniformDequantizer(_IntegerImages):
  """u uniform in [0, 1), independent of the images: log q(u|x) = 0."""

  def __init__(self, config: FlowPlusPlusConfig, **kwargs: Any) -> None:
    super().__init__(config, config.image_shape[2], **kwargs)

  def posterior(
    self, images: tf.Tensor, ctx: EvalContext = EvalContext(), labels: tf.Tensor | None = None
  ) -> FlowDistribution:
    """Return the uniform distribution of u for `images [N, H, W, C]`."""
    return uniform_dequantization(shape_of(images)[:1], self.event_shape, self.variable_dtype)

  def sample_noise(self, shape: Any, seed: tf.Tensor) -> tf.Tensor:
    """Draw u, `[*shape, *event_shape]`."""
    return tf.random.stateless_uniform([*shape, *self.event_shape], seed, dtype=self.variable_dtype)

  def check_noise(self, noise: tf.Tensor) -> None:
    """Raise an `InputError` for u outside of [0, 1); augmented channels may lie behind u."""
    check_uniform_noise("noise", noise[..., : self.event_shape[-1]])


class VariationalDequantizer(_IntegerImages, _ConditionalFlow):
  """u in [0, 1) for integer images, from a flow that ends in a sigmoid."""

  def __init__(self, config: FlowPlusPlusConfig, **kwargs: Any) -> None:
    channels = config.image_shape[2]
    super().__init__(config, channels, config.levels, config.dequantizer_couplings, [fb.Sigmoid()], **kwargs)


DEQUANTIZERS = {"none": NoDequantizer, "uniform": UniformDequantizer, "variational": VariationalDequantizer}


# --- Augmented channels -------------------------------------------------------------------------


class NoAugmenter:
  """No augmented channels: images stay as they are."""

  def __init__(self, config: FlowPlusPlusConfig, dtype: Any) -> None:
    self.event_shape = (*config.image_shape[:2], 0)
    self._dtype = keras.dtype_policies.get(dtype).variable_dtype

  def sample_noise(self, shape: Any, seed: tf.Tensor) -> tf.Tensor:
    """Return noise without channels, `[*shape, *event_shape]`."""
    return tf.zeros([*shape, *self.event_shape], self._dtype)

  def augment(self, x: tf.Tensor, *arguments: Any) -> tuple[tf.Tensor, float]:
    """Return x, and 0."""
    return x, 0.0


class NormalAugmenter(Noise):
  """Channels e of standard normal noise, independent of the image."""

  def augment(
    self, x: tf.Tensor, to_logits: Any, noise: tf.Tensor, ctx: EvalContext, labels: tf.Tensor | None = None
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Return x + u with e behind its channels, and log q(e|x + u).

    Args:
      x: x + u, `[S, B, H, W, C]`.
      to_logits: bijector of x + u; the posterior sees its values.
      noise: `[S, B, *event_shape]`.
      ctx: context of the evaluation.
      labels: `[B]`, for a model with classes.
    """
    batch = shape_of(x)[:-3]
    logits, _ = evaluate(to_logits, x)
    # The posterior takes each draw of u as an image of its own.
    if labels is not None:
      labels = tf.reshape(tf.broadcast_to(labels, batch), [-1])
    flat_logits = tf.reshape(logits, [-1, *x.shape[-3:]])
    flat_noise = tf.reshape(noise, [-1, *self.event_shape])
    posterior = self.posterior(flat_logits, ctx, labels)
    e, log_q = transform(posterior, flat_noise, ctx)
    e = tf.reshape(e, [*batch, *self.event_shape])
    log_q = tf.reshape(log_q, batch)
    return tf.concat([x, e], axis=-1), log_q


class FlowAugmenter(_ConditionalFlow, NormalAugmenter):
  """The channels e that augment an image, given the logits x of its dequantized pixels: q(e|x) of VFlow.

  A flow like the dequantizer's, with its own number of blocks. It ends in a sigmoid, as VFlow's, only if the config's
  `augment_end` says so.
  """

  def __init__(self, config: FlowPlusPlusConfig, channels: int, **kwargs: Any) -> None:
    ends = []
    if config.augment_end == "sigmoid":
      ends = [fb.Sigmoid()]
    super().__init__(config, channels, None, config.augmenter_couplings, ends, **kwargs)


def make_augmenter(config: FlowPlusPlusConfig, dtype: Any, name: str) -> Any:
  """Return the augmenter of a config."""
  channels = config.augment_channels
  if not channels:
    return NoAugmenter(config, dtype)
  if config.augment_posterior == "flow":
    return FlowAugmenter(config, channels, dtype=dtype, name=name)
  return NormalAugmenter(config, channels, dtype=dtype, name=name)
