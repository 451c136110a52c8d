"""`fpp.image_flow`: a plain distribution of real-valued images, which `fpp.fit` trains."""

import re

import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf.core.errors import InputError
from support.marks import slow

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


@pytest.mark.parametrize("shape", [slow((8, 8, 1)), (6, 4, 3), (5, 5, 2), (1, 2, 1), slow((16, 3, 4))])
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
