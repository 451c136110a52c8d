"""Distributions given an image: of dequantization noise, and of augmented channels.

Flow++ section 3.1 and appendix; VFlow (Chen et al. 2020) section 3.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf import bijectors as fb
from flowpp_tf.config.model import CouplingConfig, FlowPlusPlusConfig
from flowpp_tf.core.context import EvalContext
from flowpp_tf.core.tensors import shape_of
from flowpp_tf.distributions import FlowDistribution, VariationalDequantization, uniform_dequantization
from flowpp_tf.layers import ContextNet, LabelEmbedding
from flowpp_tf.models.coupling_flow import CouplingFlow
from flowpp_tf.types import TensorLike

tfd = tfp.distributions


class Noise(keras.layers.Layer):
  """Noise that is independent of the images; it has no weights.

  Standard normal noise is what the flows below transform, and the augmented channels of `augment_posterior` "normal".
  Uniform noise is the u of uniform dequantization. `posterior(images)` is the distribution of a draw,
  `[N, *event_shape]`.

  Args:
    config: `FlowPlusPlusConfig`, whose images' height and width a draw has.
    channels: of a draw; 0 where images are real-valued, to which no noise is added.
    uniform: whether the noise is uniform in [0, 1), and not standard normal.
  """

  def __init__(self, config: FlowPlusPlusConfig, channels: int, uniform: bool = False, **kwargs: Any) -> None:
    super().__init__(**kwargs)
    self.event_shape = (*config.image_shape[:2], channels)
    self._uniform = uniform
    self.built = True

  def posterior(
    self, images: tf.Tensor, ctx: EvalContext = EvalContext(), labels: tf.Tensor | None = None
  ) -> FlowDistribution:
    """Return the distribution of a draw for `images [N, H, W, C]`, on which it does not depend."""
    batch_shape = shape_of(images)[:1]
    if self._uniform:
      return uniform_dequantization(batch_shape, self.event_shape, self.variable_dtype)
    noise = tfd.Sample(tfd.Normal(tf.zeros(batch_shape, self.variable_dtype), 1.0), self.event_shape)
    return FlowDistribution(noise, tfp.bijectors.Identity())

  def sample_noise(self, shape: Any, seed: tf.Tensor) -> tf.Tensor:
    """Draw noise `[*shape, *event_shape]`, which `transform` of the distribution takes."""
    draw = tf.random.stateless_uniform if self._uniform else tf.random.stateless_normal
    return draw([*shape, *self.event_shape], seed, dtype=self.variable_dtype)


class _ConditionalFlow(Noise):
  """A distribution of tensors of the images' height and width, by couplings that see the images.

  Args:
    config: `FlowPlusPlusConfig`.
    channels: of a draw.
    levels: of the images, as for `ContextNet`.
    couplings: config of the coupling steps, whose structure is the dequantizer's.
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
    with keras.name_scope(self.name, caller=self):  # of the weights' paths
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
      ctx: of the context net.
      labels: `[N]`, of a model with classes.
    """
    context = self.context_net(tf.convert_to_tensor(images), ctx=ctx.fold_in("context_net"))
    if self.label_embedding is not None:
      context += self.label_embedding(labels)
    networks: list[Any] = [self.context_net, self.label_embedding]
    variables = [v.value for network in networks if network is not None for v in network.variables]
    return VariationalDequantization(self.bijector, context, self.event_shape, variables, self.variable_dtype)


class VariationalDequantizer(_ConditionalFlow):
  """u in [0, 1) for integer images, from a flow that ends in a sigmoid."""

  def __init__(self, config: FlowPlusPlusConfig, channels: int, **kwargs: Any) -> None:
    super().__init__(config, channels, config.levels, config.dequantizer_couplings, [fb.Sigmoid()], **kwargs)


class FlowAugmenter(_ConditionalFlow):
  """The channels e that augment an image, given the logits x of its dequantized pixels: q(e|x) of VFlow.

  A flow like the dequantizer's, with its own number of blocks. It ends in a sigmoid, as VFlow's, only if the config's
  `augment_end` says so.
  """

  def __init__(self, config: FlowPlusPlusConfig, channels: int, **kwargs: Any) -> None:
    ends = [fb.Sigmoid()] if config.augment_end == "sigmoid" else []
    super().__init__(config, channels, None, config.augmenter_couplings, ends, **kwargs)
