"""Runtimes compared: TensorFlow, ONNX Runtime, LiteRT and OpenVINO, by their distance from float64 and their time.

python benchmarks/runtimes.py --models=digits,photos --batches=1,32

For each model, runtime and batch size: the largest difference of log_prob from float64 in nats/dim, the share of pixels
of decode that differ and by how many levels at most, milliseconds of CPU time per image or vector with one thread, and
megabytes of both files. Runtimes that are not installed are left out; OpenVINO reads the ONNX files. `vectors` is an
untrained flow of 8 values given 4, whose decoded values are compared as numbers.
"""

import dataclasses
import functools
import importlib.util
import os
import pathlib
import sys
import tempfile
import time
import warnings

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags
import keras
import numpy as np
import tensorflow as tf

import flowpp_tf as fpp

FLAGS = flags.FLAGS
_TRIALS = 3
_EVENT, _CONTEXT = 8, 4


def main(argv):
  del argv
  tf.config.threading.set_intra_op_parallelism_threads(1)
  tf.config.threading.set_inter_op_parallelism_threads(1)
  warnings.simplefilter("ignore")
  print("| model | runtime | batch | nats/dim | pixels | levels | log_prob, ms | decode, ms | MB |")
  print("|---|---|---|---|---|---|---|---|---|")
  for name in FLAGS.models:
    model = _Vectors() if name == "vectors" else _Images(name)
    with tempfile.TemporaryDirectory() as folder:
      folder = pathlib.Path(folder)
      fpp.export(model.exported, folder / "onnx", "onnx")
      fpp.export(model.exported, folder / "litert", "litert")
      for runtime, make in _RUNTIMES.items():
        if importlib.util.find_spec(runtime):
          functions, size = make(model, folder)
          for batch in map(int, FLAGS.batches):
            _print_row(name, runtime, batch, model, functions, size)


def _print_row(name, runtime, batch, model, functions, size):
  inputs, expected = model.case(batch)
  results, times = [], []
  for function, values in zip(functions, inputs):
    results.append(np.asarray(function(values), np.float64))
    times.append(min(_seconds(function, values) for _ in range(_TRIALS)) / batch * 1e3)
  nats = np.abs(results[0] - expected[0]).max() / model.dims
  difference = np.abs(results[1] - expected[1])
  share = np.mean(difference > model.tolerance)
  print(
    f"| {name} | {runtime} | {batch} | {nats:.1e} | {share:.4%} | {difference.max():.2g} "
    f"| {times[0]:.2f} | {times[1]:.2f} | {size / 1e6:.1f} |",
    flush=True,
  )


def _seconds(function, values):
  start = time.process_time()
  function(values)
  return time.process_time() - start


class _Images:
  """A preset, and what float64 gives of a batch."""

  names, tolerance = ("log_prob", "decode"), 0

  def __init__(self, preset):
    self.exported = model = fpp.FlowPlusPlus.from_preset(preset)
    self._wide = fpp.FlowPlusPlus(dataclasses.replace(model.config, dtype="float64", flow_dtype=""))
    self._wide.set_weights(model.get_weights())
    self.dims = np.prod(model.config.image_shape)
    self.tensorflow = (
      tf.function(lambda images, noise, **given: model.log_prob_bound(images, noise=noise, **given), autograph=False),
      tf.function(lambda latents, **given: model.decode(latents, **given), autograph=False),
    )

  @functools.cache
  def case(self, batch):
    model, config, rng = self.exported, self.exported.config, np.random.RandomState(batch)
    given = {"labels": rng.randint(0, config.num_classes, batch).astype(np.int32)} if config.num_classes else {}
    images = model.sample(batch, seed=batch, **given).numpy()
    noise = np.asarray(model.sample_noise([batch], seed=batch))
    latents = rng.randn(batch, *model.coupling_flow.latent_shape).astype(np.float32)
    inputs = {"images": images, "noise": noise, **given}, {"latents": latents, **given}
    return inputs, (
      self._wide.log_prob_bound(images, noise=noise, **given).numpy(),
      self._wide.decode(latents, **given).numpy().astype(np.float64),
    )


class _Vectors:
  """A flow of vectors given a context, and what float64 gives of a batch."""

  names, dims, tolerance = ("log_prob", "sample"), _EVENT, 1e-4

  def __init__(self):
    keras.utils.set_random_seed(0)
    self.exported = fpp.VectorFlow(_EVENT, _CONTEXT)
    self._wide, rng = fpp.vector_flow(_EVENT, _CONTEXT, dtype="float64"), np.random.RandomState(0)
    flow = self.exported.distribution
    for weight, wide in zip(flow.trainable_variables, self._wide.trainable_variables, strict=True):
      weight.assign_add(0.1 * rng.randn(*weight.shape))
      wide.assign(tf.cast(weight, tf.float64))
    self.tensorflow = (
      tf.function(lambda x, context: flow.given(context).log_prob(x), autograph=False),
      tf.function(lambda latents, context: flow.given(context).bijector.forward(latents), autograph=False),
    )

  @functools.cache
  def case(self, batch):
    rng = np.random.RandomState(batch)
    context, z, latents = (rng.randn(batch, size).astype(np.float32) for size in (_CONTEXT, _EVENT, _EVENT))
    given = self._wide.given(context.astype(np.float64))
    x = given.bijector.forward(z.astype(np.float64)).numpy().astype(np.float32)
    return ({"x": x, "context": context}, {"latents": latents, "context": context}), (
      given.log_prob(x.astype(np.float64)).numpy(),
      given.bijector.forward(latents.astype(np.float64)).numpy(),
    )


# --- Runtimes: both functions, from arrays by name to the first output, and the bytes of their files ----


def _tensorflow(model, folder):
  del folder
  call = lambda function: lambda values: function(**{name: tf.constant(v) for name, v in values.items()}).numpy()
  return [call(function) for function in model.tensorflow], sum(v.numpy().nbytes for v in _weights(model.exported))


def _weights(exported):
  return [v.value for v in exported.weights] if exported.weights else exported.distribution.variables


def _onnxruntime(model, folder):
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = 1
  paths = [folder / "onnx" / f"{name}.onnx" for name in model.names]
  sessions = [onnxruntime.InferenceSession(path, options) for path in paths]
  call = lambda session: lambda values: session.run([session.get_outputs()[0].name], values)[0]
  return [*map(call, sessions)], _size(paths)


def _openvino(model, folder):
  import openvino

  core, options = openvino.Core(), {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
  paths = [folder / "onnx" / f"{name}.onnx" for name in model.names]
  compiled = [core.compile_model(path, "CPU", options) for path in paths]
  call = lambda function: lambda values: function(values)[0]
  return [*map(call, compiled)], _size(paths)


def _litert(model, folder):
  from ai_edge_litert.interpreter import Interpreter

  paths = [folder / "litert" / f"{name}.tflite" for name in model.names]
  runners = [Interpreter(str(path), num_threads=1).get_signature_runner() for path in paths]
  outputs = ("log_prob", "images" if "decode" in model.names else "x")
  call = lambda runner, output: lambda values: runner(**values)[output]
  return [*map(call, runners, outputs)], _size(paths)


def _size(paths):
  return sum(path.stat().st_size for path in paths)


_RUNTIMES = {"tensorflow": _tensorflow, "onnxruntime": _onnxruntime, "ai_edge_litert": _litert, "openvino": _openvino}

if __name__ == "__main__":
  flags.DEFINE_list(
    "models", ["digits", "digits_by_class", "fashion_mnist", "photos", "vectors"], "Presets, or vectors."
  )
  flags.DEFINE_list("batches", ["1", "32"], "Batch sizes.")
  app.run(main)
