"""Images given a label or another image: the model, its distribution, training, guidance, classification, programs."""

import dataclasses
import functools
import math
import tempfile

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from flowpp_tf import data, evaluation, training
from flowpp_tf.core.context import EvalContext
from flowpp_tf.models import bound
from support import programs
from support.comparing import assert_same
from support.marks import slow
from support.models import TINY, perturb, perturbed, small_config, small_images, value_and_log_det
from support.refusing import refuses
from support.runs import TINY_RUN
from support.training_steps import step, train_state

tfd = tfp.distributions

BY_CLASS = small_config(TINY, num_classes=3, label_dropout=0.2, condition_channels=4)
GIVEN_IMAGE = small_config(TINY, condition_shape=(2, 2, 1), condition_channels=4, condition_blocks=1)
BOTH = dataclasses.replace(
  BY_CLASS, condition_shape=(2, 2, 1), condition_blocks=1, augment_channels=2, augment_blocks=1, remat="couplings"
)
IMAGES, LABELS = small_images(4), np.array([0, 1, 2, -1])
CONDITION = np.random.RandomState(3).randn(4, 2, 2, 1)


def given_of(config, rows=slice(None)):
  given = {}
  if config.num_classes:
    given["labels"] = LABELS[rows]
  if config.condition_shape:
    given["condition"] = CONDITION[rows]
  return given


@functools.cache
def model(config):
  return perturbed(config, 0.2, dtype="float64")


configs = pytest.mark.parametrize(
  "config", [slow(BY_CLASS), GIVEN_IMAGE, slow(BOTH)], ids=["by_class", "given_image", "both"]
)


@pytest.mark.slow
def test_the_bound_is_the_change_of_variables_given_what_is_given():
  config = dataclasses.replace(BOTH, augment_channels=0, remat="off")  # see test_model.py
  made, given = model(config), given_of(config)
  noise = made.sample_noise([4], tf.constant([0, 1]))
  log_normal = lambda z: np.sum(-0.5 * z.numpy() ** 2 - 0.5 * np.log(2 * np.pi), axis=(1, 2, 3))
  q = made.dequantizer.posterior(IMAGES, labels=given.get("labels"))
  u, log_du = value_and_log_det(q.bijector.forward, noise)
  context = made.condition_net(given.get("labels"), given.get("condition"))
  z, log_dz = value_and_log_det(made.flow.given(context).bijector.inverse, IMAGES + u)
  np.testing.assert_allclose(
    made.log_prob_bound(IMAGES, noise=noise, **given), log_normal(z) + log_dz - log_normal(noise) + log_du, rtol=1e-10
  )


@configs
def test_each_image_sees_its_own_label_and_condition_alone(config):
  made, given = model(config), given_of(config)
  noise = made.sample_noise([2, 4], tf.constant([0, 1]))
  whole = made.log_prob_bound(IMAGES, noise=noise, **given)
  for i in range(4):
    row = slice(i, i + 1)
    np.testing.assert_allclose(
      made.log_prob_bound(IMAGES[row], noise=noise[:, row], **given_of(config, row)), whole[row], rtol=1e-10
    )
  for name, value in given.items():
    other = made.log_prob_bound(IMAGES, noise=noise, **{**given, name: value[::-1].copy()})
    assert np.min(np.abs(other - whole)) > 1e-4, name


@configs
def test_images_come_back_and_one_value_is_for_all(config):
  made, given = model(config), given_of(config)
  latents = made.encode(IMAGES, seed=0, **given)
  np.testing.assert_array_equal(made.decode(latents, **given), IMAGES)
  first = {name: value[0] for name, value in given.items()}
  repeated = {name: np.stack([value[0]] * 3) for name, value in given.items()}
  np.testing.assert_array_equal(made.sample(3, seed=0, **first), made.sample(3, seed=0, **repeated))


@pytest.mark.parametrize("dtype", ["int8", "uint32", "int64", "uint64"])
def test_labels_are_what_they_are_in_each_dtype_of_integers(dtype):
  labels_of = lambda labels: model(BY_CLASS).check_conditioning(labels.shape[0], labels)["labels"]
  for check in (labels_of, tf.function(labels_of)):
    np.testing.assert_array_equal(check(tf.constant([0, 2], dtype)), [0, 2])
  largest = tf.constant([tf.as_dtype(dtype).max], dtype)  # -1 of so many bits, which would stand for no label
  assert tf.function(labels_of)(largest).numpy() >= BY_CLASS.num_classes


def test_guidance_extrapolates_from_the_model_without_a_label_and_0_is_the_model_to_the_last_bit():
  made, labels = model(BY_CLASS), np.array([0, 1, 2])
  z = made.sample_latents(3, seed=0)
  decode = lambda guidance, labels: bound.from_latents(made, z, dict(labels=labels), guidance).numpy()
  plain = decode(guidance=0.0, labels=labels)
  np.testing.assert_array_equal(plain, made.flow.given(made.condition_net(labels)).bijector.forward(z))
  np.testing.assert_array_equal(decode(guidance=tf.constant(0.0), labels=labels), plain)
  # At -1 the parameters are those without a label.
  np.testing.assert_allclose(
    decode(guidance=-1.0, labels=labels), decode(guidance=0.0, labels=np.full(3, -1)), rtol=1e-9
  )
  assert np.max(np.abs(decode(guidance=2.0, labels=labels) - plain)) > 1e-3
  assert np.any(made.sample(3, seed=0, labels=labels, guidance=30.0) != made.sample(3, seed=0, labels=labels))


@pytest.mark.slow
def test_the_distribution_given_labels_has_their_batch():
  """Its slices, and joint distributions of it, are in test_distribution_contract.py."""
  made = model(BY_CLASS)
  images = made.given(labels=[0, 1, 2])
  assert images.batch_shape == (3,) and images.sample(2, seed=1).shape == (2, 3, 4, 4, 2)
  noise = made.sample_noise([1, 1], 0)
  bound = lambda image, label: made.log_prob_bound(image[np.newaxis], noise=noise, seed=0, labels=label)[0]
  table = np.array([[bound(image, label) for label in range(3)] for image in IMAGES])
  np.testing.assert_allclose(images.log_prob(IMAGES[:, np.newaxis]), table, rtol=1e-10)
  classes = tfd.Categorical(probs=tf.constant([0.5, 0.25, 0.25], tf.float64))
  joint = tfd.JointDistributionNamed(dict(y=classes, x=lambda y: made.given(labels=y)))
  assert joint.sample(3, seed=(1, 2))["x"].shape == (3, 4, 4, 2)
  np.testing.assert_allclose(joint.log_prob(y=[1], x=IMAGES[:1]), np.log(0.25) + table[:1, 1], rtol=1e-10)


# --- Training -------------------------------------------------------------------------------------


def batch(count, config):
  given = {"label": tf.constant(np.arange(count) % 3, tf.int32)} if config.num_classes else {}
  if config.condition_shape:
    given["condition"] = tf.constant(np.random.RandomState(0).randn(count, 2, 2, 1), tf.float32)
  return {"image": tf.constant(small_images(count)), **given}


@pytest.mark.slow
def test_a_step_in_microbatches_is_that_of_the_whole_batch():
  config = dataclasses.replace(BOTH, dropout=0.0, remat="off")
  states = [train_state(config, accumulate=accumulate, ema_decay=None) for accumulate in (1, 2)]
  for state in states:
    take = tf.function(functools.partial(training.train_step, state), autograph=False)
    for _ in range(2):
      take(batch(8, config))
  assert_same(*(state.variables for state in states), rtol=2e-4, atol=2e-5)


def test_training_leaves_labels_out_by_their_place_in_the_batch():
  made = fpp.FlowPlusPlus(dataclasses.replace(BY_CLASS, label_dropout=0.3))
  labels = tf.ones([4000], tf.int32)
  at = lambda first, seed=0: EvalContext(True, tf.constant([seed, 1]), first)
  drop = lambda labels, ctx: bound.with_label_dropout(made, dict(labels=labels), ctx)["labels"]
  dropped = drop(labels, at(0)).numpy()
  assert set(dropped) == {1, -1} and abs(np.mean(dropped == -1) - 0.3) < 6 * math.sqrt(0.21 / 4000)
  np.testing.assert_array_equal(drop(labels[1000:], at(1000)), dropped[1000:])
  assert np.any(drop(labels, at(0, seed=1)) != dropped)
  np.testing.assert_array_equal(drop(labels, EvalContext()), labels)


def labelled_dataset():
  """Two classes that a model can tell apart: dark images and bright ones."""

  def split(count, seed):
    labels = np.random.RandomState(seed).randint(0, 2, count).astype(np.int32)
    images = np.random.RandomState(seed + 10).randint(0, 3, [count, 4, 4, 2]) + 5 * labels[:, None, None, None]
    return images.astype(np.uint8), labels

  images, labels = zip(*(split(count, seed) for seed, count in enumerate((64, 16, 32))))
  return data.ImageDataset("shades", 8, *images, labels=dict(zip(data.SPLITS, labels)), classes=("dark", "bright"))


@pytest.mark.exhaustive
@pytest.mark.slow  # the parts of a run with labels have tests of their own here
def test_a_run_learns_what_labels_are_worth(tmp_path):
  dataset = labelled_dataset()
  config = dataclasses.replace(BY_CLASS, num_classes=2, label_dropout=0.2, dropout=0.0)
  settings = training.TrainingConfig(
    steps=60, batch_size=32, validate_every=30, learning_rate=5e-3, ema_decay=0.9, tensorboard=("samples",)
  )
  said = []
  training.run_training(config, settings, dataset, training.Workdir(tmp_path), log_fn=said.append)
  again = training.run_training(config, settings, dataset, training.Workdir(tmp_path), log_fn=said.append)
  assert "resumed at step 60 of 60" in said and math.isfinite(again)
  made, _ = training.Workdir(tmp_path).load()
  result = evaluation.classify(made, dataset.test, dataset.labels["test"], num_samples=2)
  # A half of the pixels tells a coupling the class: the label is worth one bit, 1 / 32 bits/dim.
  assert result.accuracy > 0.7 and 2 * result.gain_error < result.gain < 1.5 / 32
  assert "accuracy by likelihood 0." in str(result)
  # The likelihood of an image is the mean of those given each class.
  scorer = evaluation.Scorer(made, 2)
  table = scorer.class_log_likelihoods(dataset.test)
  assert table.shape == (32, 3)
  np.testing.assert_allclose(scorer.log_likelihood(dataset.test), np.log(np.exp(table[:, :2]).mean(axis=1)), rtol=1e-9)


def test_one_image_says_nothing_of_the_error_of_an_accuracy():
  of = lambda images: str(evaluation.Classification(images, 1, images, 1.75, None, None, None))
  assert "accuracy by likelihood 1.0000 (1 of 1 images)" in of(1)
  assert "accuracy by likelihood 1.0000 +- 0.0000 (2 of 2 images)" in of(2)


@pytest.mark.slow
def test_a_run_makes_the_condition_of_each_image(tmp_path):
  dataset = labelled_dataset()
  mean = lambda images: tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2, 3], keepdims=True) / 4 - 1
  config = dataclasses.replace(GIVEN_IMAGE, condition_shape=(1, 1, 1), dropout=0.0)
  settings = training.TrainingConfig(steps=40, batch_size=32, validate_every=20, learning_rate=5e-3, ema_decay=0.9)
  with pytest.raises(fpp.InputError, match="`condition` must be given"):
    training.run_training(config, settings, dataset, training.Workdir(tmp_path), log_fn=lambda line: None)
  training.run_training(config, settings, dataset, training.Workdir(tmp_path), condition=mean, log_fn=lambda line: None)
  made, _ = training.Workdir(tmp_path).load()
  condition = mean(dataset.test)
  bits = lambda condition: evaluation.evaluate_bits_per_dim(made, dataset.test, conditioning={"condition": condition})
  assert bits(condition).best.bits_per_dim < bits(-condition.numpy()).best.bits_per_dim - 0.1


@pytest.mark.slow
def test_batches_with_labels_are_taken_by_two_devices():
  losses = []
  for devices in (1, 2):
    state = train_state(BY_CLASS, devices, ema_decay=None)
    losses.append([step(state, batch(8, BY_CLASS))["bits_per_dim"] for _ in range(3)])
  np.testing.assert_allclose(*losses, rtol=1e-5)


# --- Errors and programs --------------------------------------------------------------------------


@pytest.mark.parametrize(
  "config, evaluate, message",
  [
    (TINY, lambda m: m.sample(2, labels=0), "`labels` must be None: this model takes none"),
    (TINY, lambda m: m.log_prob_bound(IMAGES, condition=CONDITION), "`condition` must be None"),
    (BY_CLASS, lambda m: m.sample(2), "`labels` must be given"),
    (GIVEN_IMAGE, lambda m: m.sample(4, condition=CONDITION, guidance=1.0), "was not trained without labels"),
    (dataclasses.replace(BY_CLASS, label_dropout=0.0), lambda m: m.sample(1, labels=-1), "-1, no label, is for"),
    (BY_CLASS, lambda m: fpp.compress(m, IMAGES), "cannot compress"),
    (BY_CLASS, lambda m: fpp.models.unpack_batch({"label": LABELS}, m.config), 'must have the key "image", got'),
    (TINY, lambda m: evaluation.classify(m, IMAGES, LABELS), "must be one of images given a class"),
  ],
)
def test_what_does_not_fit_is_an_error(config, evaluate, message):
  refuses(message, evaluate, model(config))


@pytest.mark.parametrize(
  "fields, message",
  [
    (dict(label_dropout=0.1), "`label_dropout` must be 0 for a model without labels"),
    (dict(condition_shape=(3, 2, 1)), "`condition_shape` must be of a height and width that divide"),
    (dict(condition_shape=(2, 2)), "`condition_shape` must be empty or three positive integers"),
  ],
)
def test_configs_without_meaning_are_errors(fields, message):
  refuses(message, small_config, TINY, **fields)


@pytest.mark.slow
def test_the_programs_know_labels(tmp_path):
  small = [*TINY_RUN, "--steps=2", "--eval_images=8", "--label_dropout=0.1", "--condition_channels=4"]
  run, refused = (functools.partial(call, cwd=tmp_path) for call in (programs.call, programs.refusal))
  assert "`label_dropout` must be 0 for a model without labels" in refused("train", *small)
  assert "10 classes" in refused("train", *small, "--num_classes=9")
  assert "10 classes" in run("train", *small, "--labels").ok().out
  assert (tmp_path / "runs" / "digits" / "samples.png").exists()
  run("sample", "--workdir=runs/digits", "--labels=0,1,-1", "--guidance=1", "--n=3", "--npy=rows.npy").ok()
  assert np.load(tmp_path / "rows.npy").shape == (3, 3, 8, 8, 1)
  run("sample", "--workdir=runs/digits", "--labels=1,2", "--temperature=0.5,1", "--n=3", "--npy=rows.npy").ok()
  assert np.load(tmp_path / "rows.npy").shape == (4, 3, 8, 8, 1)
  evaluated = run("evaluate", "--workdir=runs/digits", "--limit=8", "--classify").ok()
  assert "accuracy by likelihood" in evaluated.out
  assert run("sample", "--workdir=runs/digits", "--reconstruct=test:0", "--labels=3").code == 0
  for arguments, message in (
    (["sample", "--labels=a"], "`labels` must be integers"),
    (["sample", "--labels=12"], "must lie in -1 .. 9"),
    (["sample", "--labels=1,2", "--neighbours=1"], "`labels` must be one label"),
  ):
    assert message in refused(*arguments, "--workdir=runs/digits")
  few = ["--limit=4", "--num_samples=1", "--typical_images=4"]
  scored = run("score", "--workdir=runs/digits", "--dataset=digits", *few).ok()
  assert len(scored.out.splitlines()) == 5


@pytest.mark.slow
@pytest.mark.docs
def test_the_snippets_of_the_page_run(capsys, tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  programs.run_page("docs/conditional.md")
  lines = capsys.readouterr().out.splitlines()
  assert [lines[0], lines[1], lines[3]] == ["(4,)", "(20, 8, 8, 1)", "(3, 8, 8, 1)"] and "batch_shape=[3]" in lines[2]


# --- Without the package, and on the page ---------------------------------------------------------


@pytest.mark.slow
def test_a_saved_model_takes_what_images_are_given(tmp_path):
  config = dataclasses.replace(BOTH, augment_channels=0, remat="off")
  made = perturbed(config)
  fpp.export(made, tmp_path / "1")
  loaded = fpp.load_saved_model(tmp_path / "1")
  given = {
    name: np.asarray(value[[0, 1, 2, 0]], np.int32 if name == "labels" else np.float32)
    for name, value in given_of(config).items()
  }
  np.testing.assert_array_equal(loaded.sample(4, seed=3, **given), made.sample(4, seed=3, **given))
  np.testing.assert_allclose(
    loaded.bits_per_dim(IMAGES, seed=0, **given), made.bits_per_dim(IMAGES, seed=0, **given), rtol=1e-5
  )
  z = loaded.encode(IMAGES, seed=0, **given)
  np.testing.assert_array_equal(loaded.decode(z, **given), IMAGES)
  for change, message in (
    (dict(labels=[0, 1, 2, 3]), "`labels` must lie in"),
    (dict(labels=[0, 1]), "`labels` must be one for each image, got 2"),
    (dict(condition=given["condition"].astype(np.float64) + 1e300), "`condition` must be finite, got "),
    (dict(other=1), "`other` must be left out"),
  ):
    refuses(message, loaded.sample, 4, seed=3, **{**given, **change})
  refuses("`labels` must be given: this is a model", loaded.sample, 4, seed=3)
  given["condition"][2, 0] = np.nan
  for answer in (lambda m: m.encode(IMAGES, **given), lambda m: m.sample(4, **given)):
    with pytest.raises(tf.errors.InvalidArgumentError, match="`condition` must be finite, got"):
      answer(loaded.saved_model)


@pytest.mark.slow
def test_the_page_draws_a_class_or_all_of_them(tmp_path):
  from flowpp_tf.demo.answers import DemoHandlers
  from flowpp_tf.demo.engine import Engine, SavedModelEngine

  made = perturb(fpp.FlowPlusPlus(dataclasses.replace(BY_CLASS, image_shape=(4, 4, 1))))  # of which pictures exist
  images = small_images(4, made.config)
  fpp.export(made, tmp_path / "1", max_batch=8)
  grid = lambda labels: np.asarray(
    evaluation.image_grid(evaluation.BatchedModel(made).sample(6, 0.7, 3, labels=labels), 8)
  )
  engines = Engine(made, 2), SavedModelEngine(fpp.load_saved_model(tmp_path / "1"), 2)
  for engine in engines:
    answers = DemoHandlers(engine, tmp_path)
    np.testing.assert_array_equal(answers.samples(6, 0.7, 3, 1), grid(np.full(6, 1)))
    np.testing.assert_array_equal(answers.samples(6, 0.7, 3), grid(np.arange(6) % 3))
    refuses("the class must be from 0 to 2", answers.samples, 6, 0.7, 3, 3)
    np.testing.assert_array_equal(engine.decode(engine.encode(images, seed=0)), images)
  ours, theirs = (engine.scores(images)["log_likelihood"] for engine in engines)
  assert np.all(np.isfinite(ours)) and ours.shape == theirs.shape == (4,)
