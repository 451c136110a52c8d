"""Exports of posteriors: supports, ensembles and embeddings for ONNX Runtime, against float64; SavedModels."""

import json

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf.core.errors import InputError
from flowpp_tf.exporting.ops import TensorFlowOps
from flowpp_tf.io.files import check_digests
from flowpp_tf.posterior.graphs import normal_quantile
from support.marks import quick_rows
from support.models import perturb

box, positive = fpp.support.box, fpp.support.positive
pytestmark = pytest.mark.needs("onnxruntime")


def network():
  layers = [keras.layers.Flatten(), keras.layers.Dense(5, activation="relu"), keras.layers.Dense(3, use_bias=False)]
  return keras.Sequential([keras.Input([4, 2]), *layers])


# The size of an event, and what is outside of the support.
CASES = {
  "box": (2, [3.0, 0.0], lambda: dict(support=box([0.0, -1.0], [1.0, 5.0]), context_size=3)),
  "a bijector for each value": (
    3,
    [0.5, -1.0, 0.0],
    lambda: dict(support=[box(0, 1), positive(), None], context_size=3),
  ),
  "one value": (1, [-1.0], lambda: dict(support=positive(), context_size=3)),
  "embedding": (2, [0.5, 2.0], lambda: dict(support=box(0.0, 1.0), embedding=network())),
}


def members(size, options, dtype):
  """Two flows, the same in each dtype."""
  flows = []
  for seed in range(2):
    keras.utils.set_random_seed(seed)
    layer = fpp.VectorFlow(size, couplings=2, components=3, hidden=8, **options(), dtype=dtype)
    perturb(layer, seed=seed)
    flows.append(layer.distribution)
  return flows


def session(folder, name):
  import onnxruntime

  return onnxruntime.InferenceSession(folder / f"{name}.onnx")


@pytest.mark.parametrize("name", quick_rows(CASES, ["box"]))
def test_log_densities_and_samples_are_those_of_float64(name, tmp_path):
  size, outside, options = CASES[name]
  flows, wide = members(size, options, "float32"), members(size, options, "float64")
  for flow, other in zip(flows, wide):
    for variable, weight in zip(other.variables, flow.variables, strict=True):
      variable.assign(tf.cast(weight, variable.dtype))
  rng = np.random.RandomState(0)
  context = rng.randn(64, *flows[0].context_shape).astype(np.float32)
  z = rng.randn(64, size).astype(np.float32)
  right = [flow.given(context.astype(np.float64)).bijector.forward(z.astype(np.float64)).numpy() for flow in wide]
  x = right[0].astype(np.float32)
  x[0] = outside
  member = np.arange(64, dtype=np.int32) % 2
  for flow, other, more, samples in (
    (flows[0], wide[0], {}, right[0]),
    (fpp.ensemble(flows), fpp.ensemble(wide), {"member": member}, np.where(member[:, np.newaxis], right[1], right[0])),
  ):
    fpp.export(flow, tmp_path / "onnx", "onnx", overwrite=True)
    log_prob, sample = session(tmp_path / "onnx", "log_prob"), session(tmp_path / "onnx", "sample")
    for rows in (context[:1], context):  # one row is for all of x
      (found,) = log_prob.run(["log_prob"], {"x": x, "context": rows})
      exact = other.given(rows.astype(np.float64)).log_prob(x.astype(np.float64))
      np.testing.assert_allclose(found, exact, rtol=0, atol=1e-5 * size)
      assert found[0] == -np.inf
    (alone,) = log_prob.run(["log_prob"], {"x": x[1:2], "context": context[1:2]})
    np.testing.assert_allclose(alone, found[1:2], rtol=1e-6, atol=1e-6)
    (drawn,) = sample.run(["x"], {"latents": z, "context": context, **more})
    np.testing.assert_allclose(drawn, samples, rtol=1e-5, atol=1e-5)
    one, tiled = ({"latents": z, "context": context[rows], **more} for rows in ([0], [0] * 64))
    np.testing.assert_array_equal(sample.run(["x"], one), sample.run(["x"], tiled))
    for n, m in ((64, 2), (2, 64), (1, 64), (64, 0)):
      with pytest.raises(Exception, match="Non-zero status code"):
        log_prob.run(None, {"x": x[:n], "context": context[:m]})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")  # now the package ai-edge-litert
def test_litert_gives_what_onnx_gives(tmp_path):
  flow = fpp.ensemble(members(2, lambda: dict(support=[positive(), None], embedding=network()), "float32"))
  rng = np.random.RandomState(0)
  x, z, context = (rng.randn(64, *shape).astype(np.float32) for shape in ([2], [2], [4, 2]))
  x[:, 0] = np.exp(x[:, 0])
  x[0, 0] = -1.0
  inputs = dict(log_prob=dict(x=x, context=context[:1]), sample=dict(latents=z, context=context))
  inputs["sample"]["member"] = np.arange(64, dtype=np.int32) % 2
  for format in ("onnx", "litert"):
    fpp.export(flow, tmp_path / format, format)
  for name, output in (("log_prob", "log_prob"), ("sample", "x")):
    (expected,) = session(tmp_path / "onnx", name).run([output], inputs[name])
    litert = tf.lite.Interpreter(str(tmp_path / "litert" / f"{name}.tflite"), num_threads=1).get_signature_runner()
    found = litert(**inputs[name])[output]
    np.testing.assert_allclose(np.maximum(expected, -1e38), np.maximum(found, -1e38), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_saved_model_has_the_same_log_densities(tmp_path):
  size, _, options = CASES["embedding"]
  flow = fpp.ensemble(members(size, options, "float32"))
  fpp.export(flow, tmp_path / "saved", metadata={"data": "mine"})
  loaded = tf.saved_model.load(tmp_path / "saved")
  context = np.random.RandomState(0).randn(64, 4, 2).astype(np.float32)
  x = flow.given(context).sample(seed=0)
  np.testing.assert_allclose(loaded.log_prob(x, context), flow.given(context).log_prob(x), rtol=1e-5, atol=1e-5)
  assert loaded.sample(3, 0, context).shape == [3, 64, size]
  assert json.loads((tmp_path / "saved" / "assets" / "metadata.json").read_text())["data"] == "mine"
  check_digests(tmp_path / "saved")


def test_the_quantile_of_the_normal_distribution_is_right_to_seven_digits():
  p = np.concatenate([np.logspace(-30, -1, 1000), np.linspace(0.1, 0.499, 1000)]).astype(np.float32)
  np.testing.assert_allclose(
    normal_quantile(TensorFlowOps(), tf.constant(p)), scipy.special.ndtri(p.astype(float)), rtol=2e-6
  )


@pytest.mark.parametrize("format", ["onnx", "saved_model"])
def test_weights_of_an_embedding_must_be_finite(format, tmp_path):
  flow = fpp.vector_flow(1, embedding=network(), couplings=1, hidden=4)
  flow.embedding.weights[0].assign(flow.embedding.weights[0] * np.nan)
  with pytest.raises(InputError, match="^the weights of the model must be finite"):
    fpp.export(flow, tmp_path / "exported", format)


def test_what_graphs_do_not_have_is_one_line(tmp_path):
  shares = fpp.vector_flow(3, support=fpp.support.simplex(), couplings=1, hidden=4)
  with pytest.raises(InputError, match="^the support 'iterated_sigmoid' cannot be exported to this format"):
    fpp.export(shares, tmp_path / "onnx", "onnx")
  with pytest.raises(InputError, match="^LiteRT has no error function, which a box needs"):
    fpp.export(fpp.vector_flow(1, support=box(0.0, 1.0), couplings=1, hidden=4), tmp_path / "litert", "litert")
  model = keras.Sequential([keras.Input([4, 2]), keras.layers.LSTM(2)])
  with pytest.raises(InputError, match="^the layer LSTM of `embedding` cannot be exported to this format"):
    fpp.export(fpp.vector_flow(1, embedding=model), tmp_path / "onnx", "onnx")
