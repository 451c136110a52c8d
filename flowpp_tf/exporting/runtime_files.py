"""Export models to runtimes other than TensorFlow: a directory with one file for each inference graph.

metadata.json says the shapes and distributions of their inputs; docs/serving.md describes the use. ONNX files hold the
same as the property `metadata`, so that runtime/flowpp_runtime can compare both.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
import hashlib
import json
import pathlib
import tempfile
from typing import Any

import tensorflow as tf

from flowpp_tf.core.checks import check_arguments
from flowpp_tf.core.environment import import_extra
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import WEIGHT_DTYPES
from flowpp_tf.distributions import FlowDistribution
from flowpp_tf.exporting.inference_graphs import Graph, inference_graphs
from flowpp_tf.exporting.onnx_ops import OnnxOps
from flowpp_tf.exporting.target import checked_target, metadata_text
from flowpp_tf.exporting.tensorflow_ops import TensorFlowOps
from flowpp_tf.io.files import replace_directory, writing
from flowpp_tf.io.gate import read_json
from flowpp_tf.layers import Flow
from flowpp_tf.models import FlowPlusPlus
from flowpp_tf.types import Path
from flowpp_tf.version import __version__

_METADATA = "metadata.json"


@check_arguments
def export_onnx(
  model: FlowPlusPlus | Flow | FlowDistribution,
  path: Path,
  metadata: dict[str, Any] | None = None,
  overwrite: bool = False,
  weight_dtype: str = "float32",
) -> None:
  """Write a model with its current weights as a directory of ONNX files, one for each function.

  Args:
    model: a `FlowPlusPlus`, or a flow of vectors: a `VectorFlow` or a `FlowDistribution`.
    path: directory to write: log_prob.onnx, decode.onnx of images or sample.onnx of vectors, and metadata.json.
    metadata: further content of metadata.json, such as data and measured bits/dim.
    overwrite: whether to replace an existing export at `path`.
    weight_dtype: how the kernels of the networks are stored: "float32", "float16" or "int8", with a scale for each of
      their outputs. Smaller files have another model, whose bits/dim are a little more. Both files have the same one,
      so that decoding inverts encoding as before.

  Numbers are computed in float32, regardless of the model's precision. Images are uint8. A graph cannot raise an error:
  the bound is NaN where a pixel, a label (`lowest_label` of metadata.json to `num_classes` - 1) or uniform noise is out
  of range, and `valid` of a decoded image is False where its label or latents are wrong.

  Raises:
    InputError (a ValueError): if an argument is invalid, a weight is not finite, the package onnx is not installed, the
      model has a part that cannot be exported, or `path` exists or cannot be written.

  Examples:
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> fpp.export_onnx(model, "exported/digits_onnx", metadata={"data": "digits"})
  """
  _export("onnx", _with(weight_dtype, _to_onnx), model, path, metadata, overwrite, weight_dtype)


@check_arguments
def export_litert(
  model: FlowPlusPlus | Flow | FlowDistribution,
  path: Path,
  metadata: dict[str, Any] | None = None,
  overwrite: bool = False,
) -> None:
  """Write a model with its current weights as a directory of LiteRT (TensorFlow Lite) files.

  Arguments, files and errors as in `export_onnx`, except that weights are float32, and that the files end in .tflite
  and need no further package.

  Examples:
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> fpp.export_litert(model, "exported/digits_litert", metadata={"data": "digits"})
  """
  _export("tflite", _to_litert, model, path, metadata, overwrite)


@check_arguments
def export_openvino(
  model: FlowPlusPlus | Flow | FlowDistribution,
  path: Path,
  metadata: dict[str, Any] | None = None,
  overwrite: bool = False,
  weight_dtype: str = "float32",
) -> None:
  """Write a model with its current weights as a directory of OpenVINO's files, an .xml and a .bin for each function.

  Arguments, functions and errors as in `export_onnx`; it needs the packages openvino and onnx. OpenVINO also reads what
  `export_onnx` writes. Compile with the hint `INFERENCE_PRECISION_HINT="f32"` for the numbers of the other formats:
  some processors compute in bfloat16 without it.

  Examples:
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> fpp.export_openvino(model, "exported/digits_openvino", metadata={"data": "digits"})
  """
  _export("openvino", _with(weight_dtype, _to_openvino), model, path, metadata, overwrite, weight_dtype)


def _with(weight_dtype, convert):
  if weight_dtype not in WEIGHT_DTYPES:
    raise InputError(f"`weight_dtype` must be one of {', '.join(WEIGHT_DTYPES)}, got {weight_dtype!r}")
  return functools.partial(convert, weight_dtype=weight_dtype)


def _export(
  format: str,
  convert: Callable[[str, Graph, dict[str, Any]], dict[str, bytes]],
  model: FlowPlusPlus | Flow | FlowDistribution,
  path: Path,
  metadata: dict[str, Any] | None,
  overwrite: bool,
  weight_dtype: str = "float32",
) -> None:
  path = checked_target(path, overwrite, lambda target: _is_export(target, format), "export of this format")
  graphs, about = inference_graphs(model)
  files: dict[str, bytes] = {}
  for name, graph in graphs.items():
    files |= convert(name, graph, about)
  about |= {
    "format": format,
    "weight_dtype": weight_dtype,
    "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    "versions": {"flowpp_tf": __version__, "tensorflow": tf.__version__},
  }
  text = metadata_text(metadata, about)

  def write(directory):
    for name, data in files.items():
      (directory / name).write_bytes(data)
    (directory / _METADATA).write_text(text)

  with writing(repr(str(path))):
    replace_directory(path, write)


def _is_export(path, format):
  try:
    return read_json(path / _METADATA)["format"] == format
  except (OSError, ValueError, KeyError, TypeError):
    return False


def _to_onnx(name, graph, about, weight_dtype):
  ops = OnnxOps(weight_dtype)
  inputs = {key: ops.input(key, spec.dtype, [None, *spec.shape]) for key, spec in graph.inputs.items()}
  for key, value in graph.compute(ops, **inputs).items():
    ops.output(key, value, [None, *graph.outputs[key].shape])
  model = ops.model(name, properties={"metadata": json.dumps(about)})
  return {f"{name}.onnx": model.SerializeToString(deterministic=True)}


def _to_openvino(name, graph, about, weight_dtype):
  openvino = import_extra("openvino", "openvino", "the format 'openvino'")
  (content,) = _to_onnx(name, graph, about, weight_dtype).values()
  with tempfile.TemporaryDirectory() as folder:
    source, target = pathlib.Path(folder, "graph.onnx"), pathlib.Path(folder, f"{name}.xml")
    source.write_bytes(content)
    openvino.save_model(openvino.Core().read_model(source), target, compress_to_fp16=False)
    return {path.name: path.read_bytes() for path in (target, target.with_suffix(".bin"))}


def _to_litert(name, graph, about):
  specs = {key: tf.TensorSpec([None, *spec.shape], spec.dtype, key) for key, spec in graph.inputs.items()}
  function = tf.function(lambda **inputs: graph.compute(TensorFlowOps(), **inputs), autograph=False)
  module = tf.Module()
  module.function = function
  traced = function.get_concrete_function(**specs)
  converter = tf.lite.TFLiteConverter.from_concrete_functions([traced], module)
  return {f"{name}.tflite": converter.convert()}
