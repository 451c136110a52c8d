"""Steps that are not finite: skipped, counted, explained, and an end to them."""

import dataclasses
import re

import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import evaluation, training
from flowpp_tf.core.context import as_seed
from flowpp_tf.core.finite import first_non_finite_part
from flowpp_tf.core.tracing import traced_once
from flowpp_tf.training.step import first_non_finite
from support.marks import quick_rows, slow
from support.models import MINIMAL, TINY, small_images
from support.refusing import refuses
from support.training_steps import small_data, small_run, step, train_state

MARKER = 7  # an image full of it makes the bound not a number, see `poison`


def poison(monkeypatch):
  original = fpp.FlowPlusPlus.log_prob_bound

  def log_prob_bound(self, images, *args, training=False, **kwargs):
    bound = original(self, images, *args, training=training, **kwargs)
    marked = tf.reduce_all(tf.equal(tf.cast(images, tf.int32), MARKER), axis=[1, 2, 3])
    return tf.where(marked, np.nan, bound) if training else bound

  monkeypatch.setattr(fpp.FlowPlusPlus, "log_prob_bound", log_prob_bound)


def marked_images(count):
  images = small_images(count)
  images[0] = MARKER
  return images


@pytest.mark.parametrize("devices", [1, slow(2)])
def test_a_step_that_is_not_finite_changes_nothing_but_its_number(monkeypatch, devices):
  poison(monkeypatch)
  state = train_state(MINIMAL, devices, ema_decay=0.9)
  step(state, small_images(8))
  values = lambda: [v.numpy() for v in (*state.variables, *state.ema, *(v.value for v in state.optimizer.variables))]
  before = values()
  counters = lambda: [int(v.numpy()) for v in (state.optimizer.iterations, state.skipped_steps, state.skipped_in_a_row)]
  assert counters() == [1, 0, 0]
  # The image lies on one replica alone; both must skip.
  means = step(state, marked_images(8))
  assert counters() == [2, 1, 1]
  changed = [i for i, (a, b) in enumerate(zip(before, values())) if np.any(a != b)]
  assert len(changed) == 1  # the number of the step
  assert all(total.numpy() == 0 for total in state.sums.values())  # which it does not enter
  assert all(np.isnan(mean) for mean in means.values())  # of no step
  step(state, small_images(8))
  assert counters() == [3, 1, 0]


def run(path, images=8, **settings):
  dataset = dataclasses.replace(small_data(), train=marked_images(images))
  return small_run(path, dataset=dataset, **{"validate_every": 2, "learning_rate": 1e-3, **settings})[0]


@pytest.mark.slow
def test_a_run_that_only_skips_ends_with_the_checkpoint_of_before(monkeypatch, tmp_path, caplog):
  workdir = run(tmp_path, steps=2)
  before = {p: p.read_bytes() for p in workdir.checkpoints.rglob("*") if p.is_file()}
  poison(monkeypatch)
  with pytest.raises(training.Diverged, match="of the last 3 steps, up to step 5, were not finite; steps before were"):
    run(tmp_path, steps=20, validate_every=2, max_skipped=3, debug_numerics=True)
  assert {p: p.read_bytes() for p in before} == before
  assert "step 3 is skipped: all parts are finite, their sum is not" in caplog.text


def test_a_skipped_step_is_explained_by_its_own_images(monkeypatch, tmp_path, caplog):
  """The image is in one of the two batches of an epoch."""
  poison(monkeypatch)
  run(tmp_path, images=16, steps=2, debug_numerics=True)
  skipped = [record.getMessage() for record in caplog.records if "is skipped" in record.getMessage()]
  assert len(skipped) == 1 and skipped[0].endswith("is skipped: all parts are finite, their sum is not")


def spoil(weight):
  value = weight.numpy()
  value.flat[0] = np.nan
  weight.assign(value)


@pytest.mark.parametrize(
  "part, message",
  [
    (
      lambda model: model.coupling_flow.steps[1].conditioner.input_conv.kernel,
      r"^input_conv in conditioner in flow_step_1_coupling( in \w+)* made the first value",
    ),
    slow(lambda model: model.coupling_flow.steps[1].scale, r"^flow_step_1_act_norm( in \w+)* made the first"),
    slow(
      lambda model: model.dequantizer.coupling_flow.steps[0].bias,
      r"^dequantizer_step_0_act_norm( in \w+)* made the first",
    ),
  ],
)
def test_the_first_part_that_is_not_finite_is_named(part, message):
  model = fpp.FlowPlusPlus(TINY)
  images = small_images(2)
  noise = tf.zeros([1, *images.shape])
  assert first_non_finite(model, images, noise=noise, seed=[0, 0]) is None
  spoil(part(model))
  found = first_non_finite(model, images, noise=noise, seed=[0, 0])
  assert found and re.search(message, found), found


def test_a_gradient_that_is_not_finite_is_told_from_a_bound_that_is_not():
  model = fpp.FlowPlusPlus(TINY)

  @tf.custom_gradient
  def spoilt(x):
    return tf.identity(x), lambda dy: dy * np.nan

  conditioner = model.coupling_flow.steps[1].coupling._conditioner
  model.coupling_flow.steps[1].coupling._conditioner = lambda *args, **kwargs: spoilt(conditioner(*args, **kwargs))
  found = first_non_finite(model, small_images(2), noise=tf.zeros([1, 2, 4, 4, 2]), seed=[0, 0])
  assert found.startswith("the bound is finite, the gradients of ")


@pytest.fixture(scope="module")
def broken():
  model = fpp.FlowPlusPlus(TINY)
  spoil(model.coupling_flow.steps[0].conditioner.input_conv.kernel)
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
  "SavedModel": lambda m, path: fpp.export(m, path / "exported"),
  "preset": lambda m, path: m.save_to_preset(path / "preset"),
  "archive": lambda m, path: fpp.compress(m, small_images(2)),
}


@pytest.mark.parametrize("call", quick_rows(CALLS, ["sample", "bits_per_dim", "encode"]))
def test_results_are_refused_with_the_place_where_the_nan_began(broken, call, tmp_path):
  refuses(f"must be finite, got .*: {WHERE}", CALLS[call], broken, tmp_path)


@pytest.mark.parametrize("call", FILES)
def test_files_are_not_written(broken, call, tmp_path):
  message = "the weights (of the model )?must be finite, got NaN or infinity in .*kernel"
  refuses(message, FILES[call], broken, tmp_path)
  assert not [*tmp_path.iterdir()]


def test_densities_are_nan(broken):
  assert np.all(np.isnan(broken.log_prob_bound(small_images(2), seed=0)))
  assert np.all(np.isnan(broken.distribution.log_prob(small_images(2))))


def test_latents_that_are_nan_are_no_picture():
  model = fpp.FlowPlusPlus(TINY)
  z = model.sample_latents(2, seed=as_seed(0)).numpy()
  z[1, 0, 0, 0] = np.nan
  refuses("the images of the model must be finite", model.decode, z)


def test_xla_makes_no_integer_images_of_what_is_not_finite(broken):
  """XLA drops `check_numerics`, and integers hold no NaN: the images were black."""
  model = fpp.FlowPlusPlus(TINY)
  z = model.sample_latents(2, seed=as_seed(0))
  expected = model.decode(z)
  np.testing.assert_array_equal(tf.function(model.decode, autograph=False)(z), expected)
  for latents in (z, z * np.nan):
    with pytest.raises(tf.errors.InvalidArgumentError, match="integer_images_need_jit_compile_False"):
      tf.function(model.decode, autograph=False, jit_compile=True)(latents)
  with pytest.raises(tf.errors.InvalidArgumentError, match="the images of the model must be finite"):
    tf.function(model.decode, autograph=False)(z * np.nan)
  drawn = tf.function(lambda: broken.distribution.sample(2, seed=(0, 1)), autograph=False, jit_compile=True)()
  assert np.all(drawn == -1)  # outside of its support
