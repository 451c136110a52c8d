"""Exports of posteriors: supports, ensembles and embeddings for ONNX Runtime, against float64; SavedModels.

Samples and densities of a flow agree, in the library and in each export.
"""

import json

import keras
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from flowpp_tf.core.errors import InputError
from flowpp_tf.exporting.ops import TensorFlowOps
from flowpp_tf.exporting.posterior_graph import normal_quantile
from flowpp_tf.io.files import check_digests
from support.marks import quick_rows
from support.models import perturb

box, positive, simplex = fpp.support.box, fpp.support.positive, fpp.support.simplex
pytestmark = pytest.mark.needs("onnxruntime")
IGNORED = "ignore:.*tf.lite.Interpreter is deprecated"  # now the package ai-edge-litert


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
  "simplex": (3, [0.5, 0.2, 0.2], lambda: dict(support=simplex(), context_size=3)),
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
  z = rng.randn(64, *flows[0].distribution.event_shape).astype(np.float32)
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


def litert(folder, name):
  return tf.lite.Interpreter(str(folder / f"{name}.tflite"), num_threads=1).get_signature_runner()


@pytest.mark.slow
@pytest.mark.filterwarnings(IGNORED)
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
    found = litert(tmp_path / "litert", name)(**inputs[name])[output]
    np.testing.assert_allclose(expected, found, rtol=1e-5, atol=1e-5)


FAR = np.float32([1e18, 1e25, 1e30, -1e30, 3e38, np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-40, -1e-40, 1.2e-38, 0.5])


@pytest.mark.filterwarnings(IGNORED)
@pytest.mark.parametrize(
  "support, df",
  [(None, None), (None, 5.0), (positive(), 3.0), ([positive(), None], 5.0), (simplex(), 3.0), (box(0.0, 1.0), 3.0)],
)
def test_far_values_and_those_outside_have_the_log_densities_of_the_library(support, df, tmp_path):
  x = np.stack(np.meshgrid(FAR, FAR, np.float32([0.5, 1e30])), axis=-1).reshape(-1, 3)
  x = np.concatenate([x, np.float32([[0.6, 0.4, 0.0], [0.5, 0.3, 0.2], [1.2e-38, 1.2e-38, 1.0]])])
  if isinstance(support, list):
    x = x[:, :2]
  is_box = isinstance(support, type(box(0.0, 1.0)))
  if is_box:  # TensorFlow takes -1e-40 for 0, the bound, and ONNX Runtime for what it is, a number outside
    x = x[~np.any(x == np.float32(-1e-40), axis=1)]
  keras.utils.set_random_seed(0)
  flow = fpp.vector_flow(x.shape[1], couplings=1, components=2, hidden=4, df=df, support=support)
  expected = flow.log_prob(x)
  fpp.export(flow, tmp_path / "onnx", "onnx")
  found = [session(tmp_path / "onnx", "log_prob").run(["log_prob"], {"x": x})[0]]
  if not is_box:
    fpp.export(flow, tmp_path / "litert", "litert")
    found.append(litert(tmp_path / "litert", "log_prob")(x=x)["log_prob"])
  for log_prob in found:
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5, atol=1e-4)


def test_samples_of_heavy_tails_are_positive_numbers_of_float32(tmp_path):
  flow = fpp.vector_flow(1, support=positive(), couplings=1, hidden=4, df=1.0)
  fpp.export(flow, tmp_path / "onnx", "onnx")
  z = np.float32([[-1000.0], [0.3], [1000.0]])
  (x,) = session(tmp_path / "onnx", "sample").run(["x"], {"latents": z})
  np.testing.assert_allclose(x, flow.bijector.forward(z), rtol=1e-5)
  assert np.all(x > 0) and np.all(np.isfinite(x))


def test_an_ensemble_in_an_ensemble_is_one_of_all_flows(tmp_path):
  flows = [fpp.vector_flow(1, couplings=1, hidden=4, df=df) for df in (None, 3.0, 5.0)]
  flow = fpp.ensemble([flows[0], fpp.ensemble(flows[1:])])
  fpp.export(flow, tmp_path / "onnx", "onnx")
  members = json.loads((tmp_path / "onnx" / "metadata.json").read_text())["members"]
  bases = ["normal", {"student_t": 3.0}, {"student_t": 5.0}]
  assert members == [{"base": base, "weight": weight} for base, weight in zip(bases, (0.5, 0.25, 0.25))]
  x = np.float32([[0.3], [9.0]])
  (log_prob,) = session(tmp_path / "onnx", "log_prob").run(["log_prob"], {"x": x})
  exact = np.log(np.average([one.prob(x) for one in flows], axis=0, weights=[0.5, 0.25, 0.25]))
  np.testing.assert_allclose(log_prob, exact, rtol=1e-5)
  z, member = np.float32([[1.5]] * 3), np.arange(3, dtype=np.int32)
  (drawn,) = session(tmp_path / "onnx", "sample").run(["x"], {"latents": z, "member": member})
  np.testing.assert_allclose(drawn, [one.bijector.forward(z[0]) for one in flows], rtol=1e-5)


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
  shares = fpp.vector_flow(3, support=tfp.bijectors.IteratedSigmoidCentered(), couplings=1, hidden=4)
  with pytest.raises(InputError, match="^the support 'iterated_sigmoid' cannot be exported to this format"):
    fpp.export(shares, tmp_path / "onnx", "onnx")
  layers = [keras.Input([None, 2]), keras.layers.GlobalAveragePooling1D()]
  free = fpp.vector_flow(1, embedding=keras.Sequential(layers), couplings=1, hidden=4)
  with pytest.raises(InputError, match=r"^`embedding` must have an input of one shape .*, got \[None, 2\]"):
    fpp.export(free, tmp_path / "onnx", "onnx")
  supports = [fpp.support.simplex(), fpp.support.positive()]
  others = [fpp.vector_flow(3, support=support, couplings=1, hidden=4) for support in supports]
  with pytest.raises(InputError, match="^the flows of an ensemble must have latents of one shape"):
    fpp.export(fpp.ensemble(others), tmp_path / "onnx", "onnx")
  with pytest.raises(InputError, match="^LiteRT has no error function, which a box needs"):
    fpp.export(fpp.vector_flow(1, support=box(0.0, 1.0), couplings=1, hidden=4), tmp_path / "litert", "litert")
  model = keras.Sequential([keras.Input([4, 2]), keras.layers.LSTM(2)])
  with pytest.raises(InputError, match="^the layer LSTM of `embedding` cannot be exported to this format"):
    fpp.export(fpp.vector_flow(1, embedding=model), tmp_path / "onnx", "onnx")


# --- Samples and densities of one flow agree ------------------------------------------------------

DRAWS = 200_000
CRITICAL = np.sqrt(-0.5 * np.log(1e-6 / 2) / DRAWS)  # of Kolmogorov and Smirnov's statistic
# A support, data in it, and the numbers whose images are the grid on which a density is integrated.
AGREEING = {
  "none": (None, lambda rng: rng.randn(500, 1), np.linspace(-30, 30, 6001)),
  "box": (box(1.0, 3.0), lambda rng: rng.uniform(1, 3, [500, 1]), np.linspace(-9, 9, 6001)),
  "positive": (positive(), lambda rng: np.exp(rng.randn(500, 1)), np.linspace(-30, 30, 6001)),
  "simplex": (simplex(), lambda rng: rng.dirichlet([0.5, 0.5], 500), np.linspace(-40, 40, 6001)),
  "mixed": ([box(0.0, 2.0), positive()], lambda rng: rng.uniform(0, 2, [500, 2]), np.linspace(-9, 9, 601)),
}


def flow_of(name, dtype, is_ensemble):
  """A flow, or an ensemble in an ensemble whose members have different bases."""
  support, data, _ = AGREEING[name]
  x = data(np.random.RandomState(0)).astype(dtype)
  flows = []
  for df in (None, 5.0, 4.0) if is_ensemble else (5.0,):
    keras.utils.set_random_seed(0)
    flows.append(fpp.vector_flow(x.shape[1], 0, len(x[0]), 3, 8, 1, dtype, df, support))
    flows[-1].initialize(x)
  return fpp.ensemble([flows[0], fpp.ensemble(flows[1:])]) if is_ensemble else flows[0]


def cdf_of(flow, name):
  """The CDF of the first value, as a function, by the trapezoidal rule on the density only."""
  support, _, grid = AGREEING[name]
  parts = support if isinstance(support, list) else [support]
  axes = [np.asarray(part.forward(grid[:, np.newaxis])) if part else grid[:, np.newaxis] for part in parts]
  x = axes[0] if len(axes) == 1 else np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
  density = np.exp(flow.log_prob(x.astype(flow.dtype.as_numpy_dtype)).numpy().astype(np.float64))
  if len(axes) == 2:
    density = scipy.integrate.trapezoid(density.reshape(len(grid), -1), axes[1][:, 0], axis=1)
  cdf = scipy.integrate.cumulative_trapezoid(density, axes[0][:, 0], initial=0)
  np.testing.assert_allclose(cdf[-1], 1, atol=CRITICAL / 2)  # in float32 the last number of a box has what is beyond
  return lambda values: np.interp(values, axes[0][:, 0], cdf)


def drawn_by(session_of, folder):
  """Samples of a graph, from latents drawn as metadata.json says, and the log densities that the other graph gives."""
  about, rng = json.loads((folder / "metadata.json").read_text()), np.random.RandomState(0)
  members = about.get("members", [{"base": about.get("base"), "weight": 1}])
  member = rng.choice(len(members), DRAWS, p=[one["weight"] for one in members]).astype(np.int32)
  shape = (DRAWS, *about["latent_shape"])
  of_member = [
    rng.standard_normal(shape) if one["base"] == "normal" else rng.standard_t(one["base"]["student_t"], shape)
    for one in members
  ]
  inputs = {"latents": np.stack(of_member)[member, np.arange(DRAWS)].astype(np.float32)}
  x = session_of(folder, "sample")(**inputs, **({"member": member} if "members" in about else {}))["x"]
  return x, session_of(folder, "log_prob")(x=x)["log_prob"]


def onnx(folder, name):
  run, (output, *_) = session(folder, name).run, session(folder, name).get_outputs()
  return lambda **inputs: {output.name: run([output.name], inputs)[0]}


@pytest.mark.slow
@pytest.mark.filterwarnings(IGNORED)
@pytest.mark.parametrize("is_ensemble", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", AGREEING)
def test_samples_are_inside_and_have_the_density(name, dtype, is_ensemble, tmp_path):
  flow = flow_of(name, dtype, is_ensemble)
  cdf, x = cdf_of(flow, name), flow.sample(DRAWS, seed=0).numpy()
  drawn = {"library": (x, flow.log_prob(x).numpy())}
  fpp.export(flow, tmp_path / "saved_model")
  loaded = tf.saved_model.load(tmp_path / "saved_model")
  x = loaded.sample(DRAWS, 1).numpy()
  drawn["saved_model"] = x, loaded.log_prob(x).numpy()
  graphs = {"onnx": onnx, "litert": litert} if dtype == "float32" else {}
  if name in ("box", "mixed"):
    graphs.pop("litert", None)  # it has no boxes
  for format, session_of in graphs.items():
    fpp.export(flow, tmp_path / format, format)
    drawn[format] = drawn_by(session_of, tmp_path / format)
  for runtime, (x, log_prob) in drawn.items():
    assert np.all(np.isfinite(log_prob)), runtime
    np.testing.assert_allclose(log_prob, flow.log_prob(x), rtol=1e-3, atol=1e-3, err_msg=runtime)  # finite if inside
    levels = cdf(np.sort(x[:, 0].astype(np.float64)))
    steps = np.arange(DRAWS + 1) / DRAWS
    assert max(np.max(steps[1:] - levels), np.max(levels - steps[:-1])) < CRITICAL, runtime
