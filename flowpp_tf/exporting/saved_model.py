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
  # Images are float because TensorFlow casts arrays to the type of a signature: an integer type would turn 0.5 into 0,
  # and uint8 300 into 44, before a check could see them. Real-valued ones have all digits that the model has.
  image_dtype = model.variable_dtype if model.has_exact_density else tf.float32
  latent_shape = model.coupling_flow.latent_shape
  specs = {
    "images": tf.TensorSpec([None, *model.config.image_shape], image_dtype),
    "latents": tf.TensorSpec([None, *latent_shape], model.variable_dtype),
    "n": tf.TensorSpec([], tf.int32),
    "num_samples": tf.TensorSpec([], tf.int32),
    "temperature": tf.TensorSpec([], tf.float32),
    "seed": tf.TensorSpec([], tf.int64),
    **model.conditioning_specs,
  }

  def function(output, names, compute):
    """Return the function from inputs, and the model's conditioning, to a dict of one output."""
    specs_of_inputs = {name: specs[name] for name in (*names, *model.conditioning_specs)}

    def compute_checked(*values):
      inputs = dict(zip(specs_of_inputs, values))
      return {output: compute(**_checked(model.config, max_batch, specs_of_inputs, inputs))}

    call: Any = compute_checked
    call.__signature__ = inspect.Signature(_parameters(specs_of_inputs))
    named = [tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in specs_of_inputs.items()]
    return tf.function(call, input_signature=named, autograph=False)

  def compute_bits_per_dim(images, num_samples, seed, **conditioning):
    bound = log_prob_bound(images, num_samples, seed, *conditioning.values())["log_prob_bound"]
    return model.to_bits_per_dim(bound)

  def compute_sample(n, temperature, seed, **conditioning):
    return decode(model.sample_latents(n, temperature, seed), *conditioning.values())["images"]

  log_prob_bound = function("log_prob_bound", ("images", "num_samples", "seed"), model.log_prob_bound)
  decode = function("images", ("latents",), lambda latents, **conditioning: model.decode(latents, **conditioning))
  return {
    "sample": function("images", ("n", "temperature", "seed"), compute_sample),
    "log_prob_bound": log_prob_bound,
    "bits_per_dim": function("bits_per_dim", ("images", "num_samples", "seed"), compute_bits_per_dim),
    "encode": function("latents", ("images", "seed"), model.encode),
    "decode": decode,
  }


def _parameters(names):
  """Return the parameters by which TensorFlow knows the inputs of a signature, and their defaults."""
  # Only defaults that are tensors are stored. A parameter after one with a default must have one too.
  defaults = {"num_samples": tf.constant(1), "seed": tf.constant(0, tf.int64), "temperature": tf.constant(1.0)}
  parameters: list[inspect.Parameter] = []
  for name in names:
    empty = inspect.Parameter.empty
    needs_default = bool(parameters) and parameters[-1].default is not empty
    default = defaults.get(name, None if needs_default else empty)
    parameters.append(inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default))
  return parameters


def _checked(config, max_batch, specs, inputs):
  """Return inputs by name once they fit the model. TensorFlow checks their types, `ensure_shape` their shapes."""
  levels, lowest, most_label = config.pixel_levels, lowest_label(config), config.num_classes - 1
  inputs = {name: tf.ensure_shape(value, specs[name].shape) for name, value in inputs.items()}
  counted = next(name for name in ("n", "images", "latents") if name in inputs)
  count = inputs["n"] if counted == "n" else tf.shape(inputs[counted])[0]
  what = "`n`" if counted == "n" else f"the number of `{counted}`"
  checks = [((count > 0) & (count <= max_batch), f"{what} must be from 1 to {max_batch}, got", count)]
  is_finite = "be finite", tf.math.is_finite
  expected = {
    "images": is_finite
    if levels is None
    else (f"be integers in 0 .. {levels - 1}", lambda x: pixels_are_valid(x, levels)),
    "latents": is_finite,
    "condition": is_finite,
    "labels": (f"lie in {lowest} .. {most_label}", lambda x: (x >= lowest) & (x <= most_label)),
    "num_samples": ("be at least 1", lambda x: x > 0),
    "temperature": ("be finite and at least 0", lambda x: tf.math.is_finite(x) & (x >= 0)),
  }
  for name in [name for name in inputs if name in expected]:
    words, is_valid = expected[name]
    values = tf.reshape(inputs[name], [-1])
    valid = is_valid(values)
    checks.append((tf.reduce_all(valid), f"`{name}` must {words}, got", tf.boolean_mask(values, ~valid)[:1]))
    if name in ("labels", "condition"):
      found = tf.shape(inputs[name])[0]
      checks.append((found == count, f"`{name}` must be one for each image, got", found))
    if name == "num_samples":
      draws = tf.cast(inputs[name], tf.int64) * tf.cast(count, tf.int64)
      words = f"`num_samples` times the number of `images` must be at most {max_batch}, got"
      checks.append((draws <= max_batch, words, draws))
  done: list[tf.Operation] = []
  for holds, *shown in checks:
    with tf.control_dependencies(done):  # so that the first that does not hold is the error
      done = [tf.debugging.Assert(holds, shown)]
  with tf.control_dependencies(done):
    return {name: tf.identity(value) for name, value in inputs.items()}


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
    if others := sorted({*conditioning} - {"labels", "condition"}):
      raise InputError(f"`{others[0]}` must be left out: the model does not take it")
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
