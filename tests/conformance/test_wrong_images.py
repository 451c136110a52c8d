"""Wrong images: every callable that takes images raises the same error for them, in eager mode and in graphs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import data, evaluation, training
from support.marks import quick_rows, slow
from support.models import MINIMAL, small_config, small_images
from support.refusing import refuses

CONFIG = small_config(num_classes=3)
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
  model = fpp.FlowPlusPlus(CONFIG)
  model.compile(keras.optimizers.SGD(0.0))
  return model


@pytest.fixture(scope="module")
def unconditional():
  return fpp.FlowPlusPlus(MINIMAL)


@pytest.mark.parametrize("kind", WRONG)
def test_the_error_says_what_is_wrong_with_images(model, kind):
  """That every callable refuses them is in test_wrong_arguments.py."""
  images, message = WRONG[kind]
  refuses(message, model.log_prob_bound, images, labels=0)


def test_divided_images_are_the_same_error_at_every_kind_of_door(model, unconditional):
  images, message = WRONG["divided"]
  for call in (
    lambda: model.initialize(images, labels=0, overwrite=True),
    lambda: model.fit({"image": images, "label": LABELS}, verbose=0),
    lambda: unconditional.distribution.log_prob(images),
    lambda: evaluation.Scorer(unconditional)(images),
    lambda: evaluation.image_grid(images, 8),
    lambda: data.ImageDataset("wrong", 8, IMAGES, images, IMAGES),
    lambda: fpp.compress(unconditional, images),
    lambda: fpp.train(images, unconditional.config),
  ):
    refuses(message, call)


GRAPHS = {
  "fit": lambda m, x, y: m.fit(batches(x, y), verbose=0, shuffle=False),
  "evaluate": lambda m, x, y: m.evaluate(batches(x, y), verbose=0),
  "predict": lambda m, x, y: m.predict(batches(x, y), verbose=0),
  "call": lambda m, x, y: tf.function(m, autograph=False)({"image": tf.constant(x), "label": tf.constant(y)}),
}


def batches(images, labels):
  return tf.data.Dataset.from_tensors({"image": images, "label": labels})


def assert_nan_or_diverged(name, model, images, labels):
  """Training ends; other graphs give NaN."""
  if name == "fit":
    with pytest.raises(training.Diverged, match="or pixels or labels of a data set, .* are out of range"):
      GRAPHS[name](model, images, labels)
  else:
    assert np.isnan(GRAPHS[name](model, images, labels)).any()


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
      refuses(f"`labels` must lie in 0 .. 2, got values from {label}", model.fit, **inputs, verbose=0)


def test_a_distribution_gives_nan_in_graphs_for_every_kind_of_wrong_image(unconditional):
  log_prob = tf.function(unconditional.distribution.copy(validate_args=True).log_prob, autograph=False)
  for kind in ("divided", "negative", "too large uint8", "nan"):
    assert np.isnan(log_prob(WRONG[kind][0])).any()
