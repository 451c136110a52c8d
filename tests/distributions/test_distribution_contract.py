"""TFP's contract of a distribution: the flow, both dequantizations, and images, alone and as parts."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from support.conformance_rows import MODEL_ROWS, ROWS
from support.marks import quick_rows
from support.models import small_images

tfd = tfp.distributions

IMAGES, NOISE = ROWS["flow"].inputs("float64")
X, CONTEXT = ROWS["given"].inputs("float64")
SCALE = tf.exp(X)
MAKE = {
  "flow": lambda: ROWS["flow"].make("float64"),
  "uniform": lambda: ROWS["uniform_dequantizer"].make("float64").posterior(IMAGES),
  "variational": lambda: ROWS["variational_dequantizer"].make("float64").posterior(IMAGES),
  "vectors": lambda: ROWS["given"].make("float64").distribution.given(CONTEXT),
  "composite": lambda: fpp.distributions.FlowDistribution(
    tfd.Sample(tfd.Normal(tf.zeros([4], tf.float64), 1.0), 3), fpp.bijectors.ActNorm(SCALE, X)
  ),
}
VALUES = {"vectors": X, "composite": X}
rows = pytest.mark.parametrize("name", MAKE)


def made(name):
  """A distribution, and values in its support: a row for each of its batch."""
  return MAKE[name](), VALUES.get(name, NOISE)


@rows
def test_a_copy_has_the_same_density_and_the_same_variables(name):
  distribution, values = made(name)
  copy = distribution.copy(name="renamed")
  assert copy.name == "renamed" and type(copy) is type(distribution)
  assert {id(v) for v in copy.variables} == {id(v) for v in distribution.variables}
  np.testing.assert_array_equal(copy.log_prob(values), distribution.log_prob(values))


@rows
def test_a_seed_draws_the_same_in_each_call_whatever_kind_of_integer_it_is(name):
  distribution, _ = made(name)
  samples = [distribution.sample(2, seed=seed) for seed in (3, 3, np.int64(3), np.uint8(3), tf.constant(3))]
  for other in samples[1:]:
    np.testing.assert_array_equal(other, samples[0])
  assert np.any(distribution.sample(2, seed=4) != samples[0])


@rows
def test_shapes_are_those_of_samples_and_densities(name):
  distribution, _ = made(name)
  x, log_prob = distribution.experimental_sample_and_log_prob(2, seed=(0, 1))
  assert x.shape == (2, *distribution.batch_shape, *distribution.event_shape)
  assert log_prob.shape == (2, *distribution.batch_shape)
  np.testing.assert_array_equal(distribution.batch_shape_tensor(), distribution.batch_shape)
  np.testing.assert_array_equal(distribution.event_shape_tensor(), distribution.event_shape)
  assert x.dtype == distribution.dtype == tf.float64


with_batch = pytest.mark.parametrize("name", [name for name in MAKE if name != "flow"])


@with_batch
def test_a_slice_is_that_of_the_densities(name):
  distribution, values = made(name)
  whole = distribution.log_prob(values[0])
  for index in (1, slice(1, 3), (Ellipsis, -1), (tf.newaxis, slice(None, None, 2))):
    sliced = distribution[index]
    assert sliced.batch_shape == whole[index].shape
    np.testing.assert_allclose(sliced.log_prob(values[0]), whole[index], rtol=1e-12)


@pytest.mark.parametrize("name", quick_rows(MAKE, ["uniform", "composite"]))
def test_vectorized_map_and_graphs_give_the_same(name):
  distribution, values = made(name)
  whole = distribution.log_prob(values)
  np.testing.assert_allclose(tf.function(distribution.log_prob, autograph=False)(values), whole, rtol=1e-10)
  np.testing.assert_allclose(
    tf.function(distribution.log_prob, autograph=False, jit_compile=True)(values), whole, rtol=1e-9
  )
  several = tf.stack([values, 0.5 * values])
  np.testing.assert_allclose(
    tf.vectorized_map(distribution.log_prob, several, fallback_to_while_loop=False),
    [distribution.log_prob(v) for v in several],
    rtol=1e-10,
  )


@rows
def test_the_divergence_from_itself_is_zero_for_each_of_the_batch(name):
  distribution, _ = made(name)
  np.testing.assert_array_equal(tfd.kl_divergence(distribution, distribution), np.zeros(distribution.batch_shape))


@rows
def test_samples_have_the_density_that_they_come_with(name):
  distribution, _ = made(name)
  x, log_prob = distribution.experimental_sample_and_log_prob(3, seed=(0, 1))
  np.testing.assert_allclose(distribution.log_prob(tf.identity(x)), log_prob, rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(distribution.prob(x), np.exp(log_prob), rtol=1e-5)
  np.testing.assert_array_equal(distribution.sample(3, seed=(0, 1)), x)


@rows
def test_a_composite_goes_in_and_out_of_functions(name):
  distribution, values = made(name)
  if not isinstance(distribution, tf.__internal__.CompositeTensor):
    assert name != "composite"
    return
  returned = tf.function(lambda d: d, autograph=False)(distribution)
  assert type(returned) is type(distribution)
  np.testing.assert_array_equal(returned.log_prob(values), distribution.log_prob(values))


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
