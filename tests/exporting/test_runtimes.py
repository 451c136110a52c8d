"""Models in other runtimes: what ONNX Runtime and LiteRT compute, against the model in float64, and bad calls."""

import dataclasses
import hashlib
import json
import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from flowpp_tf.bijectors import mixture_quantile
from flowpp_tf.data import load_dataset
from flowpp_tf.evaluation import positions
from flowpp_tf.exporting import mixture_graph
from flowpp_tf.exporting.onnx_ops import OnnxOps
from support.hard_mixtures import grid
from support.marks import slow
from support.models import TINY, perturb, perturbed, small_config, small_images
from support.programs import PACKAGES, ROOT, call, run
from support.refusing import refuses

pytestmark = pytest.mark.needs("onnx", "onnxruntime", "openvino")
SERVING = (ROOT / "docs" / "serving.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", SERVING.partition("## Without TensorFlow")[2], re.DOTALL)
NATS = 1e-5  # per dimension, of the log density
# Between them every part that can be exported.
CONFIGS = {
  "learned": small_config(
    TINY,
    structure="channels:1,columns:1,squeeze,channels:1",
    num_classes=3,
    label_dropout=0.1,
    condition_shape=(2, 2, 1),
    invertible_conv="lu",
    weight_norm=True,
    output_concat_elu=True,
    context_layer_norm=True,
    context_attention=True,
  ),
  "plain": small_config(structure="columns:1,squeeze,channels:1", coupling="mixture_logistic"),
}


def onnx_session(model):
  """An ONNX file or model as a function from arrays by name to arrays by name."""
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = 1
  session = onnxruntime.InferenceSession(model, options)
  names = [output.name for output in session.get_outputs()]
  return lambda **inputs: dict(zip(names, session.run(names, inputs)))


def litert_session(path):
  """A file of LiteRT as such a function."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TensorFlow's own interpreter is now the package ai-edge-litert
    return tf.lite.Interpreter(str(path), num_threads=1).get_signature_runner()


def openvino_session(path):
  """A file of OpenVINO as such a function."""
  import openvino

  options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
  compiled = openvino.Core().compile_model(path, "CPU", options)
  # An output has several names, one of which is that of the graph.
  return lambda **inputs: {
    name: value.copy() for output, value in compiled(inputs).items() for name in output.get_names()
  }


def sessions(folder, *names):
  """The functions of an export by name."""
  format = json.loads((folder / "metadata.json").read_text())["format"]
  session, suffix = {
    "onnx": (onnx_session, "onnx"),
    "litert": (litert_session, "tflite"),
    "openvino": (openvino_session, "xml"),
  }[format]
  return [session(folder / f"{name}.{suffix}") for name in names]


def in_float64(model):
  wide = fpp.FlowPlusPlus(dataclasses.replace(model.config, dtype="float64", flow_dtype=""))
  wide.set_weights(model.get_weights())
  return wide


def conditioning(config, count):
  rng = np.random.RandomState(5)
  given = {}
  if config.num_classes:
    given["labels"] = (np.arange(count) % (config.num_classes + 1) - 1).astype(np.int32)
  if config.condition_shape:
    given["condition"] = rng.randn(count, *config.condition_shape).astype(np.float32)
  return given


def check_images(model, folders, batches, images):
  """Compare both graphs of exports with the model in float64."""
  wide, config, rng = in_float64(model), model.config, np.random.RandomState(0)
  count = sum(batches)
  given = conditioning(config, count)
  noise = np.asarray(model.sample_noise([count], seed=1))
  latents = rng.randn(count, *model.coupling_flow.latent_shape).astype(np.float32)
  expected = wide.log_prob_bound(images, noise=noise, **given).numpy()
  pixels = wide.decode(latents, **given).numpy()
  for folder in folders:
    log_prob, decode = sessions(folder, "log_prob", "decode")
    found, start = [], 0
    for batch in batches:
      part = slice(start, start := start + batch)
      of_batch = {name: value[part] for name, value in given.items()}
      scored = log_prob(images=images[part], noise=noise[part], **of_batch)
      scored["decoded"] = decode(latents=latents[part], **of_batch)["images"]
      scored["again"] = decode(latents=scored["latents"], **of_batch)["images"]
      found.append(scored)
    found = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    dims = np.prod(config.image_shape)
    np.testing.assert_allclose(found["log_prob"] / dims, expected / dims, rtol=0, atol=NATS)
    np.testing.assert_allclose(found["bits_per_dim"], model.to_bits_per_dim(expected), rtol=1e-5, atol=2 * NATS)
    bits = found["position_bits"]
    np.testing.assert_allclose(bits.sum(axis=(1, 2, 3)) / dims, -expected / dims / np.log(2), rtol=0, atol=2 * NATS)
    if not config.condition_shape:
      terms = -positions._terms(wide, tf.constant(images), tf.cast(noise, tf.float64), given.get("labels")) / np.log(2)
      np.testing.assert_allclose(bits, terms, rtol=1e-3, atol=5e-3)
    for one, other in ((found["decoded"], pixels), (found["again"], images)):
      difference = np.abs(one.astype(int) - other)
      assert difference.max() <= 1 and np.mean(difference > 0) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_every_part_of_an_image_model_gives_the_numbers_of_float64(name, tmp_path):
  model = perturbed(CONFIGS[name])
  fpp.export(model, tmp_path / "onnx", "onnx")
  fpp.export(model, tmp_path / "litert", "litert")
  check_images(model, [tmp_path / "onnx", tmp_path / "litert"], [5], small_images(5))


@pytest.mark.parametrize("dtype", ["float16", slow("int8")])
def test_smaller_kernels_are_those_of_a_model_with_rounded_ones(dtype, tmp_path):
  model = perturbed(TINY, structure="channels:1,squeeze,channels:1")
  fpp.export(model, tmp_path / "float32", "onnx")
  fpp.export(model, tmp_path / dtype, "onnx", weight_dtype=dtype)
  for layer in model._flatten_layers():
    if isinstance(layer, (fpp.layers.InitNormConv2D, fpp.layers.InitNormDense)):
      kernel = layer.kernel.numpy().astype(np.float64)
      scale = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1))) / 127  # of each output
      layer.kernel.assign(kernel.astype(np.float16) if dtype == "float16" else np.rint(kernel / scale) * scale)
  check_images(model, [tmp_path / dtype], [5], small_images(5))
  sizes = [(tmp_path / name / "log_prob.onnx").stat().st_size for name in ("float32", dtype)]
  assert sizes[1] < 0.9 * sizes[0]
  with pytest.raises(fpp.InputError, match="^`weight_dtype` must be one of float32, float16, int8, got 'int4'"):
    fpp.export(model, tmp_path / "int4", "onnx", weight_dtype="int4")


@pytest.mark.parametrize("label_dropout", [slow(0.0), 0.1])
def test_wrong_labels_noise_and_latents_are_not_answered_with_numbers(label_dropout, tmp_path):
  config = small_config(coupling="affine", num_classes=3, label_dropout=label_dropout)
  model = fpp.FlowPlusPlus(config)
  fpp.export(model, tmp_path / "onnx", "onnx")
  fpp.export(model, tmp_path / "litert", "litert")
  labels = np.array([-2, -1, 0, 2, 3], np.int32)
  right = np.array([False, label_dropout > 0, True, True, False])
  images, noise = small_images(5), np.full([5, *model.noise_shape], 0.5, np.float32)
  latents = np.zeros([5, *model.coupling_flow.latent_shape], np.float32)
  for folder in (tmp_path / "onnx", tmp_path / "litert"):
    log_prob, decode = sessions(folder, "log_prob", "decode")
    np.testing.assert_array_equal(np.isfinite(log_prob(images=images, noise=noise, labels=labels)["log_prob"]), right)
    np.testing.assert_array_equal(decode(latents=latents, labels=labels)["valid"], right)
    known = np.array([0, 1, 2, 0, 1], np.int32)
    for i, value in enumerate((-0.1, 1.0, np.nan)):
      wrong = noise.copy()
      wrong[i, 0, 0, 0] = value
      found = log_prob(images=images, noise=wrong, labels=known)["log_prob"]
      assert [*np.flatnonzero(~np.isfinite(found))] == [i]
      wrong = latents.copy()
      wrong[i, 0, 0, 0] = (np.nan, np.inf, -np.inf)[i]
      assert not decode(latents=wrong, labels=known)["valid"][i]
  assert json.loads((tmp_path / "onnx" / "metadata.json").read_text())["lowest_label"] == (-1 if label_dropout else 0)


@pytest.mark.slow
def test_digits_by_the_program_in_batches_of_1_7_and_64(tmp_path):
  result = call("export", "--preset=digits", "--format=onnx", "--output=onnx", cwd=tmp_path)
  assert (result.code, result.out) == (0, "wrote onnx\n"), result.error
  assert call("export", "--preset=digits", "--format=litert", "--output=litert", "--calibrate", cwd=tmp_path).code == 0
  assert call("export", "--preset=digits", "--format=openvino", "--output=openvino", cwd=tmp_path).code == 0
  data, folders = load_dataset("digits"), [tmp_path / name for name in ("onnx", "litert", "openvino")]
  digits, model = data.test[:72], fpp.FlowPlusPlus.from_preset("digits")
  check_images(model, folders, [1, 7, 64], digits)
  calibration = json.loads((tmp_path / "litert" / "metadata.json").read_text())["calibration"]
  assert calibration["images"] == len(data.validation)
  assert calibration["weight_dtype"] == "float32"  # whatever the files store
  bits = model.bits_per_dim(data.validation, seed=1)  # another draw of the noise
  for share, threshold in calibration["threshold_by_false_alarms"].items():
    assert abs(np.mean(bits > threshold) - float(share)) < 0.03
  metadata = json.loads((tmp_path / "onnx" / "metadata.json").read_text())
  assert metadata["latent_shape"] == [4, 4, 4] and metadata["noise"] == "normal" and metadata["levels"] == 17
  for file, digest in metadata["sha256"].items():
    assert hashlib.sha256((tmp_path / "onnx" / file).read_bytes()).hexdigest() == digest
  (log_prob,) = sessions(tmp_path / "onnx", "log_prob")
  wrong = log_prob(images=np.full([1, 8, 8, 1], 17, np.uint8), noise=np.zeros([1, 8, 8, 1], np.float32))
  assert np.isnan(wrong["log_prob"])  # 17 is no pixel value
  # The example of the docs, where neither TensorFlow nor this package can be imported.
  blocked = "import sys\nfor name in ('tensorflow', 'keras', 'flowpp_tf', 'onnx'):\n  sys.modules[name] = None\n"
  code = blocked + SNIPPETS[0].replace("runs/digits/onnx", "onnx") + "\nprint(images.shape, images.max())"
  result = run(["-c", code], cwd=tmp_path, PYTHONPATH=PACKAGES)
  assert result.code == 0 and result.out.startswith("(4, 8, 8, 1) "), result.error


@pytest.mark.parametrize("df", [None, slow(5.0)])
def test_a_flow_of_vectors_given_a_context_has_the_numbers_of_float64(df, tmp_path):
  sizes = dict(event_size=5, context_size=3, couplings=3, hidden=16, df=df)
  layer, wide = perturb(fpp.VectorFlow(**sizes)), fpp.vector_flow(**sizes, dtype="float64")
  for variable, weight in zip(wide.trainable_variables, layer.distribution.trainable_variables, strict=True):
    variable.assign(tf.cast(weight, tf.float64))
  fpp.export(layer, tmp_path / "onnx", "onnx")
  rng = np.random.RandomState(0)
  log_prob, sample = sessions(tmp_path / "onnx", "log_prob", "sample")
  for batch in (1, 7, 64):
    z = rng.randn(batch, 5).astype(np.float32)
    context = rng.randn(batch, 3).astype(np.float32)
    given = wide.given(context.astype(np.float64))
    x = given.bijector.forward(rng.randn(batch, 5)).numpy().astype(np.float32)
    found = log_prob(x=x, context=context)
    np.testing.assert_allclose(found["log_prob"] / 5, given.log_prob(x.astype(np.float64)) / 5, rtol=0, atol=NATS)
    np.testing.assert_allclose(found["latents"], given.bijector.inverse(x.astype(np.float64)), atol=1e-4)
    samples = sample(latents=z, context=context)["x"]
    np.testing.assert_allclose(samples, given.bijector.forward(z.astype(np.float64)), atol=1e-4)


@pytest.mark.parametrize("components", [1, 2, 8, 64])
def test_the_search_for_a_quantile_is_long_enough_for_hard_mixtures(components):
  """And within its iterations as exact as the search of the bijector, which may take 200."""
  x, *mixture = grid(components, np.float32)
  target = x.clip(-1e4, 1e4)
  root, evaluations = mixture_quantile.search(*map(tf.constant, (target, *mixture)))
  assert evaluations.numpy().max() <= mixture_graph.MAX_ITERATIONS
  exact = mixture_quantile.quantile(*(tf.constant(a, tf.float64) for a in (target, *mixture))).numpy()
  ops = OnnxOps()
  inputs = {
    name: ops.input(name, "float32", [None, size])
    for name, size in zip(["target", "logits", "loc", "log_scale"], [1, *[components] * 3])
  }
  ops.output("x", mixture_graph.logit_quantile(ops, *inputs.values()), [None, 1])
  quantile = onnx_session(ops.model("quantile").SerializeToString())
  found = quantile(**dict(zip(inputs, [target[:, np.newaxis], *mixture])))["x"][:, 0]
  error = lambda root: np.abs(root - exact) / np.maximum(np.abs(exact), np.exp(mixture[2].min(axis=-1)))
  assert np.all(error(found) <= np.maximum(4 * error(root.numpy()), 1e-5))


def test_the_example_of_the_docs_writes_a_flow_of_vectors(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  scope = {}
  for snippet in SNIPPETS[1:3]:
    exec(compile(snippet, "serving.md", "exec"), scope)
  assert (tmp_path / "flow_onnx" / "sample.onnx").is_file()
  assert scope["x"].shape == (1000, 2)


# --- Bad calls -----------------------------------------------------------------------------------


def test_a_part_that_inference_graphs_do_not_have_is_named(tmp_path):
  for changes in (dict(coupling="rational_quadratic"), dict(coupling="mixture_logistic", coupling_margin=0.05)):
    model = fpp.FlowPlusPlus(small_config(**changes))
    with pytest.raises(fpp.InputError, match=r"^the map of the coupling '\w+' cannot be exported: mixture_logistic"):
      fpp.export(model, tmp_path / "onnx", "onnx")
  augmented = fpp.FlowPlusPlus(small_config(augment_channels=2))
  refuses("or `augment_channels` cannot be exported to this format", fpp.export, augmented, tmp_path / "onnx", "onnx")
  normal = tfp.distributions.Sample(tfp.distributions.Normal(0.0, 1.0), 6)
  flow = fpp.distributions.FlowDistribution(normal, tfp.bijectors.Softplus())
  refuses("^the bijector Softplus 'softplus' cannot be exported", fpp.export, flow, tmp_path / "onnx", "onnx")
  network = keras.Sequential([keras.Input([3]), keras.layers.Dense(6)])
  coupling = fpp.bijectors.Coupling(network, fpp.bijectors.affine_coupling_bijector, event_ndims=1)
  flow = fpp.distributions.FlowDistribution(normal, fpp.bijectors.Invert(coupling))
  refuses("^a coupling with the network Sequential cannot be exported", fpp.export, flow, tmp_path / "onnx", "onnx")
  given = fpp.vector_flow(2, context_size=3, couplings=1, hidden=4, blocks=0).given(np.zeros([3], np.float32))
  with pytest.raises(fpp.InputError, match="^a flow that is `given` a context cannot be exported"):
    fpp.export(given, tmp_path / "onnx", "onnx")  # its files would ask for a context, and leave this one out
  wide = tfp.distributions.Sample(tfp.distributions.Normal(0.0, 2.0), 6)
  flow = fpp.distributions.FlowDistribution(wide, fpp.bijectors.SwapHalves())
  refuses("^the base of the flow must be `tfd.Sample` of a standard", fpp.export, flow, tmp_path / "onnx", "onnx")
  assert not (tmp_path / "onnx").exists()


@pytest.mark.parametrize(
  "padding, context_channels, message",
  [
    ("periodic", 0, "a network with `padding` periodic cannot be exported"),  # as if its images had edges
    ("zeros", 3, r"a flow given a context must be one of vectors to be exported, got events of shape \[4, 4, 2\]"),
  ],
)
def test_a_flow_of_images_whose_numbers_would_be_others_is_refused(padding, context_channels, message, tmp_path):
  config = fpp.layers.NetworkConfig(4, blocks=1, mixer="none", padding=padding)
  network = fpp.layers.Conditioner((4, 4, 1), 2, config, context_channels)
  coupling = fpp.bijectors.Coupling(network, fpp.bijectors.affine_coupling_bijector)
  normal = tfp.distributions.Sample(tfp.distributions.Normal(0.0, 1.0), (4, 4, 2))
  flow = fpp.distributions.FlowDistribution(normal, fpp.bijectors.Invert(coupling))
  refuses(f"^{message}", fpp.export, flow, tmp_path / "onnx", "onnx")


def test_an_existing_export_is_replaced_only_if_told_so(tmp_path):
  flow = fpp.vector_flow(2, couplings=1, hidden=4, blocks=0)
  fpp.export(flow, tmp_path / "onnx", "onnx", metadata={"data": "moons"})
  refuses("exists already; `overwrite` .--overwrite. replaces it", fpp.export, flow, tmp_path / "onnx", "onnx")
  fpp.export(flow, tmp_path / "onnx", "onnx", overwrite=True)
  assert "data" not in json.loads((tmp_path / "onnx" / "metadata.json").read_text())
  (tmp_path / "other").mkdir()
  (tmp_path / "other" / "file").touch()
  with pytest.raises(fpp.InputError, match="cannot be overwritten: it is not an export in the format 'onnx'"):
    fpp.export(flow, tmp_path / "other", "onnx", overwrite=True)
  with pytest.raises(fpp.InputError, match=r"^'.*aaa' cannot be written: \w+"):  # no name is so long
    fpp.export(flow, tmp_path / ("a" * 300), "onnx")
  with pytest.raises(fpp.InputError, match="`metadata` must be what JSON can hold"):
    fpp.export(flow, tmp_path / "new", "onnx", metadata={"data": object()})
  with pytest.raises(fpp.InputError, match="^`metadata` has keys that the export writes itself: format, versions$"):
    fpp.export(flow, tmp_path / "new", "onnx", metadata={"versions": {"mine": 2}, "data": "moons", "format": ""})


def test_weights_must_fit_the_dtype_in_which_they_are_stored(tmp_path):
  flow = fpp.VectorFlow(2, couplings=1, hidden=4, blocks=0)
  for weight in flow.trainable_variables:
    weight.assign(tf.fill(weight.shape, 1e5) if weight.name == "kernel" else weight)
  with pytest.raises(fpp.InputError, match="^the weights do not fit float16: the largest is 100000$"):
    fpp.export(flow, tmp_path / "onnx", "onnx", weight_dtype="float16")


def test_weights_must_be_finite(tmp_path):
  flow = fpp.vector_flow(2, couplings=1, hidden=4, blocks=0)
  flow.trainable_variables[0].assign(flow.trainable_variables[0] * np.nan)
  refuses("^the weights of the model must be finite", fpp.export, flow, tmp_path / "onnx", "onnx")
