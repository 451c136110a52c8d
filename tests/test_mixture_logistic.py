"""The mixture of logistics against mpmath, and its inverse where inverses are hard."""

import mpmath
import numpy as np
import pytest
import tensorflow as tf

from flowpp_tf import bijectors as fb

mpmath.mp.dps = 60
LOGITS, LOC, LOG_SCALE = [0.3, -1.0, 0.5], [-1.0, 0.2, 2.0], [-0.5, -7.0, 0.4]


def truth(x):
  """log CDF, log survival, log density at x, to 60 digits."""
  weights = [mpmath.e**mpmath.mpf(float(l)) for l in LOGITS]
  total = mpmath.fsum(weights)
  terms = []
  for w, m, s in zip(weights, LOC, LOG_SCALE):
    scale = mpmath.e**mpmath.mpf(s)
    z = (mpmath.mpf(float(x)) - mpmath.mpf(m)) / scale
    below, above = 1 / (1 + mpmath.e**-z), 1 / (1 + mpmath.e**z)
    terms.append((w / total * below, w / total * above, w / total * below * above / scale))
  return [mpmath.log(mpmath.fsum(column)) for column in zip(*terms)]


def mixture(dtype, *leading):
  return [tf.broadcast_to(tf.constant(p, dtype), [*leading, 3]) for p in (LOGITS, LOC, LOG_SCALE)]


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float64", 1e-13)])
def test_functions_agree_with_mpmath_far_out_where_a_logit_of_a_cdf_overflows(dtype, tolerance):
  x = np.array([-1000, -100, -30, -17, -3, -1, 0, 0.25, 2, 10, 17, 30, 100, 1000], dtype)
  log_cdf, log_survival, log_prob = np.array(
      [[float(v) for v in truth(value)] for value in x]).T
  parameters = mixture(dtype, len(x))
  close = lambda ours, theirs: np.testing.assert_allclose(
      ours, theirs, rtol=tolerance, atol=tolerance)
  close(fb.mixture_logistic_log_cdf(x, *parameters), log_cdf)
  close(fb.mixture_logistic_log_survival(x, *parameters), log_survival)
  close(fb.mixture_logistic_log_prob(x, *parameters), log_prob)
  value, log_derivative = fb.logit_mixture_logistic_cdf(x, *parameters)
  close(value, log_cdf - log_survival)
  exact = [float(p - c - s) for c, s, p in map(truth, x)]  # subtracted with 60 digits
  close(log_derivative, exact)


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
