"""The spline against TFP's, numerical integration and float64; the rows of bijector_cases.py do the rest."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf import bijectors as fb
from support.bijector_cases import draw


def make(*shape, bins=5, scale=1.5, dtype="float64"):
  sizes = (bins, bins, bins + 1)
  return fb.LogitRationalQuadraticCDF(
    *(draw(*shape, size, scale=scale, seed=i, dtype=dtype) for i, size in enumerate(sizes))
  )


def test_the_spline_is_that_of_tfp_between_sigmoid_and_logit():
  logits = [draw(500, 5 + more, seed=i).numpy() for i, more in enumerate((0, 0, 1))]
  logits[2][:, [0, -1]] = 0  # slopes of 1 at both ends, as TFP's are
  bijector = fb.LogitRationalQuadraticCDF(*logits)
  widths, heights, left, _ = bijector._bins()
  spline = tfp.bijectors.RationalQuadraticSpline(widths, heights, left[:, 1:], range_min=np.float64(0))
  sigmoid = tfp.bijectors.Sigmoid()
  expected = tfp.bijectors.Chain([tfp.bijectors.Invert(sigmoid), spline, sigmoid])
  x = draw(500, scale=3, seed=9)
  y, log_det = bijector.forward_and_log_det(x)
  np.testing.assert_allclose(y, expected.forward(x), rtol=1e-9, atol=1e-9)
  np.testing.assert_allclose(log_det, expected.forward_log_det_jacobian(x), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("bins", [1, 6])
def test_the_density_integrates_to_1_and_zeros_are_the_identity(bins):
  bijector = make(3, 1, bins=bins)
  nodes, weights = np.polynomial.legendre.leggauss(8)
  edges = np.linspace(-40, 40, 20_001)
  x = (edges[:-1, np.newaxis] + (edges[1] - edges[0]) / 2 * (1 + nodes)).ravel()
  y, log_det = bijector.forward_and_log_det(tf.constant(x))
  density = np.exp(log_det - np.logaddexp(0, y) - np.logaddexp(0, -y))  # of F(sigmoid(x)), in x
  total = density @ np.tile(weights * (edges[1] - edges[0]) / 2, len(edges) - 1)
  np.testing.assert_allclose(total, 1, atol=1e-5)  # within the cell of a knot the rule is not exact
  identity = make(bins=bins, scale=0)
  y, log_det = identity.forward_and_log_det(tf.constant(x[::4000]))
  np.testing.assert_allclose(y, x[::4000], atol=1e-12)
  np.testing.assert_allclose(log_det, 0, atol=1e-12)


def test_tails_in_float32_are_those_of_float64_and_come_back():
  x = np.float32([-1e6, -90, -60, -40, -20, -12, 12, 20, 40, 60, 90, 1e6])
  exact, narrow = make(1), make(1, dtype="float32")
  expected, log_det = exact.forward_and_log_det(x.astype("float64"))
  y, narrow_log_det = narrow.forward_and_log_det(x)
  np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-5)
  np.testing.assert_allclose(narrow_log_det, log_det, atol=2e-5)
  np.testing.assert_allclose(narrow.inverse(y), x, rtol=1e-6, atol=1e-4)
  np.testing.assert_allclose(exact.inverse(expected), x, rtol=1e-12)


def test_float16_has_tails_too():
  x = np.float16([-1e4, -30, -16, -12, 12, 16, 30, 1e4])
  exact, narrow = make(1), make(1, dtype="float16")
  expected, log_det = exact.forward_and_log_det(x.astype("float64"))
  y, narrow_log_det = narrow.forward_and_log_det(x)
  np.testing.assert_allclose(y, expected, rtol=2e-3, atol=0.1)
  np.testing.assert_allclose(narrow_log_det, log_det, atol=0.05)
  np.testing.assert_allclose(narrow.inverse(y), x, rtol=2e-3, atol=0.1)


@pytest.mark.parametrize("method", ["forward_and_log_det", "inverse_and_log_det"])
def test_gradients_of_the_parameters_are_those_of_differences(method):
  parameters = [draw(2, 4 + more, seed=i) for i, more in enumerate((0, 0, 1))]
  evaluate = lambda *p: tf.concat(
    getattr(fb.LogitRationalQuadraticCDF(*p), method)(draw(7, 2, scale=2, seed=8)), axis=-1
  )
  for analytic, numeric in zip(*tf.test.compute_gradient(evaluate, parameters, delta=1e-6)):
    np.testing.assert_allclose(analytic, numeric, atol=1e-6)


def test_parameters_of_other_numbers_of_bins_are_refused():
  with pytest.raises(ValueError, match=r"\[..., K\] with the same K, `slope_logits` \[..., K \+ 1\], got"):
    fb.LogitRationalQuadraticCDF(tf.zeros(4), tf.zeros(4), tf.zeros(4))
  with pytest.raises(ValueError, match="the conditioner must give 8 parameters for each transformed value"):
    fb.rational_quadratic_coupling_bijector(tf.zeros([1, 9]), components=2)
