"""The table of distributions: every public one, and flows of each kind, with values in their supports."""

import functools

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from support.conformance_rows import ROWS
from support.models import CONDITIONED, perturbed, small_images

tfd = tfp.distributions

IMAGES = small_images(4).astype(np.int32)
NOISE = tf.constant(np.random.RandomState(1).uniform(0.01, 0.99, IMAGES.shape))
X, CONTEXT = ROWS["given"].inputs("float64")
SCALE = tf.exp(X)
NORMAL = tfd.Normal(tf.zeros([], tf.float64), 1.0)


def model(**changes):
  return perturbed(dtype="float64", dropout=0.0, **changes)


def mixture_of_logistics():
  """A scalar distribution whose CDF is known: [2] mixtures of 3 components."""
  logits, loc, log_scale = (tf.constant(np.random.RandomState(i).randn(2, 3)) for i in range(3))
  cdf = fpp.bijectors.MixtureLogisticCDF(logits, loc, log_scale)
  uniform = tfd.Uniform(tf.zeros([], tf.float64), tf.ones([], tf.float64))
  return fpp.distributions.FlowDistribution(uniform, fpp.bijectors.Invert(cdf))


# Functions that make a distribution, and values of it: of one event, or of one for each of its batch.
DISTRIBUTIONS = {
  "flow": (lambda: model().flow, NOISE),
  "uniform": (lambda: model().dequantizer.posterior(IMAGES), NOISE),
  "variational": (lambda: model(dequantization="variational").dequantizer.posterior(IMAGES), NOISE),
  "vectors": (lambda: ROWS["given"].make("float64").distribution.given(CONTEXT), X),
  "ensemble": (lambda: ROWS["ensemble_layer"].make("float64").distribution.given(CONTEXT), X),
  "composite": (
    lambda: fpp.distributions.FlowDistribution(
      tfd.Sample(tfd.Normal(tf.zeros([4], tf.float64), 1.0), 3), fpp.bijectors.ActNorm(SCALE, X)
    ),
    X,
  ),
  "scalar": (mixture_of_logistics, tf.constant([0.5, -1.0], tf.float64)),
  "images": (lambda: model().distribution, IMAGES),
  "images_given": (lambda: model(**CONDITIONED).given(labels=[0, 1, 2, -1], condition=NOISE[:, :2, :2, :1]), IMAGES),
}


@functools.cache
def distribution(name):
  """A row's distribution, made once."""
  return DISTRIBUTIONS[name][0]()


def made(name):
  """A row's distribution, and its values."""
  return distribution(name), DISTRIBUTIONS[name][1]
