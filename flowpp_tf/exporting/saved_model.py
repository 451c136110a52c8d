"""Export Flow++ as a SavedModel, which TensorFlow and TensorFlow Serving run without this package.

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

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.core.checks import check_arguments, check_count, pixels_are_valid
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.finite import check_weights_finite
from flowpp_tf.exporting.target import checked_target, metadata_text
from flowpp_tf.io.files import replace_directory, write_digests, writing
from flowpp_tf.models import FlowPlusPlus
from flowpp_tf.models.conditioning import lowest_label
from flowpp_tf.types import Path
from flowpp_tf.version import __version__


@check_arguments
def export_saved_model(
  model: FlowPlusPlus, path: Path, metadata: dict[str, Any] | None = None, max_batch: int = 256, overwrite: bool = False
) -> None:
  """Write a model with its current weights as a SavedModel.

  Args:
    model: model to export.
    path: directory to write; TensorFlow Serving requires its name to be a number, the version.
    metadata: further content of assets/metadata.json, such as data and measured bits/dim.
    max_batch: maximum number of images that a call samples, decodes or encodes; likelihoods count every one of
      `num_samples`. It bounds the memory and the time of a call.
    overwrite: whether to replace an existing SavedModel at `path`.

  Raises:
    InputError (a ValueError): if an argument is invalid, a weight is not finite, or `path` exists or cannot be written.

  Examples:
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> fpp.export_saved_model(model, "exported/1", metadata={"data": "digits"})
  """
  check_count("max_batch", max_batch, high=tf.int32.max)  # the dtype of the sizes that graphs compare with it
  check_weights_finite(model)
  path = checked_target(path, overwrite, lambda target: (target / "saved_model.pb").exists(), "SavedModel")
  about = {
    "max_batch": int(max_batch),
    "versions": {
      "flowpp_tf": __version__,
      "tensorflow": tf.__version__,
      "keras": keras.__version__,
      "tensorflow_probability": tfp.__version__,
    },
  }
  texts = {
    "config.json": json.dumps(dataclasses.asdict(model.config), indent=2) + "\n",
    "metadata.json": metadata_text(metadata, about),
  }

  def write(directory):
    with tempfile.TemporaryDirectory() as folder:
      module = tf.Module()
      module.weights = [v.value for v in model.weights]
      for name, text in texts.items():
        file = pathlib.Path(folder, name)
        file.write_text(text)
        setattr(module, name.replace(".json", "_file"), tf.saved_model.Asset(str(file)))
      functions = _functions(model, max_batch)
      for name, function in functions.items():
        setattr(module, name, function)
      tf.saved_model.save(
        module, str(directory), signatures={**functions, "serving_default": functions["bits_per_dim"]}
      )
    write_digests(directory)

  try:
    with writing(repr(str(path))):
      replace_directory(path, write)
  except tf.errors.OpError as error:
    raise InputError(f"{str(path)!r} cannot be written: {error}") from None


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
