"""Conformance of every bijector: a row each in `BIJECTORS`, a column each test below.

To add a bijector, add a line: a function of the dtype that makes it, how to draw points of its
domain, and the shape of an event.
"""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from conftest import value_and_log_det
from flowpp_tf import bijectors as fb

tfb = tfp.bijectors
K = 3
EVENT = (4, 4, 2)


def draw(*shape, scale=1.0, dtype="float64", seed=0):
  return tf.constant(scale * np.random.RandomState(seed).randn(*shape), dtype)


def mixture(dtype, event=EVENT):
  return (draw(*event, K, dtype=dtype), draw(*event, K, scale=2, dtype=dtype, seed=1),
          draw(*event, K, dtype=dtype, seed=2))


def conditioner(dtype, outputs):
  weights = tf.Variable(draw(1, outputs, scale=0.5, dtype=dtype))
  return lambda x1: tf.tanh(x1 @ weights)


def coupling(dtype, kind, name="coupling"):
  bijector_fn = fb.affine_coupling_bijector if kind == "affine" else functools.partial(
      fb.mixture_logistic_coupling_bijector, components=K)
  return fb.Coupling(conditioner(dtype, fb.num_parameters(kind, K)), bijector_fn, dtype=dtype,
                     name=name)


normal = lambda shape, dtype: draw(*shape, dtype=dtype, seed=3)
pixels = lambda shape, dtype: 17 * tf.sigmoid(normal(shape, dtype))

BIJECTORS = {
    "logit_mixture": (lambda d: fb.LogitMixtureLogisticCDF(*mixture(d)), normal, EVENT),
    "logit_mixture_shared": (lambda d: fb.LogitMixtureLogisticCDF(*mixture(d, ())), normal, EVENT),
    "mixture_cdf": (lambda d: fb.MixtureLogisticCDF(*mixture(d)), normal, EVENT),
    "bounded_affine": (lambda d: fb.BoundedAffine(draw(*EVENT, dtype=d), draw(2, dtype=d)), normal, EVENT),
    "pixels_to_logit": (lambda d: fb.PixelsToLogit(levels=17), pixels, EVENT),
    "act_norm": (lambda d: fb.ActNorm(tf.exp(draw(*EVENT, dtype=d)), draw(*EVENT, dtype=d)), normal, EVENT),
    "conv": (lambda d: fb.Invertible1x1Conv(draw(2, 2, dtype=d)), normal, EVENT),
    "conv_blocks": (lambda d: fb.Invertible1x1Conv(draw(2, 3, 3, dtype=d)), normal, (2, 2, 6)),
    "squeeze": (lambda d: fb.Squeeze(), normal, EVENT),
    "swap_halves": (lambda d: fb.SwapHalves(), normal, EVENT),
    "split_columns": (lambda d: fb.split_columns(EVENT), normal, EVENT),
    "coupling_mixture": (lambda d: coupling(d, "mixture_logistic"), normal, EVENT),
    "coupling_affine": (lambda d: coupling(d, "affine"), normal, EVENT),
    "chain": (lambda d: fb.Chain([coupling(d, "affine", "second"), fb.SwapHalves(),
                                  coupling(d, "mixture_logistic", "first")]), normal, EVENT),
}
rows = pytest.mark.parametrize("row", BIJECTORS.values(), ids=BIJECTORS)
ROUNDING = {"float32": 2e-5, "float64": 1e-12}


@rows
def test_log_det_is_that_of_the_autodiff_jacobian(row):
  make, sample, event = row
  bijector, x = make("float64"), sample((2, *event), "float64")
  y, expected = value_and_log_det(bijector.forward, x)
  np.testing.assert_allclose(
      np.broadcast_to(bijector.forward_log_det_jacobian(x, 3), 2), expected, rtol=1e-10, atol=1e-10)
  np.testing.assert_allclose(
      np.broadcast_to(bijector.inverse_log_det_jacobian(y, 3), 2), -expected, rtol=1e-9, atol=1e-9)


@rows
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inverse_undoes_forward(row, dtype):
  make, sample, event = row
  bijector, x = make(dtype), sample((5, *event), dtype)
  y = bijector.forward(x)
  back = bijector.inverse(tf.identity(y))
  assert y.dtype == back.dtype == x.dtype
  np.testing.assert_allclose(back, x, rtol=0, atol=50 * ROUNDING[dtype])


@rows
def test_gradients_of_inverse_and_log_det_are_those_of_finite_differences(row):
  make, sample, event = row
  bijector, x = make("float64"), sample((1, *event), "float64")
  y = tf.constant(bijector.forward(x).numpy())
  functions = (bijector.inverse, lambda y: tf.reduce_sum(bijector.inverse_log_det_jacobian(y, 3))
               + 0 * tf.reduce_sum(y))
  direction = draw(*y.shape, seed=5)
  for function in functions:
    weights = draw(*function(y).shape, seed=6)
    scalar = lambda y: tf.reduce_sum(weights * function(y))
    with tf.GradientTape() as tape:
      tape.watch(y)
      value = scalar(y)
    slope = tf.reduce_sum(tape.gradient(value, y) * direction)
    step = 1e-6
    difference = (scalar(y + step * direction) - scalar(y - step * direction)) / (2 * step)
    np.testing.assert_allclose(slope, difference, rtol=1e-5, atol=1e-6)


@rows
def test_any_batch_shape_gives_the_same_as_one_example_at_a_time(row):
  make, sample, event = row
  bijector, x = make("float64"), sample((6, *event), "float64")
  log_det = lambda x: np.broadcast_to(bijector.forward_log_det_jacobian(x, 3), x.shape[:-3])
  y, fldj = bijector.forward(x).numpy(), log_det(x)
  folded = tf.reshape(x, (2, 3, *event))
  np.testing.assert_allclose(bijector.forward(folded), y.reshape((2, 3, *y.shape[1:])), atol=1e-12)
  np.testing.assert_allclose(log_det(folded), fldj.reshape(2, 3), atol=1e-12)
  np.testing.assert_allclose(bijector.forward(x[0]), y[0], atol=1e-12)
  np.testing.assert_allclose(log_det(x[0]), fldj[0], atol=1e-12)


@rows
def test_graph_mode_and_unknown_batch_size_give_the_same_as_eager_mode(row):
  make, sample, event = row
  bijector, x = make("float64"), sample((3, *event), "float64")

  @tf.function(input_signature=[tf.TensorSpec([None, *event], tf.float64)])
  def evaluate(x):
    y = bijector.forward(x)
    return y, bijector.forward_log_det_jacobian(x, 3), bijector.inverse(tf.identity(y))

  y, fldj, back = evaluate(x)
  np.testing.assert_allclose(y, bijector.forward(x), atol=1e-12)
  np.testing.assert_allclose(fldj, bijector.forward_log_det_jacobian(x, 3), atol=1e-12)
  np.testing.assert_allclose(back, x, atol=1e-10)


@rows
def test_event_shapes_are_those_of_the_values(row):
  make, sample, event = row
  bijector, x = make("float64"), sample((2, *event), "float64")
  y = bijector.forward(x)
  assert bijector.forward_event_shape(tf.TensorShape(event)) == y.shape[1:]
  assert bijector.inverse_event_shape(y.shape[1:]) == tf.TensorShape(event)
  np.testing.assert_array_equal(bijector.forward_event_shape_tensor(event), y.shape[1:])
  np.testing.assert_array_equal(bijector.inverse_event_shape_tensor(y.shape[1:]), event)


@rows
def test_makes_a_distribution_with_plain_tfp(row):
  make, sample, event = row
  bijector, x = make("float64"), sample((2, *event), "float64")
  y_shape = bijector.forward_event_shape(tf.TensorShape(event))
  base = tfp.distributions.Sample(
      tfp.distributions.Normal(tf.zeros([], tf.float64), 1.0), y_shape)
  flow = tfp.distributions.TransformedDistribution(base, tfb.Invert(bijector))
  expected = base.log_prob(bijector.forward(x)) + bijector.forward_log_det_jacobian(x, 3)
  np.testing.assert_allclose(flow.log_prob(x), expected, rtol=1e-12)


@pytest.mark.parametrize("make, message", [
    (lambda: fb.PixelsToLogit(levels=0), "`levels` must be at least 1, got 0"),
    (lambda: fb.PixelsToLogit(alpha=0.5), "`alpha` must lie between 0 and 1/2, got 0.5"),
    (lambda: fb.Invertible1x1Conv(tf.zeros([2, 3])), "`kernel` must be"),
    (lambda: fb.Squeeze().forward(tf.zeros([1, 3, 4, 1])), "divisible"),
    (lambda: fb.Squeeze().inverse(tf.zeros([1, 3, 4, 2])), "divisible"),
    (lambda: fb.Squeeze(block_size=0), "`block_size` must be at least 1, got 0"),
    (lambda: fb.num_parameters("spline", 3), "`coupling` must be mixture_logistic or affine"),
    (lambda: fb.mixture_logistic_coupling_bijector(tf.zeros([1, 10]), 3), "must give 11 parameters"),
    (lambda: fb.split_columns((4, 3, 1)), "even width"),
    (lambda: coupling("float64", "affine").forward(draw(1, 2, 2, 3)), "even last axis"),
    (lambda: fb.Coupling(keras.layers.Dense(2), fb.affine_coupling_bijector), "must be built"),
    (lambda: fb.ActNorm(1.0, tf.zeros([])).initialize(tf.zeros([2])), "tf.Variable"),
])
def test_bad_arguments_are_value_errors_that_say_what_was_expected(make, message):
  with pytest.raises(ValueError, match=message):
    make()
