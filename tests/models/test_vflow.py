"""Parity with VFlow's release (Chen et al. 2020): its weights in our model give its numbers, to rounding."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf.pretrained.official import official_entries
from support.models import VARIANTS, small_config
from support.reference import reference

SMALL = dataclasses.replace(
  fpp.get_config("cifar10_vflow"),
  image_shape=(8, 8, 3),
  filters=8,
  dequant_filters=8,
  components=3,
  blocks=1,
  augment_blocks=2,
  dropout=0.0,
  dtype="float64",
)
TOLERANCE = 1e-12


@pytest.fixture(scope="module")
def data():
  return reference("vflow")


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
  path = tmp_path_factory.mktemp("weights") / "release.npz"
  np.savez(path, **data["variables"])
  model = fpp.FlowPlusPlus(SMALL)
  fpp.load_official_weights(model, path)
  return model


def noise_of(data):
  return np.concatenate([data["eps_dequant"], data["eps_augment"]], axis=-1)


def difference(ours, theirs):
  """The largest, relative to the largest number."""
  ours = np.asarray(ours)
  assert ours.shape == theirs.shape
  return np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs))


def test_bound_and_its_parts(model, data, record_property):
  x, noise = tf.cast(data["x"], tf.float64), noise_of(data)
  u, log_q = model.dequantizer.posterior(x).transform(noise[..., :3])
  logits, log_det = model.pixels_to_logit.forward_and_log_det(x + u)
  log_det = tf.reduce_sum(log_det, axis=[1, 2, 3])
  e, log_q_e = model.augmenter.posterior(logits).transform(noise[..., 3:])
  dequantized = tf.concat([x + u, e], axis=-1)
  ours = dict(
    logits=logits,
    dequant_logd=log_det - log_q,
    e=e[tf.newaxis],
    logq_e=log_q_e,
    y=model.flow.bijector.inverse(dequantized),
    logp_xz=model.flow.log_prob(dequantized) - log_det,
    total_logp=model.log_prob_bound(data["x"], noise=noise),
    bpd=model.bits_per_dim(data["x"], noise=noise),
  )
  for name, value in ours.items():
    record_property(name, float(difference(value, data[name])))
    assert difference(value, data[name]) <= TOLERANCE, name
  assert model.count_params() == 517_750


@pytest.mark.slow
def test_the_flow_without_margin_or_sigmoid_is_another_model(model, data):
  """What the config was before: some 2.5 bits/dim away."""
  for changes in (dict(coupling_margin=0.0), dict(augment_end="none")):
    other = fpp.FlowPlusPlus(small_config(SMALL, **changes))
    other.set_weights(model.get_weights())
    assert np.min(np.abs(other.bits_per_dim(data["x"], noise=noise_of(data)) - data["bpd"])) > 0.05, changes


@pytest.mark.slow
def test_float32_has_the_same_bound(model, data):
  single = fpp.FlowPlusPlus(small_config(SMALL, dtype="float32"))
  single.set_weights(model.get_weights())
  np.testing.assert_allclose(single.bits_per_dim(data["x"], noise=noise_of(data)), data["bpd"], atol=1e-4)


@pytest.mark.slow
def test_latents_give_their_images_back_and_any_latents_give_finite_ones(model, data):
  z = model.encode(data["x"], noise=noise_of(data))
  np.testing.assert_array_equal(model.decode(z), data["x"])
  # Far out, where couplings need F below 0 or above 1.
  assert np.isfinite(model.flow.bijector.forward(model.sample_latents(8, temperature=20.0, seed=0))).all()


def test_names_are_the_release_s_in_its_order_and_come_back_to_the_bit(model, data, tmp_path):
  assert [entry.name for entry in official_entries(model)] == list(data["variables"])
  path = tmp_path / "ours.npz"
  fpp.export_official_weights(model, path)
  with np.load(path) as file:
    assert set(file) == set(data["variables"])
    for key, value in data["variables"].items():
      np.testing.assert_array_equal(file[key], value)


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(coupling_margin=0.0), "with `augment_channels` has no weights for `coupling_margin` 0.0; use 0.05"),
    (dict(augment_end="none"), "with `augment_channels` .* `augment_end` none; use sigmoid"),
    (dict(augment_end="none", augment_posterior="normal"), "for `augment_posterior` normal; use flow"),
    (dict(context_attention=True), "for `context_attention` True; use False"),
    (
      dict(augment_end="none", augment_channels=0, structure="squeeze,channels:1"),
      "without `augment_channels` .* `coupling_margin` 0.05; use 0.0",
    ),
  ],
)
def test_weights_of_another_architecture_are_refused(changes, message):
  config = dataclasses.replace(VARIANTS["augmented_vflow"], **changes)
  with pytest.raises(ValueError, match=message):
    fpp.export_official_weights(fpp.FlowPlusPlus(config), "/nonexistent")


def test_the_noise_of_1x1_convolutions_is_that_of_the_config():
  kernels = [step.kernel.numpy() for step in fpp.FlowPlusPlus(SMALL).coupling_flow.steps]
  noise = np.concatenate([(kernel - np.eye(kernel.shape[-1])).ravel() for kernel in kernels])
  assert 0.008 < noise.std() < 0.012  # of 2,500 draws


def test_the_recipe_is_the_published_one():
  recipe = fpp.Recipe.load("cifar10_vflow")
  settings = dict(recipe.settings)
  assert settings["batch_size"] == settings["init_batch_size"] == 64
  assert settings["adam_epsilon"] == 1e-8 and settings["ema_decay"] == 0.999 and settings["clip_norm"] == 1
  assert settings["schedule"] == "linear:1.2e-3@2000,hold@50000,decay:0.99999:3e-4"
  assert recipe.config.dropout == 0.2
