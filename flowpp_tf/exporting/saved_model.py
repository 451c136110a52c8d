"""Write and load Flow++ as a SavedModel, which TensorFlow and TensorFlow Serving run without this package.

    sample(n, temperature, seed)               -> images
    log_prob_bound(images, num_samples, seed)  -> log_prob_bound
    bits_per_dim(images, num_samples, seed)    -> bits_per_dim, also as serving_default
    encode(images, seed)                       -> latents
    decode(latents)                            -> images

Each is a signature, and a method of the result of `tf.saved_model.load`, from tensors to a `dict`. Those of a model of
images given labels or a condition have them as their last inputs, one for each image. assets/config.json
and assets/metadata.json describe the model; docs/serving.md describes its use.
"""

import dataclasses
import functools
import inspect
import json
import pathlib
import tempfile
from typing import Any

import tensorflow as tf

from flowpp_tf.core.checks import (
  INT32_MAX,
  as_tensor,
  check_all_finite,
  check_arguments,
  check_count,
  check_number,
  check_pixels,
  check_shape,
  check_type,
  pixels_are_valid,
)
from flowpp_tf.core.errors import InputError
from flowpp_tf.io.files import check_digests, write_digests
from flowpp_tf.io.gate import read_json, reason
from flowpp_tf.models import FlowPlusPlus
from flowpp_tf.models.conditioning import conditioning_tensors, lowest_label
from flowpp_tf.pretrained.stored_config import config_of_fields
from flowpp_tf.types import Path, Seed, TensorLike

_NAMES = ("sample", "log_prob_bound", "bits_per_dim", "encode", "decode")

# --- Writing ------------------------------------------------------------------------------------


def write_saved_model(model: FlowPlusPlus, directory: pathlib.Path, max_batch: int, metadata: str) -> None:
  """Write a model with its current weights; `metadata` is the content of assets/metadata.json.

  Raises:
    OSError: if it cannot be written.
  """
  texts = {"config": json.dumps(dataclasses.asdict(model.config), indent=2) + "\n", "metadata": metadata}
  module = tf.Module()
  module.weights = [v.value for v in model.weights]
  functions = _functions(model, max_batch)
  for name, function in functions.items():
    setattr(module, name, function)
  with tempfile.TemporaryDirectory() as folder:
    for name, text in texts.items():
      file = pathlib.Path(folder, f"{name}.json")
      file.write_text(text)
      setattr(module, f"{name}_file", tf.saved_model.Asset(str(file)))
    signatures = {**functions, "serving_default": functions["bits_per_dim"]}
    try:
      tf.saved_model.save(module, str(directory), signatures=signatures)
    except tf.errors.OpError as error:
      raise OSError(str(error)) from None
  write_digests(directory)


def _functions(model, max_batch):
  """Return the `tf.function`s by name. Each checks its inputs before it computes anything."""
  inputs = _Inputs(model, max_batch)
  # Images are float because TensorFlow casts arrays to the type of a signature: an integer type would turn 0.5 into 0,
  # and uint8 300 into 44, before a check could see them. Real-valued ones have all digits that the model has.
  image_dtype = model.variable_dtype if model.has_exact_density else tf.float32
  image_spec = tf.TensorSpec([None, *inputs.image_shape], image_dtype, "images")
  latent_spec = tf.TensorSpec([None, *inputs.latent_shape], model.variable_dtype, "latents")
  n_spec = tf.TensorSpec([], tf.int32, "n")
  num_samples_spec = tf.TensorSpec([], tf.int32, "num_samples")
  temperature_spec = tf.TensorSpec([], tf.float32, "temperature")
  seed_spec = tf.TensorSpec([], tf.int64, "seed")
  # Only defaults that are tensors are stored in the signatures.
  num_samples_1, seed_0, temperature_1 = tf.constant(1), tf.constant(0, tf.int64), tf.constant(1.0)

  def exported(*specs):
    return lambda function: tf.function(
      _with_inputs(function, inputs.conditioning_specs),
      input_signature=[*specs, *inputs.conditioning_specs.values()],
      autograph=False,
    )

  @exported(image_spec, num_samples_spec, seed_spec)
  def log_prob_bound(images, num_samples=num_samples_1, seed=seed_0, *values):
    images, conditioning = inputs.images(images, values)
    num_samples = inputs.num_samples(num_samples, images)
    bound = model.log_prob_bound(images, num_samples, seed=tf.ensure_shape(seed, []), **conditioning)
    return {"log_prob_bound": bound}

  @exported(image_spec, num_samples_spec, seed_spec)
  def bits_per_dim(images, num_samples=num_samples_1, seed=seed_0, *values):
    bound = log_prob_bound(images, num_samples, seed, *values)["log_prob_bound"]
    return {"bits_per_dim": model.to_bits_per_dim(bound)}

  @exported(image_spec, seed_spec)
  def encode(images, seed=seed_0, *values):
    images, conditioning = inputs.images(images, values)
    return {"latents": model.encode(images, seed=tf.ensure_shape(seed, []), **conditioning)}

  @exported(latent_spec)
  def decode(latents, *values):
    latents, conditioning = inputs.latents(latents, values)
    return {"images": model.decode(latents, **conditioning)}

  @exported(n_spec, temperature_spec, seed_spec)
  def sample(n, temperature=temperature_1, seed=seed_0, *values):
    n, temperature = inputs.n_and_temperature(n, temperature)
    return decode(model.sample_latents(n, temperature, tf.ensure_shape(seed, [])), *values)

  return dict(sample=sample, log_prob_bound=log_prob_bound, bits_per_dim=bits_per_dim, encode=encode, decode=decode)


class _Inputs:
  """Checks of the inputs of a model's signatures. TensorFlow checks their types, `ensure_shape` their shapes."""

  def __init__(self, model, max_batch):
    self._config, self._max_batch = model.config, max_batch
    self.image_shape, self.latent_shape = model.config.image_shape, model.coupling_flow.latent_shape
    self.conditioning_specs = model.conditioning_specs

  def images(self, images, values):
    images, levels = tf.ensure_shape(images, [None, *self.image_shape]), self._config.pixel_levels
    size = self._size("the number of `images` must be", tf.shape(images)[0])
    expected = "be finite" if levels is None else f"be integers in 0 .. {levels - 1}"
    valid = _all("images", expected, pixels_are_valid(images, levels), images)
    images = _asserted(images, size, valid)
    return images, self._conditioning(values, images)

  def latents(self, latents, values):
    latents = tf.ensure_shape(latents, [None, *self.latent_shape])
    size = self._size("the number of `latents` must be", tf.shape(latents)[0])
    valid = _all("latents", "be finite", tf.math.is_finite(latents), latents)
    latents = _asserted(latents, size, valid)
    return latents, self._conditioning(values, latents)

  def num_samples(self, num_samples, images):
    num_samples, most = tf.ensure_shape(num_samples, []), self._max_batch
    draws = tf.cast(num_samples, tf.int64) * tf.shape(images, tf.int64)[0]
    fits = f"`num_samples` times the number of `images` must be at most {most}, got"
    enough = num_samples > 0, "`num_samples` must be at least 1, got", num_samples
    return _asserted(num_samples, enough, (draws <= most, fits, draws))

  def n_and_temperature(self, n, temperature):
    n, temperature = tf.ensure_shape(n, []), tf.ensure_shape(temperature, [])
    valid = tf.math.is_finite(temperature) & (temperature >= 0)
    warm = valid, "`temperature` must be finite and at least 0, got", temperature
    return _asserted(n, self._size("`n` must be", n), warm), temperature

  def _size(self, what, size):
    return (size > 0) & (size <= self._max_batch), f"{what} from 1 to {self._max_batch}, got", size

  def _conditioning(self, values, images):
    """Labels and conditions by name, one for each of the images or latents."""
    conditioning = dict(zip(self.conditioning_specs, values))
    count = tf.shape(images)[0]
    lowest, most = lowest_label(self._config), self._config.num_classes - 1
    checks = []
    for name, value in conditioning.items():
      if name == "labels":
        in_range = (value >= lowest) & (value <= most)
        checks.append(_all(name, f"lie in {lowest} .. {most}", in_range, value))
      else:
        checks.append(_all(name, "be finite", tf.math.is_finite(value), value))
      found = tf.shape(value)[0]
      checks.append((found == count, f"`{name}` must be one for each image, got", found))
    return {name: _asserted(value, *checks) for name, value in conditioning.items()}


def _all(name, expected, valid, values):
  """The check that all values are valid, whose error shows the first that is not."""
  return tf.reduce_all(valid), f"`{name}` must {expected}, got", tf.boolean_mask(values, ~valid)[:1]


def _asserted(tensor, *checks):
  """A tensor once all checks hold: each a condition, and the message and the value that its error shows."""
  with tf.control_dependencies([tf.debugging.Assert(holds, texts) for holds, *texts in checks]):
    return tf.identity(tensor)


def _with_inputs(function, names):
  """A function whose variable arguments have names, by which TensorFlow knows the inputs of a signature."""
  call: Any = functools.wraps(function)(lambda *arguments: function(*arguments))
  signature = inspect.signature(function)
  kind, empty = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
  parameters = [p for p in signature.parameters.values() if p.kind != inspect.Parameter.VAR_POSITIONAL]
  # A parameter after one with a default must have one too.
  needs_default = bool(parameters) and parameters[-1].default is not empty
  default = None if needs_default else empty
  parameters += [inspect.Parameter(name, kind, default=default) for name in names]
  call.__signature__ = signature.replace(parameters=parameters)
  return call


# --- Loading ------------------------------------------------------------------------------------


def load_saved_model(path: Path) -> "LoadedModel":
  """Load a SavedModel of `export`; raise an `InputError` (a ValueError) for anything else.

  Examples:
    >>> fpp.export(fpp.FlowPlusPlus.from_preset("digits"), "exported/1")
    >>> fpp.load_saved_model("exported/1").sample(4, seed=0).shape
    TensorShape([4, 8, 8, 1])
  """
  return LoadedModel(path)


class LoadedModel:
  """Graphs and weights of a SavedModel, with the methods of `FlowPlusPlus`.

  A seed is a single integer. Invalid input and more images than `max_batch` raise an `InputError`. Labels and
  conditions, of a model that takes them, are arrays with one for each image. Values are checked before a call, which a
  graph cannot do: within a `tf.function`, call the functions of `saved_model`.

  Attributes:
    config: `FlowPlusPlusConfig`.
    metadata: content of assets/metadata.json: data, measured bits/dim, `max_batch`, versions.
    saved_model: result of `tf.saved_model.load`.

  Examples:
    >>> fpp.export(fpp.FlowPlusPlus.from_preset("digits"), "exported")
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
      check_count("max_batch", self.metadata["max_batch"], high=INT32_MAX)
      check_digests(pathlib.Path(path))
      self.saved_model = tf.saved_model.load(str(path))
      self._functions = {name: self.saved_model.signatures[name] for name in _NAMES}
      if not hasattr(self.saved_model, "weights"):
        raise ValueError("it has no weights")
    except Exception as error:  # TensorFlow raises many for damaged files
      raise InputError(f"{str(path)!r} holds no SavedModel of Flow++: {reason(error)}") from None

  def sample(self, n: int, temperature: float = 1.0, seed: Seed = None, **conditioning: TensorLike) -> tf.Tensor:
    check_type("n", n, int)
    check_number("temperature", temperature, low=0)
    return self._call("sample", n, conditioning, n=self._limited("`n`", n), temperature=temperature, seed=_seed(seed))

  def log_prob_bound(
    self, images: TensorLike, num_samples: int = 1, seed: Seed = None, **conditioning: TensorLike
  ) -> tf.Tensor:
    return self._bound("log_prob_bound", images, num_samples, seed, conditioning)

  def bits_per_dim(
    self, images: TensorLike, num_samples: int = 1, seed: Seed = None, **conditioning: TensorLike
  ) -> tf.Tensor:
    return self._bound("bits_per_dim", images, num_samples, seed, conditioning)

  def encode(self, images: TensorLike, seed: Seed = None, **conditioning: TensorLike) -> tf.Tensor:
    images = self._checked("encode", "images", images)
    return self._call("encode", len(images), conditioning, images=images, seed=_seed(seed))

  def decode(self, latents: TensorLike, **conditioning: TensorLike) -> tf.Tensor:
    latents = self._checked("decode", "latents", latents)
    return self._call("decode", len(latents), conditioning, latents=latents)

  def _bound(self, name, images, num_samples, seed, conditioning):
    images = self._checked(name, "images", images)
    check_count("num_samples", num_samples, high=INT32_MAX)
    self._limited("`num_samples` times the number of `images`", num_samples * len(images))
    return self._call(name, len(images), conditioning, images=images, num_samples=num_samples, seed=_seed(seed))

  def _checked(self, function, name, value):
    """Return images or latents as a tensor of the dtype that a function has them in."""
    spec = self._inputs_of(function)[name]
    tensor = as_tensor(name, value, spec.dtype if name == "latents" else None)
    check_shape(name, tensor.shape, spec.shape)
    self._limited(f"the number of `{name}`", len(tensor))
    if name == "images":
      check_pixels(tensor.numpy(), self.config.pixel_levels)
    check_all_finite(name, tensor)
    return tf.cast(tensor, spec.dtype)

  def _limited(self, what, count):
    most = self.metadata["max_batch"]
    if not 1 <= count <= most:
      raise InputError(f"{what} must be from 1 to {most}, got {count}")
    return count

  def _inputs_of(self, name):
    """Return the specs of a function's inputs by name."""
    if not tf.executing_eagerly():
      raise InputError(f"`{name}` must be called eagerly: within a graph, call `saved_model.{name}`")
    return self._functions[name].structured_input_signature[1]

  def _call(self, name, count, conditioning, **inputs):
    conditioning = {"labels": None, "condition": None, **conditioning}
    dtype = self._inputs_of("decode")["latents"].dtype
    specs = self._inputs_of(name)
    for key, value in conditioning_tensors(self.config, dtype, **conditioning).items():
      check_shape(key, value.shape, [count, *specs[key].shape[1:]])
      inputs[key] = value
    tensors = {key: tf.cast(inputs[key], spec.dtype) for key, spec in specs.items()}
    try:
      (result,) = self._functions[name](**tensors).values()
    except tf.errors.InvalidArgumentError as error:  # inputs have been checked
      raise InputError("the images of the model must be finite, got NaN or infinity") from error
    return result


def _seed(seed):
  """Return a seed of 64 bits; None is another one in each call."""
  if seed is None:
    return tf.random.uniform([], tf.int64.min, tf.int64.max, tf.int64)
  check_count("seed", seed, tf.int64.min, tf.int64.max)
  return tf.constant(seed, tf.int64)
