"""Parity with the releases of Flow++ and of VFlow (Chen et al. 2020): their weights in our model give their numbers."""

import collections
import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from flowpp_tf import bijectors as fb
from flowpp_tf.core.context import EvalContext
from flowpp_tf.pretrained import official
from support.comparing import assert_same
from support.marks import quick_rows, slow
from support.models import TINY, VARIANTS, small_config
from support.programs import REFERENCE

SMALL = dict(image_shape=(8, 8, 3), filters=8, dequant_filters=8, components=3, dropout=0.0, dtype="float64")
REFERENCES = {  # the published config and the sizes that were reduced
  "cifar10": ("cifar10", dict(blocks=2)),
  "imagenet32": ("imagenet32", dict(blocks=1)),
  "imagenet64": ("imagenet64", dict(blocks=2, image_shape=(16, 16, 3))),
  "ablation_uniform": ("cifar10_uniform_dequantization", dict(blocks=2)),
  "vflow": ("cifar10_vflow", dict(blocks=1, augment_blocks=2)),
}
OF_FLOWPP = [name for name in REFERENCES if name != "vflow"]
every_release = pytest.mark.parametrize("loaded", quick_rows(REFERENCES, ["cifar10"]), indirect=True)
of_flowpp = pytest.mark.parametrize("loaded", quick_rows(OF_FLOWPP, ["cifar10"]), indirect=True)
of_vflow = pytest.mark.parametrize("loaded", ["vflow"], indirect=True)


def reference(name):
  """The arrays of a reference in tests/reference, with `variables`: the release's weights by name."""
  with np.load(REFERENCE / f"{name}.npz") as file:
    arrays = dict(file)
  flat = np.ascontiguousarray(arrays.pop("weights").T).view(np.float16).ravel().astype(np.float64)
  variables = {}
  for key, shape in json.loads(str(arrays["index"])):
    size = int(np.prod(shape))
    variables[key], flat = flat[:size].reshape(shape), flat[size:]
  assert flat.size == 0
  return {**arrays, "variables": variables}


def config_of(name, **changes):
  config_name, sizes = REFERENCES[name]
  return dataclasses.replace(fpp.get_config(config_name), **{**SMALL, **sizes, **changes})


def model_of(name, path, variables, **changes):
  """Our model with the release's weights, by way of an .npz as it is published."""
  model = fpp.FlowPlusPlus(config_of(name, **changes))
  np.savez(path, **variables)
  fpp.load_official_weights(model, path)
  return model


@pytest.fixture(scope="module")
def loaded(request, tmp_path_factory):
  data = reference(request.param)
  path = tmp_path_factory.mktemp("weights") / "release.npz"
  model = model_of(request.param, path, data["variables"])
  names = ["eps_dequant", "eps_augment"] if request.param == "vflow" else ["eps" if "eps" in data else "u"]
  noise = np.concatenate([data[name] for name in names], axis=-1)
  return request.param, model, data, noise


def close(ours, theirs, tolerance=1e-8):
  """Relative to each number, or to a thousandth of the largest beside it."""
  ours, theirs = np.asarray(ours), np.asarray(theirs)
  assert ours.shape == theirs.shape
  scale = np.maximum(np.abs(theirs), 1e-3 * np.max(np.abs(theirs)) or 1.0)
  assert np.max(np.abs(ours - theirs) / scale) <= tolerance


@of_flowpp
def test_bound_and_its_parts(loaded):
  _, model, data, noise = loaded
  u, log_q = model.dequantizer.posterior(data["x"]).transform(noise)
  close(data["x"] + u, data["dequantized"])
  close(-log_q, np.broadcast_to(data["dequant_logd"], log_q.shape))
  x = tf.constant(data["dequantized"])
  z = model.flow.bijector.inverse(x)
  close(z, data["z"])
  close(model.flow.bijector.inverse_log_det_jacobian(x, 3), data["main_logd"])
  close(model.flow.distribution.log_prob(z), data["logp_z"])
  close(model.log_prob_bound(data["x"], noise=noise), data["total_logp"])
  close(model.bits_per_dim(data["x"], noise=noise), data["bpd"])


@of_flowpp
def test_log_det_of_every_step(loaded):
  _, model, data, noise = loaded
  ours = []

  def walk(parts, x, call):
    for part in parts:
      part_kwargs = dict(ctx=call) if isinstance(part, fb.Coupling) else {}
      if isinstance(part, (fb.ActNorm, fb.Invertible1x1Conv, fb.Coupling, fb.PixelsToLogit, tfp.bijectors.Sigmoid)):
        log_det = part.forward_log_det_jacobian(x, 3, **part_kwargs)
        ours.append(np.broadcast_to(log_det, len(x)))
      x = part.forward(x, **part_kwargs)

  if model.config.dequantization == "variational":
    flow = model.dequantizer.coupling_flow
    context = model.dequantizer.context_net(tf.constant(data["x"]))
    walk([*flow.bijector.bijectors[::-1], tfp.bijectors.Sigmoid()], tf.constant(noise), EvalContext(condition=context))
  walk(
    [fb.PixelsToLogit(model.config.levels), *model.coupling_flow.bijector.bijectors[::-1]],
    tf.constant(data["dequantized"]),
    None,
  )
  assert len(ours) == len(json.loads(str(data["steps"])))
  for one, other in zip(ours, data["step_logd"]):
    close(one, other)


@of_flowpp
def test_gradient_norm_of_every_variable(loaded):
  _, model, data, noise = loaded
  entries = list(official.official_entries(model))
  variables = {id(e.variable): e.variable for e in entries}
  with tf.GradientTape() as tape:
    loss = -tf.reduce_mean(model.log_prob_bound(data["x"], noise=noise))
  gradients = dict(zip(variables, tape.gradient(loss, [v.value for v in variables.values()])))
  norms = [
    0.0 if gradients[id(e.variable)] is None else np.linalg.norm(gradients[id(e.variable)].numpy()[e.index])
    for e in entries
  ]
  close(norms, data["grad_norm"])


@of_flowpp
def test_sample_of_a_latent(loaded):
  _, model, data, _ = loaded
  z = tf.constant(data["z_rand"])
  close(model.flow.bijector.forward(z), data["sample_from_z_rand"], 1e-6)
  close(model.flow.bijector.forward_log_det_jacobian(z, 3), data["sample_logd"], 1e-6)


@every_release
def test_bits_per_dim_in_float32(loaded, tmp_path):
  name, _, data, noise = loaded
  model = model_of(name, tmp_path / "release.npz", data["variables"], dtype="float32")
  np.testing.assert_allclose(model.bits_per_dim(data["x"], noise=noise), data["bpd"], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10", "imagenet32"])
def test_data_dependent_initialisation(name, tmp_path):
  data = reference(f"{name}_init")
  model = model_of(name, tmp_path / "raw.npz", data["variables"])
  bound = model.initialize(data["x_init"], noise=data["eps_init"], overwrite=True)
  close(bound, data["init_total_logp"], 1e-9)
  entries = {e.name: e for e in official.official_entries(model)}
  for i, (key, shape) in enumerate(json.loads(str(data["index"]))):
    ours = np.asarray(entries[key].variable)[entries[key].index].reshape(shape)
    tolerance = 1e-6 if data["stored"][i] == 4 else 1e-9
    # Biases of layers right after a layer norm of zero mean are rounding errors, about 1e-17.
    np.testing.assert_allclose(np.linalg.norm(ours), data["norm"][i], rtol=tolerance, atol=1e-14)
    np.testing.assert_allclose(
      ours.ravel()[data["position"][i]], data["value"][i], rtol=tolerance, atol=1e-14 + tolerance * np.max(np.abs(ours))
    )


@every_release
def test_export_and_import_change_no_bit(loaded, tmp_path):
  _, model, data, _ = loaded
  assert [entry.name for entry in official.official_entries(model)] == list(data["variables"])
  path = tmp_path / "ours.npz"
  fpp.export_official_weights(model, path)
  with np.load(path) as file:
    assert set(file) == set(data["variables"])
    for key, value in data["variables"].items():
      assert file[key].dtype == np.float64
      np.testing.assert_array_equal(file[key], value)
  again = fpp.FlowPlusPlus(model.config)
  fpp.load_official_weights(again, path)
  assert_same(again.get_weights(), model.get_weights())


def test_arrays_that_do_not_fit_are_listed_and_nothing_is_set(tmp_path):
  data = reference("ablation_uniform")
  path = tmp_path / "weights.npz"
  model = model_of("ablation_uniform", path, data["variables"])
  before = model.get_weights()
  variables = dict(data["variables"])
  variables["Norm_9/norm0/g"] = variables.pop("Norm/norm0/g")
  variables["Pointwise/W0"] = np.zeros([2, 3])
  np.savez(path, **variables)
  with pytest.raises(ValueError) as error:
    fpp.load_official_weights(model, path)
  for part in (
    "3 arrays: Norm/norm0/g is missing, expected (8, 4, 3); ",
    "Pointwise/W0 is (2, 3), expected (3, 3); ",
    "Norm_9/norm0/g is (8, 4, 3), expected none",
  ):
    assert part in str(error.value)
  assert_same(model.get_weights(), before)
  path.write_bytes(b"no archive")
  with pytest.raises(ValueError, match="cannot be read: File is not a zip file"):
    fpp.load_official_weights(model, path)


UNIFORM = small_config(TINY, dequantization="uniform")
VFLOW = small_config(VARIANTS["augmented_vflow"], structure="channels:1")


@pytest.mark.parametrize(
  "base, changes, message",
  [
    (UNIFORM, dict(num_classes=3, condition_channels=4), "no names for 1 weights of the model, .*embedding/table"),
    (UNIFORM, dict(levels=2**16, pixel_transform="asinh"), "no names for 2 weights of the model, the first .*offset"),
    slow(UNIFORM, dict(dequantization="none"), "no names for 2 weights of the model, the first .*mean"),
    (UNIFORM, dict(padding="periodic"), "no weights for `padding` periodic; use zeros"),
    (VFLOW, dict(coupling_margin=0.0), "with `augment_channels` has no weights for `coupling_margin` 0.0; use 0.05"),
    slow(VFLOW, dict(augment_end="none"), "with `augment_channels` .* `augment_end` none; use sigmoid"),
    (VFLOW, dict(augment_end="none", augment_posterior="normal"), "for `augment_posterior` normal; use flow"),
    slow(VFLOW, dict(context_attention=True), "for `context_attention` True; use False"),
    (
      VFLOW,
      dict(augment_end="none", augment_channels=0, structure="squeeze,channels:1"),
      "without `augment_channels` .* `coupling_margin` 0.05; use 0.0",
    ),
  ],
)
def test_a_model_with_weights_that_the_release_lacks_is_refused(tmp_path, base, changes, message):
  with pytest.raises(fpp.InputError, match=message):
    fpp.export_official_weights(fpp.FlowPlusPlus(small_config(base, **changes)), tmp_path / "weights.npz")


@pytest.mark.slow
def test_every_published_model_has_a_name_for_each_weight_once():
  for name in ("cifar10", "imagenet64", "cifar10_affine_coupling", "cifar10_no_attention"):
    config = dataclasses.replace(fpp.get_config(name), filters=4, dequant_filters=4, blocks=1, components=2)
    model = fpp.FlowPlusPlus(config)
    entries = list(official.official_entries(model))
    assert len({e.name for e in entries}) == len(entries)
    covered = collections.Counter()
    for entry in entries:
      covered[id(entry.variable)] += int(np.prod(entry.shape))
    assert covered == {id(v): int(np.prod(v.shape)) for v in model.weights}


# --- VFlow --------------------------------------------------------------------------------------


def difference(ours, theirs):
  """The largest, relative to the largest number."""
  ours = np.asarray(ours)
  assert ours.shape == theirs.shape
  return np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs))


@of_vflow
def test_bound_of_augmented_images_and_its_parts(loaded, record_property):
  _, model, data, noise = loaded
  x = tf.cast(data["x"], tf.float64)
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
    assert difference(value, data[name]) <= 1e-12, name
  assert model.count_params() == 517_750


@pytest.mark.slow
@of_vflow
def test_the_flow_without_margin_or_sigmoid_is_another_model(loaded):
  """What the config was before: some 2.5 bits/dim away."""
  _, model, data, noise = loaded
  for changes in (dict(coupling_margin=0.0), dict(augment_end="none")):
    other = fpp.FlowPlusPlus(config_of("vflow", **changes))
    other.set_weights(model.get_weights())
    assert np.min(np.abs(other.bits_per_dim(data["x"], noise=noise) - data["bpd"])) > 0.05, changes


@pytest.mark.slow
@of_vflow
def test_latents_give_their_images_back_and_any_latents_give_finite_ones(loaded):
  _, model, data, noise = loaded
  z = model.encode(data["x"], noise=noise)
  np.testing.assert_array_equal(model.decode(z), data["x"])
  # Far out, where couplings need F below 0 or above 1.
  assert np.isfinite(model.flow.bijector.forward(model.sample_latents(8, temperature=20.0, seed=0))).all()


def test_the_noise_of_1x1_convolutions_is_that_of_the_config():
  config = config_of("vflow", dequantization="uniform", attention=False)
  kernels = [step.kernel.numpy() for step in fpp.FlowPlusPlus(config).coupling_flow.steps]
  noise = np.concatenate([(kernel - np.eye(kernel.shape[-1])).ravel() for kernel in kernels])
  assert 0.008 < noise.std() < 0.012  # of 2,500 draws


def test_the_recipe_is_the_published_one():
  recipe = fpp.Recipe.load("cifar10_vflow")
  settings = dict(recipe.settings)
  assert settings["batch_size"] == settings["init_batch_size"] == 64
  assert settings["adam_epsilon"] == 1e-8 and settings["ema_decay"] == 0.999 and settings["clip_norm"] == 1
  assert settings["schedule"] == "linear:1.2e-3@2000,hold@50000,decay:0.99999:3e-4"
  assert recipe.config.dropout == 0.2
