"""Elementwise maps of images and vectors that are fitted to data once; their weights are not trained.

Real-valued images and vectors are standardised. 16-bit images may have a transform of their pixels, with two numbers.
These make a simple code of the images shortest: each pixel is transformed, and its difference to its left neighbour is
coded under one Laplace distribution.
"""

from collections.abc import Callable
import functools
import itertools
import math
from typing import Any

import keras
import numpy as np

from flowpp_tf.bijectors import AsinhTransform, Standardization

_QUANTILES = (0.001, 0.01, 0.1, 0.3, 0.5)  # quantiles of the pixels to try as the offset
_SCALES = 2.0 ** np.arange(0, 20.5, 0.5)  # levels to try as the scale
_MOST_PAIRS = 100_000
_MIN_WIDTH = 1e-3  # levels, added to the width of the Laplace distribution, which constant images would make 0
_DEFAULT_SCALE = 1 / 16


class FittedTransform(keras.layers.Layer):
  """The weights of an `AsinhTransform`.

  Args:
    levels: number of pixel values.

  Attributes:
    bijector: the `AsinhTransform`.
  """

  def __init__(self, levels: int, **kwargs: Any) -> None:
    super().__init__(**kwargs)
    weight = functools.partial(self.add_weight, shape=(), trainable=False, autocast=False)
    self.offset = weight(name="offset", initializer="zeros")
    self.scale = weight(name="scale", initializer=keras.initializers.Constant(_DEFAULT_SCALE))
    self.bijector = AsinhTransform(self.offset, self.scale, levels, name="asinh_transform")
    self.built = True

  def fit(self, images: np.ndarray) -> None:
    """Set the weights from integer images `[N, H, W, C]`, to numbers that float16 holds, since presets store it."""
    levels = self.bijector.levels
    left, pixels = _neighbouring_pixels(images)
    offsets = {_to_float16(quantile / levels) for quantile in np.quantile(pixels, _QUANTILES)}
    scales = [_to_float16(scale / levels) for scale in _SCALES]
    candidates = []
    for offset, scale in itertools.product(offsets, scales):
      length = _code_length(pixels / levels, left / levels, offset, scale, levels)
      candidates.append((length, offset, scale))
    _, offset, scale = min(candidates)
    self.offset.assign(offset)
    self.scale.assign(scale)

  def describe(self) -> dict[str, Any]:
    """Return the transform for a codec model."""
    offset = float(self.offset.numpy())
    scale = float(self.scale.numpy())
    return {"kind": "asinh", "offset": offset, "scale": scale}


def _neighbouring_pixels(images):
  """Return the values of left neighbours and of their pixels, in the middle of their levels, as flat arrays."""
  values = images.astype(np.float64) + 0.5
  if values.shape[2] == 1:  # images of one column
    left = pixels = values.reshape(-1)
  else:
    left = values[:, :, :-1].reshape(-1)
    pixels = values[:, :, 1:].reshape(-1)
  step = math.ceil(len(pixels) / _MOST_PAIRS)
  return left[::step], pixels[::step]


def _to_float16(value):
  return float(np.float16(value))


def _code_length(pixels, left, offset, scale, levels):
  """Return the code length of pixels in [0, 1] given their left neighbours, in nats per pixel up to a constant."""
  w = (pixels - offset) / scale
  w_left = (left - offset) / scale
  width = np.mean(np.abs(np.arcsinh(w) - np.arcsinh(w_left))) + _MIN_WIDTH / (scale * levels)
  return np.log(width * scale) + 0.5 * np.mean(np.log1p(w * w))


def make_standardization(
  make_weight: Callable[..., Any], size: int, prefix: str = "", **kwargs: Any
) -> Standardization:
  """Return a standardization that is not fitted yet, with its weights.

  Args:
    make_weight: `keras.Variable` with a dtype, or `add_weight` of the layer that the weights belong to.
    size: number of channels.
    prefix: prefix of the names.
    **kwargs: arguments of `Standardization`.
  """
  weight = functools.partial(make_weight, shape=(size,), trainable=False, autocast=False)
  mean = weight(name=f"{prefix}mean", initializer="zeros")
  stddev = weight(name=f"{prefix}stddev", initializer="ones")
  return Standardization(mean, stddev, name=f"{prefix}standardization", **kwargs)
