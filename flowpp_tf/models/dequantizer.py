"""From images to the distribution of their dequantization noise. Flow++ section 3.1 and appendix."""

import keras
import tensorflow as tf

from flowpp_tf import bijectors as fb
from flowpp_tf.distributions import UniformDequantization
from flowpp_tf.distributions import VariationalDequantization
from flowpp_tf.layers import ContextNet
from flowpp_tf.layers import fold_in
from flowpp_tf.models.coupling_flow import CouplingFlow


class UniformDequantizer(keras.layers.Layer):
  """`dequantizer(images)`: uniform noise. It has no weights."""

  def __init__(self, image_shape, **kwargs):
    super().__init__(**kwargs)
    self.image_shape = image_shape
    self.built = True

  def __call__(self, images, training=False, seed=None, initialize=False):
    """The distribution of u in [0, 1) for integer `images [N, H, W, C]`."""
    del training, seed, initialize  # nothing here depends on them
    return UniformDequantization(tf.shape(images)[:1], self.image_shape, self.variable_dtype)

  def sample_noise(self, shape, seed):
    """Uniform draws `[*shape, H, W, C]`: what `transform` of the distribution takes."""
    return tf.random.stateless_uniform([*shape, *self.image_shape], seed, dtype=self.variable_dtype)


class VariationalDequantizer(keras.layers.Layer):
  """`dequantizer(images)`: noise from a conditional flow whose couplings see the images.

  Args:
    image_shape: `(H, W, C)`.
    context: `dict` of the arguments of `ContextNet` but the image shape, such as a `dtype` of its own.
    structure: of the flow, see structure.py; it ends in a sigmoid.
    step: `dict` of the arguments of `CouplingStep` but its shape.
  """

  def __init__(self, image_shape, context, structure, step, **kwargs):
    super().__init__(**kwargs)
    self.image_shape = image_shape
    self.context_net = ContextNet(image_shape, name="context_net", **context)
    self.coupling_flow = CouplingFlow(
        structure, image_shape, step, name="dequantizer", dtype=self.dtype_policy)
    self.bijector = fb.Chain([fb.Sigmoid(), self.coupling_flow.bijector], name="noise_to_unit")
    self.built = True

  def __call__(self, images, training=False, seed=None, initialize=False):
    """The distribution of u in [0, 1) for integer `images [N, H, W, C]`.

    Args:
      images: `[N, H, W, C]`.
      training: whether dropout is on.
      seed: stateless seed of its masks, `[2]` integers.
      initialize: whether the next `transform` of noise initialises the flow, and this call the
        context net, by the data.
    """
    context = self.context_net(images, training=training, seed=fold_in(seed, 0),
                               initialize=initialize)
    kwargs = self.coupling_flow.bijector_kwargs(training, fold_in(seed, 1), initialize, context)
    return VariationalDequantization(
        self.bijector, tf.shape(images)[:1], self.image_shape,
        bijector_kwargs={self.coupling_flow.bijector.name: kwargs},
        context_variables=[v.value for v in self.context_net.variables],
        dtype=self.variable_dtype)

  def sample_noise(self, shape, seed):
    """Normal draws `[*shape, H, W, C]`: what `transform` of the distribution takes."""
    return tf.random.stateless_normal([*shape, *self.image_shape], seed, dtype=self.variable_dtype)
