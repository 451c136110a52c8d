"""TFP's contract of every distribution, over the table of support/distribution_cases.py; and images as one.

The checks are those of TFP's distribution_properties_test.py and platform_compatibility_test.py, which are not in its
wheel, and that a distribution and its parts go in and out of functions.
"""

import copy
import inspect
import pickle

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from support.conformance_rows import MODEL_ROWS
from support.distribution_cases import CONTEXT, DISTRIBUTIONS, NORMAL, X, distribution, made
from support.marks import quick_rows
from support.models import small_images

tfb, tfd = tfp.bijectors, tfp.distributions

LIGHT = ["uniform", "composite"]  # without networks
WITH_BATCH = [name for name in DISTRIBUTIONS if name not in ("flow", "images")]
rows = pytest.mark.parametrize("name", DISTRIBUTIONS)
light_rows = pytest.mark.parametrize("name", quick_rows(DISTRIBUTIONS, LIGHT))
batch_rows = pytest.mark.parametrize("name", quick_rows(WITH_BATCH, LIGHT))
SEED = tf.constant([0, 1])


def test_every_public_distribution_has_a_row():
  public = {
    kind
    for module in (fpp.distributions, fpp.models)
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, tfd.Distribution)
  }
  assert public <= {type(distribution(name)) for name in DISTRIBUTIONS}


@light_rows
def test_samples_have_the_shape_asked_for_and_a_finite_density(name):
  d, _ = made(name)
  for sample_shape, expected in (([], ()), (2, (2,)), ([2], (2,)), ([2, 1], (2, 1)), (np.array([1, 2]), (1, 2))):
    x = d.sample(sample_shape, seed=SEED)
    assert x.shape == (*expected, *d.batch_shape, *d.event_shape) and x.dtype == d.dtype
  log_prob = d.log_prob(x)
  assert log_prob.shape == (1, 2, *d.batch_shape) and log_prob.dtype == tf.float64
  assert np.all(np.isfinite(log_prob))
  np.testing.assert_array_equal(d.unnormalized_log_prob(x), log_prob)
  np.testing.assert_allclose(d.prob(x), np.exp(log_prob))
  np.testing.assert_array_equal(d.batch_shape_tensor(), d.batch_shape)
  np.testing.assert_array_equal(d.event_shape_tensor(), d.event_shape)
  sampled, log_prob = d.experimental_sample_and_log_prob([2, 1], seed=SEED)
  np.testing.assert_allclose(sampled, d.sample([2, 1], seed=SEED), atol=1e-12)
  assert log_prob.shape == (2, 1, *d.batch_shape)
  np.testing.assert_allclose(d.log_prob(tf.identity(sampled)), log_prob, rtol=1e-6, atol=1e-6)


@light_rows
def test_equal_seeds_give_equal_samples_and_others_do_not(name):
  d, _ = made(name)
  first, second = tfp.random.split_seed(SEED)
  samples = [d.sample(2, seed=seed).numpy() for seed in (SEED, SEED, first, second)]
  np.testing.assert_array_equal(samples[0], samples[1])
  assert len({sample.tobytes() for sample in samples}) == 3
  assert np.all(samples[0][0] != samples[0][1]) or d.dtype.is_integer
  stateful = []
  for _ in range(2):
    tf.random.set_seed(5)
    stateful += [d.sample(seed=7).numpy(), d.sample().numpy()]
  np.testing.assert_array_equal(stateful[0], stateful[2])
  np.testing.assert_array_equal(stateful[1], stateful[3])
  assert not np.array_equal(d.sample(), d.sample())


@pytest.mark.parametrize("name", quick_rows(DISTRIBUTIONS, [*LIGHT, "images"]))
def test_a_seed_draws_the_same_in_each_call_whatever_kind_of_integer_it_is(name):
  d, _ = made(name)
  samples = [d.sample(2, seed=seed) for seed in (3, 3, np.int64(3), np.uint8(3), tf.constant(3))]
  for other in samples[1:]:
    np.testing.assert_array_equal(other, samples[0])
  assert np.any(d.sample(2, seed=4) != samples[0])


@pytest.mark.parametrize("name", quick_rows(DISTRIBUTIONS, [*LIGHT, "images_given"]))
def test_every_parameter_is_a_property_and_a_copy_may_validate(name):
  d, values = made(name)
  assert {"name", "validate_args"} <= set(d.parameters)
  for parameter in set(d.parameters) - {"parameters"}:
    assert hasattr(d, parameter), parameter
  assert set(type(d).parameter_properties(dtype=tf.float64)) <= set(d.parameters)
  validating = d.copy(validate_args=True, name="validating")
  assert validating.validate_args and validating.name == "validating" and type(validating) is type(d)
  assert {id(v) for v in validating.variables} == {id(v) for v in d.variables}
  np.testing.assert_array_equal(validating.log_prob(values), d.log_prob(values))


@light_rows
def test_numbers_of_the_reals_become_values_of_the_support(name):
  d, _ = made(name)
  bijector = d.experimental_default_event_space_bijector()
  if bijector is None:
    assert d.dtype.is_integer
    return
  shape = [3, *bijector.inverse_event_shape([*d.batch_shape, *d.event_shape])]
  values = bijector.forward(tf.random.stateless_normal(shape, SEED, dtype=d.dtype))
  assert values.shape == (3, *d.batch_shape, *d.event_shape)
  assert np.all(np.isfinite(d.log_prob(tf.identity(values))))


@batch_rows
def test_slices_of_samples_have_the_slices_of_densities(name):
  d, _ = made(name)
  with pytest.raises(TypeError, match="not iterable"):
    iter(d)
  x = d.sample(seed=SEED)
  whole, event = d.log_prob(x).numpy(), (slice(None),) * len(d.event_shape)
  for index in (0, -1, slice(None, 1), slice(None, None, -1), (tf.newaxis, 1, tf.newaxis), (Ellipsis, 0), Ellipsis):
    sliced = d[index]
    assert type(sliced) is type(d) and len(sliced.variables) == len(d.variables)
    parts = index if isinstance(index, tuple) else (index,)
    at = (*parts, *(() if Ellipsis in parts else (Ellipsis,)), *event)
    assert sliced.batch_shape == whole[index].shape
    assert sliced.sample(2, seed=SEED).shape == (2, *x[at].shape)
    np.testing.assert_allclose(sliced.log_prob(x[at]), whole[index], rtol=1e-10)
  twice = d[1:][..., 0].copy(name="twice")
  np.testing.assert_allclose(twice.log_prob(x[1]), whole[1], rtol=1e-10)
  empty = d[:0]
  assert empty.batch_shape == (0,) and empty.name == d.name


@light_rows
def test_a_part_of_a_joint_distribution_adds_its_density(name):
  d, _ = made(name)
  other = tfd.Normal(tf.zeros(d.batch_shape, tf.float64), 1.0)
  x, y = d.sample(2, seed=SEED), other.sample(2, seed=SEED)
  expected = d.log_prob(x) + other.log_prob(y)

  def model():
    yield tfd.JointDistributionCoroutine.Root(d)
    yield tfd.JointDistributionCoroutine.Root(other)

  named = tfd.JointDistributionNamed(dict(x=d, y=other))
  np.testing.assert_allclose(named.log_prob(x=x, y=y), expected, rtol=1e-10)
  for joint in (named, tfd.JointDistributionSequential([d, other]), tfd.JointDistributionCoroutine(model)):
    if joint is not named:
      np.testing.assert_allclose(joint.log_prob(x, y), expected, rtol=1e-10)
    sample = tf.nest.flatten(joint.sample(2, seed=SEED))
    assert [s.shape for s in sample] == [x.shape, y.shape]
    assert len(joint.trainable_variables) == len(d.trainable_variables)


@pytest.mark.parametrize("name", quick_rows(["vectors", "composite", "scalar", "uniform"], ["composite"]))
def test_an_autobatched_joint_distribution_adds_its_density(name):
  d, _ = made(name)
  one = d[(0,) * len(d.batch_shape)]
  joint = tfd.JointDistributionSequentialAutoBatched([NORMAL, lambda z: one])
  z, x = NORMAL.sample(3, seed=SEED), one.sample(3, seed=SEED)
  np.testing.assert_allclose(joint.log_prob(z, x), NORMAL.log_prob(z) + one.log_prob(x), rtol=1e-10)
  tf.random.set_seed(5)
  assert [s.shape for s in joint.sample(3, seed=7)] == [z.shape, x.shape]


@batch_rows
def test_the_wrappers_of_tfp_see_the_same_densities(name):
  d, _ = made(name)
  count = d.batch_shape[0]
  x = d.sample(3, seed=SEED)
  log_prob = d.log_prob(x)
  np.testing.assert_allclose(tfd.Independent(d, 1).log_prob(x), tf.reduce_sum(log_prob, axis=-1), rtol=1e-10)
  reshaped = tfd.BatchReshape(d, [1, count])
  np.testing.assert_allclose(reshaped.log_prob(x[:, tf.newaxis]), log_prob[:, tf.newaxis], rtol=1e-10)
  iid = tfd.Sample(d, 2)
  drawn = iid.sample(seed=SEED)
  assert drawn.shape == (*d.batch_shape, 2, *d.event_shape)
  each = tf.stack([d.log_prob(drawn[:, i]) for i in range(2)], axis=-1)
  np.testing.assert_allclose(iid.log_prob(drawn), tf.reduce_sum(each, axis=-1), rtol=1e-10)
  if not d.dtype.is_integer:
    logits = tf.constant(np.arange(count), tf.float64)
    mixture = tfd.MixtureSameFamily(tfd.Categorical(logits=logits), d)
    at = x[:, 0]
    terms = d.log_prob(at[:, tf.newaxis]) + tf.math.log_softmax(logits)
    np.testing.assert_allclose(mixture.log_prob(at), tf.reduce_logsumexp(terms, axis=-1), rtol=1e-10)
    assert mixture.sample(5, seed=SEED).shape == (5, *d.event_shape)


@light_rows
def test_vectorized_map_and_graphs_give_the_same(name):
  d, values = made(name)
  graph = tf.function(d.log_prob, autograph=False)
  np.testing.assert_allclose(graph(values), d.log_prob(values), rtol=1e-10)
  several = tf.stack([values, values[::-1]])
  found = tf.vectorized_map(d.log_prob, several, fallback_to_while_loop=False)
  np.testing.assert_allclose(found, [d.log_prob(v) for v in several], rtol=1e-10)


@pytest.mark.parametrize("name", [name for name in DISTRIBUTIONS if not name.startswith(("images", "ensemble"))])
def test_the_divergence_from_itself_is_zero_for_each_of_the_batch(name):
  d, _ = made(name)
  np.testing.assert_array_equal(tfd.kl_divergence(d, d), np.zeros(d.batch_shape))


@pytest.mark.parametrize("name", ["composite", "scalar", "uniform"])
def test_a_composite_goes_in_and_out_of_functions(name):
  d, values = made(name)
  assert isinstance(d, tf.__internal__.CompositeTensor)
  returned = tf.function(lambda d: d, autograph=False)(d)
  assert type(returned) is type(d)
  np.testing.assert_array_equal(returned.log_prob(values), d.log_prob(values))


@light_rows
def test_copies_of_python_and_pickles_are_the_same_distribution(name):
  d, values = made(name)
  ways = [copy.copy, copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))]
  base = getattr(getattr(d, "flows", [d])[0], "distribution", None)
  for way in ways[: 1 if isinstance(base, tfd.Sample) else 3]:  # TFP cannot copy `Sample`
    other = way(d)
    assert type(other) is type(d) and len(other.variables) == len(d.variables)
    np.testing.assert_array_equal(other.log_prob(values), d.log_prob(values))
  if hasattr(d, "bijector"):
    for way in ways:
      np.testing.assert_array_equal(way(d.bijector).inverse(values), d.bijector.inverse(values))


def test_vectorized_map_over_contexts_is_a_batch_of_contexts():
  given = distribution("vectors")
  flow = fpp.distributions.FlowDistribution(given.distribution, given.bijector.bijector)
  single = lambda context: flow.given(context).log_prob(X[0])
  np.testing.assert_allclose(
    tf.vectorized_map(single, CONTEXT, fallback_to_while_loop=False), given.log_prob(X[0]), rtol=1e-10
  )


@pytest.mark.parametrize("name", quick_rows(DISTRIBUTIONS, ["uniform", "composite"]))
def test_xla_gives_samples_of_the_same_shape_and_the_same_densities(name):
  d, _ = made(name)
  x = tf.function(lambda seed: d.sample(2, seed=seed), jit_compile=True, autograph=False)(SEED)
  assert x.shape == (2, *d.batch_shape, *d.event_shape) and x.dtype == d.dtype
  log_prob = tf.function(d.log_prob, jit_compile=True, autograph=False)(x)
  expected = d.log_prob(x)
  assert log_prob.shape == expected.shape and np.all(np.isfinite(log_prob))
  if not d.dtype.is_integer:  # else the noise is drawn, and XLA draws other numbers
    np.testing.assert_allclose(log_prob, expected, rtol=1e-9)


@pytest.mark.parametrize("name", quick_rows(["flow", "variational", "vectors"], ["flow"]))
def test_gradients_of_samples_and_densities_reach_every_variable(name):
  with tf.GradientTape(persistent=True) as tape:
    d = DISTRIBUTIONS[name][0]()  # with the network that makes the context
    x = d.sample(2, seed=SEED)
    log_prob = d.log_prob(tf.stop_gradient(x))
  assert d.reparameterization_type == tfd.FULLY_REPARAMETERIZED
  for value in (x, log_prob):
    assert not [v.name for v in d.trainable_variables if tape.gradient(value, v) is None]


@rows
def test_there_is_no_fit_in_closed_form(name):
  d, values = made(name)
  with pytest.raises(NotImplementedError, match=type(d).__name__):
    type(d).experimental_fit(values)


UNIFORM = fpp.distributions.uniform_dequantization


@pytest.mark.parametrize("batch_shape", [[], [4], [2, 3]])
def test_uniform_noise_has_density_one_in_the_half_open_interval_and_none_outside(batch_shape):
  d = UNIFORM(batch_shape, (1, 2, 1), tf.float64)
  below_one = np.nextafter(1.0, 0)
  for value, expected in [(0.0, 0), (0.5, 0), (below_one, 0)] + [(v, -np.inf) for v in (-0.1, 1.0, 1.5, np.inf)]:
    u = tf.reshape(tf.constant([0.5, value], tf.float64), [1, 2, 1])
    np.testing.assert_array_equal(d.log_prob(u), np.full(batch_shape, expected))
    np.testing.assert_array_equal(d.transform(u)[1], np.full(batch_shape, expected))
  assert np.all(np.isnan(d.log_prob(np.full([1, 2, 1], np.nan))))
  assert np.all(d.experimental_default_event_space_bijector().forward(tf.fill([*batch_shape, 1, 2, 1], 40.0)) < 1)
  np.testing.assert_array_equal(d.entropy(), np.zeros(batch_shape))
  np.testing.assert_array_equal(d.mean(), np.full([*batch_shape, 1, 2, 1], 0.5))


def test_variational_noise_outside_of_the_unit_interval_has_no_density():
  d, u = made("variational")
  for value in (-0.5, 1.5, np.inf, np.nan):
    log_prob = d.log_prob(tf.tensor_scatter_nd_update(u, [[1, 0, 0, 0]], [value])).numpy()
    assert np.isnan(log_prob[1]) and np.all(np.isfinite(np.delete(log_prob, 1)))


def test_the_noise_of_a_batch_of_unknown_size_has_its_shape_in_graphs():
  given, context = distribution("variational"), distribution("variational").context

  @tf.function(
    autograph=False,
    input_signature=[tf.TensorSpec([1], tf.int32), tf.TensorSpec([None, *context.shape[1:]], "float64")],
  )
  def evaluate(batch_shape, context):
    outputs = []
    for d in (UNIFORM(batch_shape, given.event_shape, tf.float64), given.copy(context=context)):
      sliced = d[1:]
      x, log_prob = d.experimental_sample_and_log_prob(2, seed=SEED)
      outputs.append([d.batch_shape_tensor(), sliced.batch_shape_tensor(), x, log_prob, d.log_prob(x)])
    return outputs

  for count in (2, 4):
    for batch_shape, sliced, x, log_prob, again in evaluate([count], context[:count]):
      np.testing.assert_array_equal(batch_shape, [count])
      np.testing.assert_array_equal(sliced, [count - 1])
      assert x.shape == (2, count, *given.event_shape) and log_prob.shape == (2, count)
      np.testing.assert_allclose(again, log_prob, rtol=1e-9)


@pytest.fixture(scope="module")
def model():
  return MODEL_ROWS["model_published"].make("float64")


def test_images_are_a_discrete_distribution_with_the_weights_of_the_model(model):
  images = model.distribution
  assert images.dtype == tf.int32 and images.batch_shape == () and images.event_shape == (4, 4, 2)
  assert images.reparameterization_type == tfd.NOT_REPARAMETERIZED
  assert images.experimental_default_event_space_bijector() is None
  for ours, models in ((images.variables, model.weights), (images.trainable_variables, model.trainable_weights)):
    assert [id(v) for v in ours] == [id(v.value) for v in models]
  copy = images.copy(num_samples=3, name="renamed")
  assert copy.name == "renamed" and (images.num_samples, copy.num_samples) == (1, 3)
  x = images.sample([2, 3], seed=(0, 1))
  assert x.shape == (2, 3, 4, 4, 2) and x.dtype == tf.int32 and images.log_prob(x).shape == (2, 3)
  np.testing.assert_array_equal(x, images.sample([2, 3], seed=(0, 1)))
  assert images.sample(seed=(0, 1)).shape == (4, 4, 2)


def test_the_log_density_of_an_image_is_its_bound_whatever_stands_beside_it(model):
  images, x = model.distribution.copy(num_samples=3, seed=5), small_images(4).astype(np.int32)
  noise = model.sample_noise([3, 1], seed=5)
  single = np.stack([[model.log_prob_bound(x[i : i + 1], noise=noise[k])[0] for i in range(4)] for k in range(3)])
  weighted = np.log(np.mean(np.exp(single), axis=0))
  np.testing.assert_allclose(images.log_prob(x), weighted, rtol=1e-12)
  np.testing.assert_allclose(images.log_prob(x.astype(np.uint8)), weighted, rtol=1e-12)
  np.testing.assert_allclose(images.log_prob(x[3]), weighted[3], rtol=1e-12)
  graph = tf.function(images.log_prob, input_signature=[tf.TensorSpec([None, None, 4, 4, 2], tf.int32)])
  np.testing.assert_allclose(graph(x.reshape(2, 2, 4, 4, 2)), weighted.reshape(2, 2), rtol=1e-12)
  fresh = images.copy(seed=None)
  assert np.all(fresh.log_prob(x) != fresh.log_prob(x))


def test_images_are_a_part_of_joint_distributions_and_of_samples(model):
  images = model.distribution
  brightness = lambda x: tfd.Poisson(1.0 + tf.reduce_sum(tf.cast(x, tf.float64), [-3, -2, -1]))
  joint = tfd.JointDistributionNamed(dict(x=images, y=brightness))
  sample = joint.sample(3, seed=(1, 2))
  x, y = sample["x"], sample["y"]
  np.testing.assert_allclose(joint.log_prob(sample), images.log_prob(x) + brightness(x).log_prob(y))
  assert {id(v) for v in joint.trainable_variables} == {id(v) for v in images.trainable_variables}
  sequential = tfd.JointDistributionSequential([images, brightness])
  np.testing.assert_allclose(
    tf.function(sequential.log_prob, autograph=False)([x, y]), joint.log_prob(sample), rtol=1e-12
  )
  three = tfd.Sample(images, 3)
  assert three.event_shape == (3, 4, 4, 2)
  np.testing.assert_allclose(three.log_prob(x), tf.reduce_sum(images.log_prob(x)), rtol=1e-12)


def test_the_log_density_of_images_trains_every_weight(model):
  images = model.distribution
  with tf.GradientTape() as tape:
    loss = -tf.reduce_mean(images.log_prob(small_images()))
  assert all(np.any(g != 0) for g in tape.gradient(loss, images.trainable_variables))


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda d: d.log_prob(small_images()[:, :2]), r"of shape \[..., 4, 4, 2\], got"),
    (lambda d: d.log_prob(small_images() + 8), "`images` must lie in 0 .. 7"),
    (lambda d: d.copy(num_samples=0), "`num_samples` must be at least 1, got 0"),
  ],
)
def test_images_that_are_none_are_an_error(model, call, message):
  with pytest.raises(fpp.InputError, match=message):
    call(model.distribution)
