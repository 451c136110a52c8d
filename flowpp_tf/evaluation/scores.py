"""Scores of single images: likelihood, typicality, and likelihood corrected for complexity.

The likelihood does not tell whether an image resembles the training images: simple images get few bits/dim, regardless
of where they come from (Nalisnick et al. 2019, "Do deep generative models know what they don't know?"). Two scores
address this. Both are in bits/dim, and higher for more anomalous images:

    typicality            |b(x) - mean of b over the validation split|
                          Nalisnick et al. 2019, "Detecting out-of-distribution inputs to deep generative models using
                          typicality", for batches of one image
    complexity-corrected  b(x) - 8 n(x) / (H W C)
                          Serra et al. 2020, "Input complexity and out-of-distribution detection with likelihood-based
                          generative models", with PNG as the compressor

where b(x) is the negative importance-weighted bound in bits/dim and n(x) is the size in bytes of the image's pixels in
PNG, see `png_bytes`. Real-valued images have no PNG. Their bound is the exact log density, also given in nats/dim.
"""

from collections.abc import Sequence
import copy
import io
import math

import numpy as np
from PIL import Image
import tensorflow as tf

from flowpp_tf.core.checks import (
  INT32_MAX,
  MOST_LEVELS,
  as_array,
  check_all_finite,
  check_arguments,
  check_count,
  check_pixels,
  check_type,
  pixel_dtype,
  shown,
)
from flowpp_tf.core.context import as_seed
from flowpp_tf.core.errors import InputError
from flowpp_tf.data.source import as_images
from flowpp_tf.evaluation.batched_model import DistributedFunction, apply_to_draws
from flowpp_tf.evaluation.likelihood import importance_weighted
from flowpp_tf.models import FlowPlusPlus
from flowpp_tf.types import Seed

SCORES = ("log_likelihood", "bits_per_dim", "typicality", "complexity_corrected", "png_bytes")
REAL_SCORES = ("log_likelihood", "nats_per_dim", "bits_per_dim", "typicality")


def png_bytes(image: np.ndarray) -> int:
  """Return the size in bytes of an image's pixels in PNG: the deflate stream at highest compression.

  The constant 63 bytes of every PNG are not counted (signature, IHDR, IEND, the 12 bytes around each chunk, zlib's
  header and checksum): they would be 7.9 bits/dim of an 8x8 grey image. Pixel values 0 .. levels - 1 are stored
  verbatim, with 16 bits each if one is above 255, and with 8 bits otherwise. Builds of Pillow with different versions
  of zlib differ by a few bytes.

  Args:
    image: uint8 or uint16 `[H, W, C]`, with 1 to 4 channels, as PNG supports.

  Raises:
    InputError (a ValueError): if the image has more channels.

  Examples:
    >>> from flowpp_tf.evaluation import png_bytes
    >>> png_bytes(np.zeros([8, 8, 1], np.uint8)) < 20
    True
  """
  image = as_array("image", image, [None] * 3)
  check_pixels(image, MOST_LEVELS, "image")
  channels = image.shape[-1]
  image = image.astype(pixel_dtype(max(2, 1 + int(image.max()))))
  if not 1 <= channels <= 4:
    raise InputError(f"`image` must have 1 to 4 channels to be coded as PNG, got {channels}")
  if image.dtype == np.uint16:  # Pillow writes 16 bits only in grey: stack the channels vertically
    image = np.concatenate(np.split(image, channels, axis=-1))
  if image.shape[-1] == 1:
    image = image[..., 0]
  file = io.BytesIO()
  Image.fromarray(image).save(file, "PNG", optimize=True)
  png = file.getvalue()
  count = 0
  at = 8  # behind the signature
  while at < len(png):  # chunks: length, type, content, checksum
    length = int.from_bytes(png[at : at + 4], "big")
    if png[at + 4 : at + 8] == b"IDAT":
      count += length
    at += 12 + length
  return count - 6  # zlib's header and checksum


class Scorer:
  """Scores images under a model; the other images of a batch change a score only by rounding.

  All images share the same draws of the dequantization noise. So a score depends only on the image, and the effect of
  the draws on the bound is similar for all images and largely cancels in comparisons.

  Under a model with classes the likelihood of an image is the mean of its likelihoods given each class.

  Args:
    model: `FlowPlusPlus`.
    num_samples: samples of the importance-weighted bound, one draw of the noise each; ignored for real-valued images,
      which have no noise.
    seed: seed of the draws.
    typical: mean bits/dim of the validation split, by this scorer; None if it is not known.

  Attributes:
    names: names of the scores: `SCORES`, or `REAL_SCORES` for a model of real-valued images.
    typical: as given.

  Raises:
    InputError (a ValueError): if `num_samples` is not positive.

  Examples:
    >>> from flowpp_tf.data import load_dataset
    >>> from flowpp_tf.evaluation import Scorer
    >>> images = load_dataset("digits").test[:4]
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> scores = Scorer(model, num_samples=2)(images)
    >>> sorted(scores)
    ['bits_per_dim', 'complexity_corrected', 'log_likelihood', 'png_bytes', 'typicality']
  """

  def __init__(self, model: FlowPlusPlus, num_samples: int = 16, seed: Seed = 0, typical: float | None = None):
    if not hasattr(model, "log_prob_bound"):
      raise InputError(f"`model` must be a `FlowPlusPlus`, got {shown(model)}")
    check_type("typical", typical, float | None)
    check_count("num_samples", num_samples, high=INT32_MAX)
    self.typical = typical
    self._model = model
    self.names: tuple[str, ...] = SCORES
    if model.config.pixel_levels is None:
      self.names = REAL_SCORES
      num_samples = 1
    self._noise = model.sample_noise([num_samples], as_seed(seed))
    self._labels = [*range(model.config.num_classes)]
    if model.config.label_dropout:
      self._labels.append(-1)
    noise_spec = self._noise.shape[1:], self._noise.dtype
    specs = [(model.config.image_shape, model.image_dtype), noise_spec]
    if self._labels:
      specs.append(((), tf.int32))

    def bound(images, noise, labels=None):
      return model.log_prob_bound(images, noise=noise, seed=0, labels=labels)

    self._bound = DistributedFunction(model, bound, specs)

  @check_arguments
  def first_draws(self, num_samples: int) -> "Scorer":
    """Return the scorer of the first `num_samples` draws; both share the traced function."""
    check_count("num_samples", num_samples, high=len(self._noise))
    scorer = copy.copy(self)
    scorer._noise = self._noise[:num_samples]
    scorer.typical = None  # the mean was measured with all draws
    return scorer

  @check_arguments
  def log_likelihood(self, images: np.ndarray, batch_size: int = 100) -> np.ndarray:
    """Return the importance-weighted bound of images `[N, H, W, C]`, float64 `[N]`, nats per image.

    Raises:
      InputError (a ValueError): if the images do not fit the model.
    """
    if self._labels:
      classes = self._model.config.num_classes
      return importance_weighted(self.class_log_likelihoods(images, batch_size)[:, :classes], axis=1)
    return self._measure(images, batch_size)

  @check_arguments
  def class_log_likelihoods(self, images: np.ndarray, batch_size: int = 100) -> np.ndarray:
    """Return the bound given each class, `[N, num_classes]` nats, of a model with classes.

    If the model was trained with `label_dropout`, the last column is the bound without a label.

    Raises:
      InputError (a ValueError): if the model has no classes, or the images do not fit it.
    """
    if not self._labels:
      raise InputError("the model must be one of images given a class")
    return np.stack([self._measure(images, batch_size, label) for label in self._labels], axis=1)

  def _measure(self, images, batch_size, *label):
    images = as_images("images", images)
    labels = [tf.fill([len(images)], value) for value in label]
    return importance_weighted(apply_to_draws(self._bound, self._noise, images, labels, batch_size))

  @check_arguments
  def bits_per_dim(self, images: np.ndarray, batch_size: int = 100) -> np.ndarray:
    """Return the negative importance-weighted bound in bits/dim, `[N]`."""
    return self._model.to_bits_per_dim(self.log_likelihood(images, batch_size))

  @check_arguments
  def __call__(self, images: np.ndarray, batch_size: int = 100) -> dict[str, np.ndarray]:
    """Return all scores of images.

    Args:
      images: `[N, H, W, C]`.
      batch_size: batch size.

    Returns:
      Arrays `[N]` by the names in `names`: log_likelihood in nats, typicality (NaN if `typical` is None) and
      complexity_corrected in bits/dim.
    """
    images = np.asarray(as_images("images", images))
    return scores_of(images, self.log_likelihood(images, batch_size), self.typical, self.names)


@check_arguments
def scores_of(
  images: np.ndarray, log_likelihood: np.ndarray, typical: float | None = None, names: Sequence[str] = SCORES
) -> dict[str, np.ndarray]:
  """Return the scores of images with known log-likelihood, as `Scorer` does.

  Args:
    images: `[N, H, W, C]`; integers, if a score needs their PNG.
    log_likelihood: `[N]`, nats.
    typical: as for `Scorer`.
    names: names of the scores, among `SCORES` and `REAL_SCORES`.

  Raises:
    InputError (a ValueError): for another name, and for images or values that do not fit.

  Examples:
    >>> from flowpp_tf.evaluation import scores_of
    >>> scores = scores_of(np.zeros([1, 8, 8, 1], np.uint8), np.array([-64 * np.log(2.0)]), typical=1.5)
    >>> float(scores["bits_per_dim"][0]), float(scores["typicality"][0])
    (1.0, 0.5)
  """
  known = dict.fromkeys((*SCORES, *REAL_SCORES))
  if unknown := [name for name in names if name not in known]:
    raise InputError(f"`names` must be some of {', '.join(known)}, got {unknown[0]!r}")
  images = as_array("images", images, [None] * 4)
  has_png = bool({"complexity_corrected", "png_bytes"} & {*names})
  levels = MOST_LEVELS if has_png else None
  check_pixels(images, levels)
  log_likelihood = as_array("log_likelihood", log_likelihood, [len(images)]).astype(np.float64)
  check_all_finite("log_likelihood", log_likelihood)
  dimensions = math.prod(images.shape[1:])
  bits_per_dim = -log_likelihood / (dimensions * math.log(2))
  if typical is None:
    typical = math.nan
  scores = {
    "log_likelihood": log_likelihood,
    "nats_per_dim": log_likelihood / dimensions,
    "bits_per_dim": bits_per_dim,
    "typicality": np.abs(bits_per_dim - typical),
  }
  if has_png:
    sizes = np.array([png_bytes(image) for image in images])
    scores |= {"complexity_corrected": bits_per_dim - 8 * sizes / dimensions, "png_bytes": sizes}
  return {name: scores[name] for name in names}
