"""The contract of a TFP bijector, a clause a function: `check(case)` asserts it of a table's row.

TFP keeps its own checks out of its wheel; these state the same promises. A clause that is about some
bijectors only says so with `@where`. Whether log-dets and gradients are those of the values is the
matter of test_bijectors.py.
"""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from support.bijector_cases import FUNCTIONS, points, tensor_parameters, with_variables

tfb, tfd = tfp.bijectors, tfp.distributions

close = lambda actual, expected: np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-11)
has_constructor_of_ours = lambda b: type(b).__init__.__module__.startswith("flowpp_tf")
has_tensors = lambda b: bool(tensor_parameters(b))
has_batch_shape = lambda b: len(b.experimental_batch_shape()) > 0
is_scalar = lambda b: b.forward_min_event_ndims == 0
is_composite = lambda b: isinstance(b, tf.__internal__.CompositeTensor)


def where(predicate):
  """Limits a check to the bijectors that its clause is about."""

  def limit(check):
    check.applies = predicate
    return check

  return limit


def same_function(bijector, other, case, assert_same=np.testing.assert_array_equal):
  at = points(case, bijector)
  for function, argument in FUNCTIONS.values():
    assert_same(function(other, at[argument]), function(bijector, at[argument]))


@where(has_constructor_of_ours)
def check_every_argument_is_a_property_with_the_value_given(case):
  bijector = case.make("float64")
  assert {"name", "validate_args"} <= set(bijector.parameters)
  for name, value in bijector.parameters.items():
    found = getattr(bijector, name)
    assert found is value or found == value, name
    assert isinstance(getattr(type(bijector), name), property), name


def check_parameters_make_the_same_bijector_again(case):
  bijector = case.make("float64")
  same_function(bijector, type(bijector)(**bijector.parameters), case)


def check_parameter_properties_are_of_parameters(case):
  bijector = case.make("float64")
  properties = type(bijector).parameter_properties(dtype=tf.float64)
  assert set(properties) <= set(bijector.parameters)
  floating = {name for name, value in bijector.parameters.items() if tf.is_tensor(value) and value.dtype.is_floating}
  assert floating <= set(properties)  # else batch shapes and composites would not see it


def check_batch_shape_is_that_of_one_event(case):
  bijector = case.make("float64")
  for event_ndims in range(bijector.forward_min_event_ndims, 4):
    x = case.sample(case.event[3 - event_ndims :], "float64")
    batch_shape = bijector.experimental_batch_shape(x_event_ndims=event_ndims)
    y = bijector.forward(x)
    log_det = bijector.forward_log_det_jacobian(x, event_ndims)
    assert y.shape[: len(y.shape) - event_ndims] == batch_shape
    assert tf.broadcast_static_shape(log_det.shape, batch_shape) == batch_shape
    assert bijector.is_constant_jacobian or log_det.shape == batch_shape
    assert bijector.experimental_batch_shape(y_event_ndims=event_ndims) == batch_shape
    np.testing.assert_array_equal(bijector.experimental_batch_shape_tensor(x_event_ndims=event_ndims), batch_shape)


@where(has_batch_shape)
def check_each_parameter_may_have_a_batch_that_the_others_lack(case):
  bijector = case.make("float64")
  parameters = tensor_parameters(bijector)
  properties = type(bijector).parameter_properties()
  batch_shape = bijector.experimental_batch_shape()
  one, filled = {}, {}
  for name, value in parameters.items():
    event = value.shape[len(value.shape) - properties[name].event_ndims :]
    one[name] = tf.reshape(value, [-1, *event])[0]
    filled[name] = lambda value, event=event: tf.broadcast_to(value, [*batch_shape, *event])
  for name, batched in parameters.items():
    mixed = {**one, name: batched}
    narrow = bijector.copy(**mixed)
    wide = bijector.copy(**{n: filled[n](value) for n, value in mixed.items()})
    x = case.sample((2, 1, 1, 1), "float64")
    at = {"x": x, "y": tf.constant(narrow.forward(x).numpy()[..., :1, :1, :1])}
    full = {k: tf.broadcast_to(v, [2, *batch_shape]) for k, v in at.items()}
    for function, argument in FUNCTIONS.values():
      in_graph = tf.function(lambda t, function=function: function(narrow, t), autograph=False)
      expected = function(wide, full[argument])
      close(np.broadcast_to(in_graph(full[argument]), expected.shape), expected)
      if function in (FUNCTIONS["forward"][0], FUNCTIONS["inverse"][0]):
        close(np.broadcast_to(in_graph(at[argument]), expected.shape), expected)


@where(has_batch_shape)
def check_a_slice_evaluates_to_the_slice_of_the_values(case):
  bijector = case.make("float64")
  x = case.sample(bijector.experimental_batch_shape(), "float64")
  at = {"x": x, "y": bijector.forward(x)}
  for index in (
    0,
    -1,
    (Ellipsis, 1),
    (slice(1, None), 0),
    (0, Ellipsis, tf.newaxis),
    (slice(None, None, 2), slice(0, 1)),
    Ellipsis,
  ):
    for name in ("forward", "inverse"):
      function, argument = FUNCTIONS[name]
      close(function(bijector[index], at[argument][index]), function(bijector, at[argument]).numpy()[index])
    full_log_det = tf.broadcast_to(bijector.forward_log_det_jacobian(x), x.shape)
    log_det = bijector[index].forward_log_det_jacobian(x[index])
    close(np.broadcast_to(log_det, x[index].shape), full_log_det.numpy()[index])
  source = with_variables(bijector)
  with tf.GradientTape() as tape:
    value = tf.reduce_sum(source[0].forward(x[0]))
  assert all(g is not None for g in tape.gradient(value, source.trainable_variables))


def check_equal_parameters_make_equal_bijectors_with_equal_hashes(case):
  bijector = case.make("float64")
  twin = type(bijector)(**bijector.parameters)
  assert bijector == twin and hash(bijector) == hash(twin)
  assert {bijector: "found"}[twin] == "found"
  assert bijector != tfb.Identity() and bijector != bijector.copy(name="other")
  for name, value in tensor_parameters(bijector).items():
    assert bijector != bijector.copy(**{name: value + 1})
    # Two variables of the same value may differ later.
    assert with_variables(bijector) != with_variables(bijector)


def check_a_copy_is_the_same_function_of_the_same_variables(case):
  bijector = with_variables(case.make("float64"))
  for copy, name in ((bijector.copy(), bijector.name), (bijector.copy(name="renamed"), "renamed")):
    assert copy.name == name and type(copy) is type(bijector)
    assert [id(v) for v in copy.variables] == [id(v) for v in bijector.variables]
    same_function(bijector, copy, case)
    for variable in bijector.trainable_variables:
      variable.assign_add(0.1 * tf.ones_like(variable))
    same_function(bijector, copy, case)


@where(is_composite)
def check_a_composite_goes_through_nest_and_tf_function(case):
  bijector = case.make("float64")
  components = tf.nest.flatten(bijector, expand_composites=True)
  parameters = tf.nest.flatten(list(bijector.parameters.values()), expand_composites=True)
  assert len(components) == sum(map(tf.is_tensor, parameters))
  packed = tf.nest.pack_sequence_as(bijector, components, expand_composites=True)
  same_function(bijector, packed, case)
  traces = []

  @tf.function(autograph=False)
  def forward(b, x):
    traces.append(b)
    return b, b.forward(x)

  shifted = tf.nest.map_structure(lambda t: t + 0.1 if t.dtype.is_floating else t, bijector, expand_composites=True)
  for b in (bijector, shifted):
    x = points(case, b)["x"]
    returned, y = forward(b, x)
    assert type(returned) is type(b)
    same_function(b, returned, case)
    close(y, b.forward(x))
  assert len(traces) == 1  # other values of the same shapes need no other trace
  source = with_variables(bijector)
  with tf.GradientTape() as tape:
    value = tf.reduce_sum(forward(source, points(case, source)["x"])[1])
  assert all(g is not None for g in tape.gradient(value, source.trainable_variables))


def check_vectorized_map_gives_the_same_as_a_loop(case):
  bijector = case.make("float64")
  at = points(case, bijector, 3)
  for function, argument in FUNCTIONS.values():
    evaluate = lambda t, function=function: tf.convert_to_tensor(function(bijector, t))
    close(
      tf.vectorized_map(evaluate, at[argument], fallback_to_while_loop=False),
      tf.stack([evaluate(t) for t in at[argument]]),
    )


def check_validation_lets_good_arguments_through_unchanged(case):
  bijector = case.make("float64")
  validating = bijector.copy(validate_args=True)
  assert validating.validate_args
  same_function(bijector, validating, case)


def check_dtypes_are_kept_and_not_mixed(case):
  for dtype, other in ((tf.float32, tf.float64), (tf.float64, tf.float32)):
    bijector = case.make(dtype.name)
    at = points(case, bijector, dtype=dtype.name)
    for function, argument in FUNCTIONS.values():
      assert function(bijector, at[argument]).dtype == dtype
      assert function(bijector, at[argument].numpy()).dtype == dtype
      if bijector.dtype is not None:
        assert bijector.dtype == dtype
        with pytest.raises((TypeError, ValueError), match="dtype"):
          function(bijector, tf.cast(at[argument], other))
    assert bijector.forward_dtype(dtype) == bijector.inverse_dtype(dtype) == dtype


@where(is_scalar)
def check_direction_gives_the_right_cdf_and_quantile(case):
  bijector = case.make("float64")
  at = points(case, bijector)
  base = tfd.Normal(tf.reduce_mean(at["x"]), tf.math.reduce_std(at["x"]))
  transformed = tfd.TransformedDistribution(base, bijector)  # which asks `_is_increasing`
  close(transformed.cdf(at["y"]), base.cdf(at["x"]))
  close(transformed.quantile(base.cdf(at["x"])), at["y"])


def check_log_dets_are_summed_over_the_event(case):
  bijector = case.make("float64")
  at = points(case, bijector)
  for function, t, least in (
    (bijector.forward_log_det_jacobian, at["x"], bijector.forward_min_event_ndims),
    (bijector.inverse_log_det_jacobian, at["y"], bijector.inverse_min_event_ndims),
  ):
    single = np.broadcast_to(function(t), t.shape[: len(t.shape) - least])
    for event_ndims in range(least, 5):
      total = single.sum(axis=tuple(range(4 - event_ndims, 4 - least)))
      close(np.broadcast_to(function(t, event_ndims), total.shape), total)
    with pytest.raises(ValueError, match="ndims"):
      function(t, event_ndims=least - 1)


CHECKS = [check for name, check in list(globals().items()) if name.startswith("check_")]
