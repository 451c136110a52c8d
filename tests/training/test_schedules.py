"""Learning-rate schedules at every step, and at every boundary of the published ones."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from flowpp_tf.training.schedules import PiecewiseSchedule, learning_rate_schedule
from support.programs import ROOT


def rates(schedule, steps):
  return schedule(tf.constant(steps)).numpy()


def test_constant_warms_up_to_the_peak_and_holds():
  schedule = learning_rate_schedule("constant", 0.01, warmup_steps=10, steps=110)
  np.testing.assert_allclose(rates(schedule, np.arange(10)), np.arange(1, 11) * 0.001, rtol=1e-6)
  np.testing.assert_allclose(rates(schedule, np.arange(10, 1000)), 0.01, rtol=1e-6)


@pytest.mark.parametrize("warmup_steps", [0, 10])
def test_cosine_goes_from_the_peak_to_zero_and_is_positive_on_the_way(warmup_steps):
  schedule = learning_rate_schedule("cosine", 0.01, warmup_steps, steps=110)
  all_rates = rates(schedule, np.arange(110))
  assert np.all(all_rates > 0) and all_rates.max() == np.float32(0.01)
  after = all_rates[max(warmup_steps, 1) - 1 :]
  np.testing.assert_allclose(after, 0.005 * (1 + np.cos(np.pi * np.arange(len(after)) / len(after))), rtol=1e-5)


def test_pieces_take_the_rate_where_the_one_before_left_it():
  schedule = PiecewiseSchedule("linear:1@4,hold@6,decay:0.5:0.2@10,hold:0.1@12,linear:0.3@14")
  np.testing.assert_allclose(
    rates(schedule, np.arange(16)),
    [0.25, 0.5, 0.75, 1, 1, 1, 0.5, 0.25, 0.2, 0.2, 0.1, 0.1, 0.2, 0.3, 0.3, 0.3],
    rtol=1e-6,
  )


def test_schedules_are_made_again_from_their_config():
  schedule = PiecewiseSchedule("linear:1e-3@5000,hold@50000,decay:0.99995:3e-4")
  again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
  steps = np.arange(0, 100000, 777)
  np.testing.assert_array_equal(rates(again, steps), rates(schedule, steps))


@pytest.mark.parametrize(
  "text, message",
  [
    ("hold", "'hold' gives a rate that is not positive"),
    ("linear:1", "'linear:1' must end at a step after 0"),
    ("linear:1@5,hold@5", "'hold@5' must end at a step after 5"),
    ("hold:1,hold:2", "'hold:1' must end"),
    ("ramp:1@5", "an entry 'ramp:1@5'; expected linear:VALUE@END"),
    ("linear:fast@5", "an entry 'linear:fast@5'"),
    ("linear:1:2@5", "an entry 'linear:1:2@5'"),
    (f"hold:1@5,decay:0.5@{'9' * 400}", "an entry 'decay:0.5@999"),
    ("hold:1@5,decay:1.5", "the factor of 'decay:1.5' must lie between 0 and 1"),
    ("hold:0.1@5,decay:0.9:0.2", "the floor of 'decay:0.9:0.2' must be at most 0.1, the rate before it"),
    ("hold:-1", "'hold:-1' gives a rate that is not positive"),
  ],
)
def test_a_text_that_is_no_schedule_says_where(text, message):
  with pytest.raises(ValueError, match=message):
    PiecewiseSchedule(text)


def test_a_text_and_a_peak_do_not_go_together():
  with pytest.raises(ValueError, match="gives the rate at each step"):
    learning_rate_schedule("hold:1", 0.1, 0, 10)


def test_a_text_that_ends_at_0_ends_with_the_run():
  """The steps after it would change nothing."""
  assert learning_rate_schedule("linear:1@4,cosine:0@10", None, 0, 10)(9) == 0
  learning_rate_schedule("linear:1@4,cosine:0.1@10", None, 0, 11)
  with pytest.raises(ValueError, match="a rate of 0 from step 10 on, where the run has 11 `steps`"):
    learning_rate_schedule("linear:1@4,cosine:0@10", None, 0, 11)


# The published schedules: what they are meant to be at and around each boundary (steps from 1).
PUBLISHED = {
  "cifar10": {1: 1.5e-7, 2000: 3e-4, 2001: 3e-4, 10**6: 3e-4},
  "imagenet32": {
    5000: 1e-3,
    50000: 1e-3,
    50001: 1e-3 * 0.99995,
    74078: 1e-3 * 0.99995**24078,
    74080: 3e-4,
    10**6: 3e-4,
  },
  "imagenet64": {
    1: 4e-8,
    10000: 4e-4,
    50000: 4e-4,
    55000: 4e-4 * 0.99995**5000,
    55001: 3e-4,
    230000: 3e-4,
    235000: 1.55e-4,
    240000: 1e-5,
    280000: 1e-5,
    285000: 5.5e-6,
    290000: 1e-6,
    10**6: 1e-6,
  },
  "imagenet64_5bit": {
    10000: 4e-4,
    50000: 4e-4,
    50001: 4e-4 * 0.9995,
    51000: 3e-4,
    110000: 3e-4,
    110001: 1e-5,
    10**6: 1e-5,
  },
  "celeba64_5bit": {20000: 4e-5, 50000: 4e-5, 50001: 4e-5 * 0.9995, 53000: 1e-5, 10**6: 1e-5},
  "celeba64_3bit": {20000: 4e-5, 50000: 4e-5, 50001: 4e-5 * 0.9995, 53000: 1e-5, 10**6: 1e-5},
  "celeba128_5bit": {1: 2e-10, 50000: 1e-5, 10**6: 1e-5},
}


def published_schedule(name):
  flags = (ROOT / "configs" / f"{name}.flags").read_text()
  return PiecewiseSchedule(re.search(r"^--schedule=(.*)$", flags, re.MULTILINE)[1])


@pytest.mark.parametrize("name, values", PUBLISHED.items(), ids=PUBLISHED)
def test_published_schedules_at_their_boundaries(name, values):
  steps = np.array(list(values)) - 1
  np.testing.assert_allclose(rates(published_schedule(name), steps), list(values.values()), rtol=2e-6)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_schedules_are_finite_and_positive_at_every_step(name):
  all_rates = rates(published_schedule(name), np.arange(400000))
  assert np.all(np.isfinite(all_rates)) and np.all(all_rates > 0)
  assert np.argmax(all_rates) < 60000  # warm up, then never above the peak
