"""Models of images: bound, latents, samples."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from flowpp_runtime.export import Export, as_array, check_shape, generator, numbers, sizes, temperature_of, whole

_BATCH = 64  # images of a call of ONNX Runtime, so that memory does not grow with their number


class Model:
  """A model of images that `fpp.export` wrote in the format "onnx".

  Args:
    path: the directory.
    threads: of ONNX Runtime; None for one for each core.

  Attributes:
    metadata: content of its metadata.json.
    image_shape: height, width and channels.
    levels: images are integers in 0 .. levels - 1.
    num_classes: classes of the labels that each method then needs; 0 for none. Labels are integers from
      `lowest_label`, which is -1 for a model that also knows images without a label.
    condition_shape: shape of the condition that each method then needs; () for none.
    latent_shape: shape of the latents of an image.

  Raises:
    ValueError: if the directory is no such export, or damaged. So do all methods for what does not fit the model.

  Examples:
    >>> model = flowpp_runtime.Model("digits_onnx")
    >>> images = model.sample(16, temperature=0.8, seed=0)
    >>> model.bits_per_dim(images, num_samples=16, seed=0).shape
    (16,)
  """

  def __init__(self, path: str | os.PathLike[str], threads: int | None = None) -> None:
    self._call = Export(path, ("image_shape", "a model of images"), threads)
    about = self.metadata = self._call.metadata
    try:
      shapes = ("image_shape", "latent_shape", "noise_shape", "condition_shape")
      self.image_shape, self.latent_shape, self.noise_shape, self.condition_shape = (
        sizes(name, about[name]) for name in shapes
      )
      self.levels = whole("levels", about["levels"], 2, 256)
      self.num_classes = whole("num_classes", about["num_classes"])
      self.lowest_label = whole("lowest_label", about["lowest_label"], -1, 0)
      self._noise = about["noise"]
      if self._noise not in ("normal", "uniform"):
        raise ValueError(f"its `noise` is {repr(self._noise):.60}")
    except (TypeError, ValueError, KeyError, IndexError) as error:
      raise ValueError(f"the metadata.json of {str(path)!r} is not right: {type(error).__name__} {error}") from None

  def bits_per_dim(self, images: Any, **arguments: Any) -> np.ndarray:
    """Return the bits/dim of images, float64 `[B]`; arguments as of `log_prob`."""
    return self.log_prob(images, **arguments) / (-math.log(2) * math.prod(self.image_shape))

  def log_prob(
    self,
    images: Any,
    *,  # the second argument of `FlowPlusPlus.log_prob_bound` is `num_samples`, which would be a label here
    labels: Any = None,
    condition: Any = None,
    num_samples: int = 1,
    seed: int | None = None,
    noise: Any = None,
  ) -> np.ndarray:
    """Return a lower bound of the log-likelihood of images, in nats, float64 `[B]`.

    Args:
      images: integers in 0 .. levels - 1, `[B, H, W, C]`.
      labels: integers `[B]`, or one for all, of a model with classes.
      condition: `[B, *condition_shape]`, of a model with a condition.
      num_samples: draws of the dequantization noise per image; more than one give the importance-weighted bound.
      seed: of the noise, an integer from 0; None for other noise in each call.
      noise: draws in place of the seed's, `[B, *noise_shape]`, or `[num_samples, B, *noise_shape]`: of any size where
        they are normal, from 0 to below 1 where they are uniform.
    """
    inputs = self._inputs(images, labels, condition)
    draws = self._noises(noise, whole("num_samples", num_samples, 1), len(inputs["images"]), seed)
    bounds = [self._in_batches("log_prob", {"noise": draw, **inputs})["log_prob"] for draw in draws]
    return _log_mean_exp(np.asarray(bounds, np.float64))

  def encode(self, images: Any, **arguments: Any) -> np.ndarray:
    """Return the latents of images, float32 `[B, *latent_shape]`; arguments as of `log_prob`, without `num_samples`."""
    return self._of_one_draw(images, **arguments)["latents"]

  def position_bits(self, images: Any, **arguments: Any) -> np.ndarray:
    """Return the bits of each pixel, float32 `[B, H, W, 3]`: of the log-det, of the prior and of the dequantizer.

    Their sum over an image is its negative single-sample bound. Arguments as of `encode`.
    """
    return self._of_one_draw(images, **arguments)["position_bits"]

  def decode(self, latents: Any, labels: Any = None, condition: Any = None) -> np.ndarray:
    """Return the images of latents `[B, *latent_shape]`, uint8 `[B, H, W, C]`; other arguments as of `log_prob`."""
    self._open("decode", latents=self.latent_shape)
    latents = numbers("latents", latents, self.latent_shape)
    found = self._in_batches("decode", {"latents": latents, **self._given(len(latents), labels, condition)})
    if not found["valid"].all():
      wrong = np.count_nonzero(~found["valid"])
      raise ValueError(f"`latents` must be such as the model can decode, got {wrong} that become no image")
    return found["images"]

  def sample(
    self, n: int, temperature: float = 1.0, seed: int | None = None, labels: Any = None, condition: Any = None
  ) -> np.ndarray:
    """Return `n` samples, uint8 `[n, H, W, C]`.

    Args:
      n: how many.
      temperature: factor of the standard deviation of the latents.
      seed: an integer from 0; None for other samples in each call.
      labels: integers `[n]`, or one for all, of a model with classes.
      condition: `[n, *condition_shape]`, of a model with a condition.
    """
    self._open("decode", latents=self.latent_shape)
    shape = (whole("n", n, 1, 2**63 - 1), *self.latent_shape)
    latents = generator(seed).standard_normal(shape, np.float32) * temperature_of(temperature)
    return self.decode(latents, labels, condition)

  # --- Inputs -----------------------------------------------------------------------------------

  def _open(self, function, **shapes):
    if self.num_classes:
      shapes["labels"] = ()
    if self.condition_shape:
      shapes["condition"] = self.condition_shape
    self._call.open(function, shapes)

  def _of_one_draw(self, images, *, labels=None, condition=None, seed=None, noise=None):
    inputs = self._inputs(images, labels, condition)
    (draw,) = self._noises(noise, 1, len(inputs["images"]), seed)
    return self._in_batches("log_prob", {"noise": draw, **inputs})

  def _inputs(self, images, labels, condition):
    self._open("log_prob", images=self.image_shape, noise=self.noise_shape)
    images = self._images(images)
    return {"images": images, **self._given(len(images), labels, condition)}

  def _images(self, images):
    array = as_array("images", images, "uif", "an array of integers")
    if array.dtype.kind == "f" and not np.all(array == np.floor(array)):
      raise ValueError(f"`images` must be integers in 0 .. {self.levels - 1}, got {array.dtype}")
    check_shape("images", array, self.image_shape)
    if array.min() < 0 or array.max() >= self.levels:
      raise ValueError(f"`images` must lie in 0 .. {self.levels - 1}, got values from {array.min()} to {array.max()}")
    return array.astype(np.uint8)

  def _given(self, count, labels, condition):
    """Return labels and condition by name, as the graphs take them."""
    given = {}
    if self.num_classes:
      given["labels"] = self._labels(count, labels)
    elif labels is not None:
      raise ValueError("`labels` must be None: the model has no classes")
    if self.condition_shape:
      if condition is None:
        raise ValueError(f"`condition` must be given, of shape {[count, *self.condition_shape]}")
      given["condition"] = numbers("condition", condition, self.condition_shape, count)
    elif condition is not None:
      raise ValueError("`condition` must be None: the model has no condition")
    return given

  def _labels(self, count, labels):
    array, most = np.asarray(labels), self.num_classes - 1
    if array.dtype.kind not in "iu" or array.shape not in ((), (count,)):
      got = "None" if labels is None else f"{array.dtype} of shape {[*array.shape]}"
      raise ValueError(f"`labels` must be integers of shape [{count}], or one for all, got {got}")
    if array.min() < self.lowest_label or array.max() > most:
      got = f"values from {array.min()} to {array.max()}"
      raise ValueError(f"`labels` must lie in {self.lowest_label} .. {most}, got {got}")
    return np.broadcast_to(array, [count]).astype(np.int32)

  def _noises(self, noise, num_samples, count, seed):
    """Yield the noise of each sample, float32 `[count, *noise_shape]`."""
    if noise is not None:
      draws = noise if np.ndim(noise) == len(self.noise_shape) + 2 else [noise]
      return map(self._checked, numbers("noise", draws, (count, *self.noise_shape), num_samples))
    rng = generator(seed)
    draw = rng.random if self._noise == "uniform" else rng.standard_normal
    return (draw((count, *self.noise_shape), np.float32) for _ in range(num_samples))

  def _checked(self, noise):
    """Return noise; raise a `ValueError` if it is not of its distribution's range: its latents would be wrong."""
    outside = np.count_nonzero((noise < 0) | (noise >= 1))
    if self._noise == "uniform" and outside:
      raise ValueError(f"`noise` that is uniform must be from 0 to below 1, got {outside} values that are not")
    return noise

  def _in_batches(self, function, inputs):
    """Return the outputs of a function by name, of all examples."""
    count = len(next(iter(inputs.values())))
    parts = [slice(start, start + _BATCH) for start in range(0, count, _BATCH)]
    found = [self._call(function, {name: array[part] for name, array in inputs.items()}) for part in parts]
    return {name: np.concatenate([outputs[name] for outputs in found]) for name in found[0]}


def _log_mean_exp(values):
  """The log of the mean of exp over the first axis."""
  largest = values.max(axis=0)
  return largest + np.log(np.mean(np.exp(values - largest), axis=0))
