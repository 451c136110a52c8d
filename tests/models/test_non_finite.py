"""A model with a weight that is NaN makes no picture, no score and no file, and says where the NaN began."""

import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import evaluation
from flowpp_tf.core.context import as_seed
from flowpp_tf.core.finite import first_non_finite_part
from flowpp_tf.core.tracing import traced_once
from support.marks import quick_rows
from support.models import SMALL, small_images


@pytest.fixture(scope="module")
def broken():
  model = fpp.FlowPlusPlus(SMALL)
  weight = next(v for v in model.coupling_flow.steps[0].conditioner.variables if v.name == "kernel")
  value = np.array(weight)
  value.flat[0] = np.nan
  weight.assign(value)
  return model


def test_a_search_leaves_no_graph_with_checks_to_later_calls():
  function = traced_once(lambda x: 2 * x, in_eager_mode=True)
  assert first_non_finite_part(lambda: function(tf.constant(1.0))) is None
  assert np.isnan(function(tf.constant(np.nan)))


WHERE = r"input_conv in conditioner in flow_step_0_coupling( in \w+)* made the first value that is not finite$"
CALLS = {
  "sample": lambda m, path: m.sample(2, seed=0),
  "decode": lambda m, path: m.decode(np.zeros([2, *m.coupling_flow.latent_shape])),
  "bits_per_dim": lambda m, path: m.bits_per_dim(small_images(2), seed=0),
  "encode": lambda m, path: m.encode(small_images(2), seed=0),
  "samples in batches": lambda m, path: evaluation.BatchedModel(m, 2).sample(3, seed=0),
  "evaluation": lambda m, path: evaluation.evaluate_bits_per_dim(m, small_images(4), batch_size=2),
  "scores": lambda m, path: evaluation.Scorer(m, 1)(small_images(4)),
}
FILES = {
  "SavedModel": lambda m, path: fpp.export_saved_model(m, path / "exported"),
  "preset": lambda m, path: m.save_to_preset(path / "preset"),
  "safetensors": lambda m, path: m.save_to_preset(path / "preset", weights="safetensors"),
  "archive": lambda m, path: fpp.compress(m, small_images(2)),
}


@pytest.mark.parametrize("call", quick_rows(CALLS, ["sample", "bits_per_dim", "encode"]))
def test_results_are_refused_with_the_place_where_the_nan_began(broken, call, tmp_path):
  with pytest.raises(fpp.InputError, match=f"must be finite, got .*: {WHERE}"):
    CALLS[call](broken, tmp_path)


@pytest.mark.parametrize("call", FILES)
def test_files_are_not_written(broken, call, tmp_path):
  with pytest.raises(
    fpp.InputError, match="the weights (of the model )?must be finite, got NaN or infinity in .*kernel"
  ):
    FILES[call](broken, tmp_path)
  assert not [*tmp_path.iterdir()]


def test_densities_are_nan(broken):
  assert np.all(np.isnan(broken.log_prob_bound(small_images(2), seed=0)))
  assert np.all(np.isnan(broken.distribution.log_prob(small_images(2))))


def test_latents_that_are_nan_are_no_picture():
  model = fpp.FlowPlusPlus(SMALL)
  z = model.sample_latents(2, seed=as_seed(0)).numpy()
  z[1, 0, 0, 0] = np.nan
  with pytest.raises(fpp.InputError, match="the images of the model must be finite"):
    model.decode(z)
