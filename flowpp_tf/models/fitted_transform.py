"""Elementwise maps of images and vectors that are fitted to data once; their weights are not trained.

A standardization is that of real numbers. 16-bit images have a transform of their pixels, whose two numbers are those
with which a simple code of the images is shortest: that of the difference of each pixel to its left neighbour, after
the transform, under one Laplace distribution.
"""

from collections.abc import Callable
import functools
from typing import Any

import keras
import numpy as np

from flowpp_tf.bijectors import AsinhTransform, Standardization

_QUANTILES = (0.001, 0.01, 0.1, 0.3, 0.5)  # of the pixels, which are tried as the offset
_FACTORS = 2.0 ** np.arange(0, 20.5, 0.5)  # levels, which are tried as the scale
_MOST_PAIRS = 100_000
_WIDTH = 1e-3  # levels, added to that of the distribution, which constant images would make 0
_SCALE = 1 / 16


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
    self.scale = weight(name="scale", initializer=keras.initializers.Constant(_SCALE))
    self.bijector = AsinhTransform(self.offset, self.scale, levels, name="asinh_transform")
    self.built = True

  def fit(self, images: np.ndarray) -> None:
    """Set the weights by integer images `[N, H, W, C]`, to numbers that float16 has, since presets store it."""
    levels, values = self.bijector.levels, images.astype(np.float64) + 0.5
    left, pixels = values[:, :, :-1].reshape(-1), values[:, :, 1:].reshape(-1)
    if not len(pixels):  # images of one column
      left = pixels = values.reshape(-1)
    step = -(-len(pixels) // _MOST_PAIRS)
    left, pixels = left[::step], pixels[::step]
    best = np.inf, 0.0, 1.0
    for offset in sorted({float(np.float16(value / levels)) for value in np.quantile(pixels, _QUANTILES)}):
      for scale in (float(np.float16(factor / levels)) for factor in _FACTORS):
        w, w_left = ((x / levels - offset) / scale for x in (pixels, left))
        width = np.mean(np.abs(np.arcsinh(w) - np.arcsinh(w_left))) + _WIDTH / (scale * levels)
        nats = np.log(width * scale) + 0.5 * np.mean(np.log1p(w * w))
        best = min(best, (nats, offset, scale))
    self.offset.assign(best[1])
    self.scale.assign(best[2])

  def describe(self) -> dict[str, Any]:
    """Return the transform for a codec model."""
    return {"kind": "asinh", "offset": float(self.offset.numpy()), "scale": float(self.scale.numpy())}


def make_standardization(
  make_weight: Callable[..., Any], size: int, prefix: str = "", **kwargs: Any
) -> Standardization:
  """Return a standardization that is not fitted yet, with its weights.

  Args:
    make_weight: `keras.Variable` with a dtype, or `add_weight` of the layer that the weights belong to.
    size: number of channels.
    prefix: of the names.
    **kwargs: of `Standardization`.
  """
  weight = functools.partial(make_weight, shape=(size,), trainable=False, autocast=False)
  mean = weight(name=f"{prefix}mean", initializer="zeros")
  stddev = weight(name=f"{prefix}stddev", initializer="ones")
  return Standardization(mean, stddev, name=f"{prefix}standardization", **kwargs)
