"""Adam in one kernel a variable: the weights of Keras' Adam, in every mode of execution."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import training
from flowpp_tf.training.optimizer import make_optimizer
from support.comparing import MODES, assert_same, graph_of
from support.marks import quick_rows, slow
from support.models import MINIMAL, TINY, small_config, small_images
from support.training_steps import step, train_state

STEPS = 20
SHAPES = ([3], [2, 5], [])


def schedule():
  return training.PiecewiseSchedule("linear:1e-2@5,decay:0.9:1e-3")


def variables(dtype):
  rng = np.random.RandomState(0)
  return [keras.Variable(rng.randn(*shape), dtype=dtype) for shape in SHAPES]


def gradients(step, dtype):
  """Of very different sizes."""
  rng = np.random.RandomState(step)
  return [tf.constant(10.0 ** rng.randint(-6, 2) * rng.randn(*shape), dtype) for shape in SHAPES]


def after_steps(optimizer, dtype, wrap=lambda f: f):
  weights = variables(dtype)
  optimizer.build(weights)
  apply = wrap(lambda *g: optimizer.apply(list(g)))
  for i in range(STEPS):
    apply(*gradients(i, dtype))
  return [w.numpy() for w in weights]


def by_definition(beta_1=0.9, beta_2=0.999, epsilon=1e-7, weight_decay=0.0):
  """Weights after the same steps, by the algorithm of Kingma and Ba (2015), section 2, in float64."""
  weights = [w.numpy() for w in variables("float64")]
  moments = [[np.zeros(shape), np.zeros(shape)] for shape in SHAPES]
  for t in range(STEPS):
    rate = float(schedule()(t))
    alpha = rate * np.sqrt(1 - beta_2 ** (t + 1)) / (1 - beta_1 ** (t + 1))
    for i, g in enumerate(gradients(t, "float64")):
      m, v = moments[i]
      m, v = moments[i] = beta_1 * m + (1 - beta_1) * g.numpy(), beta_2 * v + (1 - beta_2) * g.numpy() ** 2
      weights[i] = (1 - rate * weight_decay) * weights[i] - alpha * m / (np.sqrt(v) + epsilon)
  return weights


@pytest.mark.parametrize("mode", quick_rows(MODES, ["graph"]))
@pytest.mark.parametrize(
  "options", [{}, dict(beta_1=0.5, beta_2=0.9, epsilon=1e-3, weight_decay=0.125)], ids=["defaults", "options"]
)
@pytest.mark.parametrize("dtype, rtol", [("float32", 1e-6), ("float64", 1e-12)])
def test_the_weights_are_those_of_the_algorithm_and_of_keras(dtype, rtol, options, mode):
  actual = after_steps(training.Adam(schedule(), **options), dtype, MODES[mode])
  # Keras rounds the betas to float32 whatever the dtype.
  keras_adam = after_steps(keras.optimizers.Adam(schedule(), **options), dtype)
  assert_same(actual, by_definition(**options), rtol=rtol, atol=rtol)
  assert_same(actual, keras_adam, rtol=1e-6, atol=1e-6)


def test_a_checkpoint_of_keras_adam_is_one_of_this(tmp_path):
  weights, optimizer = variables("float32"), keras.optimizers.Adam(schedule())
  optimizer.build(weights)
  optimizer.apply(gradients(0, "float32"))
  path = tf.train.Checkpoint(optimizer=optimizer).save(tmp_path / "checkpoint")
  other = training.Adam(schedule())
  other.build(variables("float32"))
  tf.train.Checkpoint(optimizer=other).restore(path).assert_consumed()
  assert_same(other.variables, optimizer.variables)


def test_keras_makes_it_again_from_its_config():
  optimizer = training.Adam(schedule(), beta_1=0.5)
  again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
  assert type(again) is training.Adam and again.get_config() == optimizer.get_config()


def test_an_epsilon_reaches_the_optimizer_whose_step_is_that_of_tensorflow_1():
  optimizer = make_optimizer(training.TrainingConfig(steps=1, learning_rate=0.1, adam_epsilon=1e-8))
  weight = keras.Variable([1.0, 1.0, 1.0], dtype="float64")
  optimizer.build([weight])
  gradient = np.array([1e-9, 1e-7, 1.0])
  optimizer.apply([tf.constant(gradient, tf.float64)])
  # `tf.compat.v1.train.AdamOptimizer`: lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + epsilon), at t = 1
  m, root_v = 0.1 * gradient, np.sqrt(0.001) * gradient
  np.testing.assert_allclose(1 - weight.numpy(), 0.1 * np.sqrt(0.001) / 0.1 * m / (root_v + 1e-8), rtol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adam_95", "adamw", "muon"])
def test_every_optimizer_that_has_an_epsilon_takes_it(name):
  make = lambda **settings: make_optimizer(training.TrainingConfig(steps=1, optimizer=name, **settings))
  assert make().epsilon == 1e-7 and make(adam_epsilon=1e-8).epsilon == 1e-8


@pytest.mark.parametrize("name", ["lion", "sgd"])
def test_an_epsilon_for_an_optimizer_without_one_is_refused(name):
  with pytest.raises(ValueError, match="`adam_epsilon` must be 1e-07, .* `optimizer` has an epsilon, got 1e-08"):
    training.TrainingConfig(steps=1, optimizer=name, adam_epsilon=1e-8)
  make_optimizer(training.TrainingConfig(steps=1, optimizer=name))
  assert "adam_epsilon" not in fpp.Recipe.load("cifar10").replace(optimizer=name).settings


def test_amsgrad_is_refused():
  with pytest.raises(ValueError, match="`amsgrad` must be False"):
    training.Adam(amsgrad=True)


# Those of the second kind do more in a step, which is undone where it must be skipped.
RUN_OPTIMIZERS = {
  "adam": (training.Adam, keras.optimizers.Adam),
  "adamw": 2 * (keras.optimizers.AdamW,),
  "muon": 2 * (keras.optimizers.Muon,),
}  # Lion's sign of 0 is one of rounding


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN_OPTIMIZERS)
def test_the_steps_of_a_run_are_those_of_keras_fit(name):
  config = small_config(TINY, structure="columns:1", dequantization="uniform", dropout=0.0)
  images = small_images(8)
  ours, of_keras = RUN_OPTIMIZERS[name]
  state = train_state(config, optimizer=lambda: ours(schedule()), clip_norm=1.0, ema_decay=0.9)
  keras.utils.set_random_seed(0)
  model = fpp.FlowPlusPlus(config)
  for m in (model, state.model):
    m.sample_noise = lambda shape, seed: tf.fill([*shape, *TINY.image_shape], 0.4)
    m.initialize(images)
  model.compile(of_keras(schedule(), global_clipnorm=1.0))
  for _ in range(3):
    step(state, images)
    model.fit(images, batch_size=8, verbose=0)
  assert_same(state.variables, model.trainable_variables, atol=1e-5)


@pytest.mark.slow
def test_a_step_updates_weight_and_average_in_one_op_each():
  state = train_state(TINY, ema_decay=0.9)
  graph = graph_of(lambda images: training.train_step(state, images), tf.TensorSpec([2, *TINY.image_shape], tf.uint8))
  ops = collections.Counter(op.type for op in graph.get_operations())
  with tf.GradientTape() as tape:
    bound = state.model.log_prob_bound(small_images(2), seed=0)
  used = sum(g is not None for g in tape.gradient(bound, [v.value for v in state.model.trainable_variables]))
  assert ops["ResourceApplyAdam"] == used
  calls = collections.Counter(
    op.get_attr("f").name for op in graph.get_operations() if op.type == "StatefulPartitionedCall"
  )
  (average,) = (name for name, count in calls.items() if count == len(state.variables))
  body = graph._get_function(average).graph
  assert sum(op.type == "ResourceApplyGradientDescent" for op in body.get_operations()) == 1
  assert ops["MulNoNan"] == ops["L2Loss"] == used  # clipping
  assert not any(op.type.endswith("If") for op in graph.get_operations())


@pytest.mark.parametrize(
  "optimizer",
  [
    training.Adam,
    slow(keras.optimizers.SGD),
    slow(lambda rate: keras.optimizers.SGD(rate, momentum=0.9)),
    slow(keras.optimizers.Muon),
    slow(keras.optimizers.AdamW),
  ],
)
def test_a_step_that_is_not_finite_changes_its_number_alone(optimizer):
  state = train_state(MINIMAL, optimizer=lambda: optimizer(1e-3), ema_decay=0.9)
  state.model.initialize(small_images())
  step(state, small_images())
  values = lambda: [v.numpy() for v in (*state.variables, *state.ema, *(v.value for v in state.optimizer.variables))]
  before = values()
  log_prob_bound = state.model.log_prob_bound
  state.model.log_prob_bound = lambda *args, **kwargs: np.nan * log_prob_bound(*args, **kwargs)
  del state.take_step  # to be traced again
  step(state, small_images())
  changed = [i for i, (a, b) in enumerate(zip(before, values())) if not np.array_equal(a, b)]
  assert changed == [len(state.variables) + len(state.ema)]  # `iterations`, the first
  assert int(state.optimizer.iterations.numpy()) == 2
  state.model.log_prob_bound = log_prob_bound
  del state.take_step
  step(state, small_images())
  assert [int(v.numpy()) for v in (state.skipped_steps, state.skipped_in_a_row)] == [1, 0]
