"""The mixture of logistics against 40 digits on hard cases, and its inverse where inverses are hard."""

import numpy as np
import pytest
import tensorflow as tf

from flowpp_tf import bijectors as fb
from flowpp_tf.bijectors import mixture_quantile
from flowpp_tf.bijectors.mixture_logistic import log_density, logit_cdf
from support import hard_mixtures
from support.marks import slow

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
  return {
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
  arguments = hard_mixtures.grid(components, dtype)
  expected = truths(arguments)
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
  arguments = hard_mixtures.grid(components, dtype)
  ours, expected = gradients(arguments), truths(arguments)
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
