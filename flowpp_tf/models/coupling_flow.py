"""Coupling steps in the order that a structure gives, and the distribution that they make. Flow++ section 4.

A step is ActNorm, invertible 1x1 convolution, coupling, swap of the halves of the channels. The layers own the weights,
the bijectors use them.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf import bijectors as fb
from flowpp_tf.config.model import CouplingConfig
from flowpp_tf.config.structure import parse_structure
from flowpp_tf.distributions import FlowDistribution
from flowpp_tf.layers import Conditioner
from flowpp_tf.types import Shape

tfd = tfp.distributions


class CouplingStep(keras.layers.Layer):
  """The weights of one step and its bijectors.

  Args:
    shape: `(H, W, C)` of the tensor that the step transforms, C even.
    config: `CouplingConfig`.
    context_block: as for `Conditioner`.
    whitening: whether the 1x1 convolution begins by whitening, rather than near the identity.

  Attributes:
    bijectors: the bijectors of the step, in the order in which they are applied to data.
  """

  def __init__(
    self,
    shape: Shape,
    config: CouplingConfig,
    context_block: Sequence[int] = (1, 1),
    whitening: bool = False,
    **kwargs: Any,
  ) -> None:
    super().__init__(**kwargs)
    height, width, channels = shape
    half = channels // 2
    model = config.model
    norm_shape: Shape = (channels,)
    if model.act_norm_of_positions:
      norm_shape = shape
    add_weight = functools.partial(self.add_weight, autocast=False)  # bijectors compute in the flow's precision
    self.scale = add_weight(name="scale", shape=norm_shape, initializer="ones")
    self.bias = add_weight(name="bias", shape=norm_shape, initializer="zeros")
    self.kernel = None
    convolutions = []
    if model.invertible_conv != "none":
      initializer = keras.initializers.RandomNormal(stddev=model.invertible_conv_stddev)  # follows `set_random_seed`
      make_conv: Callable[..., tfp.bijectors.Bijector] = fb.Invertible1x1ConvLU
      if model.invertible_conv == "dense":
        initializer = _near_identity(initializer)
        make_conv = functools.partial(fb.Invertible1x1Conv, whitening=whitening)
      self.kernel = add_weight(name="kernel", shape=(2, half, half), initializer=initializer)
      convolutions = [make_conv(self.kernel, name=f"{self.name}_invertible_conv")]
    with keras.name_scope(self.name, caller=self):  # prefix of the weights' paths
      self.conditioner = Conditioner(
        (height, width, half),
        half * fb.num_parameters(model.coupling, model.components),
        config.network,
        config.context_channels,
        model.output_concat_elu,
        context_block,
        name="conditioner",
        dtype=model.dtype,
      )
    self.act_norm = fb.ActNorm(
      self.scale, self.bias, min_variance=model.act_norm_min_variance, name=f"{self.name}_act_norm"
    )
    self.coupling = fb.Coupling(
      self.conditioner,
      fb.CouplingMap(model.coupling, model.components, model.coupling_margin),
      dtype=self.variable_dtype,
      remat=model.remat == "couplings",
      name=f"{self.name}_coupling",
    )
    self.bijectors = [self.act_norm, *convolutions, self.coupling, fb.SwapHalves()]
    self.built = True


def _near_identity(noise):
  """Return an initializer of matrices, the identity with noise of another initializer."""

  def initialize(shape, dtype):
    return keras.ops.eye(shape[-1], dtype=dtype) + noise(shape, dtype=dtype)

  return initialize


class CouplingFlow(keras.layers.Layer):
  """All steps of a structure.

  Args:
    structure: text of the form that `config/structure.py` describes.
    image_shape: `(H, W, C)`.
    config: `CouplingConfig` of each step.
    context_size: height and width of the couplings' context, 1 and 1 if all positions share one context; None if each
      coupling's context has the coupling's own height and width.

  Attributes:
    bijector: the chain of all parts, from data to latent.
    latent_shape: shape of the latent.
  """

  def __init__(
    self,
    structure: str,
    image_shape: Shape,
    config: CouplingConfig,
    context_size: Sequence[int] | None = None,
    **kwargs: Any,
  ) -> None:
    super().__init__(**kwargs)
    self.steps: list[CouplingStep] = []
    bijectors: list[tfp.bijectors.Bijector] = []  # in the order in which they are applied to data
    for stage in parse_structure(structure, image_shape):
      if stage.kind == "squeeze":
        bijectors.append(fb.Squeeze())
        continue
      is_first = not bijectors or isinstance(bijectors[-1], fb.Squeeze)  # stage of its resolution
      steps = self._make_steps(stage, config, context_size, config.whitening and is_first)
      step_bijectors = [bijector for step in steps for bijector in step.bijectors]
      if stage.kind == "columns":
        columns = fb.split_columns(stage.shape)
        step_bijectors = [columns, *step_bijectors, fb.Invert(columns)]
      bijectors += step_bijectors
    self.latent_shape = stage.output_shape
    self.bijector = fb.Chain(bijectors[::-1], name=f"{self.name}_chain")
    self.built = True

  def _make_steps(self, stage, config, context_size, whitening):
    """Append the steps of a stage to `self.steps`, and return them; the first one may begin by whitening."""
    size = stage.split_shape[:2]
    context_block = [max(1, context_side // side) for context_side, side in zip(context_size or size, size)]
    steps = []
    with keras.name_scope(self.name, caller=self):  # prefix of the weights' paths
      for i in range(stage.couplings):
        steps.append(
          CouplingStep(
            stage.split_shape,
            config,
            context_block,
            whitening=whitening and i == 0,
            name=f"{self.name}_step_{len(self.steps) + i}",
            dtype=self.dtype_policy,
          )
        )
    self.steps += steps
    return steps

  def distribution(self, before: Sequence[tfp.bijectors.Bijector], name: str) -> FlowDistribution:
    """Return the distribution whose latents are standard normal.

    Args:
      before: bijectors from data to the input of the couplings; the last one is applied first, as in a chain.
      name: name of the distribution.
    """
    prior = tfd.Sample(tfd.Normal(tf.zeros([], self.variable_dtype), 1.0), self.latent_shape)
    to_latent = fb.Chain([*self.bijector.bijectors, *before], name="data_to_latent")
    return FlowDistribution(prior, fb.Invert(to_latent), name=name)
