"""Coupling steps in the order that a structure gives, and the distribution that they make. Flow++ section 4.

A step is ActNorm, invertible 1x1 convolution, coupling, swap of the halves of the channels. The layers own the weights,
the bijectors use them.
"""

from collections.abc import Sequence
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
    context_block: of the conditioner, see there.
    whitening: whether the 1x1 convolution begins by whitening, rather than near the identity.

  Attributes:
    bijectors: the parts, in the order in which they are applied to data.
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
    model, half = config.model, channels // 2
    add_weight = functools.partial(self.add_weight, autocast=False)  # bijectors compute in the flow's precision
    of_norm = shape if model.act_norm_of_positions else (channels,)
    self.scale = add_weight(name="scale", shape=of_norm, initializer="ones")
    self.bias = add_weight(name="bias", shape=of_norm, initializer="zeros")
    self.kernel, mixing = None, []
    if model.invertible_conv != "none":
      is_dense = model.invertible_conv == "dense"
      noise = keras.initializers.RandomNormal(stddev=model.invertible_conv_stddev)  # follows `set_random_seed`
      near_identity = lambda shape, dtype: keras.ops.eye(shape[-1], dtype=dtype) + noise(shape, dtype=dtype)
      self.kernel = add_weight(name="kernel", shape=(2, half, half), initializer=near_identity if is_dense else noise)
      conv = functools.partial(fb.Invertible1x1Conv, whitening=whitening) if is_dense else fb.Invertible1x1ConvLU
      mixing = [conv(self.kernel, name=f"{self.name}_invertible_conv")]
    with keras.name_scope(self.name, caller=self):  # of the weights' paths
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
    self.bijectors = [self.act_norm, *mixing, self.coupling, fb.SwapHalves()]
    self.built = True


class CouplingFlow(keras.layers.Layer):
  """All steps of a structure.

  Args:
    structure: see structure.py.
    image_shape: `(H, W, C)`.
    config: `CouplingConfig` of each step.
    context_size: height and width of the couplings' context, 1 and 1 if all positions have one; None for those of each
      coupling.

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
    parts: list[tfp.bijectors.Bijector] = []
    for stage in parse_structure(structure, image_shape):
      if stage.kind == "squeeze":
        parts.append(fb.Squeeze())
        continue
      is_first = not parts or isinstance(parts[-1], fb.Squeeze)  # at its resolution
      columns = [fb.split_columns(stage.shape)] if stage.kind == "columns" else []
      size = stage.split_shape[:2]
      block = [max(1, whole // part) for whole, part in zip(context_size or size, size)]
      with keras.name_scope(self.name, caller=self):  # of the weights' paths
        steps = [
          CouplingStep(
            stage.split_shape,
            config,
            block,
            whitening=config.whitening and is_first and i == 0,
            name=f"{self.name}_step_{len(self.steps) + i}",
            dtype=self.dtype_policy,
          )
          for i in range(stage.couplings)
        ]
      self.steps += steps
      parts += [*columns, *(part for s in steps for part in s.bijectors), *map(fb.Invert, columns)]
    self.latent_shape = stage.output_shape
    self.bijector = fb.Chain(parts[::-1], name=f"{self.name}_chain")
    self.built = True

  def distribution(self, before: Sequence[tfp.bijectors.Bijector], name: str) -> FlowDistribution:
    """Return the distribution whose latents are standard normal.

    Args:
      before: bijectors from data to what the couplings transform, the first one last.
      name: of the distribution.
    """
    prior = tfd.Sample(tfd.Normal(tf.zeros([], self.variable_dtype), 1.0), self.latent_shape)
    to_latent = fb.Chain([*self.bijector.bijectors, *before], name="data_to_latent")
    return FlowDistribution(prior, fb.Invert(to_latent), name=name)
