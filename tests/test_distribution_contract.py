"""TFP's contract of a distribution: the flow, both dequantizations, and images, alone and as parts."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from conformance_rows import MODEL_ROWS
from conformance_rows import ROWS
from conftest import small_images
import flowpp_tf as fpp

tfd = tfp.distributions

IMAGES, NOISE = ROWS["flow"].inputs("float64")
MAKE = {
    "flow": lambda: ROWS["flow"].make("float64"),
    "uniform": lambda: ROWS["uniform_dequantizer"].make("float64")(IMAGES),
    "variational": lambda: ROWS["variational_dequantizer"].make("float64")(IMAGES),
}
rows = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


@rows
def test_a_copy_has_the_same_density_and_the_same_variables(make):
  distribution = make()
  copy = distribution.copy(name="renamed")
  assert copy.name == "renamed" and type(copy) is type(distribution)
  assert {id(v) for v in copy.variables} == {id(v) for v in distribution.variables}
  np.testing.assert_array_equal(copy.log_prob(NOISE), distribution.log_prob(NOISE))


@rows
def test_shapes_are_those_of_samples_and_densities(make):
  distribution = make()
  x, log_prob = distribution.experimental_sample_and_log_prob(2, seed=(0, 1))
  assert x.shape == (2, *distribution.batch_shape, *distribution.event_shape)
  assert log_prob.shape == (2, *distribution.batch_shape)
  np.testing.assert_array_equal(distribution.batch_shape_tensor(), distribution.batch_shape)
  np.testing.assert_array_equal(distribution.event_shape_tensor(), distribution.event_shape)
  assert x.dtype == distribution.dtype == tf.float64


@pytest.mark.parametrize("name", ["uniform", "variational"])
def test_a_slice_of_a_dequantization_is_that_of_its_images(name):
  q = MAKE[name]()
  np.testing.assert_allclose(q[1:3].log_prob(NOISE[1:3]), q.log_prob(NOISE)[1:3], rtol=1e-12)
  assert q[1].batch_shape == () and q[1:3].batch_shape == (2,)


@pytest.fixture(scope="module")
def model():
  return MODEL_ROWS["model_published"].make("float64")


def test_images_are_a_discrete_distribution_with_the_weights_of_the_model(model):
  images = model.distribution
  assert images.dtype == tf.int32 and images.batch_shape == () and images.event_shape == (4, 4, 2)
  assert images.reparameterization_type == tfd.NOT_REPARAMETERIZED
  assert images.experimental_default_event_space_bijector() is None
  for ours, models in ((images.variables, model.weights),
                       (images.trainable_variables, model.trainable_weights)):
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
  single = np.stack([[model.log_prob_bound(x[i:i + 1], noise=noise[k])[0] for i in range(4)]
                     for k in range(3)])
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
  np.testing.assert_allclose(tf.function(sequential.log_prob, autograph=False)([x, y]),
                             joint.log_prob(sample), rtol=1e-12)
  three = tfd.Sample(images, 3)
  assert three.event_shape == (3, 4, 4, 2)
  np.testing.assert_allclose(three.log_prob(x), tf.reduce_sum(images.log_prob(x)), rtol=1e-12)


def test_the_log_density_of_images_trains_every_weight(model):
  images = model.distribution
  with tf.GradientTape() as tape:
    loss = -tf.reduce_mean(images.log_prob(small_images()))
  assert all(np.any(g != 0) for g in tape.gradient(loss, images.trainable_variables))


@pytest.mark.parametrize("call, error, message", [
    (lambda d: d.log_prob(small_images()[:, :2]), fpp.InputError, r"of shape \[..., 4, 4, 2\], got"),
    (lambda d: d.log_prob(small_images() + 8), fpp.InputError, "`images` must lie in 0 .. 7"),
    (lambda d: tf.function(d.copy(validate_args=True).log_prob, autograph=False)(small_images() + 8),
     tf.errors.InvalidArgumentError, "images must lie in 0 .. 7"),
    (lambda d: d.copy(num_samples=0), fpp.InputError, "`num_samples` must be a positive integer, got 0"),
])
def test_images_that_are_none_are_an_error(model, call, error, message):
  with pytest.raises(error, match=message):
    call(model.distribution)
