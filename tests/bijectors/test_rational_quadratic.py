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


@pytest.mark.parametrize(
  "dtype, sizes, rtol, errors",  # absolute ones of the value, of the log-det and of the inverse
  [
    ("float32", [12, 20, 40, 60, 90, 1e6], 1e-6, (1e-5, 2e-5, 1e-4)),
    ("float16", [12, 16, 30, 1e4], 2e-3, (0.1, 0.05, 0.1)),
  ],
)
def test_tails_in_narrow_numbers_are_those_of_float64_and_come_back(dtype, sizes, rtol, errors):
  x = np.array([*(-size for size in reversed(sizes)), *sizes], dtype)
  exact, narrow = make(1), make(1, dtype=dtype)
  expected, log_det = exact.forward_and_log_det(x.astype("float64"))
  y, narrow_log_det = narrow.forward_and_log_det(x)
  np.testing.assert_allclose(y, expected, rtol=rtol, atol=errors[0])
  np.testing.assert_allclose(narrow_log_det, log_det, atol=errors[1])
  np.testing.assert_allclose(narrow.inverse(y), x, rtol=rtol, atol=errors[2])
  np.testing.assert_allclose(exact.inverse(expected), x.astype("float64"), rtol=1e-12)


def test_parameters_of_other_numbers_of_bins_are_refused():
  with pytest.raises(ValueError, match=r"\[..., K\] with the same K, `slope_logits` \[..., K \+ 1\], got"):
    fb.LogitRationalQuadraticCDF(tf.zeros(4), tf.zeros(4), tf.zeros(4))
  with pytest.raises(ValueError, match="the conditioner must give 8 parameters for each transformed value"):
    fb.rational_quadratic_coupling_bijector(tf.zeros([1, 9]), components=2)
