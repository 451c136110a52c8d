"""Arrays of another byte order than the machine's, as of FITS files, are the same numbers at every entrance."""

import functools

import numpy as np
import pytest

import flowpp_tf as fpp
from flowpp_tf import data, evaluation
from support.models import perturb, small_config

REAL = small_config(dequantization="none")
DEEP = small_config(levels=1 << 16)
RNG = np.random.RandomState(0)
FIELDS = RNG.normal(size=[4, *REAL.image_shape]).astype(np.float32)
FRAMES = RNG.randint(0, DEEP.levels, [4, *DEEP.image_shape]).astype(np.uint16)


@functools.cache
def model(config):
  made = perturb(fpp.FlowPlusPlus(config))
  made.initialized = True
  made.compile("sgd")
  return made


def adapted(x):
  made = fpp.FlowPlusPlus(REAL)
  made.adapt(x)
  return made.standardization.mean.numpy()


ENTRANCES = {
  "log_prob": (FIELDS, lambda x: model(REAL).log_prob(x)),
  "log_prob of a list": (FIELDS, lambda x: model(REAL).log_prob([*x])),
  "log_prob_bound": (FRAMES, lambda x: model(DEEP).log_prob_bound(x, seed=0)),
  "distribution": (FIELDS, lambda x: model(REAL).distribution.log_prob(x)),
  "adapt": (FIELDS, adapted),
  "predict": (FIELDS, lambda x: model(REAL).predict(x, verbose=0)),
  "Scorer": (FRAMES, lambda x: evaluation.Scorer(model(DEEP), 1).log_likelihood(x)),
  "encode": (FIELDS, lambda x: evaluation.BatchedModel(model(REAL)).encode(x)),
  "evaluate_bits_per_dim": (FRAMES, lambda x: evaluation.evaluate_bits_per_dim(model(DEEP), x).best.bits_per_dim),
  "bijector": (FIELDS, lambda x: fpp.bijectors.PixelsToLogit(1 << 16).inverse(x)),
  "bijector of a list": (FIELDS, lambda x: fpp.bijectors.PixelsToLogit(1 << 16).inverse([*x])),
  "parameter": (FIELDS, lambda x: fpp.bijectors.Standardization(x, np.ones_like(FIELDS)).mean),
  "batches": (FRAMES, lambda x: next(iter(data.evaluation_batches(x, 4)))),
  "data set": (FRAMES, lambda x: next(iter(data.evaluation_batches(data.ImageDataset("a", 1 << 16, x, x, x).test, 4)))),
}


@pytest.mark.parametrize("name", ENTRANCES)
def test_numbers_do_not_depend_on_the_byte_order_of_their_array(name):
  array, call = ENTRANCES[name]
  swapped = array.astype(array.dtype.newbyteorder())
  assert not swapped.dtype.isnative
  np.testing.assert_array_equal(np.asarray(call(swapped)), np.asarray(call(array)))
