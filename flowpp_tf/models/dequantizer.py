"""From images to the distribution of their dequantization noise. Flow++ section 3.1 and appendix."""

from typing import Any

import keras
import tensorflow as tf

from flowpp_tf import bijectors as fb
from flowpp_tf.call import Call
from flowpp_tf.distributions import UniformDequantization, VariationalDequantization
from flowpp_tf.graphs import shape_of
from flowpp_tf.layers import ContextNet
from flowpp_tf.models.config import FlowPlusPlusConfig
from flowpp_tf.models.coupling_flow import CouplingFlow


class UniformDequantizer(keras.layers.Layer):
  """`dequantizer(images)`: uniform noise. It has no weights."""

  def __init__(self, config: FlowPlusPlusConfig, **kwargs: Any) -> None:
    super().__init__(**kwargs)
    self.image_shape = config.image_shape
    self.built = True

  def __call__(self, images: tf.Tensor, call: Call = Call()) -> UniformDequantization:
    """Return the distribution of u in [0, 1) for integer `images [N, H, W, C]`."""
    del call  # nothing here depends on it
    return UniformDequantization(shape_of(images)[:1], self.image_shape, self.variable_dtype)

  def sample_noise(self, shape: Any, seed: tf.Tensor) -> tf.Tensor:
    """Draw uniform noise `[*shape, H, W, C]`, which `transform` of the distribution takes."""
    return tf.random.stateless_uniform([*shape, *self.image_shape], seed, dtype=self.variable_dtype)


class VariationalDequantizer(keras.layers.Layer):
  """`dequantizer(images)`: noise from a conditional flow whose couplings see the images.

  Args:
    config: `FlowPlusPlusConfig`.
  """

  def __init__(self, config: FlowPlusPlusConfig, **kwargs: Any) -> None:
    super().__init__(**kwargs)
    self.image_shape = config.image_shape
    self.context_net = ContextNet(config.image_shape, config.levels, config.context_network, name="context_net",
                                  dtype=config.dtype)
    self.coupling_flow = CouplingFlow(config.dequant_structure, config.image_shape, config.dequantizer_couplings,
                                      name="dequantizer", dtype=self.dtype_policy)
    self.bijector = fb.Chain([fb.Sigmoid(), *self.coupling_flow.bijector.bijectors], name="noise_to_unit")
    self.built = True

  def __call__(self, images: tf.Tensor, call: Call = Call()) -> VariationalDequantization:
    """Return the distribution of u in [0, 1) for integer `images [N, H, W, C]`.

    Args:
      images: `[N, H, W, C]`.
      call: of the context net, and of the distribution's bijector, with the context as its condition.
    """
    context = self.context_net(images, call=call.fold_in("context_net"))
    return VariationalDequantization(
        self.bijector, shape_of(images)[:1], self.image_shape, call.given(context),
        context_variables=[v.value for v in self.context_net.variables], dtype=self.variable_dtype)

  def sample_noise(self, shape: Any, seed: tf.Tensor) -> tf.Tensor:
    """Draw normal noise `[*shape, H, W, C]`, which `transform` of the distribution takes."""
    return tf.random.stateless_normal([*shape, *self.image_shape], seed, dtype=self.variable_dtype)
