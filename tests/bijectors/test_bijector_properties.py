"""What holds for elementwise bijectors whatever their parameters, their shapes and the point.

To add one, add a line to `FAMILIES`. Each test draws some parameters and shapes, the same each run;

    python -m pytest tests/bijectors/test_bijector_properties.py --hypothesis-profile=full

draws 10000, others each time, and takes most of an hour.
"""

import functools
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes
import numpy as np
import pytest
import tensorflow as tf

from flowpp_tf import bijectors as fb
from support.marks import slow

normal = lambda scale: lambda rng, shape: scale * rng.randn(*shape)
uniform = lambda low, high: lambda rng, shape: rng.uniform(low, high, shape)
positive = lambda log_scale: lambda rng, shape: np.exp(log_scale * rng.randn(*shape))
far_out = lambda rng, shape: rng.choice([-1, 1], shape) * 10 ** rng.uniform(-6, 6, shape)


class Family(NamedTuple):
  """A bijector, draws of its parameters, of points of its domain and, where needed, its range."""

  make: Any
  parameters: dict
  domain: Any
  range: Any = None


MIXTURE = dict(logits=normal(2), loc=normal(2), log_scale=uniform(-1, 1))
WILD_MIXTURE = dict(logits=normal(20), loc=normal(100), log_scale=uniform(-7, 7))
FAMILIES = {
  "logit_mixture": Family(fb.LogitMixtureLogisticCDF, MIXTURE, normal(4)),
  "mixture_cdf": Family(fb.MixtureLogisticCDF, MIXTURE, normal(4)),
  "bounded_affine": Family(fb.BoundedAffine, dict(scale_logit=normal(2), shift=normal(5)), normal(5)),
  "act_norm": Family(fb.ActNorm, dict(scale=positive(2), bias=normal(5)), normal(5)),
  "pixels_to_logit": Family(fb.PixelsToLogit, {}, uniform(0, 256)),
  "asinh_transform": Family(fb.AsinhTransform, dict(offset=uniform(0, 1), scale=positive(1)), uniform(0, 65536)),
  "logit_margin": Family(functools.partial(fb.LogitMargin, 0.05), {}, normal(4)),
  "sigmoid": Family(fb.Sigmoid, {}, normal(4)),
}
# As far out as float32 may be asked to go.
WILD = {
  "logit_mixture": Family(fb.LogitMixtureLogisticCDF, WILD_MIXTURE, far_out, normal(1000)),
  "mixture_cdf": Family(
    fb.MixtureLogisticCDF,
    WILD_MIXTURE,
    far_out,
    lambda rng, shape: np.clip(np.exp(-rng.uniform(0, 80, shape)), None, 1 - 1e-7),
  ),
  "bounded_affine": Family(
    fb.BoundedAffine, dict(scale_logit=normal(1e3), shift=normal(1e6)), normal(1e6), normal(1e6)
  ),
  "act_norm": Family(fb.ActNorm, dict(scale=positive(5), bias=normal(1e6)), normal(1e6), normal(1e6)),
  "pixels_to_logit": Family(fb.PixelsToLogit, {}, lambda rng, shape: rng.randint(0, 257, shape), normal(50)),
  "logit_margin": Family(functools.partial(fb.LogitMargin, 0.05), {}, far_out, far_out),
  "sigmoid": Family(fb.Sigmoid, {}, far_out, lambda rng, shape: rng.choice([0, 0.5, 1], shape)),
}
seeds = st.integers(0, 2**32 - 1)


def shapes_of(family):
  """Shapes of a point and of each parameter's batch, which broadcast against each other."""
  return mutually_broadcastable_shapes(num_shapes=1 + len(family.parameters), max_dims=3, max_side=3)


def draw_parameters(family, rng, shapes, dtype, components=3):
  properties = family.make.parameter_properties() if family.parameters else {}
  return {
    name: tf.constant(draw(rng, (*shape, *[components] * properties[name].event_ndims)), dtype)
    for (name, draw), shape in zip(family.parameters.items(), shapes)
  }


def _rows(families):
  """A row for each; the CDF is the logit with a sigmoid after it, and takes as long."""
  return [
    slow(family, id=name) if name == "mixture_cdf" else pytest.param(family, id=name)
    for name, family in families.items()
  ]


@pytest.mark.parametrize("family", _rows(FAMILIES))
@given(data=st.data(), seed=seeds)
def test_round_trip_and_log_dets_hold_for_all_parameters_and_shapes(family, data, seed):
  shapes, result_shape = data.draw(shapes_of(family))
  rng = np.random.RandomState(seed)
  parameters = draw_parameters(family, rng, shapes[1:], "float64")
  bijector = family.make(**parameters)
  x = tf.constant(family.domain(rng, shapes[0]), tf.float64)
  with tf.GradientTape() as tape:
    tape.watch(x)
    fldj = bijector.forward_log_det_jacobian(x)
  y = bijector.forward(x)
  assert y.shape == result_shape
  back, ildj = bijector.inverse(tf.identity(y)), bijector.inverse_log_det_jacobian(tf.identity(y))
  for value in (y, fldj, back, ildj):
    assert np.all(np.isfinite(value))
  # One rounding of y, of x and of the parameters that x is compared with: no inverse can do better.
  largest = max([1.0, *(np.max(np.abs(p), initial=0) for p in parameters.values())])
  rounding = 20 * np.finfo("float64").eps * (np.abs(x) + largest + (1 + np.abs(y)) * np.exp(-fldj))
  assert np.all(np.abs(back - x) <= rounding)
  curvature = tape.gradient(fldj, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)
  assert np.all(np.abs(fldj + ildj) <= 1e-13 * (1 + np.abs(fldj)) + np.abs(curvature) * rounding)


@pytest.mark.parametrize("family", _rows(WILD))
@given(data=st.data(), seed=seeds)
def test_wild_parameters_give_finite_increasing_values_in_float32(family, data, seed):
  shapes, _ = data.draw(shapes_of(family))
  rng = np.random.RandomState(seed)
  components = data.draw(st.sampled_from([1, 2, 8, 64]))
  bijector = family.make(**draw_parameters(family, rng, shapes[1:], "float32", components))
  x = tf.constant(np.sort(family.domain(rng, (4, 1, 1, 1)), axis=0), tf.float32)
  y = bijector.forward(x)
  assert np.all(np.isfinite(y)) and np.all(np.isfinite(bijector.forward_log_det_jacobian(x)))
  steps = np.diff(y, axis=0)
  assert np.all(steps >= -8 * np.finfo("float32").eps * np.max(np.abs(y), initial=1))
  at = tf.constant(family.range(rng, (4, 1, 1, 1)), tf.float32)
  for value in (bijector.inverse(at), bijector.inverse_log_det_jacobian(at)):
    assert np.all(np.isfinite(value))
