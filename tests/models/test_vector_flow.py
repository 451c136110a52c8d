"""Flows of vectors and of real-valued images: trained by Keras, tf_keras, TFP and plain loops, saved and loaded."""

import re

import keras
import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import flowpp_tf as fpp
from flowpp_tf.core.errors import InputError
from support.marks import exhaustive, quick_rows, slow

STEPS = 30
TINY = dict(couplings=1, components=2, hidden=3, blocks=1)


def moons(count, seed=0):
  """Return points of two moons `[count, 2]`, and which moon each is on, `[count, 1]`."""
  x, moon = sklearn.datasets.make_moons(count, noise=0.05, random_state=seed)
  return x.astype(np.float32), moon[:, np.newaxis].astype(np.float32)


X, _ = moons(512)


def loss(_, log_prob):
  return -log_prob


def initialized():
  """Return a small flow, as a Keras layer, that has seen the data."""
  keras.utils.set_random_seed(0)
  layer = fpp.VectorFlow(2, couplings=1, components=4, hidden=16, blocks=1)
  layer.initialize(X)
  return layer


def by_keras(layer, **kwargs):
  model = keras.Sequential([layer])
  model.compile(keras.optimizers.Adam(1e-2), loss=loss, **kwargs)
  return model.fit(X, X, batch_size=512, epochs=STEPS, verbose=0).history["loss"]


def by_tf_keras(layer, **kwargs):
  class Model(tf_keras.Model):
    def __init__(self):
      super().__init__()
      self.flow = layer.distribution

    def call(self, x):
      return self.flow.log_prob(x)

  model = Model()
  model.compile(tf_keras.optimizers.Adam(1e-2), loss=loss, **kwargs)
  return model.fit(X, X, batch_size=512, epochs=STEPS, verbose=0).history["loss"]


def by_minimize(layer, **kwargs):
  return tfp.math.minimize(
    lambda: -tf.reduce_mean(layer.distribution.log_prob(X)), STEPS, keras.optimizers.Adam(1e-2), **kwargs
  )


def by_loop(layer, function, optimizer):
  flow = layer.distribution

  @function
  def step(x):
    with tf.GradientTape() as tape:
      nats = -tf.reduce_mean(flow.log_prob(x))
    optimizer.apply_gradients(zip(tape.gradient(nats, flow.trainable_variables), flow.trainable_variables))
    return nats

  optimizer.build(flow.trainable_variables)
  return [step(tf.constant(X)) for _ in range(STEPS)]


def by_vi(layer, **kwargs):
  """Fit the flow to a density instead of data: a banana, by the reverse KL divergence."""
  banana = lambda x: -0.5 * (x[..., 0] ** 2 + (3 * (x[..., 1] - x[..., 0] ** 2)) ** 2)
  return tfp.vi.fit_surrogate_posterior(
    banana, layer.distribution, keras.optimizers.Adam(1e-2), STEPS, sample_size=64, seed=(0, 1), **kwargs
  )


@pytest.mark.parametrize(
  "train",
  [
    slow(by_keras),
    slow(lambda layer: by_keras(layer, jit_compile=True)),
    slow(by_tf_keras),
    slow(by_minimize),
    slow(by_vi),
    exhaustive(lambda layer: by_vi(layer, jit_compile=True)),
    slow(lambda layer: by_loop(layer, lambda step: step, keras.optimizers.Adam(1e-2))),
    slow(lambda layer: by_loop(layer, tf.function(autograph=False), tf_keras.optimizers.Adam(1e-2))),
    exhaustive(
      lambda layer: by_loop(layer, tf.function(jit_compile=True, autograph=False), keras.optimizers.Adam(1e-2))
    ),
  ],
  ids=["keras", "keras XLA", "tf_keras", "minimize", "vi", "vi XLA", "eager", "graph", "XLA"],
)
def test_each_way_of_training_lowers_the_loss_and_moves_every_weight(train):
  layer = initialized()
  variables = layer.distribution.trainable_variables
  assert len(variables) == len(layer.trainable_variables)
  before = [v.numpy() for v in variables]
  losses = np.asarray(train(layer))
  assert losses.shape == (STEPS,)
  assert np.mean(losses[-5:]) < losses[0] - 0.2, losses
  for variable, old in zip(variables, before):
    assert np.all(variable.numpy() != old), variable.name


@pytest.mark.slow
def test_from_data_to_a_file_and_to_samples(tmp_path):
  x, held_out = moons(4000)[0], moons(1000, seed=1)[0]
  keras.utils.set_random_seed(0)
  flow = fpp.VectorFlow(2, couplings=3, components=4, hidden=32, blocks=1)
  flow.initialize(x[:1000])
  model = keras.Sequential([flow])
  model.compile(keras.optimizers.Adam(1e-2), loss=loss)
  model.fit(x, x, batch_size=200, epochs=12, verbose=0)
  model.save(tmp_path / "flow.keras")
  loaded = keras.models.load_model(tmp_path / "flow.keras", compile=False)
  log_prob = loaded.predict(held_out, batch_size=1000, verbose=0)
  samples = loaded.layers[0].sample(1000, seed=(0, 1)).numpy()

  np.testing.assert_allclose(log_prob, model.predict(held_out, batch_size=1000, verbose=0), rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(samples, flow.sample(1000, seed=(0, 1)))
  normal = tfp.distributions.MultivariateNormalTriL(x.mean(axis=0), np.linalg.cholesky(np.cov(x.T)).astype(np.float32))
  assert np.mean(log_prob) > np.mean(normal.log_prob(held_out)) + 0.4
  np.testing.assert_allclose(np.median(samples, axis=0), np.median(x, axis=0), atol=0.15)
  np.testing.assert_allclose(samples.std(axis=0), x.std(axis=0), rtol=0.25)
  near = lambda points: np.mean(np.min(np.linalg.norm(points[:, np.newaxis] - x, axis=-1), axis=1) < 0.05)
  assert near(samples) > near(normal.sample(1000, seed=(0, 1))) + 0.2


@pytest.mark.slow
def test_keras_trains_a_flow_given_a_context():
  x, moon = moons(2000)
  keras.utils.set_random_seed(0)
  flow = fpp.VectorFlow(2, 1, couplings=3, components=4, hidden=32, blocks=1)
  flow.initialize(x, moon)
  inputs = keras.Input([2]), keras.Input([1])
  model = keras.Model(inputs, flow(*inputs))
  model.compile(keras.optimizers.Adam(1e-2), loss=loss)
  model.fit([x, moon], x, batch_size=200, epochs=12, verbose=0)
  for value, center, other in ((0.0, [0.0, 0.0], [1.0, 0.5]), (1.0, [1.0, 0.5], [0.0, 0.0])):
    samples = flow.sample(500, [value], seed=(0, 1)).numpy()
    near = lambda center: np.mean(np.abs(np.linalg.norm(samples - center, axis=1) - 1) < 0.2)
    assert near(center) > near(other) + 0.3


def test_initialisation_starts_close_to_a_normal_density():
  """Six couplings, each nearly the identity: the mean log density is that of a normal one, to 0.15 a column."""
  keras.utils.set_random_seed(0)
  x = (3 + 2 * np.random.RandomState(0).normal(size=[1000, 2])).astype(np.float32)
  normal = -np.log(2) - 0.5 * np.log(2 * np.pi * np.e)
  assert normal - 0.15 < np.mean(fpp.vector_flow(2).initialize(x)) / 2 < normal + 0.05


def test_sizes_for_data_follow_from_its_columns_and_rows():
  few, many = fpp.vector_flow_for(X[:400], X[:400, :1]), fpp.vector_flow_for(np.zeros([1000, 3]), couplings=1)
  shapes = lambda flow: [tuple(v.shape) for v in flow.variables]
  assert few.context_size == 1 and few.distribution.distribution.df == 5
  assert shapes(few) == shapes(fpp.vector_flow(2, 1, couplings=3, components=4, hidden=16, blocks=1))
  assert many.distribution.distribution.name == "Normal" and shapes(many) == shapes(fpp.vector_flow(3, couplings=1))
  with pytest.raises(
    InputError, match=r"^`data` must be of shape \[N, D\], got \(400,\): a single column has shape \[N, 1\]$"
  ):
    fpp.vector_flow_for(X[:400, 0])


def test_a_layer_with_heavier_tails_comes_back_from_its_config():
  layer = fpp.VectorFlow(2, df=3, **TINY)
  other = fpp.VectorFlow.from_config(layer.get_config())
  other.set_weights(layer.get_weights())
  np.testing.assert_array_equal(other(X[:5]), layer(X[:5]))
  far = np.full([1, 2], 50, np.float32)
  assert layer(far) > fpp.VectorFlow(2, **TINY)(far) + 100
  with pytest.raises(ValueError, match="^`df` must be more than 0.0, got 0"):
    fpp.vector_flow(2, df=0)


# --- Policies -----------------------------------------------------------------------------------


@pytest.fixture
def policy():
  """Function that sets Keras' global policy for a test."""
  before = keras.config.dtype_policy()
  yield keras.config.set_dtype_policy
  keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("name, is_global", [("mixed_bfloat16", True), slow("mixed_float16", False)])
def test_a_mixed_policy_is_that_of_the_networks_and_the_density_stays_in_float32(policy, name, is_global):
  keras.utils.set_random_seed(0)
  plain = fpp.VectorFlow(2, 1, **TINY)
  context = X[:, 1:] * 0.3
  plain.initialize(X, context)
  if is_global:
    policy(name)
  mixed = fpp.VectorFlow(2, 1, **TINY, **({} if is_global else {"dtype": name}))
  mixed.set_weights(plain.get_weights())
  networks = [part for part in mixed.parts if isinstance(part, keras.layers.Layer)]
  assert {network.compute_dtype for network in networks} == {name.removeprefix("mixed_")}
  assert {w.dtype for w in mixed.weights} == {"float32"}

  found = mixed(X, context)
  assert found.dtype == tf.float32
  # Other inputs than float32 are cast up, and none is rounded.
  np.testing.assert_array_equal(found, mixed.distribution.given(context).log_prob(X))
  np.testing.assert_array_equal(mixed(X.astype(np.float64), context), found)
  half = tf.cast(X, name.removeprefix("mixed_"))
  np.testing.assert_array_equal(mixed(half, context), mixed(tf.cast(half, tf.float32), context))
  np.testing.assert_allclose(found, plain(X, context), atol=0.1)
  assert np.any(found != plain(X, context))


def test_a_flow_without_a_layer_takes_a_mixed_policy_too():
  keras.utils.set_random_seed(0)
  mixed = fpp.vector_flow(2, dtype="mixed_bfloat16", **TINY)
  keras.utils.set_random_seed(0)
  layer = fpp.VectorFlow(2, dtype="mixed_bfloat16", **TINY)
  assert mixed.dtype == tf.float32
  np.testing.assert_array_equal(mixed.log_prob(X), layer(X))


def test_a_flow_of_any_networks_is_the_same_under_a_mixed_policy(policy):
  flow = fpp.vector_flow(2, **TINY)
  flow.initialize(X)
  expected = flow.log_prob(X)
  policy("mixed_bfloat16")
  layer = fpp.layers.Flow(flow)
  np.testing.assert_array_equal(layer(X), expected)
  inside = keras.Sequential([keras.layers.Identity(), layer])  # in the scope that casts variables, too
  np.testing.assert_array_equal(inside(tf.constant(X)), layer(tf.cast(tf.cast(X, tf.bfloat16), tf.float32)))
  assert fpp.vector_flow(2, **TINY).dtype == tf.float32


@pytest.mark.slow
def test_keras_trains_and_saves_a_flow_under_a_mixed_policy(policy, tmp_path):
  policy("mixed_float16")
  layer = fpp.VectorFlow(2, **TINY)
  layer.adapt(X)
  losses = by_keras(layer)
  assert np.mean(losses[-5:]) < losses[0] - 0.05
  model = keras.Sequential([layer])
  model(X)
  model.save(tmp_path / "mixed.keras")
  policy("float32")
  loaded = keras.models.load_model(tmp_path / "mixed.keras", compile=False)
  np.testing.assert_array_equal(loaded(X), model(X))


# --- Shapes -------------------------------------------------------------------------------------

tfd = tfp.distributions
SHAPES = {
  "points": (lambda: fpp.VectorFlow(2, **TINY), [(None, 2)], (None,)),
  "series": (lambda: fpp.VectorFlow(2, **TINY), [(None, 7, 2)], (None, 7)),
  "given": (lambda: fpp.VectorFlow(2, 1, **TINY), [(None, 2), (None, 1)], (None,)),
  "one context": (lambda: fpp.VectorFlow(2, 1, **TINY), [(None, 5, 2), (1, 1)], (None, 5)),
  "times": (lambda: keras.layers.TimeDistributed(fpp.VectorFlow(2, **TINY)), [(None, 7, 2)], (None, 7)),
  "wrapped": (lambda: fpp.layers.Flow(fpp.vector_flow(2, **TINY)), [(None, 2)], (None,)),
  "of TFP": (lambda: fpp.layers.Flow(tfd.MultivariateNormalDiag(tf.zeros([5, 2]))), [(None, 1, 2)], (None, 5)),
  "scalars": (lambda: fpp.layers.Flow(tfd.Normal(0.0, 1.0)), [(None, 3)], (None, 3)),
}


@pytest.mark.parametrize("name", quick_rows(SHAPES, ["series", "one context", "of TFP"]))
def test_the_shape_of_the_density_is_known_before_it_is_computed(name):
  make, shapes, expected = SHAPES[name]
  layer = make()
  assert layer.compute_output_shape(*shapes) == expected
  inputs = [keras.Input(batch_shape=shape) for shape in shapes]
  output = layer(*inputs)
  assert output.shape == expected and output.dtype == "float32"
  model = keras.Model(inputs, output)
  values = [tf.zeros([4 if size is None else size for size in shape]) for shape in shapes]
  assert model(values).shape == tuple(4 if size is None else size for size in expected)


def test_a_model_that_begins_with_its_input_knows_its_output():
  model = keras.Sequential([keras.Input([2]), fpp.VectorFlow(2, **TINY)])
  assert model.output_shape == (None,) and model(X).shape == (len(X),)


def test_an_input_of_another_size_is_one_line_of_error():
  for wrong in (keras.Input([3]), keras.Input([1]), tf.zeros([4, 1]), np.zeros([4, 3])):
    with pytest.raises(ValueError, match=r"^`x` must be of shape \[..., 2\], got \[\w+, \d\]$"):
      fpp.VectorFlow(2, **TINY)(wrong)


# --- Paths and files ----------------------------------------------------------------------------


def test_each_weight_has_a_path_of_its_own():
  layers = [
    fpp.VectorFlow(2, **TINY),
    fpp.VectorFlow(2, 1, **TINY),
    fpp.VectorFlow(2, **TINY, name="mine"),
    *(fpp.layers.Flow(fpp.vector_flow(2, **TINY)) for _ in range(2)),
    *(fpp.layers.DenseConditioner(1, 2, blocks=1) for _ in range(2)),
  ]
  paths = [weight.path for layer in layers for weight in layer.weights]
  assert len({*paths}) == len(paths)
  for layer in layers[:3]:
    assert all(weight.path.startswith(f"{layer.name}/") for weight in layer.weights)
  assert "mine/conditioner_0/block_0_inner/kernel" in paths and "mine/scale_0" in paths


def two_flows(**options):
  first, second = fpp.VectorFlow(2, **options), fpp.VectorFlow(2, 1, **options)
  x, context = keras.Input([2]), keras.Input([1])
  return keras.Model([x, context], [first(x), second(x, context)])


def test_a_model_of_two_flows_comes_back_from_a_file_and_from_a_tree(tmp_path):
  model, inputs = two_flows(**TINY), [X[:5], X[:5, :1]]
  for layer in model.layers[-2:]:
    layer.set_weights([w + 0.1 * np.random.normal(size=w.shape) for w in layer.get_weights()])
  model.save(tmp_path / "model.keras")
  model.save_weights(tmp_path / "model.weights.h5")
  others = [keras.models.load_model(tmp_path / "model.keras"), two_flows(**TINY)]
  others[1].load_weights(tmp_path / "model.weights.h5")
  for other in others:
    for found, expected in zip(other(inputs), model(inputs), strict=True):
      np.testing.assert_array_equal(found, expected)
  model.compile()
  tree = model.get_state_tree()
  for kind in ("trainable_variables", "non_trainable_variables"):  # the latter are means and standard deviations
    assert len(tf.nest.flatten(tree[kind])) == len(getattr(model, kind)) > 0


# --- Wrong arguments ----------------------------------------------------------------------------


def test_a_masked_array_does_not_lose_its_mask():
  layer, masked = initialized(), np.ma.masked_greater(X, 1)
  adapt, fit = lambda x: layer.adapt(x, overwrite=True), lambda x: fpp.fit(layer, x)
  for call in (layer, adapt, layer.distribution.log_prob, fit, fpp.vector_flow_for):
    with pytest.raises(InputError, match="must not be a masked array"):
      call(masked)


SIZES = {"event_size": 1, "context_size": 0, "couplings": 1, "components": 1, "hidden": 1, "blocks": 0}
NO_INTEGERS = [[2], 2.0, True, "2", None, np.nan, np.ones(2), tf.constant(2), {}]


@pytest.mark.parametrize("make", [fpp.vector_flow, fpp.VectorFlow])
@pytest.mark.parametrize("name", SIZES)
def test_a_size_that_is_none_is_an_error_that_names_it(make, name):
  for value in NO_INTEGERS:
    with pytest.raises(InputError, match=f"^`{name}` must be an integer, got "):
      make(**{"event_size": 2, name: value})
  for value, message in ((SIZES[name] - 1, f"must be at least {SIZES[name]}, got"), (10**8, "must be at most 65,536")):
    with pytest.raises(InputError, match=f"^`{name}` {message}"):
      make(**{"event_size": 2, name: value})


@pytest.mark.parametrize(
  "dtype", ["float16", "bfloat16", "hot", "int32", "complex64", "int8_from_float32", 3, [2.0], {}]
)
@pytest.mark.parametrize("make", [fpp.vector_flow, fpp.VectorFlow])
def test_another_dtype_is_an_error_that_names_those_there_are(make, dtype):
  with pytest.raises(InputError, match=r"^`dtype` must be (float32.* or .*|a floating dtype), got "):
    make(2, dtype=dtype)


def test_another_global_policy_is_an_error_that_says_so(policy):
  policy("float16")
  with pytest.raises(InputError, match="^`dtype` must be .*, got the global 'float16'"):
    fpp.VectorFlow(2)


@pytest.mark.parametrize("dtype", ["float64", tf.float64, np.float64, np.dtype("float64")])
def test_a_dtype_is_one_of_numpy_or_tensorflow_too(dtype):
  assert fpp.vector_flow(2, dtype=dtype, **TINY).log_prob(X).dtype == tf.float64
  assert fpp.VectorFlow(np.int64(2), dtype=dtype, **TINY)(X).dtype == tf.float64


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda: fpp.layers.Flow(tfd.Normal(0.0, 1.0)).initialize(X), "^`initialize` needs a `FlowDistribution`, got "),
    (lambda: fpp.layers.Flow(tfd.Normal(0.0, 1.0)).sample(2, context=X), "^`context` must be None, as "),
  ],
)
def test_what_is_no_flow_is_an_error(call, message):
  with pytest.raises(InputError, match=message):
    call()


SMALL = dict(filters=8, components=2)


def fields(count, seed=0, shape=(8, 8, 1)):
  """Smooth fields: white noise, and half of it one position further on."""
  noise = np.random.RandomState(seed).normal(size=[count, *shape])
  return 1e3 + 5 * (noise + np.roll(noise, 1, axis=1) / 2)


@pytest.mark.slow
def test_three_lines_make_and_train_a_distribution():
  flow = fpp.image_flow((8, 8, 1), coupling="affine", padding="periodic", filters=8)
  result = fpp.fit(flow, fields(512), validation=fields(64, 1), steps=60, batch_size=64, seed=0)
  white = 64 * (-0.5 * np.log(2 * np.pi * np.e) - np.log(5 * np.sqrt(1.25)))  # of values that were independent
  assert result.validation[-1] > white + 1
  samples = flow.sample(200, seed=0).numpy()
  np.testing.assert_allclose([samples.mean(), samples.std()], [1e3, 5 * 1.25**0.5], rtol=0.05)
  assert flow.event_shape == [8, 8, 1] and flow.batch_shape == [] and len(flow.trainable_variables) > 0


@pytest.mark.parametrize("shape", [slow((8, 8, 1)), (6, 4, 3), slow((5, 5, 2)), (1, 2, 1), slow((16, 3, 4))])
def test_any_shape_that_can_be_halved_has_a_structure(shape):
  flow = fpp.image_flow(shape, **SMALL, dtype="float64")
  x = fields(16, shape=shape)
  flow.initialize(x)
  np.testing.assert_allclose(flow.bijector.forward(flow.bijector.inverse(x)), x, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("sides", [(1, 1), (8, 8)])
def test_a_field_depends_on_parameters_or_on_another_field(sides):
  rng = np.random.RandomState(0)
  context = rng.normal(size=[512, *sides, 2]).astype(np.float32)
  x = np.broadcast_to(context[..., :1], [512, 8, 8, 1]) + rng.normal(size=[512, 8, 8, 1])
  flow = fpp.image_flow((8, 8, 1), context_shape=(*sides, 2), coupling="affine", filters=8, padding="periodic")
  fpp.fit(flow, x, context, steps=60, batch_size=64, learning_rate=1e-2)
  own, others = (tf.reduce_mean(flow.given(c[:64]).log_prob(x[:64])) for c in (context, context[::-1]))
  assert own > others + 10
  given = flow.given(context[:3])
  assert given.sample(2, seed=0).shape == [2, 3, 8, 8, 1]
  roll = lambda t: np.roll(t, (4, 4), axis=(1, 2))
  np.testing.assert_allclose(
    flow.given(roll(context[:8])).log_prob(roll(x[:8])), flow.given(context[:8]).log_prob(x[:8]), rtol=1e-4
  )


@pytest.mark.parametrize("sides", [(1, 1), (4, 4)])
def test_one_context_is_that_of_all_images(sides):
  flow = fpp.image_flow((4, 4, 2), context_shape=(*sides, 2), structure="columns:1", filters=4, components=2)
  x, context = tf.cast(fields(3, shape=(4, 4, 2)), tf.float32), tf.random.normal([1, *sides, 2])
  flow.given(context).initialize(x)
  expected = flow.given(tf.repeat(context, 3, axis=0)).log_prob(x)
  np.testing.assert_allclose(flow.given(context).log_prob(x), expected, rtol=1e-5)
  given = flow.given(context[0])
  assert given.batch_shape == [] and given.sample(2, seed=0).shape == [2, 4, 4, 2]
  np.testing.assert_allclose(given.log_prob(x), expected, rtol=1e-5)


def test_what_is_wrong_is_one_line():
  refused = lambda message: pytest.raises(InputError, match=re.escape(message))
  with refused("`shape` must have an even width or an even number of channels, got (3, 3, 1)"):
    fpp.image_flow((3, 3, 1))
  with refused("`context_shape` must have the sides of `shape`, or 1 and 1"):
    fpp.image_flow((8, 8, 1), context_shape=(4, 4, 2))
  with refused("`dtype` must be float32 or float64"):
    fpp.image_flow((8, 8, 1), dtype="mixed_bfloat16")
  flow = fpp.image_flow((8, 8, 1), **SMALL)
  with refused("`data` must be finite"):
    fpp.fit(flow, np.full([16, 8, 8, 1], np.nan))
  with refused("`data` must be of shape"):
    fpp.fit(flow, fields(16, shape=(8, 4, 1)))
  with refused("`context` must hold real numbers, got None"):
    fpp.fit(fpp.image_flow((8, 8, 1), context_shape=(1, 1, 2), **SMALL), fields(16))
