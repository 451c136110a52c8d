"""Supports: densities that are 0 outside, integrate to 1 inside, and whose samples never leave."""

import keras
import mpmath
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from flowpp_tf.core.errors import InputError
from support.marks import slow
from support.models import perturb

tfb, tfd = tfp.bijectors, tfp.distributions
box, positive, simplex = fpp.support.box, fpp.support.positive, fpp.support.simplex
TINY = dict(couplings=2, components=2, hidden=4, blocks=1)
# A support, and vectors outside of it.
SUPPORTS = {
  "box": (box([0.0, -1.0], [2.0, 5.0]), [[-0.1, 0.0], [2.1, 0.0], [1.0, np.inf]]),
  "box and positive": ([box(0.0, 2.0), positive()], [[2.1, 1.0], [1.0, 0.0], [1.0, -1.0]]),
  "simplex": (simplex(), [[0.5, 0.2, 0.2], [1.5, -0.25, -0.25], [0.5, 0.5, 0.0]]),
  "a bijector of TFP": ([tfb.Softplus(), None], [[-0.1, 0.0], [np.inf, 0.0]]),
}


def flow_on(support, size, dtype="float64", **sizes):
  """A flow with weights like trained ones."""
  keras.utils.set_random_seed(0)
  layer = fpp.VectorFlow(size, support=support, **{**TINY, **sizes}, dtype=dtype)
  perturb(layer, scale=0.3)
  return layer.distribution


# --- What it integrates to: points of a value's support, and their weights by the midpoint rule ----


def in_box(low, high, count):
  t = np.linspace(-8, 8, count)
  points = np.where(t < 0, low + (high - low) * scipy.special.ndtr(t), high - (high - low) * scipy.special.ndtr(-t))
  return points, (high - low) * np.exp(-0.5 * t**2) / np.sqrt(2 * np.pi) * (t[1] - t[0])


def in_positive(count):
  t = np.linspace(-14, 14, count)
  return np.exp(t), np.exp(t) * (t[1] - t[0])


def in_reals(count):
  t = np.linspace(-25, 25, count)
  return t, np.full(count, t[1] - t[0])


def in_softplus(count):
  t = np.linspace(-25, 25, count)
  return np.logaddexp(0, t), scipy.special.expit(t) * (t[1] - t[0])


def integral(flow, x, weights):
  return np.sum(weights * np.exp(flow.log_prob(x)))


@pytest.mark.parametrize(
  "support, points",
  [
    (None, in_reals),
    (box(-1.0, 3.0), lambda n: in_box(-1, 3, n)),
    (positive(), in_positive),
    (tfb.Softplus(), in_softplus),
  ],
)
def test_a_density_of_one_value_integrates_to_1(support, points):
  x, weights = points(20_001)
  np.testing.assert_allclose(integral(flow_on(support, 1), x[:, np.newaxis], weights), 1, atol=1e-4)
  given = flow_on(support, 1, context_size=1).given([[0.7]])
  np.testing.assert_allclose(integral(given, x[:, np.newaxis], weights), 1, atol=1e-4)


@pytest.mark.parametrize(
  "support, axes",
  [
    (box([0.0, -1.0], [2.0, 5.0]), [lambda n: in_box(0, 2, n), lambda n: in_box(-1, 5, n)]),
    slow([box(0.0, 2.0), positive()], [lambda n: in_box(0, 2, n), in_positive]),
    slow([None, tfb.Softplus()], [in_reals, in_softplus]),
  ],
)
def test_a_density_of_two_values_integrates_to_1(support, axes):
  (x, of_x), (y, of_y) = (axis(801) for axis in axes)
  grid = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
  np.testing.assert_allclose(integral(flow_on(support, 2), grid, np.outer(of_x, of_y).reshape(-1)), 1, atol=1e-4)


def test_a_density_of_shares_integrates_to_1():
  share, weight = scipy.special.expit(t := np.linspace(-25, 25, 801)), t[1] - t[0]
  slope = share * scipy.special.expit(-t) * weight
  x, y = np.meshgrid(share, share, indexing="ij")  # y is a share of what x leaves
  rest = scipy.special.expit(-t)[:, np.newaxis]
  points = np.stack([x, rest * y, rest * scipy.special.expit(-t)], axis=-1).reshape(-1, 3)
  weights = (np.outer(slope, slope) * rest).reshape(-1)
  np.testing.assert_allclose(integral(flow_on(simplex(), 3), points, weights), 1, atol=1e-4)


# --- Inside and outside ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", slow("float64")])
@pytest.mark.parametrize("name", SUPPORTS)
def test_samples_never_leave_and_outside_the_density_is_0(name, dtype):
  support, outside = SUPPORTS[name]
  flow = flow_on(support, len(outside[0]), dtype)
  samples = [flow.sample(1000, seed=0)]
  if name == "box":  # others have numbers that round to their bounds
    z = tf.random.stateless_normal([1000, 2], [0, 1], dtype=dtype)
    samples.append(flow.bijector.forward(30 * z))
  assert all(np.all(flow.log_prob(x) > -np.inf) for x in samples)
  x = tf.constant([*outside, *flow.sample(2, seed=1).numpy()], dtype)
  with tf.GradientTape() as tape:
    tape.watch(x)
    log_prob = flow.log_prob(x)
    weights = tape.watched_variables()
  gradients = tape.gradient(log_prob, [x, *weights])
  assert np.all(log_prob[: len(outside)] == -np.inf) and np.all(np.isfinite(log_prob[len(outside) :]))
  assert weights and all(np.all(np.isfinite(gradient)) for gradient in gradients if gradient is not None)
  assert not np.any(gradients[0][: len(outside)])
  assert np.isnan(flow.log_prob(x[-1:] * np.nan))


def test_a_box_is_the_cdf_of_the_normal_distribution_and_holds_its_bounds():
  low, high = np.array([0.0, 999.0]), np.array([1.0, 1001.0])
  reference = tfb.Chain([tfb.Shift(low), tfb.Scale(high - low), tfb.NormalCDF()])
  z = np.random.RandomState(0).randn(100, 2)
  y = box(low, high).forward(z)
  np.testing.assert_allclose(y, reference.forward(z), rtol=1e-14)
  for method in ("inverse", "inverse_log_det_jacobian"):
    np.testing.assert_allclose(getattr(box(low, high), method)(y), getattr(reference, method)(y), rtol=1e-9, atol=1e-9)
  for dtype in (np.float32, np.float64):
    bounds = np.array([low, high], dtype)
    assert np.all(np.isfinite(flow_on(box(low, high), 2, bounds.dtype.name).log_prob(bounds)))


def exact_shares(x):
  """The shares of numbers by stick-breaking, in 60 digits."""
  rest, shares = mpmath.mpf(1), []
  for k, number in enumerate(x):
    part = 1 / (1 + mpmath.exp(-(mpmath.mpf(float(number)) - mpmath.log(len(x) - k))))
    shares.append(rest * part)
    rest *= 1 - part
  return [*shares, rest]


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float64", 1e-13)])
def test_shares_near_0_are_as_exact_as_others_and_come_back(dtype, tolerance):
  x = np.random.RandomState(0).randn(300, 4) * np.logspace(-1, 1.3, 300)[:, np.newaxis]  # shares of 1e-30 and less
  x = x.astype(dtype)
  with mpmath.workdps(60):
    exact = [exact_shares(row) for row in x]
    log_det = np.array([float(sum(map(mpmath.log, shares))) for shares in exact])
  exact, least = np.array(exact, np.float64), np.finfo(dtype).tiny
  y = tf.constant(simplex().forward(x).numpy())
  np.testing.assert_allclose(y, np.maximum(exact, least), rtol=tolerance)
  np.testing.assert_allclose(simplex().forward_log_det_jacobian(x), log_det, rtol=tolerance, atol=tolerance)
  inside = exact.min(axis=1) > least
  np.testing.assert_allclose(simplex().inverse(y)[inside], x[inside], rtol=tolerance, atol=10 * tolerance)
  back = simplex().inverse_log_det_jacobian(y)
  np.testing.assert_allclose(back[inside], -log_det[inside], rtol=tolerance, atol=tolerance)
  assert np.sum(inside) > 200 and np.all(np.isfinite(back)) and np.all(fpp.support.OnSupport(simplex()).contains(y))
  reference, x = tfb.IteratedSigmoidCentered(), np.random.RandomState(1).randn(20, 4)
  np.testing.assert_allclose(simplex().forward(x), reference.forward(x), rtol=1e-13)
  np.testing.assert_allclose(
    simplex().inverse_log_det_jacobian(reference.forward(x)), reference.inverse_log_det_jacobian(reference.forward(x))
  )


def test_shares_of_a_dirichlet_distribution_that_numbers_hardly_hold_are_samples():
  """In float32 the library had shares that are 0, and others in steps of 3e-8."""
  flow = fpp.distributions.FlowDistribution(tfd.Sample(tfd.Normal(0.0, 8.0), 2), fpp.support.OnSupport(simplex()))
  y = flow.sample(100_000, seed=0).numpy()
  assert y.min() > 0 and np.all(np.isfinite(flow.log_prob(y)))
  small = y[y[:, 2] < 1e-3, 2]
  assert len(small) > 10_000 and len(np.unique(small)) > 0.99 * len(small)
  with tf.GradientTape() as tape:
    variable = tf.Variable(y[:100])
    log_prob = tf.reduce_sum(flow.log_prob(variable))
  assert np.all(np.isfinite(tape.gradient(log_prob, variable)))
  compiled = tf.function(lambda y: flow.log_prob(y), jit_compile=True)
  np.testing.assert_allclose(compiled(y[:100]), flow.log_prob(y[:100]), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
  "support, dtypes",
  [
    *((bijector, ["float32", "float64"]) for bijector in (tfb.Square(), tfb.Power(2), [None, tfb.Square()], tfb.Log())),
    (tfb.Scale(0.0), ["float32"]),
  ],
)
def test_a_support_that_is_not_one_to_one_with_the_reals_is_an_error(support, dtypes):
  for dtype in dtypes:
    with pytest.raises(InputError, match=f"^`support` must take all real numbers to values of {dtype} and back, which"):
      fpp.vector_flow(2, support=support, dtype=dtype)


@pytest.mark.parametrize("low, high", [(0, 1e39), (0, 1e-40), (1e6, 1e6 + 0.01), (1e6, 1e6 + 0.2), (1e6, 1e6 + 32)])
def test_a_box_that_float32_does_not_have_is_an_error(low, high):
  with pytest.raises(InputError, match=r"float32 and back, which 'box' does not; .* take `dtype` float64, or scale"):
    fpp.vector_flow(1, support=box(low, high))
  flow = fpp.vector_flow(1, support=box(low, high), dtype="float64")
  assert np.all(np.isfinite(flow.log_prob(flow.sample(1000, seed=0))))


def test_samples_of_positive_values_are_within_the_numbers_of_float32():
  flow = fpp.vector_flow(1, support=positive(), df=1.0, couplings=1, hidden=4)
  y = flow.sample(20_000, seed=0).numpy()
  assert np.all((y > 0) & np.isfinite(y)) and np.all(np.isfinite(flow.log_prob(y)))
  assert y.min() == np.finfo(np.float32).tiny and y.max() == np.finfo(np.float32).max
  for count in range(1, 20):  # kernels of vectors and of single numbers differ below the normal numbers
    assert np.all(np.isneginf(flow.log_prob(np.full([count, 1], 1e-40, np.float32))))
  z = tf.constant([[-1000.0], [-1.0], [1000.0]])
  np.testing.assert_array_equal(positive().forward_log_det_jacobian(z, 1), z[:, 0])
  assert fpp.VectorFlow(1, support=tfb.Exp(), **TINY).get_config()["support"] == "positive"


@pytest.mark.parametrize("low, high", [(0, 1e-34), (-1e38, 1e38), (1e6, 1e6 + 100), (-1e-3, 1e6)])
def test_samples_of_a_box_near_the_limits_of_float32_are_inside(low, high):
  flow = fpp.vector_flow(1, support=box(low, high), df=2.0, couplings=1, hidden=4)
  y = flow.sample(20_000, seed=0).numpy()
  assert np.all((y >= low) & (y <= high)) and np.all(np.isfinite(flow.log_prob(y)))


@pytest.mark.slow
def test_a_layer_on_a_support_is_saved_with_it(tmp_path):
  for support, size in ((SUPPORTS["box and positive"][0], 2), (simplex(), 3), (box([0.0, 1.0], 2.0), 2)):
    layer = fpp.VectorFlow(size, support=support, **TINY)
    perturb(layer)
    keras.Sequential([keras.Input([size]), layer]).save(tmp_path / "flow.keras")
    loaded = keras.saving.load_model(tmp_path / "flow.keras").layers[0]
    x = layer.sample(5, seed=0)
    np.testing.assert_array_equal(loaded(x), layer(x))
  with pytest.raises(InputError, match="`support` 'softplus' cannot be saved"):
    fpp.VectorFlow(2, support=tfb.Softplus()).get_config()
  wide = fpp.VectorFlow(1, support=box(0.1, 0.7), couplings=1, hidden=4, dtype="float64")
  low = fpp.VectorFlow.from_config(wide.get_config()).distribution.bijector.bijectors[0].bijector.low
  assert float(low) == 0.1  # not in float32


@pytest.mark.parametrize(
  "support, size",
  [(simplex(), 1), ([simplex(), None], 2), ([None], 2), (box([0.0] * 3, 1.0), 2), (tfb.Reshape([2, 1]), 2)],
)
def test_a_support_of_other_vectors_is_an_error(support, size):
  with pytest.raises(InputError, match=r"^`support` must (be one of vectors of|have a bijector of single values)"):
    fpp.vector_flow(size, support=support)


@pytest.mark.parametrize("low, high", [(0, 0), (1, 0), (0, np.inf), ([0, np.nan], 1)])
def test_bounds_of_a_box_that_are_none_are_an_error(low, high):
  with pytest.raises(InputError, match="^`low` and `high` must be finite, and `low` the smaller"):
    box(low, high)


def test_bounds_of_a_box_are_as_many_each():
  with pytest.raises(InputError, match="^`low` and `high` must be numbers, or as many each, got 3 and 2$"):
    box([0, 1, 2], [3, 4])


def test_training_rows_outside_the_support_are_an_error_that_names_one():
  x = np.random.RandomState(0).uniform(size=[50, 2])
  x[[7, 9], 1] = 1.5
  flow = fpp.vector_flow_for(x, support=box(0.0, 1.0))
  with pytest.raises(InputError, match=r"^`data` must lie in the support of the flow: row 7 does not, .* \(2 of 50\)"):
    fpp.fit(flow, x, steps=1)
  with pytest.raises(InputError, match="^`validation` must lie in the support"):
    fpp.fit(flow, x[:7], validation=x, steps=1)
