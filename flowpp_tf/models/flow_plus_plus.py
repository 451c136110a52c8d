"""Flow++ as a Keras model: dequantizer, flow, and the bound that they give. Flow++ sections 3 and 4."""

import dataclasses
import math
from typing import Any

from jaxtyping import Float, Num
import keras
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf import bijectors as fb
from flowpp_tf.config.model import FlowPlusPlusConfig
from flowpp_tf.core.checks import (
  INT32_MAX,
  as_array,
  as_sample_shape,
  as_tensor,
  check_all_finite,
  check_count,
  check_number,
  check_pixels,
  check_shape,
  check_type,
)
from flowpp_tf.core.context import NOISE, EvalContext, as_seed, fold_in
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.finite import check_finite
from flowpp_tf.core.lanes import in_eager_lanes
from flowpp_tf.core.tensors import shape_of
from flowpp_tf.layers import ConditionNet, Dropout
from flowpp_tf.models.bound import BoundTerms, Inputs, from_latents, importance_weighted, latents_and_terms
from flowpp_tf.models.conditioning import conditioning_specs, conditioning_tensors
from flowpp_tf.models.coupling_flow import CouplingFlow
from flowpp_tf.models.dequantizer import DEQUANTIZERS, make_augmenter
from flowpp_tf.models.fitted_transform import FittedTransform, make_standardization
from flowpp_tf.models.image_distribution import ImageDistribution
from flowpp_tf.models.keras_training import BoundModel
from flowpp_tf.pretrained.presets import load_preset, save_preset
from flowpp_tf.pretrained.stored_config import config_from_fields
from flowpp_tf.tiles.cutting import cropped_weights
from flowpp_tf.types import Path, Seed, TensorLike


@keras.saving.register_keras_serializable("flowpp_tf")
class FlowPlusPlus(BoundModel):
  """The Flow++ image model, built when constructed.

  Args:
    config: a `FlowPlusPlusConfig`, such as `get_config("cifar10")`, which has the dtypes too.
    name: Python `str`.

  Attributes:
    config: the config.
    flow: `FlowDistribution` (a TFP transformed distribution) of dequantized images, on [0, levels)^(H, W, C), or of
      real-valued images. Augmented channels, which are real numbers, follow the channels of images. With `augment_end`
      sigmoid they must lie in (0, 1): q(e|x) is 0 elsewhere.
    dequantizer: layer; `dequantizer.posterior(images)` is the distribution of their noise u in [0, 1).
    condition_net: layer that makes the context of the flow's couplings from labels and conditions, or None.
    logits_of_pixels: bijector of dequantized pixels, a transform if the config has one, then `PixelsToLogit`; for
      real-valued images their standardization.
    pixel_transform: layer with the weights of the transform, or None.
    augmenter: layer; `augmenter.posterior(x)` is the distribution of the augmented channels given the logits of
      dequantized images; a `NoAugmenter` for a model without.

  Images are integers in 0 .. levels - 1, `[B, H, W, C]`. In eager mode, where values can be seen, anything else is an
  `InputError` (a ValueError). With `dequantization` "none" images are finite real numbers in any unit, which `adapt`
  standardises by channel. Then `log_prob` is the exact density, and nothing depends on noise or seeds.

  With `num_classes` in its config, a model is conditional on a label; with `condition_shape`, on another image. Its
  methods then take `labels`, integers `[B]` or one for all, and `condition`, real numbers `[B, *condition_shape]`, best
  between -1 and 1. A label of -1 means no label, for a model trained with `label_dropout`.

  `adapt(images)`, `compile(optimizer)` and `fit(images)` train it on its bound, as in Keras;
  `flowpp_tf.training.run_training` is the training run of the paper.

  Examples:
    >>> model = fpp.FlowPlusPlus(fpp.get_config("digits"))
    >>> model.bits_per_dim(np.zeros([2, 8, 8, 1]), seed=0).shape, model.sample(4).shape
    (TensorShape([2]), TensorShape([4, 8, 8, 1]))
  """

  def __init__(self, config: FlowPlusPlusConfig, name: str = "flow_plus_plus") -> None:
    if isinstance(config, dict):  # as Keras has serialised it
      config = config_from_fields(config, "`config`")
    check_type("config", config, FlowPlusPlusConfig)
    dtype = config.flow_dtype or config.dtype
    super().__init__(name=name, autocast=False, dtype=dtype)
    self.config = config
    with keras.name_scope(self.name, caller=self):  # prefix of the weights' paths
      self.dequantizer = DEQUANTIZERS[config.dequantization](config, dtype=dtype, name="dequantizer")
      self.pixel_transform: FittedTransform | None = None
      pixel_bijectors = self._make_pixel_bijectors(dtype)
      self.logits_of_pixels = fb.Chain(pixel_bijectors, name="logits_of_pixels")
      self.augmenter = make_augmenter(config, dtype=dtype, name="augmenter")
      if config.augment_channels:
        sizes = [config.image_shape[2], config.augment_channels]
        identity = tfp.bijectors.Identity()  # of the augmented channels
        pixel_bijectors = [tfp.bijectors.Blockwise([bijector, identity], sizes) for bijector in pixel_bijectors]
      self.condition_net = None
      if config.is_conditional:
        self.condition_net = ConditionNet(
          config.image_shape,
          config.num_classes,
          config.condition_shape,
          config.condition_network,
          dtype=config.dtype,
          name="condition_net",
        )
        self.label_dropout = Dropout(config.label_dropout, name="label_dropout")
      context_size = None
      if config.condition_shape:
        context_size = config.image_shape[:2]
      self.coupling_flow = CouplingFlow(
        config.structure, config.flow_shape, config.flow_couplings, context_size, dtype=dtype, name="flow"
      )
    self.flow = self.coupling_flow.distribution(pixel_bijectors, "flow")
    self.built = True

  def _make_pixel_bijectors(self, dtype):
    """Return the bijectors of dequantized pixels, the last one applied first; keep the layers that own weights."""
    config = self.config
    if self.has_exact_density:
      self.standardization = make_standardization(self.add_weight, config.image_shape[2])
      return [self.standardization]
    self.pixels_to_logit = fb.PixelsToLogit(config.levels)
    if config.pixel_transform == "none":
      return [self.pixels_to_logit]
    self.pixel_transform = FittedTransform(config.levels, dtype=dtype, name="pixel_transform")
    return [self.pixels_to_logit, self.pixel_transform.bijector]

  @property
  def has_exact_density(self) -> bool:
    """Whether images are real-valued, so that their density is exact: `dequantization` is "none"."""
    return self.config.pixel_levels is None

  @property
  def image_dtype(self) -> tf.DType:
    """Dtype of samples: uint8, uint16 for more than 256 levels, or the flow's dtype for real-valued images."""
    return self.dequantizer.image_dtype

  # --- Likelihood -------------------------------------------------------------------------------

  def log_prob(
    self, images: TensorLike, labels: TensorLike | None = None, condition: TensorLike | None = None
  ) -> Float[tf.Tensor, " b"]:
    """Return the exact log density of real-valued images; the same number in each call.

    Args:
      images: real numbers `[B, H, W, C]`, in the unit of the data.
      labels: as in `log_prob_bound`.
      condition: as in `log_prob_bound`.

    Returns:
      `[B]`, nats per image.

    Raises:
      InputError (a ValueError): for a model of integer images, whose log-likelihood has no closed form; for images that
        are not finite, or input that does not fit.

    Examples:
      >>> config = fpp.FlowPlusPlusConfig((8, 8, 1), dequantization="none", structure="columns:1", filters=8, blocks=1)
      >>> model = fpp.FlowPlusPlus(config)
      >>> model.log_prob(np.random.normal(size=[2, 8, 8, 1])).shape
      TensorShape([2])
    """
    if not self.has_exact_density:
      raise InputError(
        '`dequantization` must be "none" for an exact log density; for integer images use `log_prob_bound`'
      )
    return self.log_prob_bound(images, seed=0, labels=labels, condition=condition)

  def log_prob_bound(
    self,
    images: TensorLike,
    num_samples: int | tf.Tensor = 1,
    noise: TensorLike | None = None,
    seed: Seed = None,
    training: bool = False,
    batch_offset: int | tf.Tensor = 0,
    labels: TensorLike | None = None,
    condition: TensorLike | None = None,
  ) -> Float[tf.Tensor, " b"]:
    r"""Return a lower bound of the log-likelihood of integer images (equation 7); of real-valued ones, `log_prob`.

    The log of the mean of p(x + u) / q(u|x) over K = `num_samples` draws of the noise u (IWAE, Burda et al. 2016):

    $$
    \log P(x) \ge \mathbb{E} \left[ \log \frac{1}{K} \sum_{k=1}^{K} \frac{p(x + u_k)}{q(u_k | x)} \right],
    \qquad u_k \sim q(\cdot | x)
    $$

    Args:
      images: integers in 0 .. levels - 1, `[B, H, W, C]`.
      num_samples: draws of the dequantization noise per image; with more than one the bound is the importance-weighted
        one (IWAE), which grows with it towards the log-likelihood.
      noise: the dequantizer's draws, standard normal (variational) or uniform (uniform), `[B, H, W, C]` or
        `[num_samples, B, H, W, C]`, with the standard normal ones of augmented channels behind them; None to draw them
        from the seed.
      seed: integer or stateless seed of noise and dropout; None for another one in each call.
      training: whether dropout is on.
      batch_offset: index of the first image, if these are a part of a batch; an image's dropout masks follow from its
        index.
      labels: integers `[B]`, or one for all, of a model with classes; -1 for no label.
      condition: `[B, *condition_shape]`, of a model with a condition.

    Returns:
      `[B]`, nats per image. In a graph, which has no values to look at, NaN for images that are wrong. Under XLA a
      seed draws other noise than elsewhere: TensorFlow's generators differ.

    Raises:
      InputError (a ValueError): for images, noise, labels, condition or `num_samples` that do not fit.
    """
    inputs = self._checked_inputs(images, labels, condition, num_samples, noise, seed, training, batch_offset)
    _, terms = latents_and_terms(self, inputs)
    return importance_weighted(terms)

  def bound_terms(
    self,
    images: TensorLike,
    num_samples: int | tf.Tensor = 1,
    noise: TensorLike | None = None,
    seed: Seed = None,
    labels: TensorLike | None = None,
    condition: TensorLike | None = None,
  ) -> BoundTerms:
    """Return the terms of the bound, `[num_samples, B]` nats; arguments and errors as in `log_prob_bound`.

    The last term is 0 for real-valued images, to which no noise is added.
    """
    inputs = self._checked_inputs(images, labels, condition, num_samples, noise, seed)
    _, terms = latents_and_terms(self, inputs)
    return terms

  def bits_per_dim(
    self,
    images: TensorLike,
    num_samples: int | tf.Tensor = 1,
    noise: TensorLike | None = None,
    seed: Seed = None,
    labels: TensorLike | None = None,
    condition: TensorLike | None = None,
  ) -> Float[tf.Tensor, " b"]:
    r"""Return the negative bound in bits/dim, `[B]`; arguments as in `log_prob_bound`.

    $$
    \text{bits/dim}(x) = - \frac{\text{bound}(x)}{H \, W \, C \, \ln 2}
    $$

    Raises:
      InputError (a ValueError): as `log_prob_bound`, and in eager mode for results that are not finite.
    """

    def bound():
      return self.log_prob_bound(images, num_samples, noise, seed, labels=labels, condition=condition)

    return self.to_bits_per_dim(_finite("the bound of the model", bound))

  def to_bits_per_dim(self, log_prob: Any) -> Any:
    """Return bits/dim from nats per image."""
    if not tf.is_tensor(log_prob):
      log_prob = as_array("log_prob", log_prob)
    elif not log_prob.dtype.is_floating:
      log_prob = tf.cast(as_tensor("log_prob", log_prob), self.variable_dtype)
    nats_per_bit_and_dim = math.prod(self.config.image_shape) * math.log(2)
    return log_prob / -nats_per_bit_and_dim

  def initialize(
    self,
    images: TensorLike,
    noise: TensorLike | None = None,
    seed: Seed = 0,
    labels: TensorLike | None = None,
    condition: TensorLike | None = None,
    overwrite: bool = False,
  ) -> Float[tf.Tensor, " b"]:
    """Initialise every layer from one batch, in the order of evaluation; `adapt` chooses the batch from data.

    Each layer that normalises sets its weights by the data that reach it through the layers before it, as initialised.
    Layer norms, position embeddings and, unless they are whitening, 1x1 convolutions keep their weights.

    Args:
      images: integers in 0 .. levels - 1, `[B, H, W, C]`; a batch of 64 or more.
      noise: the dequantizer's draws, `[B, H, W, C]`.
      seed: integer or stateless seed of the noise.
      labels: as in `log_prob_bound`.
      condition: as in `log_prob_bound`.
      overwrite: whether to initialise a model that is initialised already.

    Returns:
      The bound of the batch under the initialised weights, `[B]` nats.

    Raises:
      InputError (a ValueError): if the model is initialised already, and `overwrite` is False; for input that does not
        fit.
    """
    self._check_new(overwrite)
    inputs = self._checked_inputs(images, labels, condition, 1, noise, seed)
    if self.pixel_transform is not None:
      self.pixel_transform.fit(inputs.images.numpy())
    names = list(inputs.conditioning)

    def bound(images, noise, *conditioning):
      ctx = EvalContext(initialize=True)
      _, terms = latents_and_terms(self, Inputs(images, dict(zip(names, conditioning)), noise[tf.newaxis], ctx))
      return importance_weighted(terms)

    # Eagerly: to trace a graph for a single evaluation takes longer than the graph saves.
    tensors = [inputs.images, inputs.noise[0], *inputs.conditioning.values()]
    bounds = in_eager_lanes(bound, *tensors, filters=self.config.filters)
    self.initialized = True
    return bounds

  # --- Samples and latents ----------------------------------------------------------------------

  def sample(
    self,
    n: int | tf.Tensor,
    temperature: float | tf.Tensor = 1.0,
    seed: Seed = None,
    labels: TensorLike | None = None,
    condition: TensorLike | None = None,
    guidance: float | tf.Tensor = 0.0,
  ) -> Num[tf.Tensor, "n h w c"]:
    """Draw images.

    Args:
      n: how many.
      temperature: factor of the standard deviation of the latents, at least 0.
      seed: integer or stateless seed; None for other samples in each call.
      labels: integers `[n]`, or one for all, of a model with classes; -1 for no label.
      condition: `[n, *condition_shape]`, of a model with a condition.
      guidance: how far couplings extrapolate their parameters from those without a label, through those with it; 0
        for the model itself.

    Returns:
      Images, `[n, H, W, C]`: uint8, of more than 256 levels uint16, or real-valued ones in the model's dtype.

    Raises:
      InputError (a ValueError): if `n` is not positive or `temperature` negative, for labels or a condition that do not
        fit, or for guidance of a model that was not trained without labels.
    """
    return self.decode(self.sample_latents(n, temperature, seed), labels, condition, guidance)

  def sample_latents(
    self, n: int | tf.Tensor, temperature: float | tf.Tensor = 1.0, seed: Seed = None
  ) -> Float[tf.Tensor, "n h w c"]:
    """Draw the latents that `sample` decodes, `[n, *latent_shape]`; arguments and errors as in `sample`."""
    _check_count("n", n)
    check_type("temperature", temperature, float | tf.Tensor)
    if not tf.is_tensor(temperature):
      check_number("temperature", temperature, 0, float(tf.float32.max))
    shape = [n, *self.coupling_flow.latent_shape]
    z = tf.random.stateless_normal(shape, as_seed(seed), dtype=self.variable_dtype)
    return z * tf.cast(temperature, z.dtype)

  def encode(
    self,
    images: TensorLike,
    noise: TensorLike | None = None,
    seed: Seed = None,
    labels: TensorLike | None = None,
    condition: TensorLike | None = None,
  ) -> Float[tf.Tensor, "b h w c"]:
    """Return the latents of images, `[B, *latent_shape]`; arguments as in `log_prob_bound`.

    The latents contain the dequantization noise: `decode(encode(images))` gives the images back, in float32 except for
    a pixel here and there whose noise is within the flow's rounding of 0 or 1.
    """
    inputs = self._checked_inputs(images, labels, condition, 1, noise, seed)

    def latents():
      z, _ = latents_and_terms(self, inputs)
      return z[0]

    return _finite("the latents of the model", latents)

  def decode(
    self,
    z: TensorLike,
    labels: TensorLike | None = None,
    condition: TensorLike | None = None,
    guidance: float | tf.Tensor = 0.0,
  ) -> Num[tf.Tensor, "b h w c"]:
    """Return the images `[B, H, W, C]` of latents `[B, *latent_shape]`; other arguments and dtype as in `sample`.

    Integer images hold no NaN, so XLA refuses to compile a function (`jit_compile=True`) that makes them: it would drop
    the check that they come from finite numbers, and they would be black. `distribution.sample` can be compiled.
    """
    x = self._decode_or_nan(z, labels, condition, guidance)
    if self.has_exact_density:
      return x
    if not tf.executing_eagerly():
      x = _checked_without_xla(x)
    return tf.cast(x, self.image_dtype)

  def _decode_or_nan(self, z, labels=None, condition=None, guidance=0.0):
    """Return `decode(...)` in the model's dtype; in a graph, NaN where a value is not finite."""
    z = as_tensor("z", z, self.variable_dtype)
    check_shape("z", z.shape, [None, *self.coupling_flow.latent_shape])
    conditioning = self.check_conditioning(shape_of(z)[0], labels, condition)
    check_type("guidance", guidance, float | tf.Tensor)
    is_guided = tf.is_tensor(guidance) or guidance != 0
    if is_guided and not self.config.label_dropout:
      raise InputError("`guidance` must be 0: this model was not trained without labels (`label_dropout`)")
    x = _finite("the images of the model", lambda: from_latents(self, z, conditioning, guidance))
    return self.dequantizer.to_pixels(x[..., : self.config.image_shape[2]])

  def sample_noise(self, shape: Any, seed: Seed) -> Float[tf.Tensor, "*shape h w c"]:
    """Draw the noise `[*shape, *noise_shape]` that becomes u and e; `log_prob_bound` draws it by the stream `NOISE`."""
    shape = as_sample_shape("shape", shape)
    seed = as_seed(seed)
    u_noise = self.dequantizer.sample_noise(shape, seed)
    e_noise = self.augmenter.sample_noise(shape, fold_in(seed, "augmenter"))
    return tf.concat([u_noise, e_noise], axis=-1)

  @property
  def noise_shape(self) -> tuple[int, ...]:
    """Shape of an image's noise: `(H, W, C)`, with the augmented channels behind the others; C is 0 without noise."""
    *size, u_channels = self.dequantizer.event_shape
    e_channels = self.augmenter.event_shape[-1]
    return *size, u_channels + e_channels

  @property
  def distribution(self) -> ImageDistribution:
    """`ImageDistribution`: the model as a TFP distribution of its images, integers or real numbers."""
    return ImageDistribution(self)

  def given(self, labels: TensorLike | None = None, condition: TensorLike | None = None) -> ImageDistribution:
    """Return the distribution of images given labels `[...]`, or conditions `[..., *condition_shape]`, its batch.

    Examples:
      >>> model = fpp.FlowPlusPlus.from_preset("digits_by_class")
      >>> digits = model.given(labels=[0, 1, 2])
      >>> digits.sample(5).shape
      TensorShape([5, 3, 8, 8, 1])
    """
    return ImageDistribution(self, labels=labels, condition=condition)

  # --- Parts ------------------------------------------------------------------------------------

  def _checked_inputs(self, images, labels, condition, num_samples, noise, seed, training=False, batch_offset=0):
    """Return the `Inputs` of the bound; arguments and errors as in `log_prob_bound`."""
    images = self.check_images(images)
    count = shape_of(images)[0]
    check_type("training", training, bool)
    _check_count("num_samples", num_samples)
    _check_count("batch_offset", batch_offset, 0, 2**63 - 1)
    seed = as_seed(seed)
    if noise is None:
      noise = self.sample_noise([num_samples, count], fold_in(seed, NOISE))
    else:
      noise = self._checked_noise(noise, num_samples, count)
    conditioning = self.check_conditioning(count, labels, condition)
    dropout_seed = None
    if training:
      dropout_seed = seed
    return Inputs(images, conditioning, noise, EvalContext(training, dropout_seed, batch_offset))

  def _checked_noise(self, noise, num_samples, count):
    """Return a user's noise for `count` images as a tensor, `[S, count, *noise_shape]`."""
    noise = as_tensor("noise", noise, self.variable_dtype)
    check_all_finite("noise", noise)
    if len(noise.shape) <= 4:
      noise = noise[tf.newaxis]
    if tf.is_tensor(num_samples) or num_samples == 1:  # the noise says how many draws there are
      num_samples = noise.shape[0] or 1
    check_shape("noise", noise.shape, [num_samples, _known(count), *self.noise_shape])
    self.dequantizer.check_noise(noise)
    return noise

  @property
  def conditioning_specs(self) -> dict[str, tf.TensorSpec]:
    """Specs of what images are given, labels and conditions, by name, for any batch size.

    Examples:
      >>> fpp.FlowPlusPlus(fpp.get_config("digits_by_class")).conditioning_specs
      {'labels': TensorSpec(shape=(None,), dtype=tf.int32, name='labels')}
    """
    return conditioning_specs(self.config, self.variable_dtype)

  def check_conditioning(
    self, count: Any, labels: TensorLike | None = None, condition: TensorLike | None = None
  ) -> dict[str, tf.Tensor]:
    """Return the conditioning of `count` images as tensors by name, each with a batch of `count`.

    Args:
      count: number of images.
      labels: integers `[count]`, or one for all.
      condition: `[count, *condition_shape]`, or one for all; real numbers are cast to the model's dtype.

    Raises:
      InputError (a ValueError): if one is missing, not expected, or does not fit. A graph has no values to look at:
        there wrong labels give a bound of NaN.

    Examples:
      >>> model = fpp.FlowPlusPlus(fpp.get_config("digits_by_class"))
      >>> model.check_conditioning(2, labels=3)["labels"].numpy().tolist()
      [3, 3]
    """
    check_type("count", count, int | tf.Tensor)
    tensors = conditioning_tensors(self.config, self.variable_dtype, labels, condition)
    for name, spec in self.conditioning_specs.items():
      if tensors[name].shape.rank == len(spec.shape) - 1:  # one for all
        tensors[name] = tf.repeat(tensors[name][tf.newaxis], count, axis=0)
      check_shape(name, tensors[name].shape, [_known(count), *spec.shape[1:]])
    return tensors

  def check_images(self, images: TensorLike) -> Num[tf.Tensor, "b h w c"]:
    """Return `images` as a tensor; an `InputError` if shape or, in eager mode, values do not fit."""
    images = as_tensor("images", images)
    wanted = [None, *self.config.image_shape]
    if images.shape.rank is not None:
      check_shape("images", [*images.shape], wanted)
    if not images.shape[1:].is_fully_defined():
      images = tf.ensure_shape(images, wanted)
    if images.dtype.is_bool:
      images = tf.cast(images, tf.uint8)
    if tf.executing_eagerly():
      check_pixels(images.numpy(), self.config.pixel_levels)
    return images

  def cropped(self, height: int, width: int) -> "FlowPlusPlus":
    """Return the model of smaller images that has the same weights, without the weights of positions in the middle.

    Its networks see zeros beyond the edges, as in this model, or the opposite side with periodic padding. Positions
    near an edge keep their weights. The result is a density of smaller images. It is not the marginal density of a
    part of larger images.

    Args:
      height: at most the height of the images; the structure must be able to halve it as often as theirs.
      width: as for the height.

    Raises:
      InputError (a ValueError): for a size that the structure cannot split, or a model given another image.

    Examples:
      >>> model = fpp.FlowPlusPlus.from_preset("digits").cropped(8, 4)
      >>> model.sample(2, seed=0).shape
      TensorShape([2, 8, 4, 1])
    """
    full_height, full_width, channels = self.config.image_shape
    check_count("height", height, high=full_height)
    check_count("width", width, high=full_width)
    if self.config.condition_shape and not self.config.tile_neighbours:
      raise InputError("`model` must not be given another image, which a part of an image is not cropped with")
    config = dataclasses.replace(self.config, image_shape=(height, width, channels))
    with self.distribute_strategy.scope():
      model = FlowPlusPlus(config, self.name)
    shapes = [weight.shape for weight in model.weights]
    model.set_weights(cropped_weights(self.get_weights(), shapes, self.config.image_shape, self.config.size_step))
    model.initialized = self.initialized
    return model

  # --- Files ------------------------------------------------------------------------------------

  @classmethod
  def from_preset(
    cls, preset: Path, unchecked: bool = False, precision: str | None = None, name: str = "flow_plus_plus"
  ) -> "FlowPlusPlus":
    """Return a trained model.

    Args:
      preset: one of `fpp.presets()`, the folder of a preset, or its address on Hugging Face with the extra `hub`:
        "hf://user/model".
      unchecked: whether weights without a checksum are used.
      precision: of the networks, "float32", "bfloat16" or "float16"; None for float32, or float64 if the config has
        that. The precision of training plays no part.
      name: of the model.

    Raises:
      InputError (a ValueError): if the preset does not exist, or is damaged.

    Examples:
      >>> model = fpp.FlowPlusPlus.from_preset("digits")
      >>> model.sample(4, temperature=0.8, seed=0).shape
      TensorShape([4, 8, 8, 1])
    """
    return load_preset(lambda config: cls(config, name), preset, unchecked, precision)

  def save_to_preset(self, folder: Path, description: str = "", license: str = "unknown") -> None:
    """Write the model as a preset that `from_preset(folder)` reads: in float16, or as it is for real-valued images.

    Its README.md is a model card for Hugging Face, to which `huggingface_hub.upload_folder` takes the folder.

    Args:
      folder: folder to write.
      description: one line.
      license: of the model, in the card: an identifier of Hugging Face, such as "apache-2.0" or "cc-by-4.0".

    Raises:
      InputError (a ValueError): for weights that float16 cannot hold, or a folder that holds something else.
      OSError: if the folder cannot be written.
    """
    save_preset(self, folder, description, license=license)

  def get_config(self) -> dict[str, Any]:
    return {"config": dataclasses.asdict(self.config), "name": self.name}


def _known(count):
  """Return a count that is known when a graph is made, else None."""
  return count if isinstance(count, int) else None


def _check_count(name, value, low=1, high=INT32_MAX):
  """Raise an `InputError` unless a value is an integer in range, or an integer tensor, as of a graph."""
  check_type(name, value, int | tf.Tensor)
  if not tf.is_tensor(value):
    check_count(name, value, low, high)


def _finite(name, evaluate):
  """Return what `evaluate()` gives; in eager mode an error that names the part where it is not finite."""
  results = evaluate()
  if tf.executing_eagerly():
    check_finite(name, results, evaluate)
  return results


def _checked_without_xla(x):
  """Return images that are checked when a graph runs; XLA drops the check, and has no kernel for texts."""
  checked = tf.debugging.check_numerics(x, "the images of the model must be finite")
  if tf.config.list_logical_devices("TPU"):  # which know nothing but XLA
    return checked
  with tf.control_dependencies([tf.strings.as_string(x[:1, 0, 0, 0], name="integer_images_need_jit_compile_False")]):
    return tf.identity(checked)
