"""Plugin: two logical devices, and fixtures that many files take."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism

import flowpp_tf as fpp
from flowpp_tf.config import recipe
from flowpp_tf.core import registry
from support.models import SMALL, perturb, small_config

# Before anything uses a device: the tests of MirroredStrategy need two.
tf.config.set_logical_device_configuration(
  tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
# One op after the other, each in one thread: else sums of gradients depend on the load of the machine, in the last bit,
# and threads of several processes wait for each other.
tf.config.threading.set_inter_op_parallelism_threads(1)
tf.config.threading.set_intra_op_parallelism_threads(1)
# The programs trace without TensorFlow's graph optimizer. Here its dependency and function optimization stay: without
# them test processes grow to several GiB.
tf.config.optimizer.set_experimental_options(
  {
    name: False
    for name in (
      "arithmetic_optimization",
      "auto_mixed_precision",
      "constant_folding",
      "debug_stripper",
      "implementation_selector",
      "layout_optimizer",
      "loop_optimization",
      "pin_to_host_optimization",
      "remapping",
      "scoped_allocator_optimization",
      "shape_optimization",
    )
  }
)


@pytest.fixture(scope="module")
def small_model():
  """A perturbed small model in float64, where mathematics is checked; not to be changed."""
  model = perturb(fpp.FlowPlusPlus(small_config(SMALL, dtype="float64")))
  before = model.get_weights()
  yield model
  for ours, theirs in zip(model.get_weights(), before, strict=True):
    np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def deterministic():
  """As `--deterministic`, with the setting above: the same to the last bit whatever the load."""
  tf.config.experimental.enable_op_determinism()
  yield
  disable_op_determinism()


@pytest.fixture
def use_lanes(monkeypatch):
  """Function that sets the number of lanes, for batches of any size: here they come one after the other, as there is
  one thread between ops.
  """
  monkeypatch.setattr("flowpp_tf.core.lanes._LEAST_NUMBERS", 0)
  return lambda count: monkeypatch.setattr("flowpp_tf.core.lanes._count", count)


@pytest.fixture
def cache_on_disk(monkeypatch):
  """Function after which sets of images larger than so many bytes are decoded once, to files, as large ones are."""
  return lambda most_bytes=0: monkeypatch.setattr("flowpp_tf.data.cache._IN_MEMORY", most_bytes)


@pytest.fixture(autouse=True)
def own_registrations():
  """Forget after each test the couplings, data sets and configs that it has registered."""
  tables = registry.COUPLINGS, registry.DATASETS, fpp.CONFIGS, recipe._REGISTERED
  before = [{**table} for table in tables]
  yield
  for table, entries in zip(tables, before, strict=True):
    table.clear()
    table.update(entries)
