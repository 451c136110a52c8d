"""A SavedModel of `export_saved_model` with the methods of `FlowPlusPlus`."""

import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from flowpp_tf.core import checks
from flowpp_tf.core.checks import as_tensor, check_all_finite, check_arguments, check_labels, check_pixels, shown
from flowpp_tf.core.errors import InputError
from flowpp_tf.io.files import check_digests
from flowpp_tf.io.gate import read_json, reason
from flowpp_tf.models.conditioning import lowest_label
from flowpp_tf.pretrained.stored_config import config_of_fields
from flowpp_tf.types import Path, Seed, TensorLike

_FUNCTIONS = {"sample", "log_prob_bound", "bits_per_dim", "encode", "decode"}


def load_saved_model(path: Path) -> "LoadedModel":
  """Load a SavedModel of `export_saved_model`; raise an `InputError` (a ValueError) for anything else.

  Examples:
    >>> fpp.export_saved_model(fpp.FlowPlusPlus.from_preset("digits"), "exported/1")
    >>> fpp.load_saved_model("exported/1").sample(4, seed=0).shape
    TensorShape([4, 8, 8, 1])
  """
  return LoadedModel(path)


class LoadedModel:
  """Graphs and weights of a SavedModel, with the methods of `FlowPlusPlus`.

  A seed is a single integer. Invalid input and more images than `max_batch` raise an `InputError`. Labels and
  conditions, of a model that takes them, are keyword arguments with one for each image. Values are checked before a
  call, which a graph cannot do: within a `tf.function`, call the functions of `saved_model`.

  Attributes:
    config: `FlowPlusPlusConfig`.
    metadata: content of assets/metadata.json: data, measured bits/dim, `max_batch`, versions.
    saved_model: result of `tf.saved_model.load`.

  Examples:
    >>> fpp.export_saved_model(fpp.FlowPlusPlus.from_preset("digits"), "exported")
    >>> model = fpp.load_saved_model("exported")
    >>> model.config.image_shape
    (8, 8, 1)
  """

  @check_arguments
  def __init__(self, path: Path) -> None:
    assets = pathlib.Path(path, "assets")
    try:
      self.config = config_of_fields(read_json(assets / "config.json"), "its config.json")
      self.metadata: dict[str, Any] = read_json(assets / "metadata.json")
      checks.check_count("max_batch", self.metadata["max_batch"], high=checks.INT32_MAX)
      check_digests(pathlib.Path(path))
      self.saved_model = tf.saved_model.load(str(path))
      missing = _FUNCTIONS - {*self.saved_model.signatures}
      if missing or not hasattr(self.saved_model, "weights"):
        raise ValueError(f"it has no {', '.join(sorted(missing)) or 'weights'}")
    except Exception as error:  # TensorFlow raises many for damaged files
      raise InputError(f"{str(path)!r} holds no SavedModel of Flow++: {reason(error)}") from None

  def sample(self, n: int, temperature: float = 1.0, seed: Seed = None, **given: TensorLike) -> tf.Tensor:
    return self._call("sample", given, n=n, temperature=temperature, seed=seed)

  def log_prob_bound(
    self, images: TensorLike, num_samples: int = 1, seed: Seed = None, **given: TensorLike
  ) -> tf.Tensor:
    return self._call("log_prob_bound", given, images=images, num_samples=num_samples, seed=seed)

  def bits_per_dim(self, images: TensorLike, num_samples: int = 1, seed: Seed = None, **given: TensorLike) -> tf.Tensor:
    return self._call("bits_per_dim", given, images=images, num_samples=num_samples, seed=seed)

  def encode(self, images: TensorLike, seed: Seed = None, **given: TensorLike) -> tf.Tensor:
    return self._call("encode", given, images=images, seed=seed)

  def decode(self, latents: TensorLike, **given: TensorLike) -> tf.Tensor:
    return self._call("decode", given, latents=latents)

  def _call(self, name, given, **values):
    if not tf.executing_eagerly():
      raise InputError(f"`{name}` must be called eagerly: within a graph, call `saved_model.{name}`")
    if "seed" in values and values["seed"] is None:
      values["seed"] = tf.random.uniform([], tf.int64.min, tf.int64.max, tf.int64)
    function = self.saved_model.signatures[name]
    specs = function.structured_input_signature[1]
    values.update(given)
    for key in sorted({*specs} ^ {*values}):
      expected = "given: the model takes it" if key in specs else "left out: the model does not take it"
      raise InputError(f"`{key}` must be {expected}")
    inputs = {key: _convert(key, values[key], spec) for key, spec in specs.items()}
    self._check_values(**{key: tensor.numpy() for key, tensor in inputs.items()})
    try:
      (result,) = function(**inputs).values()
    except tf.errors.InvalidArgumentError as error:  # inputs have been checked
      raise InputError("the images of the model must be finite, got NaN or infinity") from error
    return result

  def _check_values(
    self, images=None, latents=None, n=None, num_samples=1, temperature=0, seed=0, labels=None, condition=None
  ):
    """Raise an `InputError` for arguments that the signatures refuse; see saved_model.py."""
    del seed
    most = self.metadata["max_batch"]
    what, count = "`n`", n
    if n is None:
      name, values = ("latents", latents) if images is None else ("images", images)
      what, count = f"the number of `{name}`", len(values)
    draws = int(num_samples) * count
    for holds, message in (
      (1 <= count <= most, f"{what} must be from 1 to {most}, got {count}"),
      (num_samples >= 1, f"`num_samples` must be at least 1, got {num_samples}"),
      (draws <= most, f"`num_samples` times the number of `images` must be at most {most}, got {draws}"),
      (0 <= temperature < np.inf, f"`temperature` must be finite and at least 0, got {temperature}"),
    ):
      if not holds:
        raise InputError(message)
    for name, values in (("labels", labels), ("condition", condition)):
      if values is not None and len(values) != count:
        raise InputError(f"`{name}` must be one for each image, got {len(values)}")
    if images is not None:
      check_pixels(images, self.config.pixel_levels)
    if labels is not None:
      check_labels(labels, lowest_label(self.config), self.config.num_classes)
    for name, values in (("latents", latents), ("condition", condition)):
      if values is not None:
        check_all_finite(name, values)


def _convert(name, value, spec):
  """Convert a value to the type of a signature's input; numbers that it does not have are an error."""
  tensor = as_tensor(name, value, spec.dtype if name == "latents" else None)
  if tensor.dtype.is_bool and name not in ("images", "condition"):
    raise InputError(f"`{name}` must be of type {spec.dtype.name}: a number, got {shown(value)}")
  if spec.dtype.is_integer:
    if not tensor.dtype.is_integer:
      raise InputError(f"`{name}` must be of type {spec.dtype.name}: integers, got {tensor.dtype.name}")
    numbers = tensor.numpy()
    low, high = spec.dtype.min, spec.dtype.max
    if numbers.size and not (low <= numbers.min() and numbers.max() <= high):
      raise InputError(f"`{name}` must be from {low} to {high}, got {shown(value)}")
  if not spec.shape.is_compatible_with(tensor.shape):
    raise InputError(f"`{name}` must be of shape {spec.shape}, got {tensor.shape}")
  return tf.cast(tensor, spec.dtype)
