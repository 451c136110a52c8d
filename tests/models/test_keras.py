"""Keras' `fit`, `evaluate` and `predict` of the model hide no failure."""

import dataclasses
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import data, training
from support.comparing import assert_same
from support.marks import quick_rows, slow
from support.models import TINY, perturbed, small_config, small_images
from support.refusing import refuses

# Little to trace: most tests are of what Keras does around a model.
CONFIG = small_config(TINY, structure="columns:1", dequantization="uniform", attention=False, components=2, dropout=0.0)
IMAGES = small_images(16)
MARKED = np.full_like(IMAGES[:1], 7)  # the image at which `spoil` spoils a step


def compiled(optimizer="adam", config=CONFIG, devices=1, data=IMAGES, **options):
  """A compiled model adapted to data, on one device or on two mirrored ones, with the same noise in all steps."""
  with training.get_strategy("one" if devices == 1 else "mirrored").scope():
    keras.utils.set_random_seed(0)
    model = fpp.FlowPlusPlus(config)
    model.sample_noise = lambda shape, seed: tf.fill([*shape, *config.image_shape], 0.4)
    model.compile(optimizer() if callable(optimizer) else optimizer, **options)
  if data is not None:
    model.adapt(data)
  return model


def fit(model, x=IMAGES, **options):
  """The history of a training, in batches of 4 where those are not made."""
  made = isinstance(x, (tf.data.Dataset, keras.utils.PyDataset))
  options = {**({} if made else {"batch_size": 4}), "shuffle": False, "verbose": 0, **options}
  return model.fit(x, **options).history


def state_of(model):
  """Weights, moments, EMA weights, iterations, but no loss scale."""
  optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
  return [np.array(v) for v in (*model.weights, *optimizer.variables)]


def batches(x):
  return tf.data.Dataset.from_tensor_slices(x).batch(4)


def adam_with_ema():
  return keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.5)


def without_steps():
  return keras.optimizers.SGD(0.0)


# --- Pixels -------------------------------------------------------------------------------------

WRONG = {
  "too large": (IMAGES.astype(np.float32) * 100, r"`images` must .* 0 \.\. 7\D.*got"),
  "negative": (IMAGES.astype(np.float32) - 1, r"`images` must .* 0 \.\. 7\D.*got.* -1"),
  "divided": (IMAGES / np.float32(255), r"`images` must be integers in 0 \.\. 7, .*divide by 255\?.*, got 0\."),
  "not integers": (IMAGES + np.float32(0.5), r"`images` must be integers in 0 \.\. 7, got \d\.5"),
  "nan": (IMAGES * np.float32("nan"), "`images` must .*(NaN|nan)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_pixels_of_arrays_are_an_error_before_anything_is_done(trained, name):
  images, message = WRONG[name]
  before = state_of(trained)
  for call in (
    lambda: fit(trained, images),
    lambda: fit(trained, {"image": images}),
    lambda: fit(trained, tf.constant(images)),
    lambda: fit(trained, validation_data=images),
    lambda: fit(trained, validation_data=(images, None)),
    lambda: trained.evaluate(images, verbose=0),
    lambda: trained.predict({"image": images}, verbose=0),
  ):
    refuses(message, call)
  assert_same(state_of(trained), before)


@pytest.fixture(scope="module")
def trained():
  model = compiled(without_steps)
  fit(model, batches(IMAGES.astype(np.float32)))
  return model


@pytest.mark.parametrize("name", quick_rows(WRONG, ["divided"]))
def test_wrong_pixels_of_a_data_set_give_nan_end_fit_and_change_nothing(trained, name):
  images, _ = WRONG[name]
  wrong = np.any((images != np.floor(images)) | ~((images >= 0) & (images < 8)), axis=(1, 2, 3))
  before = state_of(trained)
  with pytest.raises(training.Diverged, match="or pixels or labels of a data set, .* are out of range"):
    fit(trained, batches(np.repeat(images[wrong], 10, axis=0)))
  assert np.isnan(trained.evaluate(batches(images), verbose=0)).all()
  np.testing.assert_array_equal(np.isnan(trained.predict(batches(images), verbose=0)), wrong)
  assert_same(state_of(trained), before)


@pytest.mark.parametrize("jit", [None, slow(True)])
def test_wrong_pixels_in_some_images_give_nan_for_these_and_end_fit(jit):
  config = dataclasses.replace(CONFIG, coupling="affine")  # which XLA compiles in less time
  model = compiled(lambda: keras.optimizers.SGD(1.0), config, jit_compile=jit, max_skipped=2)
  before = model.get_weights()
  wrong = IMAGES.copy()
  wrong[[1, 7]] += 100
  np.testing.assert_array_equal(np.isnan(model.predict(batches(wrong), verbose=0)), np.isin(np.arange(16), [1, 7]))
  with pytest.raises(training.Diverged, match="the last 2 steps were not finite"):
    fit(model, batches(wrong))
  assert_same(model.get_weights(), before)


# --- Steps that are not finite ------------------------------------------------------------------


def spoil(model, what):
  """Make the bound, or its gradients only, not finite in steps that see the marked image."""
  log_prob_bound = model.log_prob_bound

  @tf.custom_gradient
  def with_gradient_times(x, factor):
    return tf.identity(x), lambda g: (g * factor, None)

  def spoiled(images, **options):
    bound = log_prob_bound(images, **options)
    factor = tf.where(tf.reduce_any(tf.reduce_all(images == 7, axis=[1, 2, 3])), np.float32("nan"), 1.0)
    return bound * factor if what == "loss" else with_gradient_times(bound, factor)

  model.log_prob_bound = spoiled
  return model


MODES = {
  "graph": {},
  "eager": dict(run_eagerly=True),
  "executions": dict(steps_per_execution=3),
  "mirrored": dict(devices=2),
}
WITH_MARKED = np.concatenate([IMAGES[:7], MARKED, IMAGES[4:12]])  # in the second of four steps, on the second device


@pytest.fixture(scope="module")
def state_without_the_marked_step():
  model = compiled(adam_with_ema)
  fit(model, np.concatenate([WITH_MARKED[:4], WITH_MARKED[8:]]))
  return state_of(model)


@pytest.mark.parametrize(
  "mode, what",
  [
    slow("graph", "loss"),
    slow("graph", "gradients"),
    slow("eager", "gradients"),
    slow("executions", "loss"),
    # the loss scale has two devices, below
    slow("mirrored", "gradients"),
  ],
)
def test_a_step_that_is_not_finite_changes_nothing_and_counts_as_nan(state_without_the_marked_step, mode, what):
  model = spoil(compiled(adam_with_ema, **MODES[mode]), what)
  logs = fit(model, WITH_MARKED)
  assert np.isnan(logs["loss"]).all() and np.isnan(logs["bits_per_dim"]).all()
  assert_same(state_of(model), state_without_the_marked_step, atol=1e-5)
  assert model.optimizer.iterations.numpy() == 3


def test_fit_ends_after_max_skipped_steps_in_a_row():
  model = spoil(compiled(without_steps, max_skipped=3, **MODES["executions"]), "loss")
  before = model.get_weights()
  for _ in range(2):  # which count from 0
    message = "loss or gradients of the last 3 steps were not finite; no step was finite"
    with pytest.raises(training.Diverged, match=message):
      fit(model, np.repeat(MARKED, 40, axis=0))
  fit(model, WITH_MARKED, epochs=3)
  assert_same(model.get_weights(), before)


@pytest.mark.slow
def test_fit_that_took_no_step_at_all_is_an_error():
  # Keras would copy EMA weights of zeros into the model.
  model = spoil(compiled(adam_with_ema), "loss")
  before = model.get_weights()
  with pytest.raises(training.Diverged, match="no step was taken"):
    fit(model, np.repeat(MARKED, 8, axis=0))
  assert_same(model.get_weights(), before)


def test_fit_without_an_epoch_changes_nothing():
  # Keras would copy EMA weights of zeros into the model.
  model = compiled(adam_with_ema)
  before = model.get_weights()
  assert fit(model, epochs=3, initial_epoch=3) == {}
  assert_same(model.get_weights(), before)


def test_a_weight_of_the_loss_is_refused():
  refuses("`loss_weights` must be None", compiled, loss_weights=[2.0])


@pytest.mark.slow
def test_a_step_that_only_lowers_the_loss_scale_is_no_failure_until_the_scale_is_1():
  optimizer = lambda: keras.optimizers.LossScaleOptimizer(adam_with_ema(), initial_scale=4.0)
  model = spoil(
    compiled(optimizer, dataclasses.replace(CONFIG, dtype="mixed_float16"), devices=2, max_skipped=2), "gradients"
  )
  assert np.isfinite(fit(model, np.concatenate([IMAGES[:4], IMAGES[:3], MARKED, IMAGES[:3], MARKED]))["loss"]).all()
  assert model.optimizer.dynamic_scale.numpy() == 1.0 and model.optimizer.iterations.numpy() == 1
  before = state_of(model)
  with pytest.raises(training.Diverged, match="the last 2 steps"):
    fit(model, np.concatenate([IMAGES[:3], MARKED, IMAGES[:3], MARKED]))
  assert_same(state_of(model), before)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_counts_whatever_the_loss_scale():
  optimizer = lambda: keras.optimizers.LossScaleOptimizer(adam_with_ema(), initial_scale=4.0)
  model = spoil(compiled(optimizer, dataclasses.replace(CONFIG, dtype="mixed_float16")), "loss")
  assert np.isnan(fit(model, WITH_MARKED)["loss"]).all()
  assert model.optimizer.dynamic_scale.numpy() == 2.0 and model.optimizer.iterations.numpy() == 3


# --- Callbacks ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_callbacks_of_keras_work_with_their_default_arguments(tmp_path):
  model = compiled(without_steps)
  path = tmp_path / "{epoch}-{val_loss:.2f}.keras"
  with warnings.catch_warnings():
    warnings.simplefilter("error", UserWarning)  # they only warn if they do not find `val_loss`
    logs = fit(
      model,
      epochs=4,
      validation_data=small_images(4, seed=1),
      callbacks=[
        keras.callbacks.ModelCheckpoint(path),
        keras.callbacks.ReduceLROnPlateau(),
        keras.callbacks.EarlyStopping(),
      ],
    )
  assert len(logs["val_loss"]) == 2  # no better in the second epoch
  first, _ = sorted(tmp_path.iterdir())
  assert_same(keras.models.load_model(first).get_weights(), model.get_weights())


@pytest.mark.slow
def test_with_swapped_ema_weights_validation_checkpoints_and_the_end_see_them_even_when_stopped(tmp_path):
  model, others, after_steps = compiled(adam_with_ema), small_images(8, seed=1), []
  logs = fit(
    model,
    epochs=3,
    validation_data=others,
    callbacks=[
      keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: after_steps.append(model.get_weights())),
      keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
      keras.callbacks.ModelCheckpoint(tmp_path / "ema.weights.h5", save_weights_only=True),
      keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", epoch == 1)),
    ],
  )
  assert len(after_steps) == 8
  ema = after_steps[0]
  for weights in after_steps:
    ema = [(a + w) / 2 for a, w in zip(ema, weights)]
  assert_same(model.get_weights(), ema, atol=1e-5)
  assert any(np.abs(a - w).max() > 1e-3 for a, w in zip(ema, after_steps[-1]))
  np.testing.assert_allclose(model.evaluate(others, verbose=0)[0], logs["val_loss"][-1], rtol=1e-5)
  model.load_weights(tmp_path / "ema.weights.h5")
  assert_same(model.get_weights(), ema, atol=1e-5)


# --- Initialisation -----------------------------------------------------------------------------


LABELS = np.arange(16)
MANY = small_images(1000)


@pytest.mark.parametrize(
  "x, images",
  [
    (lambda: IMAGES, IMAGES),
    (lambda: {"image": IMAGES, "label": LABELS}, IMAGES),
    (lambda: batches(IMAGES), IMAGES),
    (lambda: batches((IMAGES, LABELS)), IMAGES),
    (lambda: MANY, MANY[np.arange(256) * len(MANY) // 256]),
    (lambda: batches(MANY), MANY[:256]),
  ],
  ids=["array", "dict", "batches", "pairs", "many", "many batches"],
)
def test_adapt_initialises_a_new_model_on_images_of_its_data(x, images):
  model, given = compiled(data=None), []
  model.initialize = lambda images, **kwargs: given.append(images)
  model.adapt(x())
  np.testing.assert_array_equal(given[0], images)


def test_fit_of_a_model_that_is_not_initialised_is_an_error_and_changes_nothing():
  model = compiled(without_steps, data=None)
  before = state_of(model)
  for call in (lambda: fit(model), lambda: fit(model, batches(IMAGES)), lambda: model.train_on_batch(IMAGES)):
    refuses(r"not initialised: call `model.adapt\(images\)`, or load weights", call)
  assert_same(state_of(model), before)


def test_weights_that_keras_assigned_are_trained_only_once_the_model_is_marked():
  trained, model = compiled(without_steps), compiled(without_steps, data=None)
  tree = trained.get_state_tree(value_format="numpy_array")
  model.set_state_tree({part: tree[part] for part in ("trainable_variables", "non_trainable_variables")})
  assert_same(model.get_weights(), trained.get_weights())
  refuses("after assigning trained weights .* set `model.initialized = True`", fit, model)
  assert_same(model.get_weights(), trained.get_weights())
  model.initialized = True
  fit(model)
  assert_same(model.get_weights(), trained.get_weights())
  refuses("initialised already", model.adapt, IMAGES)


@pytest.mark.slow
def test_fit_leaves_a_model_with_weights_of_its_own(tmp_path):
  model, loaded = compiled(without_steps), compiled(without_steps, data=None)
  model.save_weights(tmp_path / "model.weights.h5")
  loaded.load_weights(tmp_path / "model.weights.h5")
  for _ in range(2):  # the second one after a `fit`
    fit(loaded, small_images(16, seed=1))
    assert_same(loaded.get_weights(), model.get_weights())


def test_data_that_can_be_read_once_do_not_initialise_a_new_model(trained):
  model, generator = compiled(data=None), lambda: ((IMAGES,) for _ in range(2))
  refuses("`data` must hold real numbers, got .*generator", model.adapt, generator())
  assert np.isfinite(fit(trained, generator(), batch_size=None, steps_per_epoch=2)["loss"]).all()


# --- Inputs -------------------------------------------------------------------------------------

FORMS = {
  "dict": lambda: {"image": IMAGES, "label": LABELS},
  "tuples": lambda: batches((IMAGES,)),
  "pairs": lambda: batches((IMAGES, LABELS)),
  "dicts of TFDS": lambda: batches({"id": [f"id_{i}" for i in LABELS], "image": IMAGES, "label": LABELS}),
}


def results(model, x):
  logs = fit(model, x, validation_data=x)
  return [logs["loss"], logs["val_loss"], model.predict(x, None if isinstance(x, tf.data.Dataset) else 4, verbose=0)]


@pytest.fixture(scope="module")
def results_of_images(trained):
  return results(trained, batches(IMAGES))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_images_come_in_every_form_of_keras_and_tfds(trained, results_of_images, form):
  assert_same(results(trained, FORMS[form]()), results_of_images, rtol=1e-6)


@pytest.mark.slow
def test_data_sets_of_tfds_are_taken_and_checked_on_two_devices(results_of_images):
  model = compiled(without_steps, devices=2)
  np.testing.assert_allclose(fit(model, FORMS["dicts of TFDS"]())["loss"], results_of_images[0], rtol=1e-5)
  with pytest.raises(training.Diverged, match="no step was taken"):
    fit(model, batches({"image": IMAGES[IMAGES.any(axis=(1, 2, 3))] * 100}))


@pytest.mark.slow
def test_labels_and_conditions_reach_a_model_of_images_given_both():
  conditions = np.tile(np.float32(LABELS[::-1, None, None, None]), (1, 2, 2, 1))
  whole = {"image": IMAGES, "label": LABELS, "condition": conditions}
  without_labels = {"image": IMAGES, "condition": conditions}
  model = compiled(
    without_steps,
    dataclasses.replace(CONFIG, num_classes=16, condition_shape=(2, 2, 1), condition_channels=2, condition_blocks=1),
    data=batches((without_labels, LABELS)),
  )
  assert np.isfinite(fit(model, batches((without_labels, LABELS)))["loss"]).all()
  refuses("labels must be given once", fit, model, whole, y=LABELS)
  with pytest.raises(fpp.InputError, match="`labels` must be given"):
    model.predict(without_labels, verbose=0)

  model.log_prob_bound = lambda images, seed, labels, condition: (
    tf.cast(labels, tf.float32) + 100 * condition[:, 0, 0, 0]
  )
  for x in (whole, batches(whole), batches((without_labels, LABELS))):
    np.testing.assert_array_equal(model.predict(x, verbose=0), LABELS + 100 * LABELS[::-1])


def test_the_model_itself_takes_a_dict():
  model = compiled()
  assert_same(model({"image": IMAGES, "label": LABELS}), model(IMAGES))
  assert_same(tf.function(model)({"image": IMAGES, "label": LABELS}), model(IMAGES), rtol=1e-6)


def test_training_may_be_none_as_models_around_these_layers_pass_it_on():
  images, model = small_images(4), fpp.FlowPlusPlus(CONFIG)
  np.testing.assert_array_equal(model(images, training=None), model(images))
  ones = tf.ones([2, 3])
  np.testing.assert_array_equal(fpp.layers.Dropout(0.5)(ones, training=None), ones)


def test_a_dict_without_images_is_an_error():
  model = compiled()
  for x in ({"x": IMAGES}, batches({"x": IMAGES})):
    refuses(r'inputs must have the key "image", got \[\'x\'\]', fit, model, x)


WEIGHTS = np.array([1, 2, 0, 3, 5, 1], np.float32)


def weighted_mean(model, images=IMAGES[:6], weights=WEIGHTS, **more):
  """The loss of images whose noise is the same, however they are batched."""
  losses = -model.predict({"image": images, **more}, batch_size=4, verbose=0)
  return np.sum(losses * weights) / np.sum(weights)


@pytest.mark.parametrize("form", ["argument", slow("column"), slow("targets"), "batches"])
def test_losses_are_means_by_the_weights_of_images_and_not_of_batches(trained, form):
  forms = {
    "argument": ({"x": IMAGES[:6], "sample_weight": WEIGHTS}, 4),
    "column": ({"x": IMAGES[:6], "sample_weight": WEIGHTS[:, np.newaxis]}, 4),
    "targets": ({"x": IMAGES[:6], "y": WEIGHTS, "sample_weight": WEIGHTS}, 4),
    "batches": ({"x": batches((IMAGES[:6], WEIGHTS, WEIGHTS))}, None),
  }
  arguments, batch_size = forms[form]
  loss = trained.evaluate(**arguments, batch_size=batch_size, verbose=0, return_dict=True)["loss"]
  np.testing.assert_allclose(loss, weighted_mean(trained), rtol=1e-6)


def test_fit_takes_weights_without_targets():
  model = compiled(without_steps)
  expected = weighted_mean(model)
  logs = fit(model, IMAGES[:6], sample_weight=WEIGHTS, validation_data=(IMAGES[:6], None, WEIGHTS))
  np.testing.assert_allclose(logs["loss"] + logs["val_loss"], [expected] * 2, rtol=1e-6)


def test_weights_of_a_model_with_classes_need_no_second_labels():
  config = dataclasses.replace(CONFIG, num_classes=16)
  model = compiled(without_steps, config, data={"image": IMAGES, "label": LABELS})
  x = {"image": IMAGES[:6], "label": LABELS[:6]}
  loss = model.evaluate(x, sample_weight=WEIGHTS, batch_size=4, verbose=0)[0]
  np.testing.assert_allclose(loss, weighted_mean(model, **x), rtol=1e-6)
  with pytest.raises(ValueError, match="`labels` must be given"):
    model.evaluate(IMAGES[:6], sample_weight=np.ones(6, np.int32), verbose=0)


@pytest.mark.slow
def test_padding_of_weight_0_counts_nowhere_on_two_devices(trained):
  model = compiled(without_steps, devices=2)
  model.set_weights(trained.get_weights())
  padded = data.weighted_batches(data.evaluation_batches(IMAGES[:5], 4), 4)  # the last device has only padding
  expected = weighted_mean(trained, IMAGES[:5], np.ones(5))
  np.testing.assert_allclose(model.evaluate(padded, verbose=0)[0], expected, rtol=1e-6)
  np.testing.assert_allclose(fit(model, padded)["loss"], [expected], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("eager", [False, True])
def test_a_device_may_have_no_image_of_the_last_batch(trained, eager):
  one, two = (compiled(lambda: keras.optimizers.SGD(1e-3), devices=n, run_eagerly=eager) for n in (1, 2))
  for model in (one, two):
    model.set_weights(trained.get_weights())
  five = {"x": IMAGES[:5], "batch_size": 4, "verbose": 0}
  assert_same(*(model.predict(**five) for model in (one, two)), rtol=1e-6)
  assert_same(*(model.evaluate(**five)[:1] for model in (one, two)), rtol=1e-6)
  assert_same(*(fit(model, IMAGES[:5])["loss"] for model in (one, two)), rtol=1e-6)
  assert_same(one.get_weights(), two.get_weights(), rtol=1e-4, atol=1e-6)


def test_predict_and_evaluate_give_the_same_in_each_call():
  model = perturbed(CONFIG, dropout=0.5)  # with noise, too
  model.compile()
  predictions = [model.predict(IMAGES, batch_size=8, verbose=0) for _ in range(2)]
  losses = [model.evaluate(IMAGES, batch_size=8, verbose=0)[0] for _ in range(2)]
  assert_same(*predictions)
  assert losses[0] == losses[1]
  np.testing.assert_allclose(losses[0], -np.mean(predictions[0]), rtol=1e-6)


def test_pixels_may_be_true_and_false():
  config = dataclasses.replace(CONFIG, levels=2)
  images = np.random.RandomState(0).randint(0, 2, [4, *config.image_shape])
  model = fpp.FlowPlusPlus(config)
  expected = model.log_prob_bound(images, seed=0)
  for bound in (model.log_prob_bound, tf.function(model.log_prob_bound, autograph=False)):
    np.testing.assert_allclose(bound(images.astype(bool), seed=0), expected, rtol=1e-5)


def test_negative_pixels_of_one_byte_are_nan_in_graphs():
  config = dataclasses.replace(CONFIG, levels=256)
  bound = tf.function(fpp.FlowPlusPlus(config).log_prob_bound, autograph=False)
  nats = bound(tf.constant([np.full(config.image_shape, value) for value in (-5, 5)], tf.int8)).numpy()
  assert np.isnan(nats).tolist() == [True, False]
