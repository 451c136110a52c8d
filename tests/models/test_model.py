"""The model: its bound, augmented too, variables, initialisation, samples, errors, size, and stateless calls."""

import dataclasses
import inspect
import itertools
import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import bijectors as fb
from flowpp_tf import models
from flowpp_tf.config import size
from flowpp_tf.config.size import model_size
from flowpp_tf.config.structure import parse_structure
from flowpp_tf.core import context
from flowpp_tf.core.registry import COUPLINGS
from flowpp_tf.io import budget
from flowpp_tf.io.budget import Budget, BudgetError
from flowpp_tf.layers import Conditioner, NetworkConfig
from support.bijector_cases import CASES, OTHER_FORMS, bijector_fn, draw, tensor_parameters
from support.comparing import assert_same
from support.conformance_rows import BIJECTOR_ROWS, LAYER_ROWS, ROWS
from support.marks import exhaustive, quick_rows, slow
from support.models import SMALL, TINY, VARIANTS, perturbed, small_config, small_images, value_and_log_det


@pytest.mark.parametrize("name", quick_rows(VARIANTS, ["published", "augmented_vflow"]))
def test_both_views_list_each_weight_once(name):
  model = fpp.FlowPlusPlus(VARIANTS[name])
  pointers = lambda variables: sorted(id(v if isinstance(v, tf.Variable) else v.value) for v in variables)
  keras_view = pointers(model.weights)
  drawn = [model.dequantizer, model.augmenter][: 2 if model.config.augment_channels else 1]
  given_the_image = [part.posterior(small_images()) for part in drawn]
  of_tfp = [v for part in [model.flow, *given_the_image] for v in part.variables if v.dtype.is_floating]  # no flags
  assert len(set(keras_view)) == len(keras_view)
  assert keras_view == pointers(of_tfp)
  assert model.count_params() == sum(v.shape.num_elements() for v in of_tfp)


def test_each_weight_has_a_path_of_its_own():
  """Keras' state trees, TensorBoard's histograms and messages about gradients name weights by their paths."""
  config = dataclasses.replace(
    VARIANTS["augmented"], num_classes=3, condition_shape=(2, 2, 1), condition_channels=2, condition_blocks=2
  )
  models = [fpp.FlowPlusPlus(config), fpp.FlowPlusPlus(config, name="another")]
  paths = [weight.path for model in models for weight in model.weights]
  assert len({*paths}) == len(paths)
  assert "another/flow/flow_step_1/conditioner/block_0/conv/conv/kernel" in paths


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in VARIANTS if "augmented" not in name])  # see below
def test_bound_is_the_change_of_variables_with_autodiff_jacobians(name):
  config = VARIANTS[name]
  model = perturbed(config, dtype="float64")
  images = small_images(2)
  noise = model.sample_noise([2], tf.constant([0, 1]))
  log_normal = lambda z: np.sum(-0.5 * z.numpy() ** 2 - 0.5 * np.log(2 * np.pi), axis=(1, 2, 3))
  u, log_q = noise, 0.0
  if config.dequantization == "variational":
    u, log_du = value_and_log_det(model.dequantizer.posterior(images).bijector.forward, noise)
    log_q = log_normal(noise) - log_du
  z, log_dz = value_and_log_det(model.flow.bijector.inverse, images + u)
  np.testing.assert_allclose(model.log_prob_bound(images, noise=noise), log_normal(z) + log_dz - log_q, rtol=1e-10)


def test_every_weight_has_a_gradient(small_model):
  with tf.GradientTape() as tape:
    loss = tf.reduce_mean(small_model.log_prob_bound(small_images(), seed=0))
  weights = [v.value for v in small_model.trainable_variables]
  for weight, gradient in zip(weights, tape.gradient(loss, weights)):
    assert gradient is not None and np.any(gradient != 0), weight.name


def test_importance_weighted_bound_is_log_mean_exp_of_the_single_ones(small_model):
  images = small_images()
  noise = small_model.sample_noise([3, len(images)], tf.constant([0, 1]))
  single = np.stack([small_model.log_prob_bound(images, noise=n) for n in noise])
  weighted = small_model.log_prob_bound(images, noise=noise)
  np.testing.assert_allclose(weighted, np.log(np.mean(np.exp(single), axis=0)), rtol=1e-12)
  np.testing.assert_allclose(small_model.bits_per_dim(images, noise=noise), -weighted / (32 * np.log(2)), rtol=1e-12)


def test_seeds_repeat_draws_and_none_does_not(small_model):
  images = small_images()
  bound = lambda seed: small_model.log_prob_bound(images, seed=seed).numpy()
  np.testing.assert_array_equal(bound(1), bound(1))
  assert np.all(bound(1) != bound(2))
  assert np.all(bound(None) != bound(None))
  sample = lambda seed: small_model.sample(4, seed=seed).numpy()
  np.testing.assert_array_equal(sample(1), sample(1))
  assert np.any(sample(1) != sample(2))


@pytest.mark.parametrize("seed", [0, 5, 2**31 + 7, 2**40 + 3, -1, -(2**50) + 11, 2**63 - 1, -(2**63)])
def test_a_seed_means_the_same_in_python_in_a_tensor_and_in_a_graph(seed):
  as_seed = context.as_seed
  np.testing.assert_array_equal(as_seed(seed), [seed >> 32, seed % 2**32])
  for tensor in [tf.constant(seed, tf.int64)] + [tf.constant(seed, tf.int32)] * (abs(seed) < 2**31):
    np.testing.assert_array_equal(as_seed(tensor), as_seed(seed))
    np.testing.assert_array_equal(tf.function(as_seed)(tensor), as_seed(seed))


def test_decode_gives_encoded_images_back(small_model):
  images = small_images()
  np.testing.assert_array_equal(small_model.decode(small_model.encode(images, seed=0)), images)


def test_samples_are_images_and_temperature_zero_is_one_image(small_model):
  images = small_model.sample(5, seed=0)
  assert images.dtype == tf.uint8 and images.shape == (5, 4, 4, 2)
  assert np.max(images) < 8
  cold = small_model.sample(5, temperature=0.0).numpy()
  assert np.all(cold == cold[0])


def test_initialisation_normalises_what_reaches_each_coupling():
  model = fpp.FlowPlusPlus(small_config(SMALL, dtype="float64"))
  images = small_images(64)
  bound = model.initialize(images, seed=3)
  noise_seed = context.as_seed(3)
  np.testing.assert_allclose(model.log_prob_bound(images, seed=noise_seed), bound, rtol=1e-9)
  step = model.coupling_flow.steps[0]
  noise = model.sample_noise([64], fpp.layers.fold_in(noise_seed, 0))
  x = images + model.dequantizer.posterior(images).transform(noise)[0]
  x = fpp.bijectors.PixelsToLogit(8).forward(x)
  y = step.act_norm.forward(fpp.bijectors.split_columns((4, 4, 2)).forward(x))
  np.testing.assert_allclose(tf.reduce_mean(y, 0), np.zeros((4, 2, 4)), atol=1e-10)
  np.testing.assert_allclose(tf.math.reduce_std(y, 0), np.ones((4, 2, 4)), rtol=1e-6)


IMAGES = small_images()


@pytest.mark.parametrize("count", [1, slow(2), slow(4), slow(8), slow(16)])
def test_a_model_initialised_on_few_images_takes_every_other(count):
  model = fpp.FlowPlusPlus(SMALL)
  model.initialize(small_images(count), seed=0)
  others = small_images(256, seed=1)
  assert np.all(np.isfinite(model.log_prob_bound(others, seed=0)))
  latents = model.encode(others, seed=0)
  assert np.all(np.isfinite(model.flow.bijector.forward(tf.identity(latents))))


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda m: m.log_prob_bound(IMAGES, noise=0.5), "`noise` must be of shape"),
    (lambda m: m.log_prob_bound(IMAGES, 2, np.zeros((3, *IMAGES.shape))), "`noise` must be of shape"),
    (lambda m: m.log_prob_bound(IMAGES, 2, np.zeros(IMAGES.shape)), "`noise` must be of shape"),
    (
      lambda m: fpp.FlowPlusPlus(dataclasses.replace(m.config, dequantization="uniform")).encode(
        IMAGES, noise=-np.ones(IMAGES.shape)
      ),
      r"`noise` that is uniform must lie in \[0, 1\), got values from -1.0",
    ),
    (lambda m: m.log_prob_bound(IMAGES, seed=2**63), "`seed` must be an integer of 64 bits, got 92"),
    (lambda m: m.sample(1, temperature=1e39), "`temperature` must be between 0 and 3.4.*, got 1e.39"),
    (lambda m: m.compile(loss="mse"), "`loss` must be None"),
  ],
)
def test_bad_input_is_a_value_error_that_names_argument_value_and_expectation(small_model, call, message):
  with pytest.raises(ValueError, match=message):
    call(small_model)


# Images of two pixels that are black or white: four of them.
TWO_PIXELS = small_config(
  TINY,
  image_shape=(1, 2, 1),
  levels=2,
  structure="columns:2,channels:2",
  components=2,
  heads=1,
  dropout=0.0,
  dequantization="uniform",
  augment_channels=1,
  augment_blocks=1,
  dtype="float64",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["augmented", "augmented_normal", "augmented_vflow"])
def test_the_bound_is_that_of_the_definition_by_autodiff(name):
  model = perturbed(VARIANTS[name], dtype="float64")
  images, noise = small_images(2), model.sample_noise([2], seed=3)
  x = tf.cast(images, tf.float64)

  dequantizer, augmenter = (noise[..., :2], noise[..., 2:])
  u, log_q = model.dequantizer.posterior(x).transform(dequantizer)
  p = 0.05 + 0.9 * (x + u) / 8
  e, log_q_e = model.augmenter.posterior(tf.math.log(p / (1 - p))).transform(augmenter)

  with tf.GradientTape() as tape:
    y = tf.concat([x + u, e], axis=-1)
    tape.watch(y)
    z = tf.reshape(model.flow.bijector.inverse(y), [2, -1])
  jacobian = tf.reshape(tape.batch_jacobian(z, y), [2, 64, 64])
  prior = -0.5 * tf.reduce_sum(z**2 + np.log(2 * np.pi), axis=1)
  expected = prior + tf.linalg.slogdet(jacobian).log_abs_determinant - log_q - log_q_e
  np.testing.assert_allclose(model.log_prob_bound(images, noise=noise), expected, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("posterior, scale", [("flow", 0.05), ("normal", 0.1)])
def test_images_come_as_often_as_the_bound_of_many_draws_says(posterior, scale):
  model = perturbed(TWO_PIXELS, scale, augment_posterior=posterior)
  images = np.asarray(list(itertools.product(range(2), repeat=2)), np.uint8).reshape(4, 1, 2, 1)
  probability = np.exp(model.log_prob_bound(images, num_samples=20_000, seed=0))
  # A sample outside of [0, 2) is clipped to the nearest image, and no image has its density.
  flow = model.flow.sample(40_000, seed=1)[..., :1].numpy()
  inside = ((flow >= 0) & (flow < 2)).all(axis=(1, 2, 3))
  kinds = np.floor(flow[inside]).reshape(-1, 2) @ [2, 1]
  frequency = np.bincount(kinds.astype(int), minlength=4) / len(flow)
  assert frequency.max() > 1.5 * frequency.min()  # else every model would pass
  # Few draws have most of the weight: the bound is still some per cent below the logarithm of what it bounds.
  np.testing.assert_allclose(probability, frequency, rtol=0.1)


def test_the_noise_of_the_image_is_that_of_a_model_without_augmentation():
  plain, augmented = fpp.FlowPlusPlus(VARIANTS["published"]), fpp.FlowPlusPlus(VARIANTS["augmented"])
  np.testing.assert_array_equal(augmented.sample_noise([3], 5)[..., :2], plain.sample_noise([3], 5))
  assert augmented.noise_shape == (4, 4, 4) and plain.noise_shape == (4, 4, 2)


def test_vflow_is_the_published_one():
  config = fpp.get_config("cifar10_vflow")
  assert config.flow_shape == (32, 32, 6) and config.augment_blocks == 3
  assert (config.coupling_margin, config.augment_end, config.invertible_conv_stddev) == (0.05, "sigmoid", 0.01)
  flow = [(c.kind, c.couplings) for c in parse_structure(config.structure, config.flow_shape)]
  assert flow == [("columns", 2), ("channels", 2), ("squeeze", 0), ("columns", 2), ("channels", 3)]


BASE = small_config(TINY, structure="columns:1", components=2, condition_channels=3, augment_blocks=2)
CHOICES = {
  "structure": ["columns:1", "columns:2,squeeze,channels:1", "squeeze,channels:2,columns:1", "channels:2"],
  "coupling": [*COUPLINGS],
  "attention": [True, False],
  "invertible_conv": ["dense", "lu", "none"],
  "weight_norm": [True, False],
  "output_concat_elu": [True, False],
  "dequantization": ["variational", "uniform"],
  "dequant_mixing": [True, False],
  "context_layer_norm": [True, False],
  "context_attention": [True, False],
  "augment_channels": [0, 2],
  "augment_posterior": ["flow", "normal"],
  "num_classes": [0, 3],
  "condition_shape": [(), (2, 2, 1), (4, 4, 3)],
  "blocks": [1, 3],
  "padding": ["zeros", "periodic"],
  "act_norm_per_position": [True, False],
}


def of_model(config):
  model = fpp.FlowPlusPlus(config)
  return size.ModelSize(model.count_params(), len([*model._flatten_layers()]))


@pytest.mark.parametrize("seed", [*range(2), *map(slow, range(2, 12))])
def test_sizes_of_small_models_of_every_kind_are_those_of_the_built_ones(seed):
  rng = np.random.RandomState(seed)
  config = dataclasses.replace(BASE, **{name: values[rng.randint(len(values))] for name, values in CHOICES.items()})
  assert model_size(config) == of_model(config), config
  config = dataclasses.replace(config, dequantization="none", augment_channels=0)
  assert model_size(config) == of_model(config), config


LARGE = sorted(name for name in fpp.CONFIGS if "imagenet" in name or "celeba" in name or name.startswith("cifar10_"))


@pytest.mark.parametrize(
  "name", ["digits", *map(slow, sorted({*fpp.CONFIGS} - {"digits", *LARGE})), *map(exhaustive, LARGE)]
)
def test_sizes_of_the_shipped_configs_are_those_of_the_built_models(name):
  assert model_size(fpp.get_config(name)) == of_model(fpp.get_config(name))


# --- Claims ---------------------------------------------------------------------------------------

HUGE = {"blocks": 65_536, "filters": 65_536, "heads": 1}


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
  folder = tmp_path_factory.mktemp("presets") / "mine"
  fpp.FlowPlusPlus(TINY).save_to_preset(folder, "a model")
  return folder


def test_a_config_of_a_huge_model_is_refused_before_it_is_built(preset, tmp_path, monkeypatch):
  folder = shutil.copytree(preset, tmp_path / "mine")
  run = json.loads((folder / "config.json").read_text())
  built = []
  monkeypatch.setattr(models.flow_plus_plus, "CouplingFlow", lambda *args, **kwargs: built.append(args))
  for change in ({"blocks": 65_536}, HUGE, {"image_shape": [65_536, 65_536, 1]}):
    run["model"].update(change)
    (folder / "config.json").write_text(json.dumps(run))
    message = "the model of .* would take .* of memory; at most 4 GiB are allowed .--memory raises the limit"
    with pytest.raises(BudgetError, match=message):
      fpp.FlowPlusPlus.from_preset(folder)
    with pytest.raises(BudgetError, match=message):
      fpp.load(folder)
  with pytest.raises(BudgetError, match=message):  # as Keras makes it from a .keras file
    fpp.FlowPlusPlus.from_config({"config": run["model"], "name": "a"})
  assert not built


def test_the_budget_can_be_raised_and_a_users_own_config_is_not_limited(preset):
  with budget.use(Budget(memory=1 << 20)):
    fpp.FlowPlusPlus(TINY)
    with pytest.raises(BudgetError):
      fpp.FlowPlusPlus.from_preset(preset)
  with budget.use(Budget(memory=model_size(TINY).memory())):
    fpp.FlowPlusPlus.from_preset(preset)


@pytest.mark.parametrize("sizes", [{}, {"event_size": 5, "context_size": 3, "couplings": 2, "hidden": 7, "blocks": 1}])
def test_a_flow_of_vectors_is_claimed_when_it_comes_from_a_file(sizes):
  layer = fpp.VectorFlow(**{"event_size": 2, **sizes})
  sizes = {
    name: layer.distribution.source.arguments[name] for name in inspect.signature(size.vector_flow_size).parameters
  }
  expected = size.vector_flow_size(**sizes)
  assert expected == size.ModelSize(layer.count_params(), len([*layer._flatten_layers()]))
  config = layer.get_config()
  with budget.use(Budget(memory=expected.memory())):
    fpp.VectorFlow.from_config(config)
    with pytest.raises(BudgetError, match="a `VectorFlow` would take"):
      fpp.VectorFlow.from_config({**config, "dtype": keras.dtype_policies.serialize(keras.DTypePolicy("float64"))})
  with pytest.raises(BudgetError, match="a `VectorFlow` would take 25.7 GiB"):
    fpp.VectorFlow.from_config({"event_size": 2, "couplings": 60_000, "hidden": 4})


WITH_PARAMETERS = [name for name, case in CASES.items() if tensor_parameters(case.make("float64"))]
MODELS = [name for name in ROWS if name.startswith("model_")]
HAVE_WEIGHTS = ["flow", "variational_dequantizer", "images", *(name for name in LAYER_ROWS if name != "dropout")]
FEW = ["images", "conditioner", "vector_flow_layer", "condition_net"]


def new_values(variables):
  return [
    (v, tf.convert_to_tensor(v.value + 0.1 * draw(*v.shape, dtype=v.dtype, seed=i))) for i, v in enumerate(variables)
  ]


def check(evaluate, variables):
  """`evaluate()` in a scope of new values, and after they are assigned."""
  assert variables
  old, mapping = evaluate(), new_values(variables)
  with keras.StatelessScope(state_mapping=mapping):
    scoped = evaluate()
  assert_same(tf.nest.flatten(evaluate()), tf.nest.flatten(old))  # nothing was assigned
  for variable, value in mapping:
    variable.assign(value)
  assigned = evaluate()
  assert_same(tf.nest.flatten(scoped), tf.nest.flatten(assigned), rtol=1e-6, atol=1e-6)
  assert any(np.max(np.abs(a - b)) > 1e-3 for a, b in zip(tf.nest.flatten(old), tf.nest.flatten(assigned)))


@pytest.mark.parametrize("name", quick_rows(WITH_PARAMETERS, {*WITH_PARAMETERS} - OTHER_FORMS))
def test_bijectors_with_keras_variables(name):
  bijector, inputs = CASES[name].make("float64"), ROWS[name].inputs("float64")
  variables = {n: keras.Variable(value, dtype="float64") for n, value in tensor_parameters(bijector).items()}
  bijector = bijector.copy(**variables)
  for owner in (bijector, fb.Chain([bijector]), fb.Invert(bijector)):
    assert {id(v.value) for v in variables.values()} <= {id(v) for v in owner.trainable_variables}
  check(lambda: BIJECTOR_ROWS[name].evaluate(bijector, *inputs), list(variables.values()))


@pytest.mark.parametrize("kind", ["affine", "mixture_logistic"])
def test_couplings_with_keras_layers(kind):
  conditioner = Conditioner((4, 2, 2), 2 * fb.num_parameters(kind, 3), NetworkConfig(4, 1, heads=2), dtype="float64")
  coupling, x = fb.Coupling(conditioner, bijector_fn(kind), dtype="float64"), draw(3, 4, 2, 4)
  check(lambda: [coupling.forward_and_log_det(x), coupling.inverse_and_log_det(x)], conditioner.trainable_variables)


@pytest.mark.parametrize("name", quick_rows(HAVE_WEIGHTS, FEW))
def test_distributions_and_layers(name):
  subject, inputs = ROWS[name].make("float64"), ROWS[name].inputs("float64")
  if name in ("flow", "images"):  # whose model has the Keras variables
    model = ROWS["model_published"].make("float64")
    subject = model.flow if name == "flow" else model.distribution
    layer = model.coupling_flow if name == "flow" else model
  else:
    layer = subject
  check(lambda: ROWS[name].evaluate(subject, *inputs), layer.trainable_variables)


@pytest.mark.parametrize("graph", [slow(False), True], ids=["eager", "graph"])
@pytest.mark.parametrize("name", quick_rows(MODELS, ["model_conditional"]))
def test_stateless_call_of_a_model(name, graph):
  model = ROWS[name].make("float64")
  images, _, *given = ROWS[name].inputs("float64")
  if given:
    images = dict(zip(("image", "label", "condition"), (images, *given)))
  values = [value for _, value in new_values(model.trainable_variables)]
  others = [v.value for v in model.non_trainable_variables]
  call = lambda: model.stateless_call(values, others, images)[0]
  bound = tf.function(call, autograph=False)() if graph else call()
  before = model(images)
  assert np.max(np.abs(bound - before)) > 1e-3
  for variable, value in zip(model.trainable_variables, values, strict=True):
    variable.assign(value)
  np.testing.assert_allclose(bound, model(images), rtol=1e-6)
  if not given:
    np.testing.assert_allclose(bound, model.log_prob_bound(images, seed=0), rtol=1e-6)


@pytest.mark.parametrize("graph", [slow(False), True], ids=["eager", "graph"])
def test_gradients_of_a_stateless_call_are_those_without_rematerialized_couplings(graph):
  found = []
  for remat in ("off", "couplings"):
    keras.utils.set_random_seed(0)
    model = fpp.FlowPlusPlus(small_config(TINY, structure="columns:1", dtype="float64", remat=remat))
    images, others = small_images(), [v.value for v in model.non_trainable_variables]
    values = [value for _, value in new_values(model.trainable_variables)]

    def gradients(model=model, images=images, others=others):
      with tf.GradientTape() as tape:
        tape.watch(values)
        bound = model.stateless_call(values, others, images)[0]
      return tape.gradient(bound, values)  # after the scope of the call has ended

    found.append(tf.function(gradients, autograph=False)() if graph else gradients())
  assert all(gradient is not None for gradient in found[1])
  assert_same(*reversed(found), rtol=1e-10, atol=1e-12)


def test_a_model_cloned_by_its_config_shares_no_weights():
  model = ROWS["model_published"].make("float64")
  clone = fpp.FlowPlusPlus.from_config(model.get_config())
  assert not {id(v) for v in clone.variables} & {id(v) for v in model.variables}
  clone.set_weights(model.get_weights())
  images, _ = ROWS["model_published"].inputs("float64")
  np.testing.assert_allclose(clone(images), model(images), rtol=1e-12)
