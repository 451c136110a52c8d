"""Wrong images: every callable that takes images raises the same error for them, in eager mode and in graphs."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import data, evaluation, training
from support.marks import exhaustive, quick_rows, slow
from support.models import MINIMAL, small_images

CONFIG = dataclasses.replace(MINIMAL, num_classes=3)
IMAGES = small_images(6).astype(np.int32)
LABELS = np.arange(6) % 3
FLOATS = IMAGES.astype(np.float32)
INTEGERS, RANGE, SHAPE = "must be integers in 0 .. 7", r"must lie in 0 .. 7 \(8 levels\), got values from", "of shape"
DIVIDED = INTEGERS + r", not scaled to 0 .. 1 \(did you divide by 255\?\), got 0"

# Images, and what the error says.
WRONG = {
  "divided": (FLOATS / 255, DIVIDED),
  "divided float64": (IMAGES / 255, DIVIDED),
  "fractional": (FLOATS + 0.5, f"{INTEGERS}, got \\d.5"),
  "negative": (IMAGES - 9, f"{RANGE} -9"),
  "negative floats": (FLOATS - 9, f"{RANGE} -9"),
  "too large": (IMAGES + 248, f"{RANGE} 248"),
  "too large uint8": ((IMAGES + 248).astype(np.uint8), f"{RANGE} 248"),
  "nan": (FLOATS * np.nan, "must be finite, got .* values that are NaN or infinite"),
  "infinite": (FLOATS + np.inf, "must be finite, got .* values that are NaN or infinite"),
  "another shape": (IMAGES[:, :2], SHAPE),
  "another number of channels": (IMAGES[..., :1], SHAPE),
  "one image": (IMAGES[0], SHAPE),
  "too many dimensions": (IMAGES[np.newaxis], SHAPE),
  "empty": (IMAGES[:0], "must (hold|be) at least (one|1)"),
}


@pytest.fixture(scope="module")
def model():
  keras.utils.set_random_seed(0)
  model = fpp.FlowPlusPlus(CONFIG)
  model.compile(keras.optimizers.SGD(0.0))
  return model


@pytest.fixture(scope="module")
def unconditional():
  keras.utils.set_random_seed(0)
  return fpp.FlowPlusPlus(MINIMAL)


def fitted(model, images, labels=LABELS):
  return model.fit({"image": images, "label": labels}, verbose=0)


# Of a model with classes.
EAGER = {
  "log_prob_bound": lambda m, x: m.log_prob_bound(x, labels=0),
  "bound_terms": lambda m, x: m.bound_terms(x, labels=0),
  "bits_per_dim": lambda m, x: m.bits_per_dim(x, labels=0),
  "initialize": lambda m, x: m.initialize(x, labels=0, overwrite=True),
  "encode": lambda m, x: m.encode(x, labels=0),
  "call": lambda m, x: m({"image": x, "label": LABELS}),
  "fit": fitted,
  "evaluate": lambda m, x: m.evaluate({"image": x, "label": LABELS}, verbose=0),
  "predict": lambda m, x: m.predict({"image": x, "label": LABELS}, verbose=0),
  "BatchedModel.encode": lambda m, x: evaluation.BatchedModel(m, labels=0).encode(x),
  "reconstruct": lambda m, x: evaluation.reconstruct(evaluation.BatchedModel(m, labels=0), x),
  "Scorer": lambda m, x: evaluation.Scorer(m)(x),
  "Scorer.log_likelihood": lambda m, x: evaluation.Scorer(m).log_likelihood(x),
  "Scorer.bits_per_dim": lambda m, x: evaluation.Scorer(m).bits_per_dim(x),
  "classify": lambda m, x: evaluation.classify(m, x, LABELS),
  "evaluate_bits_per_dim": lambda m, x: evaluation.evaluate_bits_per_dim(m, x, conditioning={"labels": 0}),
  "image_grid": lambda m, x: evaluation.image_grid(x, m.config.levels),
  "ImageDataset": lambda m, x: data.ImageDataset("wrong", m.config.levels, IMAGES, x, IMAGES),
}
EAGER_UNCONDITIONAL = {
  "distribution.log_prob": lambda m, x: m.distribution.log_prob(x),
  "distribution.prob": lambda m, x: m.distribution.prob(x),
  "compress": lambda m, x: fpp.compress(m, x),
  "train": lambda m, x: fpp.train(x, m.config),
}
# Shapes that are no mistake there.
RANKS, SIZES = ("one image", "too many dimensions"), ("another shape", "another number of channels")
TAKES = {
  "distribution.log_prob": RANKS,
  "distribution.prob": RANKS,
  "image_grid": SIZES,
  "train": (*RANKS, *SIZES),  # which makes a model for them
}


_SLOW = ("divided", "another shape")  # one of the values and one of the shape; the check of all kinds is one function
_FEW = ("initialize", "fit", "Scorer", "compress", "distribution.log_prob")


def rows():
  """Each callable with each kind of wrong images; quick ones are one callable with all, and a few with one kind."""
  for name in (*EAGER, *EAGER_UNCONDITIONAL):
    for kind in WRONG:
      if kind not in TAKES.get(name, ()):
        quick = name == "log_prob_bound" or (name in _FEW and kind == "divided")
        yield (name, kind) if quick else (slow if kind in _SLOW else exhaustive)(name, kind)


@pytest.mark.parametrize("name, kind", [*rows()])
def test_wrong_images_are_the_same_error_everywhere(request, name, kind):
  images, message = WRONG[kind]
  call = {**EAGER, **EAGER_UNCONDITIONAL}[name]
  model = request.getfixturevalue("model" if name in EAGER else "unconditional")
  with pytest.raises(fpp.InputError, match=message):
    call(model, images)


@pytest.fixture(scope="module")
def loaded(unconditional, tmp_path_factory):
  path = tmp_path_factory.mktemp("exported") / "1"
  fpp.export_saved_model(unconditional, path)
  return fpp.load_saved_model(path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", ["log_prob_bound", "bits_per_dim", "encode"])
def test_wrong_images_are_the_same_error_of_a_saved_model(loaded, name, kind):
  images, message = WRONG[kind]
  with pytest.raises(fpp.InputError, match="the number of `images` must be" if kind == "empty" else message):
    getattr(loaded, name)(images)


GRAPHS = {
  "fit": lambda m, x, y: m.fit(batches(x, y), verbose=0, shuffle=False),
  "evaluate": lambda m, x, y: m.evaluate(batches(x, y), verbose=0),
  "predict": lambda m, x, y: m.predict(batches(x, y), verbose=0),
  "call": lambda m, x, y: tf.function(m, autograph=False)({"image": tf.constant(x), "label": tf.constant(y)}),
}


def batches(images, labels):
  return tf.data.Dataset.from_tensors({"image": images, "label": labels})


def rows_of_graphs():
  """One of each in CI: every kind for one callable, and one kind for every callable."""
  for name in GRAPHS:
    for kind in WRONG:
      if (name, kind) == ("call", "divided"):
        yield name, kind
      elif kind != "empty":
        yield slow(name, kind) if name == "call" or kind == "divided" else exhaustive(name, kind)


def assert_nan_or_diverged(name, model, images, labels):
  """Training ends; other graphs give NaN."""
  if name == "fit":
    with pytest.raises(training.Diverged, match="or pixels or labels of a data set, .* are out of range"):
      GRAPHS[name](model, images, labels)
  else:
    assert np.isnan(GRAPHS[name](model, images, labels)).any()


@pytest.mark.parametrize("name, kind", [*rows_of_graphs()])
def test_wrong_images_are_an_error_or_nan_in_graphs(model, name, kind):
  images, message = WRONG[kind]
  model.initialize(IMAGES, labels=LABELS, overwrite=True)
  if message == SHAPE:
    with pytest.raises(fpp.InputError, match=f"`images` must be {SHAPE}"):
      GRAPHS[name](model, images, LABELS)
  else:
    assert_nan_or_diverged(name, model, images, LABELS)


@pytest.mark.parametrize("jit", [None, slow(True)])
def test_wrong_values_are_nan_in_graphs_of_the_bound_and_those_of_other_images_stay(unconditional, jit):
  noise = tf.constant(unconditional.sample_noise([6], 0))
  bound = tf.function(
    lambda x: unconditional.log_prob_bound(x, noise=noise), autograph=False, jit_compile=jit, reduce_retracing=True
  )
  latents = tf.function(lambda x: unconditional.encode(x, noise=noise), autograph=False, jit_compile=jit)
  kinds = ("negative", "negative floats", "too large", "too large uint8", "nan", "infinite")
  half = np.full(IMAGES.shape, 0.5, np.float32)  # which is a point that the flow's density has
  for kind, wrong in {"half a level": half, **{kind: WRONG[kind][0] for kind in kinds}}.items():
    images = np.concatenate([wrong[:1], IMAGES[1:].astype(wrong.dtype)])
    nats = bound(images).numpy()
    assert np.isnan(nats[0]), kind
    np.testing.assert_allclose(nats[1:], unconditional.log_prob_bound(IMAGES, noise=noise)[1:], rtol=1e-5)
    assert np.isnan(latents(images)[0]).any(), kind


@pytest.mark.parametrize("name", quick_rows(GRAPHS, ["fit"]))
@pytest.mark.parametrize("label", [-1, 3])
def test_wrong_labels_are_nan_in_graphs(model, name, label):
  model.initialize(IMAGES, labels=LABELS, overwrite=True)
  assert_nan_or_diverged(name, model, IMAGES, np.full(6, label))


def test_wrong_labels_of_arrays_are_an_error_before_a_step(model):
  model.initialize(IMAGES, labels=LABELS, overwrite=True)
  for label in (-1, 3):
    for inputs in (dict(x=IMAGES, y=np.full(6, label)), dict(x={"image": IMAGES, "label": np.full(6, label)})):
      with pytest.raises(fpp.InputError, match=f"`labels` must lie in 0 .. 2, got values from {label}"):
        model.fit(**inputs, verbose=0)


def test_a_distribution_gives_nan_in_graphs_for_every_kind_of_wrong_image(unconditional):
  log_prob = tf.function(unconditional.distribution.copy(validate_args=True).log_prob, autograph=False)
  for kind in ("divided", "negative", "too large uint8", "nan"):
    assert np.isnan(log_prob(WRONG[kind][0])).any()
