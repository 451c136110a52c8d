"""The transform of the pixels of 16-bit images, with its two numbers fitted to images.

They are those with which a simple code of the images is shortest: that of the difference of each pixel to its left
neighbour, after the transform, under one Laplace distribution. They are weights that are not trained.
"""

import functools
from typing import Any

import keras
import numpy as np

from flowpp_tf.bijectors import AsinhTransform

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
    self._levels = levels
    weight = functools.partial(self.add_weight, shape=(), trainable=False, autocast=False)
    self.offset = weight(name="offset", initializer="zeros")
    self.scale = weight(name="scale", initializer=keras.initializers.Constant(_SCALE))
    self.bijector = AsinhTransform(self.offset, self.scale, levels, name="asinh_transform")
    self.built = True

  def fit(self, images: np.ndarray) -> None:
    """Set the weights by integer images `[N, H, W, C]`."""
    offset, scale = fit_asinh(images, self._levels)
    self.offset.assign(offset)
    self.scale.assign(scale)

  def describe(self) -> dict[str, Any]:
    """Return the transform for a codec model."""
    return {"kind": "asinh", "offset": float(self.offset.numpy()), "scale": float(self.scale.numpy())}


def fit_asinh(images: np.ndarray, levels: int) -> tuple[float, float]:
  """Return offset and scale of an `AsinhTransform` for integer images `[N, H, W, C]`.

  Both are numbers that float16 has, since presets store weights in it.
  """
  left, pixels = (part.reshape(-1).astype(np.float64) + 0.5 for part in (images[:, :, :-1], images[:, :, 1:]))
  if not len(pixels):  # images of one column
    left = pixels = images.reshape(-1).astype(np.float64) + 0.5
  step = -(-len(pixels) // _MOST_PAIRS)
  left, pixels = left[::step], pixels[::step]
  best, chosen = np.inf, (0.0, 1.0)
  for offset in sorted({float(np.float16(value / levels)) for value in np.quantile(pixels, _QUANTILES)}):
    for scale in (float(np.float16(factor / levels)) for factor in _FACTORS):
      w, w_left = ((x / levels - offset) / scale for x in (pixels, left))
      width = np.mean(np.abs(np.arcsinh(w) - np.arcsinh(w_left))) + _WIDTH / (scale * levels)
      nats = np.log(width * scale) + 0.5 * np.mean(np.log1p(w * w))
      if nats < best:
        best, chosen = nats, (offset, scale)
  return chosen
