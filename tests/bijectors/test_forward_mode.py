"""Forward-mode autodiff (`tf.autodiff.ForwardAccumulator`) against differences, eager and in graphs, in float64.

TensorFlow takes the gradient of a `tf.custom_gradient` into account in one of them only, and stops tapes within one: a
Jacobian-vector product can be 0, or that of another function, without a word.
"""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf.bijectors.mixture_quantile import quantile
from support.bijector_cases import CASES, points
from support.marks import exhaustive, quick_rows, slow

MODES = {"eager": lambda f: f, "graph": lambda f: tf.function(f, autograph=False)}


def check_jvp(function, at, mode):
  tangent = tf.constant(np.random.RandomState(1).randn(*at.shape))

  def jvp(at):
    with tf.autodiff.ForwardAccumulator(at, tangent) as accumulator:
      results = function(at)
    return [accumulator.jvp(r, tf.UnconnectedGradients.ZERO) for r in results]

  step = 1e-6
  differences = [(a - b) / (2 * step) for a, b in zip(function(at + step * tangent), function(at - step * tangent))]
  for found, expected in zip(MODES[mode](jvp)(at), differences, strict=True):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * max(1, np.max(np.abs(expected))))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", quick_rows(CASES, ["mixture_cdf", "conv", "coupling_mixture"]))
def test_jvps_of_bijectors(name, mode):
  case = CASES[name]
  bijector = case.make("float64")
  at = points(case, bijector)
  check_jvp(bijector.forward_and_log_det, at["x"], mode)
  check_jvp(bijector.inverse_and_log_det, at["y"], mode)


@pytest.mark.parametrize("mode", MODES)
def test_jvps_of_the_quantile_by_each_parameter(mode):
  rng = np.random.RandomState(0)
  arguments = [tf.constant(rng.randn(*shape)) for shape in ((5,), (5, 3), (3,), (5, 3))]
  for i, argument in enumerate(arguments):
    check_jvp(lambda v, i=i: [quantile(*arguments[:i], v, *arguments[i + 1 :])], argument, mode)


BOUNDS = [*itertools.product(["off", "blocks", "couplings"], [False, True], MODES)]
LATIN = [  # each value of each
  ("off", False, "eager"),
  ("blocks", True, "graph"),
  ("couplings", True, "eager"),
]


@pytest.mark.parametrize("remat, training, mode", [(slow if row in LATIN else exhaustive)(*row) for row in BOUNDS])
def test_jvps_of_the_bound(remat, training, mode):
  config = dataclasses.replace(
    fpp.get_config("digits"),
    dtype="float64",
    remat=remat,
    filters=8,
    blocks=2,
    components=2,
    structure="squeeze,channels:1",
    dequant_filters=8,
    context_channels=8,
  )
  model, rng = fpp.FlowPlusPlus(config), np.random.RandomState(0)
  for variable in model.trainable_variables:
    variable.assign(variable + 0.1 * rng.randn(*variable.shape))
  images, noise = rng.randint(0, 17, [2, 8, 8, 1]), tf.constant(rng.randn(2, 8, 8, 1))
  check_jvp(lambda noise: [model.log_prob_bound(images, noise=noise, training=training, seed=1)], noise, mode)
