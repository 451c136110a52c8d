"""Write and load Flow++ as a SavedModel, which TensorFlow and TensorFlow Serving run without this package.

    sample(n, temperature, seed)               -> images
    log_prob_bound(images, num_samples, seed)  -> log_prob_bound
    bits_per_dim(images, num_samples, seed)    -> bits_per_dim, also as serving_default
    encode(images, seed)                       -> latents
    decode(latents)                            -> images

Each is a signature, and a method of the result of `tf.saved_model.load`, from tensors to a `dict`. If the model takes
labels or a condition, they are the last inputs, one for each image. assets/config.json and assets/metadata.json
describe the model; docs/serving.md describes its use.
"""

import dataclasses
import inspect
import json
import pathlib
import tempfile
from typing import Any

import numpy as np
import tensorflow as tf

from flowpp_tf.core.checks import (
  INT32_MAX,
  as_tensor,
  check_arguments,
  check_count,
  check_shape,
  check_type,
  pixels_are_valid,
)
from flowpp_tf.core.errors import InputError
from flowpp_tf.io.files import check_digests, write_digests
from flowpp_tf.io.gate import read_json, reason
from flowpp_tf.models import FlowPlusPlus
from flowpp_tf.models.conditioning import conditioning_tensors, lowest_label
from flowpp_tf.pretrained.stored_config import config_from_fields
from flowpp_tf.types import Path, Seed, TensorLike

_NAMES = ("sample", "log_prob_bound", "bits_per_dim", "encode", "decode")
_DEFAULTS = {"num_samples": 1, "seed": np.int64(0), "temperature": 1.0}

# --- Writing ------------------------------------------------------------------------------------


def write_saved_model(model: FlowPlusPlus, directory: pathlib.Path, max_batch: int, metadata: str) -> None:
  """Write a model with its current weights; `metadata` is the content of assets/metadata.json.

  Raises:
    OSError: if it cannot be written.
  """
  module = tf.Module()
  module.weights = [v.value for v in model.weights]
  functions = _functions(model, max_batch)
  for name, function in functions.items():
    setattr(module, name, function)
  texts = {"config": json.dumps(dataclasses.asdict(model.config), indent=2) + "\n", "metadata": metadata}
  write_module(module, directory, texts, {**functions, "serving_default": functions["bits_per_dim"]})


def write_module(
  module: tf.Module, directory: pathlib.Path, texts: dict[str, str], signatures: dict[str, Any] | None = None
) -> None:
  """Write a module as a SavedModel with its digests. Each text becomes assets/NAME.json, which it has as `NAME_file`.

  Raises:
    OSError: if it cannot be written.
  """
  with tempfile.TemporaryDirectory() as folder:
    for name, text in texts.items():
      file = pathlib.Path(folder, f"{name}.json")
      file.write_text(text)
      setattr(module, f"{name}_file", tf.saved_model.Asset(str(file)))
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
    call.__signature__ = _signature(specs_of_inputs)
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


def _signature(names):
  """Return the signature by which TensorFlow knows the inputs of a function, and their defaults."""
  # Only defaults that are tensors are stored. All inputs after the first have one, as a parameter after them needs one.
  defaults = {name: tf.constant(value) for name, value in _DEFAULTS.items()}
  kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
  first, *others = names
  parameters = [inspect.Parameter(name, kind, default=defaults.get(name)) for name in others]
  return inspect.Signature([inspect.Parameter(first, kind), *parameters])


def _checked(config, max_batch, specs, inputs):
  """Return inputs by name after checks. TensorFlow itself checks their types, and `ensure_shape` their shapes."""
  inputs = {name: tf.ensure_shape(value, specs[name].shape) for name, value in inputs.items()}
  done: list[tf.Operation] = []
  for holds, words, found in _requirements(config, max_batch, inputs):
    with tf.control_dependencies(done):  # so that the first that does not hold is the error
      done = [tf.debugging.Assert(holds, [words, found])]
  with tf.control_dependencies(done):
    return {name: tf.identity(value) for name, value in inputs.items()}


def _requirements(config, max_batch, inputs):
  """Yield the requirements on inputs by name: whether one holds, the requirement in words, and the value found."""
  levels = config.pixel_levels
  lowest = lowest_label(config)
  highest = config.num_classes - 1
  counted = next(name for name in ("n", "images", "latents") if name in inputs)
  count = inputs["n"] if counted == "n" else tf.shape(inputs[counted])[0]
  what = "`n`" if counted == "n" else f"the number of `{counted}`"
  yield (count > 0) & (count <= max_batch), f"{what} must be from 1 to {max_batch}, got", count
  if "num_samples" in inputs:
    draws = tf.cast(inputs["num_samples"], tf.int64) * tf.cast(count, tf.int64)
    yield draws <= max_batch, f"`num_samples` times the number of `images` must be at most {max_batch}, got", draws
  finite = "be finite", tf.math.is_finite
  pixels = finite
  if levels is not None:
    pixels = f"be integers in 0 .. {levels - 1}", lambda x: pixels_are_valid(x, levels)
  expected = {
    "images": pixels,
    "latents": finite,
    "condition": finite,
    "labels": (f"lie in {lowest} .. {highest}", lambda x: (x >= lowest) & (x <= highest)),
    "num_samples": ("be at least 1", lambda x: x > 0),
    "temperature": ("be finite and at least 0", lambda x: tf.math.is_finite(x) & (x >= 0)),
  }
  for name, value in inputs.items():
    if name in ("labels", "condition"):
      rows = tf.shape(value)[0]
      yield rows == count, f"`{name}` must be one for each image, got", rows
    if name in expected:
      words, is_valid = expected[name]
      values = tf.reshape(value, [-1])
      valid = is_valid(values)
      yield tf.reduce_all(valid), f"`{name}` must {words}, got", tf.boolean_mask(values, ~valid)[:1]


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
      self.config = config_from_fields(read_json(assets / "config.json"), "its config.json")
      self.metadata: dict[str, Any] = read_json(assets / "metadata.json")
      check_count("max_batch", self.metadata["max_batch"], high=INT32_MAX)
      check_digests(pathlib.Path(path))
      self.saved_model = tf.saved_model.load(str(path))
      self._functions = {name: self.saved_model.signatures[name] for name in _NAMES}
    except Exception as error:  # TensorFlow raises many for damaged files
      raise InputError(f"{str(path)!r} holds no SavedModel of Flow++: {reason(error)}") from None

  def sample(self, n: int, temperature: float = 1.0, seed: Seed = None, **conditioning: TensorLike) -> tf.Tensor:
    return self._call("sample", conditioning, n=n, temperature=temperature, seed=seed)

  def log_prob_bound(
    self, images: TensorLike, num_samples: int = 1, seed: Seed = None, **conditioning: TensorLike
  ) -> tf.Tensor:
    return self._call("log_prob_bound", conditioning, images=images, num_samples=num_samples, seed=seed)

  def bits_per_dim(
    self, images: TensorLike, num_samples: int = 1, seed: Seed = None, **conditioning: TensorLike
  ) -> tf.Tensor:
    return self._call("bits_per_dim", conditioning, images=images, num_samples=num_samples, seed=seed)

  def encode(self, images: TensorLike, seed: Seed = None, **conditioning: TensorLike) -> tf.Tensor:
    return self._call("encode", conditioning, images=images, seed=seed)

  def decode(self, latents: TensorLike, **conditioning: TensorLike) -> tf.Tensor:
    return self._call("decode", conditioning, latents=latents)

  def _call(self, name, conditioning, **inputs):
    """Return the result of a function, whose inputs are checked by what its graph requires."""
    if not tf.executing_eagerly():
      raise InputError(f"`{name}` must be called eagerly: within a graph, call `saved_model.{name}`")
    if others := sorted({*conditioning} - {"labels", "condition"}):
      raise InputError(f"`{others[0]}` must be left out: the model does not take it")
    specs = self._functions[name].structured_input_signature[1]
    tensors = {key: _tensor(key, value, specs[key]) for key, value in inputs.items()}
    dtype = self._functions["encode"].structured_outputs["latents"].dtype
    tensors |= conditioning_tensors(self.config, dtype, **{"labels": None, "condition": None, **conditioning})
    for key, tensor in tensors.items():
      check_shape(key, tensor.shape, specs[key].shape)
    for holds, words, found in _requirements(self.config, self.metadata["max_batch"], tensors):
      if not holds:
        raise InputError(f"{words} {np.ravel(found)[0]}")
    try:
      (result,) = self._functions[name](**tensors).values()
    except tf.errors.InvalidArgumentError as error:  # inputs have been checked
      raise InputError("the images of the model must be finite, got NaN or infinity") from error
    return result


def _tensor(name, value, spec):
  """Return an argument as a tensor of the spec's dtype. A seed of None is another one in each call."""
  if spec.shape.rank:
    return tf.cast(as_tensor(name, value), spec.dtype)
  if name == "seed" and value is None:
    return tf.random.uniform([], tf.int64.min, tf.int64.max, tf.int64)
  if spec.dtype.is_floating:
    check_type(name, value, float)
  else:
    check_count(name, value, spec.dtype.min, spec.dtype.max)
  return tf.constant(value, spec.dtype)
