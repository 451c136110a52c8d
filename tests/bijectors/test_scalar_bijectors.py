"""Mixtures of logistics and couplings with a margin against 40 digits where they are hard; the spline against TFP's."""

import functools

import mpmath
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf import bijectors as fb
from flowpp_tf.bijectors import mixture_quantile
from flowpp_tf.bijectors.mixture_logistic import log_density, logit_cdf
from flowpp_tf.core.errors import InputError
from support import hard_mixtures
from support.bijector_cases import draw
from support.marks import slow

PARTS = ("x", "logits", "loc", "log_scale")
TOLERANCE = {"float32": 1e-5, "float64": 1e-13}
components = pytest.mark.parametrize("components", [1, 2, 8, 64])
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def mixture(dtype, *leading):
  parameters = [0.3, -1.0, 0.5], [-1.0, 0.2, 2.0], [-0.5, -7.0, 0.4]
  return [tf.broadcast_to(tf.constant(p, dtype), [*leading, 3]) for p in parameters]


@functools.cache
def hard_cases(components, dtype):
  """The arguments of every case, and its truth in float64: an array for each key, a list of four for the gradients."""
  arguments = hard_mixtures.grid(components, dtype)
  out = [hard_mixtures.truth(*case) for case in zip(*arguments)]
  return arguments, {
    key: [np.array(part) for part in zip(*(o[key] for o in out))]
    if "gradients" in key
    else np.array([o[key] for o in out])
    for key in out[0]
  }


def relative_error(ours, theirs):
  """Relative to the truth, or absolute where that is below 1."""
  return np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))


@components
@dtypes
def test_values_and_log_dets_are_exact_in_every_hard_case(components, dtype):
  arguments, expected = hard_cases(components, dtype)
  value, log_derivative = logit_cdf(*arguments)
  for key, ours in dict(
    log_cdf=tf.math.log_sigmoid(value),
    log_survival=tf.math.log_sigmoid(-value),
    log_prob=log_density(*arguments),
    value=value,
    log_derivative=log_derivative,
  ).items():
    assert np.max(relative_error(ours, expected[key])) < TOLERANCE[dtype], key


def gradients(arguments):
  arguments = [tf.constant(a) for a in arguments]
  with tf.GradientTape(persistent=True) as tape:
    tape.watch(arguments)
    outputs = logit_cdf(*arguments)
  return {
    f"{name}_gradients": tape.gradient(output, arguments) for name, output in zip(("value", "log_derivative"), outputs)
  }


@components
@dtypes
def test_gradients_are_exact_in_every_hard_case(components, dtype):
  arguments, expected = hard_cases(components, dtype)
  ours = gradients(arguments)
  for key in ours:
    for part, our, their in zip(PARTS, ours[key], expected[key]):
      assert np.all(np.isfinite(our)), (key, part)
      error = relative_error(our, their)
      if part != "x":
        # A million scales away, which components carry the tail hangs on the rounding of x - loc.
        # Their shares are then not to be had in the dtype: see the next test.
        error = error[np.abs(arguments[0]) <= 17]
      assert np.max(error) < TOLERANCE[dtype], (key, part)


def test_gradients_are_the_same_with_any_number_of_batch_dimensions():
  flat = hard_mixtures.grid(2, "float32")  # oneDNN's softmax, where TensorFlow uses it, knows at most five
  deep = [a.reshape(len(a), *[1] * 5, *a.shape[1:]) for a in flat]
  in_graph = tf.function(lambda: gradients(deep), autograph=False)()
  for name, expected in gradients(flat).items():
    for in_eager_mode, graph, part in zip(gradients(deep)[name], in_graph[name], expected, strict=True):
      for ours in (in_eager_mode, graph):
        assert np.max(relative_error(tf.reshape(ours, part.shape), part)) < TOLERANCE["float32"], name


@components
@dtypes
def test_far_out_the_components_share_an_exact_gradient(components, dtype):
  arguments, expected = hard_cases(components, dtype)
  ours = gradients(arguments)
  for key in ours:
    by_logits, by_loc = (ours[key][i].numpy().astype(np.float64) for i in (1, 2))
    error = relative_error(np.sum(by_loc, axis=-1), -expected[key][0])
    assert np.max(error) < TOLERANCE[dtype], key
    np.testing.assert_allclose(np.sum(by_logits, axis=-1), 0, atol=TOLERANCE[dtype])
    assert np.max(np.abs(by_logits)) < 2 + TOLERANCE[dtype]  # differences of weights that add to 1


@components
@dtypes
def test_inverse_of_hard_mixtures_is_exact_in_few_evaluations(components, dtype):
  rng = np.random.RandomState(components)
  shape = (2000, components)
  parameters = [
    tf.constant(p, dtype)
    for p in (np.clip(20 * rng.randn(*shape), -40, 40), 5 * rng.randn(*shape), rng.uniform(-7, 2, shape))
  ]
  target = tf.constant(6 * rng.randn(2000), dtype)
  root, evaluations = mixture_quantile.search(target, *parameters)
  np.testing.assert_array_equal(root, fb.LogitMixtureLogisticCDF(*parameters).inverse(target))
  assert np.median(evaluations) <= 8
  assert np.max(evaluations) <= {"float32": 22, "float64": 32}[dtype]

  wide = lambda value: tf.cast(value, tf.float64)
  exact = fb.LogitMixtureLogisticCDF(*map(wide, parameters))
  x = wide(root)
  residual = exact.forward(x) - wide(target)
  # What one rounding does to the residual: of x and the means, and of the target.
  _, loc, log_scale = map(wide, parameters)
  sizes = tf.reduce_max(tf.abs(loc) + tf.exp(log_scale) * tf.abs(wide(target))[:, tf.newaxis], axis=1)
  slope = tf.exp(exact.forward_log_det_jacobian(x))
  unavoidable = np.finfo(dtype).eps * (sizes * slope + 1 + tf.abs(wide(target)))
  assert np.max(tf.abs(residual) / unavoidable) < 4


def test_inverse_between_far_apart_narrow_components():
  # Newton alone cycles here: the logit of the CDF is a staircase.
  bijector = fb.LogitMixtureLogisticCDF(
    tf.zeros([2], tf.float64), tf.constant([-50.0, 50.0], tf.float64), tf.constant([-7.0, -7.0], tf.float64)
  )
  y = tf.constant([-40.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 40.0], tf.float64)
  x = bijector.inverse(y)
  np.testing.assert_allclose(x[3], 0.0, atol=1e-9)
  np.testing.assert_allclose(tf.gather(bijector.forward(x), [0, 1, 5, 6]), tf.gather(y, [0, 1, 5, 6]), rtol=1e-9)


def test_inverse_of_infinite_targets_is_infinite_and_of_nan_is_nan():
  bijector = fb.LogitMixtureLogisticCDF(*mixture("float32"))
  x = bijector.inverse(tf.constant([-np.inf, np.inf, np.nan], tf.float32)).numpy()
  assert x[0] == -np.inf and x[1] == np.inf and np.isnan(x[2])


@pytest.mark.parametrize("compiled", ["eager", slow("graph"), slow("xla")])
def test_derivatives_of_the_inverse_of_any_order_are_those_of_finite_differences(compiled):
  rng = np.random.RandomState(0)
  point = [tf.constant(a) for a in (2 * rng.randn(5), *rng.randn(3, 5, 3))]  # target, parameters
  direction = [tf.constant(rng.randn(*a.shape)) for a in point]
  weights = tf.constant(rng.randn(5))

  def derivative(function):
    """Of a scalar function of four tensors, along `direction`."""

    def along(*arguments):
      with tf.GradientTape() as tape:
        tape.watch(arguments)
        value = function(*arguments)
      return tf.add_n([tf.reduce_sum(g * d) for g, d in zip(tape.gradient(value, arguments), direction)])

    return along

  run = {"eager": lambda f: f, "graph": tf.function, "xla": lambda f: tf.function(f, jit_compile=True)}[compiled]
  function = lambda *a: tf.reduce_sum(weights * mixture_quantile.quantile(*a))
  step = 1e-5
  moved = lambda sign: [a + sign * step * d for a, d in zip(point, direction)]
  for _ in range(3):
    ours = run(derivative(function))(*point)
    numerical = (function(*moved(1)) - function(*moved(-1))) / (2 * step)
    np.testing.assert_allclose(ours, numerical, rtol=1e-7)
    function = derivative(function)


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


def test_a_coupling_map_adds_its_offsets_to_the_parameters_of_each_value():
  offsets = tuple(np.linspace(-1, 1, 11))
  values = parameters(2)  # of two values
  x = np.array([-3.0, 0.5])
  coupling_map = fb.CouplingMap("mixture_logistic", components=3, margin=MARGIN, offsets=offsets)
  y, log_det = coupling_map(tf.reshape(values, [1, 22])).forward_and_log_det(x[np.newaxis])
  expected = np.array([truth(*case, MARGIN) for case in zip(x, values.numpy() + offsets)])
  np.testing.assert_allclose([y[0], log_det[0]], expected.T, rtol=1e-13)


@pytest.mark.parametrize(
  "kind, arguments, error",
  [
    ("cubic", {}, "`coupling` must be"),
    ("affine", {"offsets": (1.0,)}, "`offsets` must be the 2 of one value, or none, got 1"),
    ("mixture_logistic", {"components": 2, "offsets": (1.0, 0.0)}, "`offsets` must be the 8 of one value"),
    ("mixture_logistic", {"margin": -0.1}, "`margin` must be"),
  ],
)
def test_a_coupling_map_refuses_arguments_of_another_kind(kind, arguments, error):
  with pytest.raises(InputError, match=error):
    fb.CouplingMap(kind, **arguments)


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


def make(*shape, bins=5, scale=1.5, dtype="float64"):
  sizes = (bins, bins, bins + 1)
  return fb.LogitRationalQuadraticCDF(
    *(draw(*shape, size, scale=scale, seed=i, dtype=dtype) for i, size in enumerate(sizes))
  )


def test_the_spline_is_that_of_tfp_between_sigmoid_and_logit():
  logits = [draw(500, 5 + more, seed=i).numpy() for i, more in enumerate((0, 0, 1))]
  logits[2][:, [0, -1]] = 0  # slopes of 1 at both ends, as TFP's are
  bijector = fb.LogitRationalQuadraticCDF(*logits)
  widths, heights, slopes = bijector._bins()
  spline = tfp.bijectors.RationalQuadraticSpline(widths, heights, slopes[:, 1:-1], range_min=np.float64(0))
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
