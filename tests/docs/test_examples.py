"""The examples of flows, small: densities integrate to 1; chains, bounds and ranks agree with what is known exactly."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.config import get_config
from support.programs import _own_flags, example

pytestmark = [pytest.mark.slow, pytest.mark.docs]


def test_tabular_trains_densities_of_equal_size_that_integrate_to_one():
  tabular = example("tabular", layers=1, xla=False, steps=40, every=20, batch=64)
  data = tabular.standardised(tabular.two_moons())
  axis = np.linspace(-6, 6, 201, dtype=np.float32)
  grid = tf.constant(np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2))
  sizes = []
  for make in tabular.MODELS.values():
    experiment = tabular.Experiment(make, data)
    validation, log_prob, size, _ = experiment.run(rate=1e-2, seed=0)
    # It fails for MAF if an optimizer ignores the masks.
    np.testing.assert_allclose(np.sum(np.exp(experiment._log_prob(grid))) * (axis[1] - axis[0]) ** 2, 1, atol=0.01)
    np.testing.assert_allclose(np.mean(log_prob), validation, atol=0.1)
    assert validation > -2.8  # a standard normal distribution: -2.84
    sizes.append(size)
  np.testing.assert_allclose(sizes, sizes[0], rtol=0.1)


def test_the_data_of_tabular_are_split_and_finite():
  tabular = example("tabular")
  for name, load in tabular.DATA.items():
    train, validation, test = tabular.standardised(load())
    assert train.shape[1] == validation.shape[1] == test.shape[1] == int(name[-3 if name[-4] == " " else -4 : -2])
    assert min(len(train), len(validation), len(test)) >= 300
    np.testing.assert_allclose(train.std(axis=0), 1, rtol=1e-4)
    rows = [set(map(bytes, part)) for part in (train, validation, test)]
    assert not (rows[0] & rows[1] or rows[0] & rows[2] or rows[1] & rows[2])


def test_neutra_draws_from_the_target_whatever_the_flow():
  neutra = example("neutra", chains=16, results=150, warmup=100, couplings=1, steps=10, xla=False)
  keras.utils.set_random_seed(0)
  flow, losses = neutra.fitted_flow()
  assert losses[-1] < losses[0]
  neutra.funnel = lambda x: tf.reduce_sum(tfp.distributions.Normal(1.0, 2.0).log_prob(x), axis=-1)
  for transform, every in ((None, 2), (flow.bijector, 1)):
    x = neutra.sampler(transform, every)(tf.constant(4), tf.constant(0.8), tf.constant([0, 1])).numpy()
    assert x.shape == (150, 16, 10)
    for values, exact in ((x, 1), (x**2, 5)):
      error = values.std(axis=(0, 1)) / neutra.effective(values) ** 0.5
      assert np.all(np.abs(values.mean(axis=(0, 1)) - exact) < 6 * error), (transform, values.mean(axis=(0, 1)), error)


def test_bounds_of_surrogates_are_below_the_evidence(capsys):
  example("variational_posterior", steps=120, samples=32, couplings=2, xla=False).main([])
  head, _, exact, *surrogates = [
    [cell.strip() for cell in line.strip("|\n").split("|")] for line in capsys.readouterr().out.splitlines()
  ]
  assert head[1] == "ELBO, nats" and len(surrogates) == 3
  bounds = [tuple(map(float, row[1].split("±"))) for row in surrogates]
  for bound, error in bounds:
    assert bound < float(exact[1]) + 6 * error
  assert bounds[2][0] > bounds[1][0]  # the flow's is above that of any normal distribution


def test_the_sets_of_images_that_are_scored_fit_the_model():
  config = get_config("digits")
  with _own_flags():
    sets = example("score_digits").image_sets(config, seed=0)
  assert len(sets) == 11
  for name, images in sets.items():
    assert images.shape == (180, *config.image_shape) and 0 <= images.min() <= images.max() < config.levels, name


def test_the_exact_posterior_integrates_to_one():
  calibration = example("field_calibration")
  truth, power = calibration.simulate(1, np.random.RandomState(1))
  axes = [value + np.linspace(-0.5, 0.5, 33) for value in truth[0]]
  grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
  log_density = calibration.exact_log_posterior(grid, np.repeat(power, len(grid), axis=0), points=201)
  np.testing.assert_allclose(np.sum(np.exp(log_density)) / 32**2, 1, atol=0.01)


def test_ranks_of_equal_counts_pass_and_others_fail():
  calibration = example("field_calibration")
  ranks = np.arange(64 * 16)
  counts, p = calibration.histogram(ranks % 64)
  assert counts == [64] * 16 and p == 1
  assert calibration.histogram(np.full(1024, 5))[1] < 1e-9
  drawn = np.random.RandomState(0).randint(0, 64, 1024)
  assert calibration.histogram(drawn)[1] > 1e-3
