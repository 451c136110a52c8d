"""The table of bijectors: a row each, over which every test of a bijector's promises runs.

To add a bijector, add a line: a function of the dtype that makes it, how to draw points of its
domain, and the shape of an event.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from flowpp_tf import bijectors as fb
from flowpp_tf.posterior import support as supports
from support.marks import slow

K = 3
EVENT = (4, 4, 2)


class Case(NamedTuple):
  """A row of the table."""

  make: Callable  # dtype -> bijector
  sample: Callable  # shape, dtype -> points of its domain
  event: tuple  # shape of an event


def draw(*shape, scale=1.0, dtype="float64", seed=0):
  """Normal draws, the same each time."""
  return tf.constant(scale * np.random.RandomState(seed).randn(*shape), dtype)


def mixture(dtype, event=EVENT):
  return (
    draw(*event, K, dtype=dtype),
    draw(*event, K, scale=2, dtype=dtype, seed=1),
    draw(*event, K, dtype=dtype, seed=2),
  )


class Conditioner(tf.Module):
  """tanh(x1 w), the smallest network with weights."""

  def __init__(self, dtype, outputs):
    super().__init__()
    self.weights = tf.Variable(draw(1, outputs, scale=0.5, dtype=dtype))

  def __call__(self, x1):
    return tf.tanh(x1 @ self.weights)


def bijector_fn(kind, **options):
  """The function of a coupling's parameters that gives its bijector."""
  if kind == "affine":
    return fb.affine_coupling_bijector
  return functools.partial(fb.mixture_logistic_coupling_bijector, components=K, **options)


def coupling(dtype, kind, name="coupling", **options):
  conditioner = Conditioner(dtype, fb.num_parameters(kind, K))
  return fb.Coupling(conditioner, bijector_fn(kind, **options), dtype=dtype, name=name)


class ConditionedConditioner(Conditioner):
  """tanh((x1 + condition) w)."""

  def __call__(self, x1, ctx):
    return super().__call__(x1 + ctx.condition)


def conditioned_coupling(dtype):
  return fb.Coupling(
    ConditionedConditioner(dtype, fb.num_parameters("mixture_logistic", K)),
    functools.partial(fb.mixture_logistic_coupling_bijector, components=K),
    dtype=dtype,
  )


def standardization(dtype, *event):
  return fb.Standardization(draw(*event, dtype=dtype), tf.exp(draw(*event, dtype=dtype, seed=1)))


def spline(dtype):
  """Parameters of a spline: two tensors of K numbers, and one of K + 1."""
  return [draw(*EVENT, K + more, dtype=dtype, seed=seed) for seed, more in enumerate((0, 0, 1))]


def spline_coupling(dtype):
  network = Conditioner(dtype, fb.num_parameters("rational_quadratic", K))
  return fb.Coupling(network, functools.partial(fb.rational_quadratic_coupling_bijector, components=K), dtype=dtype)


normal = lambda shape, dtype: draw(*shape, dtype=dtype, seed=3)
pixels = lambda shape, dtype: 17 * tf.sigmoid(normal(shape, dtype))

BIJECTORS = {
  "logit_mixture": (lambda d: fb.LogitMixtureLogisticCDF(*mixture(d)), normal, EVENT),
  "logit_mixture_shared": (lambda d: fb.LogitMixtureLogisticCDF(*mixture(d, ())), normal, EVENT),
  "mixture_cdf": (lambda d: fb.MixtureLogisticCDF(*mixture(d)), normal, EVENT),
  "rational_quadratic": (lambda d: fb.LogitRationalQuadraticCDF(*spline(d)), normal, EVENT),
  "bounded_affine": (lambda d: fb.BoundedAffine(draw(*EVENT, dtype=d), draw(2, dtype=d)), normal, EVENT),
  "pixels_to_logit": (lambda d: fb.PixelsToLogit(levels=17), pixels, EVENT),
  "asinh_transform": (
    lambda d: fb.AsinhTransform(tf.sigmoid(draw(*EVENT, dtype=d)), tf.constant([0.05, 0.1], d), levels=17),
    pixels,
    EVENT,
  ),
  "logit_margin": (lambda d: fb.LogitMargin(0.05), normal, EVENT),
  "act_norm": (lambda d: fb.ActNorm(tf.exp(draw(*EVENT, dtype=d)), draw(*EVENT, dtype=d)), normal, EVENT),
  "standardization": (lambda d: standardization(d, *EVENT), normal, EVENT),
  "conv": (lambda d: fb.Invertible1x1Conv(draw(2, 2, dtype=d)), normal, EVENT),
  "conv_blocks": (lambda d: fb.Invertible1x1Conv(draw(2, 3, 3, dtype=d)), normal, (2, 2, 6)),
  "conv_lu": (lambda d: fb.Invertible1x1ConvLU(draw(2, 2, dtype=d)), normal, EVENT),
  "conv_lu_blocks": (
    lambda d: fb.Invertible1x1ConvLU(draw(2, 3, 3, dtype=d), permutation=tf.constant([[1, 2, 0], [2, 1, 0]])),
    normal,
    (2, 2, 6),
  ),
  "linear": (lambda d: fb.Invertible1x1Conv(draw(2, 2, dtype=d), event_ndims=1), normal, EVENT),
  "linear_lu": (
    lambda d: fb.Invertible1x1ConvLU(draw(2, 2, dtype=d), permutation=tf.constant([1, 0]), event_ndims=1),
    normal,
    EVENT,
  ),
  "sigmoid": (lambda d: fb.Sigmoid(), normal, EVENT),
  "box": (lambda d: supports.Box(0.01 * draw(*EVENT, dtype=d) - 2, 3 + 0.01 * draw(2, dtype=d)), normal, EVENT),
  "simplex": (lambda d: supports.Simplex(), normal, EVENT),
  "on_support": (lambda d: supports.on_support(supports.box([-1.0, 0.5], 2.0), 2), normal, EVENT),
  "squeeze": (lambda d: fb.Squeeze(), normal, EVENT),
  "swap_halves": (lambda d: fb.SwapHalves(), normal, EVENT),
  "split_columns": (lambda d: fb.split_columns(EVENT), normal, EVENT),
  "coupling_mixture": (lambda d: coupling(d, "mixture_logistic"), normal, EVENT),
  "coupling_margin": (lambda d: coupling(d, "mixture_logistic", margin=0.05), normal, EVENT),
  "coupling_affine": (lambda d: coupling(d, "affine"), normal, EVENT),
  "coupling_rational_quadratic": (spline_coupling, normal, EVENT),
  "coupling_uneven": (
    lambda d: fb.Coupling(Conditioner(d, 4), fb.affine_coupling_bijector, event_ndims=1, dtype=d, kept=1),
    normal,
    (2, 2, 3),
  ),
  "invert": (lambda d: fb.Invert(coupling(d, "affine")), normal, EVENT),
  "conditioned": (
    lambda d: fb.Conditioned(
      fb.ContextTransform(conditioned_coupling(d), standardization(d, 1)), draw(*EVENT[:2], 1, dtype=d, seed=7)
    ),
    normal,
    EVENT,
  ),
  "context_transform": (lambda d: fb.ContextTransform(coupling(d, "affine"), standardization(d, 1)), normal, EVENT),
  "scalar_chain": (lambda d: fb.Chain([fb.Invert(fb.Sigmoid()), fb.MixtureLogisticCDF(*mixture(d))]), normal, EVENT),
  "chain": (
    lambda d: fb.Chain([coupling(d, "affine", "second"), fb.SwapHalves(), coupling(d, "mixture_logistic", "first")]),
    normal,
    EVENT,
  ),
}
CASES = {name: Case(*row) for name, row in BIJECTORS.items()}
# Other forms of a class of which one row is in the quick tests, and what is a part of other rows, or has them as parts.
OTHER_FORMS = {
  *("mixture_cdf", "context_transform"),
  *("logit_mixture_shared", "conv_blocks", "conv_lu_blocks", "linear", "linear_lu", "scalar_chain"),
  *("coupling_margin", "coupling_affine", "coupling_rational_quadratic", "coupling_uneven"),
}
rows = pytest.mark.parametrize(
  "row", [(slow if name in OTHER_FORMS else pytest.param)(case, id=name) for name, case in CASES.items()]
)

# The four functions of a bijector, and whether their argument lies in its domain or its range.
FUNCTIONS = {
  "forward": (lambda b, x: b.forward(x), "x"),
  "forward_log_det": (lambda b, x: b.forward_log_det_jacobian(x, 3), "x"),
  "inverse": (lambda b, y: b.inverse(y), "y"),
  "inverse_log_det": (lambda b, y: b.inverse_log_det_jacobian(y, 3), "y"),
}


def points(case, bijector, count=2, dtype="float64"):
  """Points of the domain and, as tensors that no cache knows, their images: for `FUNCTIONS`."""
  x = case.sample((count, *case.event), dtype)
  return {"x": x, "y": tf.constant(bijector.forward(x).numpy())}


def tensor_parameters(bijector):
  """The parameters that are tensors of real numbers, by name."""
  return {name: value for name, value in bijector.parameters.items() if tf.is_tensor(value) and value.dtype.is_floating}


def with_variables(bijector):
  """The same bijector, its tensor parameters in variables."""
  return bijector.copy(**{name: tf.Variable(value) for name, value in tensor_parameters(bijector).items()})
