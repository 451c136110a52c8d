"""Names of earlier versions: an error that says what they are now."""

import importlib

import pytest


@pytest.mark.parametrize(
  "old, new",
  [
    ("flowpp_tf.export", "flowpp_tf.exporting"),
    ("flowpp_tf.compression.Coder", "flowpp_tf.compression.TieredCodec"),
    ("flowpp_tf.data.Batches", "flowpp_tf.data.DataPipeline"),
    ("flowpp_tf.data.Photographs", "flowpp_tf.data.RandomCrops"),
    ("flowpp_tf.devices.total", "flowpp_tf.core.lanes.sum_shards"),
    ("flowpp_tf.devices.in_lanes", "flowpp_tf.core.lanes.concat_shards"),
    ("flowpp_tf.devices.has_accelerator", "flowpp_tf.core.environment.has_accelerator"),
    ("flowpp_tf.distributions.ImageDistribution", "flowpp_tf.models.ImageDistribution"),
    ("flowpp_tf.evaluation.Batched", "flowpp_tf.evaluation.BatchedModel"),
    ("flowpp_tf.training.train", "flowpp_tf.training.run_training"),
    ("flowpp_tf.models.check_given", "flowpp_tf.models.check_conditioning"),
    ("flowpp_tf.models.given_specs", "flowpp_tf.models.conditioning_specs"),
    ("flowpp_tf.models.unpack", "flowpp_tf.models.unpack_batch"),
    ("flowpp_tf.evaluation.Typical", "flowpp_tf.evaluation.ValidationStatistics"),
  ],
)
def test_an_old_name_is_an_error_that_says_the_new_one(old, new):
  module, _, name = old.rpartition(".")
  with pytest.raises(ImportError, match=f"`{old}` is now `{new}`"):
    exec(f"from {module} import {name}")
  module, _, name = new.rpartition(".")
  assert hasattr(importlib.import_module(module), name)


def test_an_unknown_name_is_an_attribute_error():
  import flowpp_tf as fpp

  for module in (fpp, fpp.distributions, importlib.import_module("flowpp_tf.evaluation")):
    assert not hasattr(module, "no_such_name")
