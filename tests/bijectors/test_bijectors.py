"""The mathematics of every bijector of the table, against autodiff and finite differences.

The clauses of TFP's contract are in test_bijector_tfp_suite.py, graph mode, XLA and saving in
test_conformance.py.
"""

import functools
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from flowpp_tf import bijectors as fb
from flowpp_tf.core.context import EvalContext
from support.bijector_cases import FUNCTIONS, coupling, draw, points, rows, tensor_parameters
from support.models import value_and_log_det
from support.refusing import refuses

tfb = tfp.bijectors
ROUNDING = {"float32": 2e-5, "float64": 1e-12}


@rows
def test_log_det_is_that_of_the_autodiff_jacobian(row):
  make, sample, event = row
  bijector, x = make("float64"), sample((2, *event), "float64")
  y, expected = value_and_log_det(bijector.forward, x)
  np.testing.assert_allclose(
    np.broadcast_to(bijector.forward_log_det_jacobian(x, 3), 2), expected, rtol=1e-10, atol=1e-10
  )
  np.testing.assert_allclose(
    np.broadcast_to(bijector.inverse_log_det_jacobian(y, 3), 2), -expected, rtol=1e-9, atol=1e-9
  )


@rows
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inverse_undoes_forward(row, dtype):
  make, sample, event = row
  bijector, x = make(dtype), sample((5, *event), dtype)
  y = bijector.forward(x)
  back = bijector.inverse(tf.identity(y))
  np.testing.assert_allclose(back, x, rtol=0, atol=50 * ROUNDING[dtype])


@rows
def test_gradients_by_input_parameters_and_weights_are_those_of_finite_differences(row):
  bijector = row.make("float64")
  at = points(row, bijector, 1)
  parameters, variables = tensor_parameters(bijector), bijector.trainable_variables
  for name, (function, argument) in FUNCTIONS.items():
    tensors = {argument: at[argument], **parameters}
    output = lambda t: function(bijector.copy(**{n: t[n] for n in parameters}), t[argument])
    weights = draw(*output(tensors).shape, seed=6)
    scalar = lambda t: tf.reduce_sum(weights * output(t))
    with tf.GradientTape() as tape:
      tape.watch(tensors)
      value = scalar(tensors)
    gradients = tape.gradient(
      value, [*tensors.values(), *variables], unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    step = 1e-6

    def compare(what, gradient, shifted):
      direction = draw(*gradient.shape, seed=5)
      difference = (shifted(step * direction) - shifted(-step * direction)) / (2 * step)
      np.testing.assert_allclose(
        tf.reduce_sum(gradient * direction), difference, rtol=1e-5, atol=1e-6, err_msg=f"{name} by {what}"
      )

    def shift_variable(variable, by):
      before = tf.identity(variable)
      variable.assign_add(by)
      shifted_value = scalar(tensors)
      variable.assign(before)
      return shifted_value

    for what, gradient in zip(tensors, gradients):
      compare(what, gradient, lambda by, what=what: scalar({**tensors, what: tensors[what] + by}))
    for variable, gradient in zip(variables, gradients[len(tensors) :]):
      compare(variable.name, gradient, lambda by, v=variable: shift_variable(v, by))


@rows
def test_any_batch_shape_gives_the_same_as_one_example_at_a_time(row):
  make, sample, event = row
  bijector, x = make("float64"), sample((6, *event), "float64")
  log_det = lambda x: np.broadcast_to(bijector.forward_log_det_jacobian(x, 3), x.shape[:-3])
  y, fldj = bijector.forward(x).numpy(), log_det(x)
  folded = tf.reshape(x, (2, 3, *event))
  np.testing.assert_allclose(bijector.forward(folded), y.reshape((2, 3, *y.shape[1:])), atol=1e-12)
  np.testing.assert_allclose(log_det(folded), fldj.reshape(2, 3), atol=1e-12)
  np.testing.assert_allclose(bijector.forward(x[0]), y[0], atol=1e-12)
  np.testing.assert_allclose(log_det(x[0]), fldj[0], atol=1e-12)


@rows
def test_event_shapes_are_those_of_the_values(row):
  make, sample, event = row
  bijector, x = make("float64"), sample((2, *event), "float64")
  y = bijector.forward(x)
  assert bijector.forward_event_shape(tf.TensorShape(event)) == y.shape[1:]
  assert bijector.inverse_event_shape(y.shape[1:]) == tf.TensorShape(event)
  np.testing.assert_array_equal(bijector.forward_event_shape_tensor(event), y.shape[1:])
  np.testing.assert_array_equal(bijector.inverse_event_shape_tensor(y.shape[1:]), event)


def in_graph(function):
  return tf.function(function, autograph=False)  # which would make another error of one of ours


def standardization(dtype="float32", mean=(2,), stddev=(2,)):
  return fb.Standardization(tf.Variable(tf.zeros(mean, dtype)), tf.Variable(tf.ones(stddev, dtype)))


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda: fb.Invertible1x1Conv(tf.zeros([2, 3])), "`kernel` must be"),
    (lambda: fb.Squeeze().forward(tf.zeros([1, 3, 4, 1])), "divisible"),
    (lambda: fb.Squeeze().inverse(tf.zeros([1, 3, 4, 2])), "divisible"),
    (lambda: fb.Squeeze().forward_event_shape([8, 8]), r"must have the 3 dimensions of an event, got shape \[8, 8\]"),
    (lambda: fb.ColumnsToChannels().inverse_event_shape([8]), "`y` must have the 3 dimensions of an event"),
    (lambda: fb.mixture_logistic_coupling_bijector(tf.zeros([1, 10]), 3), "must give 11 parameters"),
    (lambda: fb.split_columns((4, 3, 1)), "even width"),
    (lambda: coupling("float64", "affine").forward(draw(1, 2, 2, 3)), "even last axis"),
    (lambda: fb.Coupling(keras.layers.Dense(2), fb.affine_coupling_bijector), "must be built"),
    (lambda: fb.ActNorm(1.0, tf.zeros([])).initialize(tf.zeros([2])), "tf.Variable"),
    (lambda: in_graph(standardization().initialize)(tf.ones([9, 2])), "needs the values of `x`.*call it eagerly"),
  ],
)
def test_bad_arguments_are_value_errors_that_say_what_was_expected(make, message):
  refuses(message, make)


def test_a_singular_kernel_has_no_inverse_and_cannot_be_given_as_lu():
  singular = tf.constant([[[1.0, 2.0], [2.0, 4.0]], [[1.0, 0.0], [0.0, 1.0]]])
  refuses("not invertible", fb.Invertible1x1Conv(singular).inverse, tf.ones([1, 1, 1, 4]))
  x = draw(1, 2, 2, 2, dtype="float32")
  lu = fb.Invertible1x1ConvLU(-30 * tf.eye(2))  # a determinant of exp(-60)
  np.testing.assert_allclose(lu.inverse(tf.identity(lu.forward(x))), x, rtol=1e-3)
  np.testing.assert_allclose(lu.forward_log_det_jacobian(x), -240.0, rtol=1e-6)


def test_lu_form_is_the_same_map_as_the_product_of_its_factors():
  lower_upper, x = draw(3, 4, 4).numpy(), draw(2, 2, 2, 12, seed=1)
  permutation = np.array([[1, 2, 3, 0], [3, 1, 0, 2], [0, 1, 2, 3]])
  diagonal = np.exp(np.diagonal(lower_upper, axis1=-2, axis2=-1))[..., np.newaxis] * np.eye(4)
  product = (np.tril(lower_upper, -1) + np.eye(4)) @ (np.triu(lower_upper, 1) + diagonal)
  kernel = np.take_along_axis(product, permutation[..., np.newaxis], axis=-2)
  dense, lu = fb.Invertible1x1Conv(kernel), fb.Invertible1x1ConvLU(lower_upper, permutation)
  np.testing.assert_allclose(lu.forward(x), dense.forward(x), rtol=1e-10)
  np.testing.assert_allclose(lu.inverse(x), dense.inverse(x), rtol=1e-10)
  np.testing.assert_allclose(lu.forward_log_det_jacobian(x), dense.forward_log_det_jacobian(x))


@pytest.mark.parametrize("bijector", [fb.Squeeze(), fb.ColumnsToChannels()])
def test_an_event_shape_that_is_not_known_stays_so_as_in_tfp(bijector):
  unknown = tf.TensorShape(None)
  assert bijector.forward_event_shape(unknown).rank is bijector.inverse_event_shape(unknown).rank is None


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_pixels_to_logit_is_exact_at_both_ends(levels):
  inside = np.nextafter(np.float32(levels), np.float32(0))
  x = np.array([0, 1e-3, levels / 2, levels - 1, inside, levels], np.float32)
  ours = fb.PixelsToLogit(levels)
  wide = x.astype(np.float64)
  p = 0.05 + 0.9 * wide / levels
  np.testing.assert_allclose(ours.forward(x), np.log(p / (1 - p)), rtol=3e-7, atol=3e-7)
  np.testing.assert_allclose(ours.forward_log_det_jacobian(x), np.log(0.9 / levels / p / (1 - p)), rtol=3e-7, atol=3e-7)


@pytest.mark.parametrize("to_flow", [fb.Invert, lambda act_norm: act_norm])
def test_a_flow_initialises_in_the_direction_in_which_it_is_written(to_flow):
  x = np.random.RandomState(0).normal(size=[100, 3]) * [1.0, 10.0, 0.1] + [0.0, 5.0, -7.0]
  act_norm = fb.ActNorm(tf.Variable(tf.ones([3], tf.float64)), tf.Variable(tf.zeros([3], tf.float64)))
  base = tfp.distributions.Sample(tfp.distributions.Normal(tf.zeros([], tf.float64), 1.0), 3)
  log_prob = fpp.distributions.FlowDistribution(base, to_flow(act_norm)).initialize(x)
  standard = (x - x.mean(axis=0)) / x.std(axis=0)
  expected = -0.5 * np.log(2 * np.pi) - 0.5 * standard**2 - np.log(x.std(axis=0))
  np.testing.assert_allclose(log_prob, expected.sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize("shapes", [([2], [3, 2]), ([3, 2], [2])])
def test_initialisation_of_parameters_of_several_shapes_sets_none_of_them(shapes):
  act_norm = fb.ActNorm(*(tf.Variable(make(shape)) for make, shape in zip((tf.ones, tf.zeros), shapes)))
  for bijector in (act_norm, standardization("float32", *shapes)):
    with pytest.raises(ValueError, match=r"variables of one shape, got `\w+` \[.*2\], `\w+` \[.*2\]"):
      bijector.initialize(draw(64, 3, 2, dtype="float32"))
    assert not bijector.is_initialized()


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("shape, event_ndims", [((3, 3), 1), ((2, 3, 3), 3)])
def test_a_1x1_convolution_begins_by_whitening_each_block(shape, event_ndims, inverse):
  kernel = tf.Variable(tf.eye(3, batch_shape=shape[:-2], dtype=tf.float64))
  conv = fb.Invertible1x1Conv(kernel, event_ndims, whitening=True)
  channels = int(np.prod(shape[:-1]))
  x = draw(*((400,) if event_ndims == 1 else (9, 8, 6)), channels) @ draw(channels, channels) + 5
  ctx = EvalContext(initialize=True)
  y = (conv.inverse if inverse else conv.forward)(x, ctx=ctx).numpy().reshape(-1, channels // 3, 3)
  expected = np.eye(3)
  if event_ndims == 1:  # the axes have 3 C / N of the mean variance more
    matrix = np.linalg.inv(kernel) if inverse else kernel.numpy()
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-9)
    expected -= 3 / 400 * np.trace(np.cov(x.numpy().T, bias=True)) * matrix @ matrix
  for block in np.moveaxis(y, 1, 0):
    np.testing.assert_allclose(np.cov(block.T, bias=True), expected, atol=1e-9)
  again = (conv.inverse if inverse else conv.forward)(x).numpy().reshape(y.shape)
  np.testing.assert_array_equal(again, y)


def test_whitening_raises_no_constant_channel_to_infinity_and_needs_a_variable():
  kernel = tf.Variable(tf.eye(2))
  conv, x = fb.Invertible1x1Conv(kernel, 1), np.stack([np.linspace(-1, 1, 99), np.full(99, 7.0)], axis=-1)
  conv.initialize(x)
  more = 3 / 99 * 1.0001  # of the variance of the other column, of which the constant one gets 1e-4
  expected = np.diag(1 / np.sqrt([1 + more, 1e-4 + more])) / x[:, 0].std()
  np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-5)
  conv.initialize(np.full([9, 2], 3.0))
  assert np.isfinite(conv.forward(x)).all()
  for bad, words in (
    (lambda: fb.Invertible1x1Conv(tf.eye(2), 1).initialize(x), "tf.Variable"),
    (lambda: conv.initialize(x[:0]), "must be a batch of values"),
    (lambda: conv.initialize(x[:, :1]), "must be of shape"),
    (lambda: conv.initialize(x * np.nan), "finite"),
  ):
    with pytest.raises(ValueError, match=words):
      bad()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_numbers_are_standardised_too(dtype):
  bijector, x = standardization(dtype), tf.tile(tf.constant([[-3.0, -0.5], [3.0, 0.5]], dtype), [50, 1])
  bijector.initialize(x)
  np.testing.assert_array_equal(tf.cast(bijector.forward(x), tf.float32), np.tile([[-1, -1], [1, 1]], [50, 1]))
  make = type(bijector).parameter_properties(tf.as_dtype(dtype))["stddev"].default_constraining_bijector_fn
  assert make().forward(tf.constant(-10.0, dtype)) > 0


@pytest.mark.parametrize(
  "make",
  [
    lambda array: fb.BoundedAffine(array, 0.0),
    lambda array: fb.Invertible1x1Conv(array, event_ndims=1),
    lambda array: fb.Chain([fb.Invert(fb.BoundedAffine(0.0, [array, array]))]),
  ],
  ids=["array", "matrix", "list of arrays"],
)
def test_an_array_that_changes_later_changes_no_bijector(make):
  array, x = np.array([[1.0, 0.5], [0.0, 2.0]], np.float32), tf.constant([1.0, 3.0])
  bijector = make(array)
  before = bijector.forward(x)
  array += 1
  np.testing.assert_array_equal(bijector.copy().forward(x), before)
  assert bijector != make(array)  # equal ones would have the KL divergence of their bases


def test_a_list_of_bijectors_that_grows_later_changes_no_chain():
  parts = [fb.BoundedAffine(0.0, 1.0)]
  chain = fb.Chain(parts)
  parts.append(fb.BoundedAffine(0.0, 1.0))
  assert float(chain.forward(0.0)) == float(chain.copy().forward(0.0)) == 1


def test_asinh_far_from_all_pixels_has_the_log_det_of_float64():
  narrow, wide = (fb.AsinhTransform(tf.constant(0.01, t), tf.constant(0.001, t), 2**16) for t in ("float32", "float64"))
  for x in (0.0, 655.36, 2.0**16, 1e9, -1e12, 1e25, -1e30, 1e37):
    values, tapes = [], []
    for bijector in (narrow, wide):
      at = tf.constant(x, bijector.dtype)
      with tf.GradientTape() as tape:
        tape.watch(at)
        y, log_det = bijector.forward_and_log_det(at)
      values.append((y, log_det, bijector.inverse_and_log_det(y)[1]))
      tapes.append(tape.gradient(log_det, at))
    np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(*tapes, rtol=1e-4, atol=1e-30)


def test_a_coupling_warns_of_variables_that_a_function_hides():
  network, shift = fpp.layers.DenseConditioner(1, 2, blocks=0), tf.Variable(tf.ones([1]))
  fb.Coupling(network, fb.affine_coupling_bijector, event_ndims=1)  # a warning is an error
  functions = (
    ("conditioner", lambda x1: network(x1), fb.affine_coupling_bijector),
    ("conditioner", functools.partial(lambda of, x1: of(x1), network), fb.affine_coupling_bijector),
    ("conditioner", network.call, fb.affine_coupling_bijector),
    ("bijector_fn", network, lambda p: tfb.Shift(shift * p[..., :1])),
    ("bijector_fn", network, lambda p: fb.Chain([tfb.Shift(p[..., :1]), tfb.Scale(shift)])),
  )
  for name, conditioner, bijector_fn in functions:
    message = f"^`{name}.* reads . trainable variables? that its `trainable_variables` lacks"
    with pytest.warns(UserWarning, match=message):
      fb.Coupling(conditioner, bijector_fn, event_ndims=1)


@pytest.mark.parametrize("x", [np.zeros([3]), np.zeros([0, 3]), np.full([4, 3], np.nan), np.zeros([4, 2])])
def test_an_evaluation_that_initialises_needs_a_batch_of_finite_values(x):
  for part in (
    fb.ActNorm(tf.Variable(tf.ones(3)), tf.Variable(tf.zeros(3))),
    fb.Standardization(tf.Variable(tf.zeros(3)), tf.Variable(tf.ones(3))),
    fb.Invertible1x1Conv(tf.Variable(tf.eye(3)), event_ndims=1, whitening=True),
  ):
    before = [v.numpy() for v in part.variables]
    refuses("`x` must", part.forward_and_log_det, x, EvalContext(initialize=True))
    for variable, value in zip(part.variables, before, strict=True):
      np.testing.assert_array_equal(variable, value)


def test_a_coupling_takes_any_callable():
  class WithArguments:
    args = types.SimpleNamespace(width=2)

    def __call__(self, x):
      return tf.concat([x, x], axis=-1)

  def coupling_of_a_later_name():
    made = fb.Coupling(WithArguments(), lambda parameters: bijector_fn(parameters), event_ndims=1)
    bijector_fn = fb.affine_coupling_bijector
    return made

  assert coupling_of_a_later_name().forward(tf.zeros([2, 4])).shape == (2, 4)


def test_numbers_that_are_longer_than_tensorflows_are_cast():
  assert fb.Sigmoid().forward(np.zeros([2], np.longdouble)).numpy().tolist() == [0.5, 0.5]
