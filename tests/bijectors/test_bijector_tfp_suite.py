"""What TFP's own suites ask of every bijector: every clause of its contract, and more.

TFP keeps bijector_test_util.py and bijector_properties_test.py out of its wheel; these are their checks, over the table
of support/bijector_cases.py. The mathematics is in test_bijectors.py, XLA in the conformance suite.
"""

import collections
import copy
import inspect
import pickle

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf import bijectors as fb
from flowpp_tf.bijectors.parameters import COMPOSITE
from flowpp_tf.posterior.support import Box
from support.bijector_cases import CASES, FUNCTIONS, OTHER_FORMS, draw, points, rows, tensor_parameters, with_variables
from support.bijector_checks import CHECKS
from support.comparing import assert_same
from support.marks import quick_rows, slow

tfb, tfd = tfp.bijectors, tfp.distributions

MADE = {name: case.make("float64") for name, case in CASES.items()}
# One of each kind of code, for tests that take long.
FEW = ["logit_mixture", "act_norm", "conv", "conv_lu", "linear", "split_columns", "swap_halves", "coupling_affine"]
few_rows = pytest.mark.parametrize("name", quick_rows(CASES, FEW))
# The ranges that are not the reals: the unit interval, and an interval that depends on the parameters.
IN_UNIT_INTERVAL = {"mixture_cdf", "sigmoid"}
IN_AN_INTERVAL = {"logit_margin", "coupling_margin", "box", "simplex", "on_support"}
# What a kink or a jump of the derivative costs an integral over it.
KNOTS = {"rational_quadratic": 1e-4}


def rows_where(predicate, quick=None):
  names = [name for name, bijector in MADE.items() if predicate(bijector)]
  return pytest.mark.parametrize("name", quick_rows(names, {*names} - OTHER_FORMS if quick is None else quick))


has_tensors = rows_where(lambda b: bool(tensor_parameters(b)))
is_composite = rows_where(lambda b: isinstance(b, tf.__internal__.CompositeTensor))


def whole(log_det):
  return np.broadcast_to(log_det, 2)


@few_rows
@pytest.mark.parametrize("dtype, tolerance", [slow("float64", 1e-10), ("float32", 2e-4)])
def test_points_drawn_in_the_range_are_finite_and_come_back(name, dtype, tolerance):
  case = CASES[name]
  bijector = case.make(dtype)
  y = draw(2, *bijector.forward_event_shape(tf.TensorShape(case.event)), scale=2, dtype=dtype, seed=11)
  y = tf.sigmoid(y) if name in IN_UNIT_INTERVAL else bijector.forward(y) if name in IN_AN_INTERVAL else y
  x = bijector.inverse(tf.identity(y))  # without TFP's cache
  back, fldj = bijector.forward(tf.identity(x)), bijector.forward_log_det_jacobian(tf.identity(x), 3)
  ildj = bijector.inverse_log_det_jacobian(y, 3)
  assert all(np.all(np.isfinite(value)) for value in (x, back, fldj, ildj))
  np.testing.assert_allclose(back, y, rtol=tolerance, atol=tolerance)
  np.testing.assert_allclose(whole(fldj), -whole(ildj), rtol=10 * tolerance, atol=10 * tolerance)


@rows_where(lambda b: b.forward_min_event_ndims == 0)
def test_the_derivative_of_a_scalar_bijector_integrates_to_its_increase(name):
  bijector = MADE[name]
  low, high = (1.0, 16.0) if name == "pixels_to_logit" else (-2.0, 2.0)
  nodes, weights = np.polynomial.legendre.leggauss(32)
  edges = np.linspace(low, high, 65)
  half = (edges[1] - edges[0]) / 2
  x = (edges[:-1, np.newaxis] + half * (1 + nodes)).reshape(-1, 1, 1, 1)
  x = np.broadcast_to(x, [len(x), *CASES[name].event])
  slope = np.broadcast_to(np.exp(bijector.forward_log_det_jacobian(x)), x.shape)
  total = np.tensordot(np.tile(half * weights, 64), slope, axes=1)
  y = bijector.forward(x[:: len(x) // 9])
  assert np.all(np.diff(y, axis=0) > 0) and bijector._internal_is_increasing()
  ends = np.broadcast_to(np.reshape([low, high], [2, 1, 1, 1]), [2, *CASES[name].event])
  smooth = name not in KNOTS  # within the cell of a knot the rule is not exact
  np.testing.assert_allclose(total, np.diff(bijector.forward(ends), axis=0)[0], rtol=1e-8 if smooth else KNOTS[name])


@has_tensors
def test_an_evaluation_reads_each_parameter_once(name):
  reads = collections.Counter()

  def counted(name, value):
    def read(variable):
      reads[name] += 1
      return variable

    return tfp.util.DeferredTensor(tf.Variable(value), read)

  bijector = MADE[name]
  at = points(CASES[name], bijector)
  parameters = tensor_parameters(bijector)
  deferred = bijector.copy(**{name: counted(name, value) for name, value in parameters.items()})
  for function, argument in FUNCTIONS.values():
    reads.clear()
    np.testing.assert_array_equal(function(deferred, at[argument]), function(bijector, at[argument]))
    assert reads == dict.fromkeys(parameters, 1)


@few_rows
def test_the_log_det_of_a_constant_jacobian_has_no_gradient(name):
  bijector = MADE[name]
  at = points(CASES[name], bijector)
  for name in ("forward_log_det", "inverse_log_det"):
    function, argument = FUNCTIONS[name]
    with tf.GradientTape() as tape:
      tape.watch(at[argument])
      log_det = function(bijector, at[argument])
    assert (tape.gradient(log_det, at[argument]) is None) == bijector.is_constant_jacobian


@rows_where(lambda b: bool(tensor_parameters(b)) and not isinstance(b, (fb.Conditioned, Box)))
@pytest.mark.parametrize("dtype", ["float64", slow("float32")])
def test_tfp_makes_parameters_of_unconstrained_numbers(name, dtype):
  """Their shapes and constraining bijectors are right; what is no real number is not trained, nor are bounds."""
  case, kind = CASES[name], type(MADE[name])
  bijector = tfp.experimental.util.make_trainable(
    kind, batch_and_event_shape=case.event, parameter_dtype=tf.as_dtype(dtype), seed=(0, 1)
  )
  assert bijector.dtype == dtype and len(bijector.trainable_variables) == len(tensor_parameters(MADE[name]))
  x = case.sample((2, *case.event), dtype)
  with tf.GradientTape() as tape:
    y, log_det = bijector.forward_and_log_det(x)
    loss = tf.reduce_sum(y) + tf.reduce_sum(log_det)
  assert np.all(np.isfinite(y)) and y.shape == x.shape
  assert all(np.all(np.isfinite(g)) for g in tape.gradient(loss, bijector.trainable_variables))
  np.testing.assert_allclose(bijector.inverse(tf.identity(y)), x, atol=1e-8 if dtype == "float64" else 1e-2)
  # Parameters of the shape of an event, as one batch of scalar bijectors has it, begin as they are given.
  parameters = tensor_parameters(MADE[name])
  if name in ("bounded_affine", "act_norm", "conv", "linear", "conv_lu", "linear_lu"):
    others = {k: v for k, v in MADE[name].parameters.items() if k not in parameters and v is not None}
    begun = tfp.experimental.util.make_trainable(
      kind, initial_parameters=parameters, batch_and_event_shape=case.event, parameter_dtype=tf.float64, **others
    )
    at = points(case, MADE[name])
    for function, argument in FUNCTIONS.values():
      np.testing.assert_allclose(function(begun, at[argument]), function(MADE[name], at[argument]), rtol=1e-9)


@pytest.mark.filterwarnings("ignore:Encoding a StructuredValue")  # that whoever decodes it must import the package
@is_composite
def test_type_specs_are_equal_encoded_and_carried_by_loops(name):
  bijector, twin = MADE[name], CASES[name].make("float64")
  spec = bijector._type_spec
  coder = tf.__internal__.saved_model
  assert spec == twin._type_spec and coder.decode_proto(coder.encode_structure(spec)) == spec
  assert spec.is_compatible_with(twin)
  tensors = with_variables(bijector)._convert_variables_to_tensors()
  assert not tensors.variables and tensors == bijector
  x = points(CASES[name], bijector)["x"]

  @tf.function(autograph=False)
  def there_and_back(b, x):
    step = lambda i, b, x: (i + 1, b, b.inverse(b.forward(x)))
    _, b, x = tf.while_loop(lambda i, b, x: i < 2, step, (0, b, x))
    return tf.cond(tf.reduce_any(x > 0), lambda: b, lambda: b).forward(x)

  np.testing.assert_allclose(there_and_back(bijector, x), bijector.forward(x), rtol=1e-10, atol=1e-10)


@rows
def test_copies_of_python_and_pickles_are_the_same_function(row):
  x = row.sample((2, *row.event), "float64")
  for bijector in (row.make("float64"), with_variables(row.make("float64"))):
    expected = bijector.forward_and_log_det(x)
    for copied in (copy.copy, copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))):
      other = copied(bijector)
      assert type(other) is type(bijector) and other.name == bijector.name
      assert len(other.variables) == len(bijector.variables)
      assert_same(other.forward_and_log_det(x), expected)


@few_rows
def test_the_combinators_of_tfp_give_the_same(name):
  bijector = MADE[name]
  at = points(CASES[name], bijector)
  x, y = at["x"], at["y"]
  fldj = bijector.forward_log_det_jacobian(x, 3)
  back_and_forth = tfb.Chain([tfb.Invert(bijector), tfb.Identity(), bijector])
  np.testing.assert_allclose(back_and_forth.forward(x), x, rtol=1e-9)
  np.testing.assert_allclose(back_and_forth.forward_log_det_jacobian(x, 3), tf.zeros_like(fldj), atol=1e-9)
  joint = tfb.JointMap([bijector, tfb.Shift(tf.constant(1.0, tf.float64))])
  np.testing.assert_array_equal(joint.forward([x, x])[0], y)
  np.testing.assert_allclose(joint.inverse([y, x])[0], x, rtol=1e-9)
  np.testing.assert_allclose(joint.forward_log_det_jacobian([x, x], [3, 3]), fldj)
  composed = bijector(tfb.Scale(tf.constant(0.5, tf.float64)))
  np.testing.assert_array_equal(composed.forward(2 * x), y)
  base = tfd.Sample(tfd.Normal(tf.zeros([], tf.float64), 1.0), CASES[name].event)
  np.testing.assert_allclose(bijector(base).log_prob(y), base.log_prob(x) - fldj, rtol=1e-9)


@few_rows
def test_sizes_that_are_known_only_at_run_time_change_nothing(name):
  bijector = MADE[name]
  parameters, at = tensor_parameters(bijector), points(CASES[name], bijector)
  specs = [tf.TensorSpec([None] * len(value.shape), value.dtype) for value in parameters.values()]

  @tf.function(autograph=False, input_signature=[tf.TensorSpec([None] * 4, tf.float64)] * 2 + specs)
  def evaluate(x, y, *values):
    b = bijector.copy(**dict(zip(parameters, values)))
    outputs = [function(b, {"x": x, "y": y}[argument]) for function, argument in FUNCTIONS.values()]
    return outputs, b.experimental_batch_shape_tensor(), b.forward_event_shape_tensor(tf.shape(x)[1:])

  outputs, batch_shape, event_shape = evaluate(at["x"], at["y"], *parameters.values())
  for output, (function, argument) in zip(outputs, FUNCTIONS.values()):
    np.testing.assert_allclose(output, function(bijector, at[argument]), rtol=1e-10, atol=1e-10)
  np.testing.assert_array_equal(event_shape, at["y"].shape[1:])
  np.testing.assert_array_equal(batch_shape, bijector.experimental_batch_shape())


# `tf.vectorized_map` has no rule for the QR decomposition that gives the determinant of any kernel.
@rows_where(
  lambda b: bool(tensor_parameters(b)) and not isinstance(b, fb.Invertible1x1Conv), quick=["act_norm", "conv_lu"]
)
def test_vectorized_map_over_parameters_gives_the_same_as_a_loop(name):
  bijector = MADE[name]
  at = points(CASES[name], bijector)
  several = {key: tf.stack([value, 0.5 * value]) for key, value in tensor_parameters(bijector).items()}
  evaluate = lambda p: [tf.identity(f(bijector.copy(**p), at[argument])) for f, argument in FUNCTIONS.values()]
  found = tf.vectorized_map(evaluate, several, fallback_to_while_loop=False)
  for i in range(2):
    expected = evaluate({key: value[i] for key, value in several.items()})
    assert_same([actual[i] for actual in found], expected, rtol=1e-10, atol=1e-10)


def test_no_composite_bijector_takes_the_name_of_another():
  """TFP registers all of them as `tfp.bijectors.NAME`; SavedModels of the other could neither be written nor read."""
  every, found = [tfb.AutoCompositeTensorBijector], []
  while every:
    found.append(every.pop())
    every += found[-1].__subclasses__()
  names = collections.Counter(kind.__name__ for kind in set(found))
  ours = {kind.__name__ for kind in found if kind.__module__.startswith("flowpp_tf.")}
  assert not {name for name, count in names.items() if count > 1} & ours
  coder = tf.__internal__.saved_model
  spec = tfb.Sigmoid()._type_spec
  with pytest.warns(UserWarning, match="Encoding a StructuredValue"):
    assert coder.decode_proto(coder.encode_structure(spec)) == spec


def test_numbers_outside_of_the_range_have_no_inverse():
  outside = tf.constant([-0.1, 1.1, np.nan])
  for bijector in (fb.Sigmoid(), fb.MixtureLogisticCDF(tf.zeros(2), [-1.0, 1.0], tf.zeros(2))):
    for evaluate in (bijector.inverse_and_log_det, tf.function(bijector.inverse_and_log_det, autograph=False)):
      assert all(np.all(np.isnan(value)) for value in evaluate(outside))


# The clauses whose check takes seconds, and the rows that stand for the others in the quick tests.
_QUICK = ("logit_mixture", "conv_lu", "chain")
QUICK = {
  "check_vectorized_map_gives_the_same_as_a_loop": ("bounded_affine", "conv_lu"),
  "check_a_copy_is_the_same_function_of_the_same_variables": _QUICK,
  "check_a_composite_goes_through_nest_and_tf_function": _QUICK,
  "check_each_parameter_may_have_a_batch_that_the_others_lack": _QUICK,
  "check_a_slice_evaluates_to_the_slice_of_the_values": _QUICK,
  "check_dtypes_are_kept_and_not_mixed": _QUICK,
}
PAIRS = [
  pytest.param(
    check,
    CASES[name],
    id=f"{check.__name__[len('check_') :]}-{name}",
    marks=[pytest.mark.slow] if name in OTHER_FORMS or name not in QUICK.get(check.__name__, MADE) else [],
  )
  for check in CHECKS
  for name, bijector in MADE.items()
  if getattr(check, "applies", lambda b: True)(bijector)
]


@pytest.mark.parametrize("check, row", PAIRS)
def test_bijectors_keep_the_contract(check, row):
  check(row)


def test_no_clause_is_about_nothing():
  assert {values[0] for values, *_ in PAIRS} == set(CHECKS)


def test_the_composite_tensors_of_tfp_are_known():
  for module in (tfp.bijectors, tfp.distributions, tfp.experimental.bijectors, tfp.experimental.distributions):
    for name, kind in inspect.getmembers(module, inspect.isclass):
      assert issubclass(kind, COMPOSITE) == issubclass(kind, tf.__internal__.CompositeTensor), name
