"""The mixture of logistics against 40 digits on hard cases, and its inverse where inverses are hard."""

import numpy as np
import pytest
import tensorflow as tf

import hard_mixtures
from flowpp_tf import bijectors as fb

PARTS = ("x", "logits", "loc", "log_scale")
TOLERANCE = {"float32": 1e-5, "float64": 1e-13}
components = pytest.mark.parametrize("components", [1, 2, 8, 64])
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def mixture(dtype, *leading):
  parameters = [0.3, -1.0, 0.5], [-1.0, 0.2, 2.0], [-0.5, -7.0, 0.4]
  return [tf.broadcast_to(tf.constant(p, dtype), [*leading, 3]) for p in parameters]


def truths(arguments):
  """Of every case, in float64: an array for each key, and for the gradients a list of four."""
  out = [hard_mixtures.truth(*case) for case in zip(*arguments)]
  return {key: [np.array(part) for part in zip(*(o[key] for o in out))] if "gradients" in key
               else np.array([o[key] for o in out]) for key in out[0]}


def relative_error(ours, theirs):
  """Relative to the truth, or absolute where that is below 1."""
  return np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))


@components
@dtypes
def test_values_and_log_dets_are_exact_in_every_hard_case(components, dtype):
  arguments = hard_mixtures.grid(components, dtype)
  expected = truths(arguments)
  value, log_derivative = fb.logit_mixture_logistic_cdf(*arguments)
  for key, ours in dict(
      log_cdf=fb.mixture_logistic_log_cdf(*arguments),
      log_survival=fb.mixture_logistic_log_survival(*arguments),
      log_prob=fb.mixture_logistic_log_prob(*arguments),
      value=value, log_derivative=log_derivative).items():
    assert np.max(relative_error(ours, expected[key])) < TOLERANCE[dtype], key


def gradients(arguments):
  arguments = [tf.constant(a) for a in arguments]
  with tf.GradientTape(persistent=True) as tape:
    tape.watch(arguments)
    outputs = fb.logit_mixture_logistic_cdf(*arguments)
  return {f"{name}_gradients": tape.gradient(output, arguments)
          for name, output in zip(("value", "log_derivative"), outputs)}


@components
@dtypes
def test_gradients_are_exact_in_every_hard_case(components, dtype):
  arguments = hard_mixtures.grid(components, dtype)
  ours, expected = gradients(arguments), truths(arguments)
  for key in ours:
    for part, our, their in zip(PARTS, ours[key], expected[key]):
      assert np.all(np.isfinite(our)), (key, part)
      error = relative_error(our, their)
      if part != "x":
        # A million scales away, which components carry the tail hangs on the rounding of x - loc.
        # Their shares are then not to be had in the dtype: see the next test.
        error = error[np.abs(arguments[0]) <= 17]
      assert np.max(error) < TOLERANCE[dtype], (key, part)


@components
@dtypes
def test_far_out_the_components_share_an_exact_gradient(components, dtype):
  arguments = hard_mixtures.grid(components, dtype)
  ours, expected = gradients(arguments), truths(arguments)
  for key in ours:
    by_logits, by_loc = (ours[key][i].numpy().astype(np.float64) for i in (1, 2))
    error = relative_error(np.sum(by_loc, axis=-1), -expected[key][0])
    assert np.max(error) < TOLERANCE[dtype], key
    np.testing.assert_allclose(np.sum(by_logits, axis=-1), 0, atol=TOLERANCE[dtype])
    assert np.max(np.abs(by_logits)) < 2 + TOLERANCE[dtype]  # differences of weights that add to 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inverse_of_random_mixtures_is_exact_to_working_precision(dtype):
  rng = np.random.RandomState(0)
  shape = (2000, 8)
  parameters = [tf.constant(p, dtype) for p in (
      3 * rng.randn(*shape), 5 * rng.randn(*shape), rng.uniform(-7, 2, shape))]
  target = tf.constant(6 * rng.randn(2000), dtype)
  x = tf.cast(fb.LogitMixtureLogisticCDF(*parameters).inverse(target), tf.float64)
  wide = lambda value: tf.cast(value, tf.float64)
  exact = fb.LogitMixtureLogisticCDF(*map(wide, parameters))
  slope = tf.exp(exact.forward_log_det_jacobian(x))
  error = tf.abs((exact.forward(x) - wide(target)) / slope)  # by the mean value theorem
  # What one rounding of the numbers that go in does to the answer: of x and the means, and of the
  # target where the function is flat.
  _, loc, log_scale = map(wide, parameters)
  sizes = tf.abs(loc) + tf.exp(log_scale) * tf.abs(wide(target))[:, tf.newaxis]
  unavoidable = tf.reduce_max(sizes, axis=1) + (1 + tf.abs(wide(target))) / slope
  assert np.max(error / unavoidable) < 8 * np.finfo(dtype).eps


def test_inverse_between_far_apart_narrow_components():
  # Newton alone cycles here: the logit of the CDF is a staircase.
  bijector = fb.LogitMixtureLogisticCDF(
      tf.zeros([2], tf.float64), tf.constant([-50.0, 50.0], tf.float64),
      tf.constant([-7.0, -7.0], tf.float64))
  y = tf.constant([-40.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 40.0], tf.float64)
  x = bijector.inverse(y)
  np.testing.assert_allclose(x[3], 0.0, atol=1e-9)
  np.testing.assert_allclose(tf.gather(bijector.forward(x), [0, 1, 5, 6]),
                             tf.gather(y, [0, 1, 5, 6]), rtol=1e-9)


def test_inverse_of_infinite_targets_is_infinite_and_of_nan_is_nan():
  bijector = fb.LogitMixtureLogisticCDF(*mixture("float32"))
  x = bijector.inverse(tf.constant([-np.inf, np.inf, np.nan], tf.float32)).numpy()
  assert x[0] == -np.inf and x[1] == np.inf and np.isnan(x[2])


def test_inverse_has_the_gradients_of_the_implicit_function_theorem():
  parameters = mixture("float64", 5)
  y = tf.constant([-3.0, -1.0, 0.0, 0.5, 4.0], tf.float64)
  inverse = lambda *p: fb.LogitMixtureLogisticCDF(*p).inverse(y)
  for i in range(3):
    numerical, analytic = [
        jacobian[0] for jacobian in reversed(tf.test.compute_gradient(
            lambda p: inverse(*parameters[:i], p, *parameters[i + 1:]), [parameters[i]], 1e-6))]
    np.testing.assert_allclose(analytic, numerical, rtol=1e-5, atol=1e-7)


def test_cdf_inverse_asks_for_probabilities():
  bijector = fb.MixtureLogisticCDF(*mixture("float32"), validate_args=True)
  with pytest.raises(tf.errors.InvalidArgumentError, match="expects probabilities"):
    bijector.inverse(1.5)
