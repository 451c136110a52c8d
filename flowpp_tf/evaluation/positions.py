r"""Split the bound of an image by position: which pixels are surprising, and why.

The bound is a sum of three terms over all positions (h, w). In bits, the terms are the negatives of

    log_det          log-dets of the logit, of ActNorm, and of the couplings' transformed values
    prior            log N(z) of the latent's values
    dequantization   -log q(u|x), and -log q(e|x + u) of augmented channels; 0 for real-valued images

Squeezes and splits move values. Each value of a latent or an intermediate tensor counts at the pixel that it was taken
from. The log-det of a 1x1 convolution is the same at each position.

With K draws the bound is importance-weighted. It equals the mean of the draws' bounds b_k with the weights
w = softmax(b), minus the divergence of these weights from equal weights:

$$
\log \frac{1}{K} \sum_k e^{b_k} = \sum_k w_k b_k - \sum_k w_k \log (K w_k)
$$

So the terms are means over the draws with these weights. The last sum has no position: it is spread evenly, as a part
of `dequantization`. Positions are not independent: the terms of a position depend on all pixels that the couplings see.
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.by_element import forward_by_element
from flowpp_tf.core.checks import INT32_MAX, check_arguments, check_count
from flowpp_tf.core.context import EvalContext, as_seed
from flowpp_tf.data.source import Images, as_images
from flowpp_tf.distributions.dequantization import add_noise
from flowpp_tf.evaluation.batched_model import DistributedFunction, apply_to_draws, input_specs
from flowpp_tf.evaluation.likelihood import importance_weighted
from flowpp_tf.models import FlowPlusPlus
from flowpp_tf.types import Seed, TensorLike


@dataclasses.dataclass(frozen=True, eq=False)
class PositionBits:
  """The negative bound of images by position, float64 `[N, H, W]` bits, summed over the channels of a pixel.

  Attributes:
    log_det: bits of the log-det.
    prior: bits of the prior.
    dequantization: bits of the dequantizer and of augmented channels.

  Examples:
    >>> from flowpp_tf.evaluation import PositionBits
    >>> ones = np.ones([1, 8, 8])
    >>> float(PositionBits(log_det=-ones, prior=2 * ones, dequantization=0 * ones).total.sum())
    64.0
  """

  log_det: np.ndarray
  prior: np.ndarray
  dequantization: np.ndarray

  @property
  def total(self) -> np.ndarray:
    """Bits of each position, `[N, H, W]`; the sum over an image is its negative bound."""
    return self.log_det + self.prior + self.dequantization


class PositionScorer:
  """Computes the bound by position, with the draws of `Scorer`: the sum over an image is its score, to rounding.

  Args:
    model: `FlowPlusPlus`.
    num_samples: samples of the importance-weighted bound.
    seed: seed of the draws.

  Raises:
    InputError (a ValueError): if `num_samples` is not positive.

  Examples:
    >>> from flowpp_tf.data import load_dataset
    >>> from flowpp_tf.evaluation import PositionScorer, Scorer
    >>> images = load_dataset("digits").test[:2]
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> bits = PositionScorer(model, num_samples=2)(images).total
    >>> bits.shape
    (2, 8, 8)
    >>> bool(np.allclose(bits.mean(axis=(1, 2)), Scorer(model, num_samples=2).bits_per_dim(images), atol=1e-4))
    True
  """

  @check_arguments
  def __init__(self, model: FlowPlusPlus, num_samples: int = 16, seed: Seed = 0) -> None:
    check_count("num_samples", num_samples, high=INT32_MAX)
    self._model = model
    self._noise = model.sample_noise([model.dequantizer.draws(num_samples)], as_seed(seed))
    specs = model.conditioning_specs

    def terms(images, noise, *values):
      return _terms(model, images, noise, **dict(zip(specs, values)))

    self._terms = DistributedFunction(model, terms, input_specs(model))

  @check_arguments
  def cropped(self, height: int, width: int) -> "PositionScorer":
    """Return a scorer of smaller images by `FlowPlusPlus.cropped`, with the same draws, cropped."""
    if (height, width) == self._model.config.image_shape[:2]:
      return self
    scorer = PositionScorer(self._model.cropped(height, width))
    scorer._noise = self._noise[:, :height, :width]
    return scorer

  @check_arguments
  def __call__(
    self, images: Images, labels: TensorLike | None = None, batch_size: int = 100, condition: TensorLike | None = None
  ) -> PositionBits:
    """Return the bits of images by position.

    Args:
      images: `[N, H, W, C]`, integers, or real numbers for a model of real-valued images.
      labels: for a model with classes, `[N]` or one for all; -1 for no label.
      batch_size: batch size.
      condition: for a model with a condition, `[N, *condition_shape]` or one for all.

    Raises:
      InputError (a ValueError): if images, labels or condition do not fit the model.
    """
    images = as_images("images", images)
    conditioning = self._model.check_conditioning(len(images), labels, condition)
    terms = apply_to_draws(self._terms, self._noise, images, [*conditioning.values()], batch_size)
    return _combine_draws(terms)


def _combine_draws(terms):
  """Return the `PositionBits` of terms `[K, N, H, W, 3]` nats of K draws."""
  bounds = terms.sum(axis=(2, 3, 4))
  bound = importance_weighted(bounds)
  weights = np.exp(bounds - bound) / len(bounds)
  log_det, prior, dequantization = -np.einsum("kn,knhwt->tnhw", weights, terms) / math.log(2)
  divergence = bound - np.sum(weights * bounds, axis=0)
  divergence_bits = divergence / (terms.shape[2] * terms.shape[3] * math.log(2))
  return PositionBits(log_det, prior, dequantization - divergence_bits[:, np.newaxis, np.newaxis])


def _terms(model, images, noise, labels=None, condition=None):
  """Return log-det, prior and dequantization by position, `[B, H, W, 3]` nats, given one draw of noise per image.

  The steps mirror `FlowPlusPlus.bound_terms`.
  """
  x = tf.cast(images, model.variable_dtype)
  channels = model.config.image_shape[2]
  if model.has_exact_density:
    log_q = tf.zeros(tf.shape(x)[:-1], x.dtype)
    x, log_det = model.standardization.forward_and_log_det(x)
  else:
    u, log_q = _draw(model.dequantizer.posterior(x, labels=labels), noise[..., :channels])
    x, log_det = model.logits_of_pixels.forward_and_log_det(add_noise(x, u))
  log_det = tf.reduce_sum(tf.broadcast_to(log_det, tf.shape(x)), axis=-1)
  if model.config.augment_channels:
    e, log_q_e = _draw(model.augmenter.posterior(x, labels=labels), noise[..., channels:])
    x = tf.concat([x, e], axis=-1)
    log_q += log_q_e
  condition = None if model.condition_net is None else model.condition_net(labels, condition)
  ctx = EvalContext(condition=condition)
  z, flow_log_dets, to_pixels = forward_by_element(model.coupling_flow.bijector, x, ctx)
  log_det += tf.reduce_sum(to_pixels(flow_log_dets), axis=-1)
  prior = tf.reduce_sum(to_pixels(_normal_log_prob(z)), axis=-1)
  return tf.stack([log_det, prior, -log_q], axis=-1)


def _draw(q, noise):
  """Map noise `[B, H, W, C]` to a draw of a distribution; return it and its log density by position, `[B, H, W]`."""
  if isinstance(q.distribution.distribution, tfp.distributions.Uniform):
    return noise, tf.zeros(tf.shape(noise)[:-1], noise.dtype)
  draw, log_dets, to_pixels = forward_by_element(q.bijector, noise)
  return draw, tf.reduce_sum(_normal_log_prob(noise) - to_pixels(log_dets), axis=-1)


def _normal_log_prob(x):
  return -0.5 * (x**2 + math.log(2 * math.pi))
