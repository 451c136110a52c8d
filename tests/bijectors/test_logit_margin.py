"""Couplings with a margin, against 40 digits and at the ends of their range; see the rows of bijector_cases.py too."""

import functools

import mpmath
import numpy as np
import pytest
import tensorflow as tf

from flowpp_tf import bijectors as fb
from support.bijector_cases import draw

MARGIN = 0.05
END = np.log((1 - MARGIN) / MARGIN)
coupling_bijector = functools.partial(fb.mixture_logistic_coupling_bijector, components=3, margin=MARGIN)


def parameters(*leading, dtype="float64"):
  return draw(*leading, 11, dtype=dtype, seed=4)


def truth(x, values, margin):
  """Value and log-derivative of a coupling of one value, to 40 digits, from its parameters as the conditioner gives."""
  with mpmath.workdps(40):
    s, t, *mixture = map(mpmath.mpf, values.tolist())
    weights = [mpmath.exp(v) for v in mixture[:3]]
    scales = [mpmath.exp(v) for v in mixture[6:]]
    z = [(mpmath.mpf(float(x)) - loc) / scale for loc, scale in zip(mixture[3:6], scales)]
    sigmoid = lambda v: 1 / (1 + mpmath.exp(-v))
    mean = lambda terms: mpmath.fsum(w * v for w, v in zip(weights, terms)) / mpmath.fsum(weights)
    cdf, density = mean(map(sigmoid, z)), mean(sigmoid(v) * sigmoid(-v) / scale for v, scale in zip(z, scales))
    p = (1 - 2 * mpmath.mpf(margin)) * cdf + margin
    slope = (1 - 2 * mpmath.mpf(margin)) * density / (p * (1 - p))
    log_scale = mpmath.tanh(s)
    return float(mpmath.log(p / (1 - p)) * mpmath.exp(log_scale) + t), float(mpmath.log(slope) + log_scale)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float64", 1e-13)])
def test_values_and_log_dets_are_exact_far_into_the_tails(dtype, tolerance):
  x = tf.constant([-200.0, -30.0, -3.0, -0.5, 0.0, 1.0, 4.0, 30.0, 200.0], dtype)
  values = tf.tile(parameters(1, dtype=dtype), [len(x), 1])
  y, log_det = coupling_bijector(values).forward_and_log_det(x[:, tf.newaxis])
  expected = np.array([truth(*case, MARGIN) for case in zip(x.numpy(), values.numpy().astype("float64"))])
  for ours, theirs in zip((y[:, 0], log_det[:, 0]), expected.T):
    assert np.max(np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))) < tolerance


@pytest.mark.parametrize("jit_compile", [None, False, True], ids=["eager", "graph", "xla"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_outside_of_its_range_the_inverse_is_finite_and_of_its_end(dtype, jit_compile):
  inverse = fb.LogitMargin(MARGIN).inverse_and_log_det
  if jit_compile is not None:
    inverse = tf.function(inverse, autograph=False, jit_compile=jit_compile)
  beyond = np.array([END + 1e-5, 3.0, 30.0, 1e6, np.inf])
  x, log_det = inverse(tf.constant([*-beyond, *beyond, *[np.nan] * 9], dtype))
  end = -np.log(np.finfo(dtype).eps)
  np.testing.assert_allclose(x[:-9], np.repeat([-end, end], len(beyond)), rtol=1e-5)
  assert np.isfinite(log_det[:-9]).all()
  assert np.isnan(x[-9:]).all() and np.isnan(log_det[-9:]).all()


def test_outside_of_its_range_a_coupling_takes_quantiles_near_0_and_1():
  bijector = coupling_bijector(parameters(4, dtype="float32"))
  x = bijector.inverse(tf.constant([[-1e4], [-9.0], [9.0], [1e4]]))
  assert np.isfinite(x).all() and np.isfinite(bijector.inverse_log_det_jacobian(x)).all()
  logit = bijector.bijectors[-1].forward(x)[:, 0]
  np.testing.assert_allclose(np.abs(logit), -np.log(np.finfo("float32").eps), rtol=1e-4)
  assert (np.sign(logit) == [-1, -1, 1, 1]).all()


def test_without_a_margin_a_coupling_is_made_of_the_same_parts_as_before():
  parts = fb.mixture_logistic_coupling_bijector(parameters(4), 3, margin=0.0).bijectors
  assert [type(part) for part in parts] == [fb.BoundedAffine, fb.LogitMixtureLogisticCDF]
