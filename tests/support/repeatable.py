"""Plugin: fixtures and tests begin with the same seeds, and each file with the memory of the one before it freed."""

import ctypes
import gc

import keras
import pytest
import tensorflow as tf
from tensorflow.python.framework import ops
import tensorflow_probability as tfp

from flowpp_tf.bijectors import mixture_logistic, mixture_quantile
from flowpp_tf.bijectors.tfp_methods import TFPMethods
from flowpp_tf.layers import blocks
from flowpp_tf.layers.kernels import attention
from flowpp_tf.training import state

_SEED = 20190201


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup():
  """Seed before each fixture: one of a module must not depend on the test that asks for it first."""
  keras.utils.set_random_seed(_SEED)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call():
  """Seed before each test, after pytest-randomly, which has seeds that differ from run to run.

  A program that a test called may have left TensorFlow without its graph optimizer, whose errors have other names.
  """
  keras.utils.set_random_seed(_SEED)
  tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


def pytest_collection_finish():
  """Leave what has been imported out of garbage collections: most objects are of TensorFlow, and stay."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(50_000, 20, 50)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
  """Free what the tests of a file keep, when the next test is of another one."""
  yield
  if nextitem is not None and nextitem.path != item.path:
    for value in vars(item.module).values():
      if hasattr(value, "cache_clear"):
        value.cache_clear()
    _forget_graphs()
    keras.backend.clear_session()  # which collects garbage, too
    _return_freed_memory()


def forget_traces():
  """Free the graphs of all functions that are `traced_once`; the next calls trace them again."""
  blocks._FUNCTIONS.clear()
  attention._traced.cache_clear()
  for function in (mixture_logistic.logit_cdf, mixture_quantile.quantile, state._move_average):
    function.forget_traces()


def _forget_graphs():
  """Free the graphs that outlive the tests that traced them."""
  forget_traces()
  # TensorFlow registers the gradient of each `tf.custom_gradient` of a graph, and with it that graph, for good.
  gradients = ops.gradient_registry._registry
  for name in [name for name in gradients if name.startswith("CustomGradient-")]:
    del gradients[name]
  # The log-dets in TFP's cache are tensors of the graph whose other tensors are their keys.
  for bijector in (tfp.bijectors.Bijector, TFPMethods):
    cached = vars(bijector)["_cache"].storage
    for key in list(cached):
      key.cancel()
    cached.clear()


def _return_freed_memory():
  """Give what C++ has freed back to the system, where its library is glibc."""
  try:
    ctypes.CDLL("libc.so.6").malloc_trim(0)
  except (OSError, AttributeError):
    pass
