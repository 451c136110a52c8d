"""Export a model to a format that runs without this package, or as a preset that it loads.

A SavedModel has the functions of `FlowPlusPlus` (saved_model.py), a preset its weights. For other runtimes a directory
has one file for each inference graph (inference_graphs.py), and metadata.json with the shapes and distributions of
their inputs. ONNX files hold the same as the property `metadata`, so that runtime/flowpp_runtime can compare both.
docs/serving.md describes the use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools
import json
import pathlib
from typing import Any, NamedTuple

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.core.checks import INT32_MAX, check_arguments, check_count, check_type
from flowpp_tf.core.environment import import_extra
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.finite import check_weights_finite
from flowpp_tf.core.registry import WEIGHT_DTYPES
from flowpp_tf.distributions import FlowDistribution
from flowpp_tf.exporting.inference_graphs import Graph, inference_graphs
from flowpp_tf.exporting.onnx_ops import OnnxOps
from flowpp_tf.exporting.ops import Ops, TensorFlowOps, Value
from flowpp_tf.exporting.posterior_graph import saved_module
from flowpp_tf.exporting.saved_model import write_module, write_saved_model
from flowpp_tf.io.files import check_replaceable, file_sha256, replace_directory, writing
from flowpp_tf.io.model_folders import ABOUT
from flowpp_tf.layers import Flow
from flowpp_tf.models import FlowPlusPlus
from flowpp_tf.posterior.conditional import Ensemble
from flowpp_tf.pretrained.presets import save_preset
from flowpp_tf.types import Path
from flowpp_tf.version import __version__


@check_arguments
def export(
  model: FlowPlusPlus | Flow | FlowDistribution | Ensemble,
  path: Path,
  format: str = "saved_model",
  metadata: dict[str, Any] | None = None,
  overwrite: bool = False,
  max_batch: int | None = None,
  weight_dtype: str | None = None,
  license: str | None = None,
) -> None:
  """Write a model with its current weights to a directory, which appears under its name when it is complete.

  Args:
    model: `FlowPlusPlus`; except for "preset" also a flow of vectors: a `VectorFlow`, a `FlowDistribution`, or an
      `fpp.ensemble`.
    path: directory to write; TensorFlow Serving requires its name to be a number, the version.
    format: "saved_model", for TensorFlow and TensorFlow Serving; "onnx", for ONNX Runtime; "litert", for LiteRT
      (TensorFlow Lite); "openvino"; or "preset", for `FlowPlusPlus.from_preset` and hubs of models.
    metadata: further content of metadata.json, such as data and measured bits/dim. Of a preset it has the keys
      "description", "settings" and "evaluation", arguments of `models.save_preset`.
    overwrite: whether to replace an existing export of this format at `path`.
    max_batch: of a SavedModel, maximum number of images that a call samples, decodes or encodes; likelihoods count
      every one of `num_samples`. It bounds the memory and the time of a call. None for 256.
    weight_dtype: how "onnx" and "openvino" store the kernels of the networks: "float32", "float16" or "int8", with a
      scale for each of their outputs. Smaller files have another model, whose bits/dim are a little more. All files
      have the same one, so that decoding inverts encoding as before. None for "float32".
    license: of a preset, an identifier such as "apache-2.0". None for "unknown".

  For other runtimes the files are log_prob and decode of images, log_prob and sample of vectors. Numbers are computed
  in float32, regardless of the model's precision. Images are uint8. A `context` has a row for each vector, or one for
  all; LiteRT does not notice several rows with one vector. A graph cannot raise an error about values: the bound is
  NaN where a pixel, a label (`lowest_label` of metadata.json to `num_classes` - 1) or uniform noise is out of range,
  and `valid` of a decoded image is False where its label or latents are wrong. Compile for OpenVINO with the hint
  `INFERENCE_PRECISION_HINT="f32"`: some processors compute in bfloat16 without it.

  Raises:
    InputError (a ValueError): if an argument is invalid or not for the format, a weight is not finite, the package
      onnx or openvino is not installed, the model has a part that cannot be exported, or `path` exists or cannot be
      written.

  Examples:
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> fpp.export(model, "exported/1", metadata={"data": "digits"})
    >>> fpp.export(model, "exported/digits_litert", "litert")
  """
  if format not in _FORMATS:
    raise InputError(f"`format` must be one of {', '.join(_FORMATS)}, got {format!r}")
  write, allowed, known_by = _FORMATS[format]
  options = dict(max_batch=max_batch, weight_dtype=weight_dtype, license=license)
  options = {name: value for name, value in options.items() if value is not None}
  if others := sorted(options.keys() - allowed):
    raise InputError(f"`{others[0]}` must be None: the format {format!r} does not have it")
  weights = model.weights if isinstance(model, keras.layers.Layer) else model.variables
  check_weights_finite(weights)
  target = pathlib.Path(path).absolute()
  metadata = metadata or {}
  with writing(repr(str(path))):  # a name may be too long, a folder not to be read
    check_replaceable(pathlib.Path(path), f"an export in the format {format!r}", known_by, overwrite)
    write(target, model, metadata, **options)


def _metadata_text(metadata, about):
  """Return the content of metadata.json: what the user gives, and what an export says of itself."""
  versions = {package.__name__: package.__version__ for package in (tf, keras, tfp)}
  about = {**about, "versions": {"flowpp_tf": __version__, **versions}}
  if taken := sorted(metadata.keys() & about.keys()):
    raise InputError(f"`metadata` has keys that the export writes itself: {', '.join(taken)}")
  try:
    return json.dumps({**metadata, **about}, indent=2, allow_nan=False) + "\n"
  except (TypeError, ValueError) as error:
    raise InputError(f"`metadata` must be what JSON can hold: {error}") from None


def _save_preset(target, model, metadata, license="unknown"):
  check_type("model", model, FlowPlusPlus)
  about = {"description": "Flow++", **metadata}
  if unknown := sorted(about.keys() - {"description", "settings", "evaluation"}):
    raise InputError(f"`metadata` of a preset has description, settings and evaluation, got {', '.join(unknown)}")
  save_preset(model, target, license=license, **about)


def _save_saved_model(target, model, metadata, max_batch=None):
  if max_batch is not None:
    check_type("model", model, FlowPlusPlus)
    check_count("max_batch", max_batch, high=INT32_MAX)  # the dtype of the sizes that graphs compare with it
  if isinstance(model, Flow):
    model = model.distribution

  def write(folder):
    if isinstance(model, FlowPlusPlus):
      most = 256 if max_batch is None else int(max_batch)
      write_saved_model(model, folder, most, _metadata_text(metadata, {"max_batch": most}))
    else:
      write_module(saved_module(model), folder, {"metadata": _metadata_text(metadata, {})})

  replace_directory(target, write)


def _save_graphs(format, write_graph, target, model, metadata, weight_dtype="float32"):
  """Write a model's inference graphs, each by `write_graph(path without ending, graph, about, weight_dtype)`."""
  if weight_dtype not in WEIGHT_DTYPES:
    raise InputError(f"`weight_dtype` must be one of {', '.join(WEIGHT_DTYPES)}, got {weight_dtype!r}")

  def write(folder):
    graphs, about = inference_graphs(model)
    for name, graph in graphs.items():
      write_graph(folder / name, graph, about, weight_dtype)
    digests = {file.name: file_sha256(file) for file in sorted(folder.iterdir())}
    about |= {"format": format, "weight_dtype": weight_dtype, "sha256": digests}
    (folder / "metadata.json").write_text(_metadata_text(metadata, about))

  replace_directory(target, write)


def _write_onnx(path, graph, about, weight_dtype):
  ops = OnnxOps(weight_dtype)
  inputs = {}
  for name, spec in graph.inputs.items():
    inputs[name] = ops.input(name, spec.dtype.name, spec.shape)
  for name, value in _compute(graph, ops, inputs).items():
    ops.output(name, value, graph.outputs[name].shape)
  model = ops.model(path.name, properties={"metadata": json.dumps(about)})
  path.with_suffix(".onnx").write_bytes(model.SerializeToString(deterministic=True))


def _write_openvino(path, graph, about, weight_dtype):
  openvino = import_extra("openvino", "openvino", "the format 'openvino'")
  _write_onnx(path, graph, about, weight_dtype)
  file = path.with_suffix(".onnx")
  openvino.save_model(openvino.Core().read_model(file), path.with_suffix(".xml"), compress_to_fp16=False)
  file.unlink()


def _write_litert(path, graph, about, weight_dtype):
  module = tf.Module()
  module.function = tf.function(lambda **inputs: _compute(graph, TensorFlowOps(), inputs), autograph=False)
  traced = module.function.get_concrete_function(**graph.inputs)
  converter = tf.lite.TFLiteConverter.from_concrete_functions([traced], module)
  path.with_suffix(".tflite").write_bytes(converter.convert())


def _compute(graph: Graph, ops: Ops, inputs: Mapping[str, Value]) -> dict[str, Value]:
  return graph.compute(ops, **inputs)


class _Format(NamedTuple):
  """A format of exports.

  Attributes:
    write: function `(target, model, metadata, **options)` that writes the directory.
    options: arguments of `export` that it has.
    known_by: file that every export in it has.
  """

  write: Callable[..., None]
  options: list[str]
  known_by: str


def _graphs(format, write_graph, options, known_by):
  return _Format(functools.partial(_save_graphs, format, write_graph), options, known_by)


_FORMATS = {
  "saved_model": _Format(_save_saved_model, ["max_batch"], "saved_model.pb"),
  "onnx": _graphs("onnx", _write_onnx, ["weight_dtype"], "log_prob.onnx"),
  "litert": _graphs("litert", _write_litert, [], "log_prob.tflite"),
  "openvino": _graphs("openvino", _write_openvino, ["weight_dtype"], "log_prob.xml"),
  "preset": _Format(_save_preset, ["license"], ABOUT),
}
