"""A SavedModel of `export_saved_model` with the methods of `FlowPlusPlus`."""

import pathlib
from typing import Any

import tensorflow as tf

from flowpp_tf.core.checks import as_tensor, check_all_finite, check_arguments, input_errors, shown
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.settings import is_count
from flowpp_tf.io.digests import check_digests
from flowpp_tf.io.gate import read_json, reason
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
      if not (isinstance(self.metadata, dict) and is_count(self.metadata.get("max_batch"))):
        raise ValueError("its metadata.json must be a table with `max_batch`, a positive integer")
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
      raise InputError(
        f"`{key}` must be " + ("given: the model takes it" if key in specs else "left out: the model does not take it")
      )
    inputs = {key: _convert(key, values[key], spec) for key, spec in specs.items()}
    with input_errors():
      (result,) = function(**inputs).values()
    return result


def _convert(name, value, spec):
  """Convert a value to the type of a signature's input; numbers that it does not have are an error."""
  tensor = as_tensor(name, value, spec.dtype if name == "latents" else None)
  if tensor.dtype.is_bool and name not in ("images", "condition"):
    raise InputError(f"`{name}` must be of type {spec.dtype.name}: a number, got {shown(value)}")
  if spec.dtype.is_integer:
    if not tensor.dtype.is_integer:
      raise InputError(f"`{name}` must be of type {spec.dtype.name}: integers, got {tensor.dtype.name}")
    numbers = tensor.numpy()
    if numbers.size and not (spec.dtype.min <= numbers.min() and numbers.max() <= spec.dtype.max):
      raise InputError(f"`{name}` must be from {spec.dtype.min} to {spec.dtype.max}, got {shown(value)}")
  if name == "condition":
    check_all_finite(name, tensor)
  if not spec.shape.is_compatible_with(tensor.shape):
    raise InputError(f"`{name}` must be of shape {spec.shape}, got {tensor.shape}")
  return tf.cast(tensor, spec.dtype)
