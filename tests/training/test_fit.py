"""`fpp.fit`: what it returns and leaves in the flow, for flows of this package and of TFP."""

import functools

import keras
import numpy as np
import pandas
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from flowpp_tf.core.errors import InputError
from flowpp_tf.training import Diverged
from flowpp_tf.training.fit import EnsembleResult, FitResult
from support.comparing import assert_same
from support.refusing import refuses

tfb, tfd = tfp.bijectors, tfp.distributions
TINY = dict(couplings=1, components=2, hidden=8, blocks=1)
X = np.random.RandomState(0).normal(size=[200, 2]).astype(np.float32)


def normal(loc=0.0):
  return tfd.Independent(tfd.Normal(tf.Variable([loc, loc]), tf.Variable([1.0, 1.0])), 1, name="normal")


def test_training_stops_early_and_leaves_the_best_weights():
  flow = normal(1.0)
  result = fpp.fit(flow, X + 3, validation=X + 1.5, steps=400, learning_rate=1e-2, patience=3)
  assert len(result.steps) == len(result.train) == len(result.validation) < 40
  assert 10 < result.best_step == result.steps[np.argmax(result.validation)] == result.steps[-4] and result.skipped == 0
  assert np.all(np.diff(result.train) > 0)
  np.testing.assert_allclose(np.mean(flow.log_prob(X + 1.5)), result.validation.max(), rtol=1e-6)


def test_training_that_only_makes_the_validation_worse_leaves_the_weights_it_began_with():
  flow = normal(1.0)  # the validation rows have mean 0: each step away from 0 is worse
  result = fpp.fit(flow, X + 3, validation=X, steps=400, learning_rate=1e-2, patience=3)
  assert result.best_step == 0 and np.all(np.diff(result.validation) < 0) and len(result.steps) == 3
  assert np.all(flow.mean() == 1.0) and np.all(flow.stddev() == 1.0)


def test_without_validation_all_steps_are_taken_to_the_maximum_of_the_likelihood():
  flow = normal(1.0)
  result = fpp.fit(flow, X, validation=0, steps=150, batch_size=200, learning_rate=0.1)
  assert result.best_step == result.steps[-1] == 150 and not len(result.validation)
  np.testing.assert_allclose(flow.mean(), X.mean(axis=0), atol=2e-3)
  np.testing.assert_allclose(flow.stddev(), X.std(axis=0), atol=2e-3)


def test_by_default_many_rows_are_seen_in_twenty_epochs():
  assert fpp.fit(normal(), np.tile(X, [150, 1]), validation=0, batch_size=256).steps[-1] == 20 * 118  # of 254 rows
  assert fpp.fit(normal(), X, validation=0, batch_size=200).steps[-1] == 2000


def test_the_seed_determines_split_order_and_weights():
  def weights(seed):
    flow = normal(1.0)
    result = fpp.fit(flow, X, steps=3, batch_size=16, seed=seed)
    return flow.mean().numpy(), result.validation[0]

  (first, of_first), (again, of_again), (other, of_other) = weights(0), weights(0), weights(1)
  np.testing.assert_array_equal(first, again)
  assert of_first == of_again != of_other and np.all(first != other)


def test_a_layer_given_a_context_learns_it():
  keras.utils.set_random_seed(0)
  context = np.random.RandomState(1).uniform(-2, 2, [200, 1]).astype(np.float32)
  layer = fpp.VectorFlow(2, 1, **{**TINY, "couplings": 2})
  result = fpp.fit(layer, X * 0.1 + context, context, steps=60, learning_rate=5e-2)
  assert layer.initialized
  assert result.validation.max() > 0  # without the context it is -0.5 at most; 1.77 is that of the noise
  np.testing.assert_allclose(np.mean(layer.sample(500, [1.0], seed=1), axis=0), [1, 1], atol=0.3)


# --- Units --------------------------------------------------------------------------------------


def in_units(rows, scale, shift):
  """Return rows in another unit, shifted by so many standard deviations, in float64."""
  return scale * (rows.astype(np.float64) + shift * rows.std(axis=0))


def given(flow, *context):
  return flow.given(*context) if context else flow


@pytest.mark.parametrize("shift, tolerance", [(0, 1e-4), (1000, 1e-2)])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("with_context", [False, True])
def test_a_new_flow_has_the_same_density_in_any_unit(scale, shift, tolerance, with_context):
  """Up to the Jacobian, and to the rounding of float32 at a mean of 1,000 standard deviations."""
  rows = [X, X[:, :1] + X[:, 1:]] if with_context else [X]

  def log_probs(x, *context):
    keras.utils.set_random_seed(0)
    flow = given(fpp.vector_flow(2, 1 if with_context else 0, **TINY), *context)
    return flow.initialize(x), flow.log_prob(x)

  for found, expected in zip(log_probs(*(in_units(r, scale, shift) for r in rows)), log_probs(*rows)):
    np.testing.assert_allclose(found + 2 * np.log(scale), expected, atol=tolerance)


def test_a_unit_that_float32_has_exactly_changes_no_weight_in_training():
  """Standardised rows are then the same numbers; without that Adam's steps would depend on the unit."""

  def trained(scale):
    keras.utils.set_random_seed(0)
    flow = fpp.vector_flow(2, 1, **TINY)
    result = fpp.fit(flow, X * scale, X[:, ::-1][:, :1] * scale, steps=20, batch_size=32)
    return result.validation + 2 * np.log(scale), [v.numpy() for v in flow.trainable_variables]

  (nats, weights), (nats_there, weights_there) = trained(1.0), trained(2.0**20)
  np.testing.assert_allclose(nats, nats_there, rtol=1e-5)
  assert_same(weights, weights_there)


@functools.cache
def validation(factors, shift):
  """Return the best validation of each of three seeds, of standardised columns that are shifted, then scaled."""
  z = np.random.RandomState(0).randn(1000, 3)
  z[:, 1] = np.exp(0.5 * z[:, 1])
  x = np.array(factors) * ((z - z.mean(axis=0)) / z.std(axis=0) + shift)

  def of_seed(seed):
    keras.utils.set_random_seed(seed)
    return fpp.fit(fpp.vector_flow_for(x), x, steps=400, seed=seed).validation.max() + np.log(factors).sum()

  return [of_seed(seed) for seed in range(3)]


@pytest.mark.slow
@pytest.mark.parametrize("power, shift", [(-8, 0), (-8, 1000), (0, 1000), (8, 0), (8, 1000)])
def test_columns_of_different_units_are_learned_as_well_as_standardised_ones(power, shift):
  """Year, income and age; the noise is that of seeds, whose standard deviation is 0.03 nats."""
  found = validation(tuple(10.0**power * np.array([10, 30_000, 12])), shift)
  np.testing.assert_allclose(found, validation((1.0, 1.0, 1.0), 0), atol=0.1)


def test_what_float32_does_not_resolve_is_one_line_with_advice():
  flow = fpp.vector_flow(2, 1, **TINY)
  for shift in (1e5, 1e12):
    far = in_units(X, 1.0, shift)
    with pytest.raises(
      InputError, match=r"^`data` must vary by 1000 units of float32 .*subtract the mean, or use floa"
    ):
      fpp.fit(flow, far, X[:, :1])
    with pytest.raises(InputError, match="^`context` must vary by 1000 units"):
      fpp.fit(flow, X, far[:, :1])
  assert fpp.fit(fpp.vector_flow(2, dtype="float64", **TINY), in_units(X, 1.0, 1e5), steps=2).skipped == 0
  with pytest.raises(InputError, match="^`data` must vary in each column, got 0 in all rows of column 1"):
    fpp.fit(flow, X * [1, 0], X[:, :1])
  near = in_units(X[:2], 1.0, 1000) * [1, 0] + in_units(X, 1.0, 1000)[0] * [0, 1] + [[0, 0], [0, 1e-3]]
  fpp.fit(fpp.vector_flow(2, **TINY), in_units(X, 1.0, 1000), validation=near, steps=1)  # rows close to each other
  keras.utils.set_random_seed(0)
  constant = np.full([200, 1], 5.0)  # of a context: it says nothing, and does no harm
  assert np.isfinite(fpp.fit(flow, X, constant, steps=2).validation).all()


def normal_of_act_norm():
  """A flow that is a normal distribution, and its scale."""
  scale, bias = (keras.Variable(np.full(2, value, np.float32)) for value in (1, 0))
  act_norm = fpp.bijectors.Invert(fpp.bijectors.ActNorm(scale, bias))
  return fpp.distributions.FlowDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), 2), act_norm), scale


def test_a_new_flow_is_initialised_from_the_rows_and_a_trained_one_is_not():
  flow, scale = normal_of_act_norm()
  fit = lambda: fpp.fit(flow, 3 + 2 * X, validation=0, steps=1, learning_rate=1e-6)
  fit()
  np.testing.assert_allclose(scale, 0.5 / X.std(axis=0), atol=1e-4)
  np.testing.assert_allclose(flow.mean(), 3 + 2 * X.mean(axis=0), atol=1e-3)
  scale.assign(2 * scale)
  fit()
  np.testing.assert_allclose(scale, 1 / X.std(axis=0), atol=1e-4)


def test_a_new_flow_is_initialised_from_all_parts_of_sorted_rows():
  flow, _ = normal_of_act_norm()
  rows = np.sort(np.random.RandomState(0).uniform(0, 10, [8192, 2]).astype(np.float32), axis=0)
  fpp.fit(flow, rows, validation=X, steps=1, learning_rate=1e-6)
  np.testing.assert_allclose(flow.mean(), rows.mean(axis=0), rtol=1e-2)


def test_weight_decay_is_of_networks_only():
  keras.utils.set_random_seed(0)
  flow = fpp.image_flow((4, 4, 1), structure="columns:1", coupling="affine", filters=2)
  fpp.fit(flow, np.random.RandomState(0).normal(size=[64, 4, 4, 1]), validation=0, steps=60, weight_decay=10)
  linear = [part for part in flow.submodules if isinstance(part, fpp.bijectors.Invertible1x1Conv)]
  np.testing.assert_allclose(linear[0].kernel, np.ones([2, 1, 1]), atol=0.3)


def test_masks_of_tfp_s_autoregressive_flow_stay():
  """Keras' optimizers move masked weights; then the determinant is not that of the map, and the density is none."""
  network = tfb.AutoregressiveNetwork(2, event_shape=2, hidden_units=[8], activation="elu")
  flow = tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), 2), tfb.MaskedAutoregressiveFlow(network))
  result = fpp.fit(flow, X @ np.float32([[1, 2], [0, 0.5]]), steps=40, learning_rate=5e-2)
  assert result.validation[-1] > result.validation[0] + 0.2
  masked = [v for v in flow.trainable_variables if v.constraint is not None]
  assert len(masked) == 2
  for variable in masked:
    np.testing.assert_array_equal(variable, variable.constraint(variable))


def test_steps_that_are_not_finite_are_skipped_and_ten_in_a_row_end_training():
  loc = tf.Variable([1.0, 1.0])
  flow = tfd.Independent(tfd.Normal(loc, [1.0, -1.0]), 1)  # the log of a negative scale is NaN
  cause = "no step was finite: probably columns of `data` are too large"
  with pytest.raises(Diverged, match=f"the last 10 steps, up to step 10, were not finite; {cause}"):
    fpp.fit(flow, X, steps=400)
  np.testing.assert_array_equal(loc, [1, 1])


def test_steps_that_are_finite_no_more_name_the_learning_rate():
  flow = tfd.Independent(tfd.Normal([0.0, 0.0], tfp.util.TransformedVariable([1.0, 1.0], tfb.Exp())), 1)
  with pytest.raises(Diverged, match="were not finite; steps before were finite: .* try a lower `learning_rate`"):
    fpp.fit(flow, X, steps=400, learning_rate=1e4)


def test_skipped_steps_do_not_count_in_the_training_mean():
  rows = np.ones([200, 2], np.float32)
  rows[:40] = 1e30  # of a density of 0
  result = fpp.fit(normal(), rows, validation=X, steps=40, batch_size=1, learning_rate=1e-9)
  assert 0 < result.skipped < 40
  np.testing.assert_allclose(result.train, -1 - np.log(2 * np.pi), rtol=1e-5)


def test_validations_that_are_not_finite_are_never_the_best():
  beyond = np.full([4, 2], 1e30, np.float32)  # its log density is -inf
  result = fpp.fit(normal(), X, validation=beyond, steps=400, patience=3)
  assert np.all(result.validation == -np.inf) and len(result.steps) == 3
  assert result.best_step == result.steps[-1] == 30


@pytest.mark.slow
def test_samples_of_rows_with_heavy_tails_are_finite():
  x = np.random.RandomState(0).standard_t(2, [1000, 5])
  keras.utils.set_random_seed(0)
  flow = fpp.vector_flow_for(x)
  fpp.fit(flow, x)
  assert np.isfinite(flow.sample(5000, seed=0)).all()


@pytest.mark.slow
def test_rows_near_a_plane_get_the_density_of_a_fitted_normal_distribution():
  rng = np.random.RandomState(0)
  matrix = rng.normal(size=[3, 6])
  train, test = (rng.normal(size=[2000, 3]) @ matrix + 1e-3 * rng.normal(size=[2000, 6]) for _ in range(2))
  keras.utils.set_random_seed(0)
  flow = fpp.vector_flow_for(train)
  fpp.fit(flow, train)
  normal = scipy.stats.multivariate_normal(train.mean(axis=0), np.cov(train.T))
  assert np.mean(flow.log_prob(test)) > np.mean(normal.logpdf(test)) - 0.1


CONTEXT = X[:, [0, 0, 0]]
GIVEN = lambda: fpp.vector_flow(2, 3, **TINY)


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda: fpp.fit(normal(), X[:0]), "^`data` must have rows, got none"),
    (lambda: fpp.fit(normal(), X[:2], validation=0.5), "^`data` must leave two or more rows for training, got 2, 1 of"),
    (lambda: fpp.fit(normal(), X, validation=1.5), "^`validation` must be between 0.0 and 1.0, got 1.5"),
    (lambda: fpp.fit(normal(), X, X), "^`context` must be None, as 'normal' takes no context"),
    (lambda: fpp.fit(GIVEN(), X), "^`context` must hold real numbers, got None"),
    (lambda: fpp.fit(GIVEN(), X, CONTEXT[:9]), "^`context` must have 200 rows, as `data`, got 9"),
    (lambda: fpp.fit(GIVEN(), X, CONTEXT, validation=X), "^`validation_context` must hold real numbers, got None"),
    (lambda: fpp.fit(normal(), X, validation_context=X), "^`validation_context` must be None unless `validation` is r"),
    (
      lambda: fpp.fit(tfd.Normal(0.0, 1.0), X),
      r"^`flow` must have no batch and events of shape \[D\] or \[H, W, C\], got \[\] and",
    ),
    (lambda: fpp.fit(tfd.MultivariateNormalDiag([0.0, 0.0]), X), "^`flow` must have trainable variables, 'Multivariat"),
  ],
)
def test_wrong_arguments_are_one_line_that_names_them(call, message):
  with pytest.raises(fpp.InputError, match=message):
    call()


@pytest.mark.slow
def test_a_flow_for_data_recovers_a_known_density():
  """The KL divergence of a mixture of normals from the flow, by integration on a grid."""
  mixture = tfd.MixtureSameFamily(
    tfd.Categorical(probs=[0.3, 0.7]), tfd.MultivariateNormalDiag([[-1.5, 0.0], [1.0, 1.0]], [[0.5, 1.0], [0.7, 0.4]])
  )
  x = mixture.sample(20_000, seed=1).numpy()
  keras.utils.set_random_seed(0)
  flow = fpp.vector_flow_for(x)
  fpp.fit(flow, x, steps=500)
  grid = np.stack(np.meshgrid(*[np.arange(-6, 6, 0.05, dtype=np.float32)] * 2), axis=-1).reshape(-1, 2)
  log_p, log_q = mixture.log_prob(grid).numpy(), flow.log_prob(grid).numpy()
  assert abs(np.sum(np.exp(log_q)) * 0.05**2 - 1) < 2e-3
  assert np.sum(np.exp(log_p) * (log_p - log_q)) * 0.05**2 < 0.02


def test_within_the_scope_of_a_single_device_the_steps_are_the_same():
  x = np.random.RandomState(0).normal(size=[64, 2])
  weights = []
  for strategy in (tf.distribute.get_strategy(), tf.distribute.OneDeviceStrategy("/cpu:0")):
    with strategy.scope():
      keras.utils.set_random_seed(0)
      flow = fpp.vector_flow(2, **TINY)
      fpp.fit(flow, x, steps=2, verbose=False)
      weights.append([v.numpy() for v in flow.trainable_variables])
  assert_same(*weights)


def freeze_layer(network):
  network.layers[0].trainable = False


def freeze_all(network):
  network.trainable = False


def freeze_variables(network):
  for variable in network.layers[0].variables:
    variable.trainable = False


@pytest.mark.parametrize("freeze", [freeze_layer, freeze_all, freeze_variables])
def test_what_keras_has_frozen_stays(freeze):
  layers = [keras.layers.Dense(4, name="first"), keras.layers.Dense(2, name="second")]
  network = keras.Sequential([keras.Input([2]), *layers])
  freeze(network)
  flow = fpp.vector_flow(2, embedding=network, **TINY)
  frozen = [np.array(v) for v in network.variables if not v.trainable]
  assert len(frozen) == (4 if freeze is freeze_all else 2)
  assert len(flow.trainable_variables) == len(fpp.layers.Flow(flow).trainable_variables)
  members = fpp.fit(flow, X, X, steps=3, members=2).flow.flows
  for member in members:
    assert_same([v for v, old in zip(member.embedding.variables, network.variables) if not old.trainable], frozen)
  trained = [v for v in network.variables if v.trainable]
  assert not frozen or freeze is freeze_all or np.any(trained[0] != members[1].embedding.layers[1].kernel)


def test_members_within_an_ensemble_are_initialised_and_trained():
  keras.utils.set_random_seed(0)
  inner = fpp.ensemble([fpp.vector_flow(2, **TINY) for _ in range(2)])
  result = fpp.fit(fpp.ensemble([inner, fpp.vector_flow(2, **TINY)]), 1000 * X, steps=3)
  normal = scipy.stats.multivariate_normal.logpdf(X, cov=np.eye(2)).mean() - 2 * np.log(1000)
  assert len(result.members) == 3
  for one in [inner, *inner.flows, result.flow]:
    assert abs(np.mean(one.log_prob(1000 * X)) - normal) < 0.5


def test_the_digits_of_a_context_are_those_of_the_embedding():
  network = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
  wide = keras.Sequential([keras.Input([2], dtype="float64"), keras.layers.Dense(2, dtype="float64")])
  flows = [fpp.vector_flow(2, embedding=model, dtype="float64", **TINY) for model in (network, wide)]
  far = X.astype(np.float64) + 1e7
  message = "^`context`, as the embedding reads it, must vary by 1000 units of float32 .* or use float64"
  refuses(message, fpp.fit, flows[0], X, far)
  assert fpp.fit(flows[1], X, far, steps=1).skipped == 0


@pytest.mark.parametrize(
  "data, context, message",
  [
    (X[:, 0], None, r"`data` must be of shape \[N, 2\], got \(200,\): a single column has shape \[N, 1\]"),
    (
      X * [1, 0] + [0, 7],
      None,
      "`data` must vary in each column, got 7 in all rows of column 1: leave this column out",
    ),
    (
      pandas.DataFrame({"a": ["x"] * 9, "b": ["y"] * 9}),
      None,
      r"`data` must hold real numbers, got a `DataFrame` of .*",
    ),
  ],
)
def test_a_column_that_is_wrong_is_told(data, context, message):
  refuses(f"^{message}$", fpp.fit, fpp.vector_flow(2, **TINY), data, context)
  refuses("^`context` must have columns, got none", fpp.vector_flow_for, X, X[:, :0])


def test_tables_of_pandas_dtypes_are_numbers():
  frame = pandas.DataFrame(X.astype(np.float64), columns=["a", "b"])
  results = []
  for rows in (frame, frame.astype("Float64")):
    keras.utils.set_random_seed(0)
    results.append(fpp.fit(fpp.vector_flow(2, **TINY), rows, steps=2).validation)
  assert_same(*results)
  missing = frame.astype("Float64")
  missing.iloc[3, 1] = pandas.NA
  refuses("^`data` must be finite, got 1 values", fpp.fit, fpp.vector_flow(2, **TINY), missing)


def result(steps, validation, best_step, skipped=0):
  steps = np.array(steps)
  return FitResult(steps, np.linspace(-2, -1, len(steps)), np.array(validation), best_step, skipped, None)


@pytest.mark.parametrize(
  "result, lines",
  [
    (
      result([100, 600], [1.0, -8.0], 100),
      "validation was best at step 100 of 600: 1.000 nats per row\n"
      "it fell by 9 nats after it, the flow overfits: try more rows, or a smaller flow",
    ),
    (
      result([100, 600], [1.0, np.nan], 100),
      "validation was best at step 100 of 600: 1.000 nats per row\n"
      "it fell by inf nats after it, the flow overfits: try more rows, or a smaller flow",
    ),
    (
      result([100, 600], [np.nan, np.nan], 600),
      "no validation of 600 steps was finite\nthe flow has the last weights: do not use it",
    ),
    (
      result([100, 600], [1.0, 0.999], 100),
      "validation was best at step 100 of 600: 1.000 nats per row\n"
      "it changed by 0.001 nats after it: training has converged",
    ),
    (
      result([100, 600], [1.0, 2.0], 600, 3),
      "validation was best at step 600 of 600 (3 of them skipped, as they were not finite): 2.000 nats per row\n"
      "the last evaluation was the best: more `steps` may help",
    ),
    (
      result([100, 600], [1.0, 2.0], 0),
      "validation was not better at any of 600 steps than before the first one\n"
      "the flow keeps the weights it began with; try a lower `learning_rate`",
    ),
    (
      result([100, 600], [], 600),
      "600 steps, training log density -2.000 to -1.000 nats\n"
      "no rows were held out: nothing tells whether the flow overfits",
    ),
  ],
)
def test_a_result_is_a_verdict_of_two_lines(result, lines):
  assert repr(result) == str(result) == lines
  assert repr(EnsembleResult(None, [result] * 2)).splitlines()[1] == f"flow 1: {lines.replace(chr(10), '; ')}"
