"""Coupling steps in the order that a structure gives: the flow without its ends. Flow++ section 4.

A step is ActNorm, invertible 1x1 convolution, coupling, swap of the halves, all on a tensor whose
halves lie beside each other on the channels. The layers own the weights, the bijectors use them.
"""

import functools

import keras
import tensorflow_probability as tfp

from flowpp_tf import bijectors as fb
from flowpp_tf.layers import Conditioner
from flowpp_tf.layers import fold_in
from flowpp_tf.models.structure import parse_structure

tfb = tfp.bijectors


class CouplingStep(keras.layers.Layer):
  """The weights of one step and its bijectors.

  Args:
    shape: `(H, W, C)` of what the step transforms, C even.
    coupling: "mixture_logistic" or "affine".
    components: K.
    invertible_conv: "dense", "lu" or "none": a 1x1 convolution, one matrix a half.
    act_norm_min_variance: floor under the variance at initialisation.
    conditioner: `dict` of further arguments of the `Conditioner`, such as a `dtype` of its own.

  Attributes:
    bijectors: the parts, in the order in which they are applied to data.
  """

  def __init__(self, shape, coupling, components, invertible_conv, act_norm_min_variance,
               conditioner, **kwargs):
    super().__init__(**kwargs)
    height, width, channels = shape
    half = channels // 2
    self.scale = self.add_weight(name="scale", shape=shape, initializer="ones")
    self.bias = self.add_weight(name="bias", shape=shape, initializer="zeros")
    self.kernel, mixing = None, []
    if invertible_conv != "none":
      bijector, initializer = {"dense": (fb.Invertible1x1Conv, _near_identity),
                               "lu": (fb.Invertible1x1ConvLU, _near_zero)}[invertible_conv]
      self.kernel = self.add_weight(
          name="kernel", shape=(2, half, half), initializer=initializer)
      mixing = [bijector(self.kernel.value, name=f"{self.name}_invertible_conv")]
    self.conditioner = Conditioner(
        (height, width, half), half * fb.num_parameters(coupling, components),
        name="conditioner", **conditioner)

    bijector_fn = fb.affine_coupling_bijector if coupling == "affine" else functools.partial(
        fb.mixture_logistic_coupling_bijector, components=components)
    self.act_norm = fb.ActNorm(self.scale.value, self.bias.value,
                               min_variance=act_norm_min_variance,
                               name=f"{self.name}_act_norm")
    self.coupling = fb.Coupling(self.conditioner, bijector_fn, dtype=self.variable_dtype,
                                name=f"{self.name}_coupling")
    self.bijectors = [self.act_norm, *mixing, self.coupling, fb.SwapHalves()]
    self.built = True


def _near_zero(shape, dtype):
  noise = keras.initializers.RandomNormal(stddev=0.001)  # follows `keras.utils.set_random_seed`
  return noise(shape, dtype=dtype)


def _near_identity(shape, dtype):
  return keras.ops.eye(shape[-1], dtype=dtype) + _near_zero(shape, dtype)


class CouplingFlow(keras.layers.Layer):
  """All steps of a structure.

  Args:
    structure: see structure.py.
    image_shape: `(H, W, C)`.
    step: `dict` of the arguments of `CouplingStep` but its shape.

  Attributes:
    bijector: the chain of all parts, from data to latent.
    latent_shape: shape of what comes out.
  """

  def __init__(self, structure, image_shape, step, **kwargs):
    super().__init__(**kwargs)
    self.steps = []
    parts = []
    for stage in parse_structure(structure, image_shape):
      if stage.kind == "squeeze":
        parts.append(fb.Squeeze())
        continue
      columns = [fb.split_columns(stage.shape)] if stage.kind == "columns" else []
      steps = [CouplingStep(stage.split_shape, name=f"{self.name}_step_{len(self.steps) + i}",
                            dtype=self.dtype_policy, **step) for i in range(stage.couplings)]
      self.steps += steps
      parts += [*columns, *(part for s in steps for part in s.bijectors), *map(tfb.Invert, columns)]
    self.latent_shape = stage.output_shape
    self.bijector = fb.Chain(parts[::-1], name=f"{self.name}_chain")
    self.built = True

  def bijector_kwargs(self, training=False, seed=None, initialize=False, context=None):
    """Keyword arguments of the chain's evaluations, by name of the part.

    Args:
      training: whether dropout is on.
      seed: stateless seed of its masks, `[2]` integers; each coupling folds in its own number.
      initialize: whether the parts set their weights by the data that come through, forwards.
      context: `[..., H, W, any]`, for conditional flows.
    """
    kwargs = {}
    for i, step in enumerate(self.steps):
      kwargs[step.act_norm.name] = dict(initialize=initialize)
      kwargs[step.coupling.name] = dict(
          training=training, seed=fold_in(seed, i), initialize=initialize)
      if context is not None:
        kwargs[step.coupling.name]["context"] = context
    return kwargs
