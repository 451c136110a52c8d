"""Flows of vectors are trained by Keras, tf_keras, TFP and plain loops, and Keras saves and loads them."""

import keras
import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import flowpp_tf as fpp
from support.marks import slow

STEPS = 30


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
    by_keras,
    slow(lambda layer: by_keras(layer, jit_compile=True)),
    slow(by_tf_keras),
    slow(by_minimize),
    slow(by_vi),
    slow(lambda layer: by_vi(layer, jit_compile=True)),
    slow(lambda layer: by_loop(layer, lambda step: step, keras.optimizers.Adam(1e-2))),
    slow(lambda layer: by_loop(layer, tf.function(autograph=False), tf_keras.optimizers.Adam(1e-2))),
    slow(lambda layer: by_loop(layer, tf.function(jit_compile=True, autograph=False), keras.optimizers.Adam(1e-2))),
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
