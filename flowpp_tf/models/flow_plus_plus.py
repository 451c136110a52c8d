"""Flow++ as a Keras model: dequantizer, flow, and the bound they give. Flow++ sections 3 and 4."""

import dataclasses
import math
from typing import NamedTuple

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf import bijectors as fb
from flowpp_tf.distributions import FlowDistribution
from flowpp_tf.distributions import ImageDistribution
from flowpp_tf.errors import InputError
from flowpp_tf.errors import check_pixels
from flowpp_tf.layers import fold_in
from flowpp_tf.models.config import FlowPlusPlusConfig
from flowpp_tf.models.coupling_flow import CouplingFlow
from flowpp_tf.models.dequantizer import UniformDequantizer
from flowpp_tf.models.dequantizer import VariationalDequantizer
from flowpp_tf.models.likelihood_model import LikelihoodModel
from flowpp_tf.models.seeds import as_seed

tfb = tfp.bijectors
tfd = tfp.distributions


class BoundTerms(NamedTuple):
  """The terms of equation 7, log p(x + u) - log q(u|x), for each draw of u: their sum is the bound."""
  log_det: tf.Tensor         # log|det dz/dx|, of the logit and of all couplings
  prior: tf.Tensor           # log N(z)
  dequantization: tf.Tensor  # -log q(u|x)


@keras.saving.register_keras_serializable("flowpp_tf")
class FlowPlusPlus(LikelihoodModel):
  """The Flow++ image model, built when constructed.

  Args:
    config: a `FlowPlusPlusConfig`, such as `get_config("cifar10")`.
    name: Python `str`.

  Attributes:
    config: the config.
    flow: `FlowDistribution` (a TFP transformed distribution) of dequantized images, on
      [0, levels)^(H, W, C).
    dequantizer: callable, `dequantizer(images)` is the distribution of their noise u in [0, 1).

  Images are integers in 0 .. levels - 1, `[B, H, W, C]`; anything else is an `InputError` (a
  ValueError), where the values can be seen: in eager mode.
  """

  def __init__(self, config, name="flow_plus_plus", **kwargs):
    if isinstance(config, dict):
      config = FlowPlusPlusConfig(**config)
    dtype = config.flow_dtype or config.dtype
    kwargs.setdefault("dtype", dtype)
    super().__init__(name=name, **kwargs)
    self.config = config
    shape = config.image_shape
    step = lambda filters, blocks, mixer, context_channels: dict(
        coupling=config.coupling, components=config.components,
        invertible_conv=config.invertible_conv,
        act_norm_min_variance=config.act_norm_min_variance, conditioner=dict(
            filters=filters, blocks=blocks, mixer=mixer, heads=config.heads,
            context_channels=context_channels, output_concat_elu=config.output_concat_elu,
            dropout=config.dropout, weight_norm=config.weight_norm, remat=config.remat,
            dtype=config.dtype))
    mixer = "attention" if config.attention else "pointwise"

    if config.dequantization == "uniform":
      self.dequantizer = UniformDequantizer(shape, dtype=dtype, name="dequantizer")
    else:
      self.dequantizer = VariationalDequantizer(
          shape,
          context=dict(levels=config.levels, channels=config.context_channels,
                       blocks=config.context_blocks, layer_norm=config.context_layer_norm,
                       mixer="attention" if config.context_attention else "none",
                       heads=config.heads, dropout=config.dropout,
                       weight_norm=config.weight_norm, remat=config.remat,
                       dtype=config.dtype),
          structure=config.dequant_structure,
          step=step(config.dequant_filters, config.dequant_blocks,
                    mixer if config.dequant_mixing else "none", config.context_channels),
          dtype=dtype, name="dequantizer")
    self.coupling_flow = CouplingFlow(
        config.structure, shape, step(config.filters, config.blocks, mixer, 0),
        dtype=dtype, name="flow")
    prior = tfd.Sample(tfd.Normal(tf.zeros([], self.variable_dtype), 1.0),
                       self.coupling_flow.latent_shape)
    self.flow = FlowDistribution(prior, tfb.Invert(
        fb.Chain([self.coupling_flow.bijector, fb.PixelsToLogit(config.levels)],
                 name="pixels_to_latent")))
    self.built = True

  # --- Likelihood -------------------------------------------------------------------------------

  def log_prob_bound(self, images, num_samples=1, noise=None, seed=None, training=False,
                     initialize=False):
    """Lower bound of the log-likelihood of integer images (equation 7).

    Args:
      images: integers in 0 .. levels - 1, `[B, H, W, C]`.
      num_samples: draws of the dequantization noise an image; with more than one the bound is the
        importance-weighted one, which grows with it towards the log-likelihood.
      noise: the dequantizer's draws, standard normal (variational) or uniform (uniform), `[B, H, W,
        C]` or `[num_samples, B, H, W, C]`; None to draw them from `seed`.
      seed: integer or stateless seed of noise and dropout; None for another one each call.
      training: whether dropout is on.
      initialize: see `initialize`.

    Returns:
      `[B]`, nats an image.

    Raises:
      InputError (a ValueError): for images, noise or `num_samples` that do not fit.
    """
    terms = self.bound_terms(images, num_samples, noise, seed, training, initialize)
    bounds = terms.prior + terms.log_det + terms.dequantization
    count = tf.cast(tf.shape(bounds)[0], bounds.dtype)
    return tf.reduce_logsumexp(bounds, axis=0) - tf.math.log(count)

  def bound_terms(self, images, num_samples=1, noise=None, seed=None, training=False,
                  initialize=False):
    """What the bound is made of; arguments and errors as in `log_prob_bound`.

    Returns:
      `BoundTerms` of `[num_samples, B]`, nats an image.
    """
    x, noise, seed = self._prepare(images, num_samples, noise, seed)
    log_q, dequantized = self._dequantize(x, noise, seed, training, initialize)
    kwargs = self._flow_kwargs(training, fold_in(seed, 2), initialize)
    prior, log_det = self.flow.log_prob_terms(dequantized, bijector_kwargs=kwargs)
    return BoundTerms(log_det, prior, -log_q)

  def bits_per_dim(self, images, num_samples=1, noise=None, seed=None):
    """The negative bound in bits a dimension, `[B]`; arguments as in `log_prob_bound`."""
    return self.to_bits_per_dim(self.log_prob_bound(images, num_samples, noise, seed))

  def to_bits_per_dim(self, log_prob):
    """Bits a dimension from nats an image."""
    return -log_prob / (math.prod(self.config.image_shape) * math.log(2))

  def call(self, images, training=False):
    """`log_prob_bound(images)` with one sample, `[B]` nats."""
    return self.log_prob_bound(images, training=training)

  def initialize(self, images, noise=None, seed=0):
    """Data-dependent initialisation of every layer from one batch, in the order of evaluation.

    Each layer that normalises sets its weights by the data that reach it through the layers before
    it, as initialised. Layer norms, position embeddings and 1x1 convolutions keep their weights.

    Args:
      images: integers in 0 .. levels - 1, `[B, H, W, C]`; a batch of 64 or more.
      noise: the dequantizer's draws, `[B, H, W, C]`.
      seed: integer or stateless seed of the noise.

    Returns:
      The bound of the batch under the initialised weights, `[B]` nats.
    """
    # Eagerly: a graph for a single evaluation takes longer to make than it saves.
    return self.log_prob_bound(images, noise=noise, seed=as_seed(seed), initialize=True)

  # --- Samples and latents ----------------------------------------------------------------------

  def sample(self, n, temperature=1.0, seed=None):
    """Draws images.

    Args:
      n: how many.
      temperature: factor of the standard deviation of the latents, at least 0.
      seed: integer or stateless seed; None for other samples each call.

    Returns:
      uint8 images, `[n, H, W, C]`.

    Raises:
      InputError (a ValueError): if `n` is not positive or `temperature` negative.
    """
    return self.decode(self.sample_latents(n, temperature, seed))

  def sample_latents(self, n, temperature=1.0, seed=None):
    """The latents that `sample` decodes, `[n, *latent_shape]`; arguments and errors are its own."""
    if not tf.is_tensor(n) and not n > 0:
      raise InputError(f"`n` must be a positive integer, got {n}")
    if not tf.is_tensor(temperature) and not 0 <= temperature < math.inf:
      raise InputError(f"`temperature` must be finite and at least 0, got {temperature}")
    z = tf.random.stateless_normal(
        [n, *self.coupling_flow.latent_shape], as_seed(seed), dtype=self.variable_dtype)
    return z * tf.cast(temperature, z.dtype)

  def encode(self, images, noise=None, seed=None):
    """The latents of images, `[B, *latent_shape]`; arguments as in `log_prob_bound`.

    The dequantization noise goes into them: `decode(encode(images))` gives the images back, in float32
    but for a pixel here and there whose noise is within the flow's rounding of 0 or 1.
    """
    x, noise, seed = self._prepare(images, 1, noise, seed)
    _, dequantized = self._dequantize(x, noise, seed, False, False)
    return self.flow.bijector.inverse(dequantized[0])

  def decode(self, z):
    """uint8 images `[B, H, W, C]` of latents `[B, *latent_shape]`."""
    z, shape = tf.cast(z, self.variable_dtype), self.coupling_flow.latent_shape
    if not z.shape.is_compatible_with([None, *shape]):
      raise InputError(f"`z` must be of shape [B, {', '.join(map(str, shape))}], got {z.shape}")
    x = self.flow.bijector.forward(z)
    return tf.cast(tf.clip_by_value(tf.floor(x), 0, self.config.levels - 1), tf.uint8)

  def sample_noise(self, shape, seed):
    """Draws `[*shape, H, W, C]` of what the dequantizer transforms; `seed` is as everywhere."""
    return self.dequantizer.sample_noise(shape, as_seed(seed))

  @property
  def distribution(self):
    """`ImageDistribution`: the model as a TFP distribution of integer images."""
    return ImageDistribution(self)

  # --- Parts ------------------------------------------------------------------------------------

  def _prepare(self, images, num_samples, noise, seed):
    """Images as floats `[B, ...]`, noise `[S, B, ...]` and a stateless seed, all checked."""
    images = self.check_images(images)
    if not tf.is_tensor(num_samples) and not num_samples > 0:
      raise InputError(f"`num_samples` must be a positive integer, got {num_samples}")
    seed = as_seed(seed)
    if noise is None:
      noise = self.sample_noise([num_samples, tf.shape(images)[0]], fold_in(seed, 0))
    else:
      noise = tf.cast(noise, self.variable_dtype)
      if len(noise.shape) == 4:
        noise = noise[tf.newaxis]
      samples = None if tf.is_tensor(num_samples) or num_samples == 1 else num_samples
      if noise.shape[0] == 0 or not noise.shape.is_compatible_with([samples, *images.shape]):
        raise InputError(f"`noise` must be of shape {tuple(images.shape)} or of that with the number "
                         f"of samples before it, got {tuple(noise.shape)}")
    return tf.cast(images, self.variable_dtype), noise, seed

  def _dequantize(self, x, noise, seed, training, initialize):
    """log q(u|x) `[S, B]` and x + u `[S, B, ...]`."""
    q = self.dequantizer(x, training=training, seed=fold_in(seed, 1), initialize=initialize)
    u, log_q = q.transform(noise)
    # x + u may round to x + 1, which is the next pixel value.
    return log_q, tf.minimum(x + u, tf.math.nextafter(x + 1, x))

  def _flow_kwargs(self, training, seed, initialize):
    chain = self.coupling_flow
    return {chain.bijector.name: chain.bijector_kwargs(training, seed, initialize)}

  def check_images(self, images):
    """`images` as a tensor; an `InputError` if shape or, in eager mode, values do not fit."""
    images = tf.convert_to_tensor(images)
    shape = self.config.image_shape
    if len(images.shape) != 4 or not images.shape[1:].is_compatible_with(shape):
      raise InputError(f"`images` must be of shape [B, {', '.join(map(str, shape))}], got "
                       f"{list(images.shape)}")
    if tf.executing_eagerly():
      check_pixels(images.numpy(), self.config.levels)
    return images

  def get_config(self):
    return {"config": dataclasses.asdict(self.config), "name": self.name}
