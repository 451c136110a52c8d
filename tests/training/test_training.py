"""Training: the same steps on one device and on two, averages, resumption, learning."""

import dataclasses
import functools
import shutil
import signal
import time
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import data, training
from flowpp_tf.core.errors import InputError
from flowpp_tf.training import loop
from flowpp_tf.training.step import dropout_seed, step_seed
from flowpp_tf.training.tensorboard import TensorBoard
from support.comparing import assert_same
from support.marks import exhaustive, slow
from support.models import MINIMAL, TINY, small_config, small_images
from support.refusing import refuses
from support.training_steps import small_data, small_run, step, train_state, without_times

NO_DROPOUT = dict(
  steps=6, batch_size=8, learning_rate=3e-3, validate_every=3, clip_norm=1.0, ema_decay=0.9, seed=1, tensorboard=()
)


DATA = small_data(sizes=(40, 10, 10))
run = functools.partial(small_run, dataset=DATA, **NO_DROPOUT)


def rows(workdir):
  return without_times(workdir.rows())


def test_a_run_says_once_what_a_step_takes_without_tracing_and_when_it_ends(tmp_path, monkeypatch):
  clock, lines = [0.0], []
  seconds = {1: 100.0}  # with tracing; of others 4
  monkeypatch.setattr(loop.Run, "_watch_skipped", lambda self, step: clock.append(clock[-1] + seconds.get(step, 4.0)))
  monkeypatch.setattr(loop, "time", mock.Mock(wraps=time, monotonic=lambda: clock[-1], time=lambda: 1e9))
  small_run(tmp_path, dataset=DATA, steps=7, validate_every=7, log_fn=lines.append)
  (line,) = [line for line in lines if line.startswith("a step takes")]
  assert line == loop.pace(4.0, 3, 1e9) and lines.index(line) < len(lines) - 1


@pytest.mark.parametrize(
  "seconds, steps, expected",
  [
    (0.5, 100, "a step takes 0.5 s: the remaining 100 end at 2001-09-09 01:47"),
    (0.8421, 1980, "a step takes 0.842 s: the remaining 1,980 end at 2001-09-09 02:14"),
    (1.0, 86400, "a step takes 1 s: the remaining 86,400 end at 2001-09-10 01:46"),
    (12.0, 100_000, "a step takes 12 s: the remaining 100,000 end at 2001-09-22 23:06"),
  ],
)
def test_the_pace_of_a_run_in_words(seconds, steps, expected, monkeypatch):
  monkeypatch.setattr(loop, "time", mock.Mock(wraps=time, localtime=time.gmtime))
  assert loop.pace(seconds, steps, 1e9) == f"{expected}, later by the time of validations"


def loss_curve(devices=1, optimizer=lambda: training.Adam(1e-3), steps=20, **settings):
  config = small_config(TINY, structure="columns:1")
  state = train_state(config, devices, optimizer, clip_norm=1.0, ema_decay=0.9, seed=3, **settings)
  state.model.initialize(small_images(40), seed=0)
  batches = data.training_batches(small_images(40), 8, seed=0)
  metrics = [step(state, images) for images in batches.take(steps)]
  return *([m[name] for m in metrics] for name in ("bits_per_dim", "gradient_norm")), state


OPTIMIZERS = {
  "adam": lambda: training.Adam(1e-3),
  "sgd": lambda: keras.optimizers.SGD(1e-2),
  "muon": lambda: keras.optimizers.Muon(1e-3),
}


@functools.cache
def on_one_device(name):
  return loss_curve(optimizer=OPTIMIZERS[name])


# Adam hides a factor of the gradients, SGD does not; the step of Muon is that of any optimizer of Keras.
@pytest.mark.parametrize(
  "name, devices, accumulate, lanes",
  [
    slow("sgd", 2, 2, 1),
    slow("sgd", 1, 2, 2),
    exhaustive("sgd", 1, 4, 1),
    exhaustive("sgd", 2, 1, 2),
    slow("adam", 1, 2, 2),
    exhaustive("muon", 2, 1, 2),
  ],
)
def test_a_batch_over_devices_and_in_parts_gives_the_same_steps(use_lanes, name, devices, accumulate, lanes):
  one = on_one_device(name)
  use_lanes(lanes)
  other = loss_curve(devices, OPTIMIZERS[name], accumulate=accumulate)
  np.testing.assert_allclose(other[0], one[0], rtol=1e-5)
  np.testing.assert_allclose(other[1], one[1], rtol=1e-4)
  assert min(one[1]) > 1.0  # else nothing was clipped, and clipping was not compared
  for attribute in ("variables", "ema"):
    assert_same(*(getattr(run[2], attribute) for run in (other, one)), atol=1e-5)


@pytest.mark.slow
def test_the_last_batch_of_a_validation_may_have_fewer_images_than_devices():
  results = []
  for devices in (1, 2):
    state = train_state(TINY, devices)
    batches = data.DataPipeline(dataclasses.replace(DATA, validation=small_images(9)))
    workdir = training.Workdir("/nonexistent")
    run = loop.Run(state, batches, workdir, {}, training.Workers(state.strategy), "", False, None)
    results.append(run.validate())
  np.testing.assert_allclose(*results, rtol=1e-5)


def test_a_run_in_microbatches_begins_and_goes_on_as_one_in_whole_batches(tmp_path):
  whole, parts = (run(tmp_path / str(n), steps=2, batch_size=8 // n, accumulate=n, validate_every=1) for n in (1, 2))
  for a, b in zip(rows(whole[0]), rows(parts[0]), strict=True):
    np.testing.assert_allclose(b["bits_per_dim"], a["bits_per_dim"], rtol=1e-5)
    np.testing.assert_allclose(b["gradient_norm"], a["gradient_norm"], rtol=1e-4)


def test_images_that_cannot_be_divided_into_parts_are_not_dropped():
  state = train_state(MINIMAL, accumulate=3)
  with pytest.raises(InputError, match="must have a multiple of `accumulate` 3 images on each replica"):
    training.train_step(state, tf.constant(small_images(8)))
  of_any_size = tf.function(functools.partial(training.train_step, state), autograph=False)
  of_any_size.get_concrete_function(tf.TensorSpec([None, 4, 4, 2], tf.uint8))(tf.constant(small_images(8)))
  assert int(state.skipped_steps) == 1


@pytest.mark.slow
def test_the_decay_of_the_averages_can_be_warmed_up():
  state = train_state(MINIMAL, optimizer=lambda: keras.optimizers.SGD(1e-3), ema_decay=0.9, ema_warmup=True)
  weight, average = state.variables[0], state.ema[0]
  expected = weight.numpy()
  for i in range(3):
    step(state, small_images(8))
    decay = (2 + i) / (11 + i)  # the step is counted before
    expected = decay * expected + (1 - decay) * weight.numpy()
  np.testing.assert_allclose(average.numpy(), expected, rtol=1e-5)


@pytest.mark.slow
def test_training_lowers_the_bound_of_images_that_can_be_learnt(tmp_path):
  # Images of a single value: a density model can make them nearly certain.
  constant = data.ImageDataset(
    "constant", levels=8, **{split: np.full([40, 4, 4, 2], 3, np.uint8) for split in data.SPLITS}
  )
  _, best = run(tmp_path, TINY, dataset=constant, steps=60, validate_every=60, learning_rate=1e-2)
  assert best < 1.0  # of log2(8) = 3 bits


@pytest.fixture(scope="module")
def finished(deterministic, tmp_path_factory):
  """A run of three steps and its best validation; to be copied."""
  handler = signal.getsignal(signal.SIGTERM)
  workdir, best = run(tmp_path_factory.mktemp("finished"), steps=3)
  assert signal.getsignal(signal.SIGTERM) is handler  # it is the caller's again
  return workdir.path, best


@pytest.fixture
def copied(finished, tmp_path):
  shutil.copytree(finished[0], tmp_path / "run")
  return training.Workdir(tmp_path / "run"), finished[1]


@pytest.mark.parametrize("saved", [True, slow(False)])
def test_a_run_that_is_stopped_says_whether_its_state_is_saved(tmp_path, monkeypatch, saved):
  if not saved:
    full = mock.Mock(side_effect=OSError(28, "No space left on device"))
    monkeypatch.setattr("flowpp_tf.training.checkpoints.Checkpoints.save", full)
  monkeypatch.setattr(loop.StopSignals, "__enter__", lambda self: self.__dict__.update(received=True) or self)
  with pytest.raises(training.Stopped) as stopped:
    run(tmp_path, steps=2)
  assert (stopped.value.step, stopped.value.saved) == (1, saved)


@pytest.mark.parametrize("workdir, saved, verbose", [slow("run", True, 0), (None, False, False)])
def test_a_state_in_a_temporary_directory_is_not_said_to_be_saved(tmp_path, monkeypatch, workdir, saved, verbose):
  monkeypatch.setattr(loop.StopSignals, "__enter__", lambda self: self.__dict__.update(received=True) or self)
  with pytest.raises(training.Stopped) as stopped:
    fpp.train(DATA, MINIMAL, workdir and tmp_path / workdir, verbose=verbose, **{**NO_DROPOUT, "steps": 2})
  assert (stopped.value.step, stopped.value.saved) == (1, saved)


def test_a_validation_that_is_not_finite_is_never_the_best(tmp_path, monkeypatch):
  values = iter([-np.inf, 3.0, np.nan])
  monkeypatch.setattr(loop.Run, "validate", lambda self: next(values))
  workdir, best = run(tmp_path, steps=3, validate_every=1)
  workdir.load()
  assert best == 3.0 and workdir.weights_info()["step"] == 2


@pytest.mark.slow  # test_kills.py kills runs at any moment
def test_a_run_stopped_half_way_ends_as_the_run_that_was_not(copied, tmp_path):
  whole, best = run(tmp_path / "whole")
  halves, best_of_halves = run(copied[0].path)
  for a, b in zip(rows(halves), rows(whole), strict=True):
    # Validation is a sum, whose last bit differs now and then between two runs of one process on busy cores.
    assert a.pop("val_bits_per_dim") == pytest.approx(b.pop("val_bits_per_dim"), rel=1e-6)
    assert a == b
  assert best_of_halves == pytest.approx(best, rel=1e-6)
  assert_same(*(workdir.load()[0].get_weights() for workdir in (whole, halves)))


def test_running_again_after_the_end_changes_nothing_but_rows_cut_off_by_a_kill(copied):
  workdir, best = copied
  before = workdir.metrics.read_text(), workdir.best_weights.read_bytes()
  workdir.metrics.write_text(before[0] + '{"step": 6, "bits_per')
  again, best_again = run(workdir.path, steps=3)
  assert best_again == best
  assert (again.metrics.read_text(), again.best_weights.read_bytes()) == before


def test_a_resumed_run_keeps_its_best_weights_when_it_gets_worse(copied):
  workdir, best = copied
  weights = workdir.best_weights.read_bytes()
  # A rate at which the next steps can only do harm; allowed in, to see what resuming does with it.
  for file in (workdir.config, *workdir.checkpoints.glob("*/manifest.json")):
    file.write_text(file.read_text().replace('"learning_rate": 0.003', '"learning_rate": 3.0'))
  _, best_again = run(workdir.path, steps=6, learning_rate=3.0)
  assert not rows(workdir)[-1]["val_bits_per_dim"] <= best  # worse, or no number at all
  assert best_again == best
  assert workdir.best_weights.read_bytes() == weights


@pytest.mark.slow
def test_weights_that_nothing_uses_are_not_trained():
  # The published ImageNet 64 dequantizer has position embeddings that it never adds.
  state = train_state(small_config(TINY, dequant_mixing=False), clip_norm=1.0)
  unused = state.model.dequantizer.coupling_flow.steps[0].conditioner
  before = unused.position_embedding.numpy(), unused.input_conv.kernel.numpy()
  step(state, small_images())
  np.testing.assert_array_equal(unused.position_embedding.numpy(), before[0])
  assert np.any(unused.input_conv.kernel.numpy() != before[1])


def test_workers_get_all_that_is_initialised_from_data_from_the_chief():
  """Also the standardization of real-valued images, which is not trained: workers would differ by it for ever."""
  state = train_state(small_config(dequantization="none"))
  fields = np.random.RandomState(0).normal(size=[8, 4, 4, 2]).astype(np.float32)
  fields = data.ImageDataset("fields", None, fields, fields, fields)
  workers, sent = training.Workers(state.strategy), []
  workers.broadcast = sent.extend
  loop.Run(
    state, data.DataPipeline(fields), training.Workdir("/nonexistent"), {}, workers, "", False, lambda line: None
  ).initialize()
  assert len(sent) == len(state.model.weights) > len(state.variables)
  assert all(a is b.value for a, b in zip(sent, state.model.weights))


def test_averages_are_those_of_the_weights_and_leave_them_as_they_were():
  state = train_state(MINIMAL, ema_decay=0.5)
  start = [w.numpy() for w in state.variables]
  step(state, small_images(8))
  first = [w.numpy() for w in state.variables]
  step(state, small_images(8))
  second = [w.numpy() for w in state.variables]
  with state.ema_weights():
    averages = [0.25 * a + 0.25 * b + 0.5 * c for a, b, c in zip(start, first, second)]
    assert_same(state.variables, averages, rtol=1e-5, atol=1e-6)
  assert_same(state.variables, second)


def test_workdir_refuses_another_run_and_says_what_differs(tmp_path):
  workdir = training.Workdir(tmp_path)
  workdir.open(TINY, {"batch_size": 8, "steps": 3})
  workdir.add_row({"step": 1, "val_bits_per_dim": 2.0})
  before = workdir.config.read_bytes()
  refuses("holds another run: batch_size is 8 there and 16 here", workdir.open, TINY, {"batch_size": 16, "steps": 3})
  assert workdir.config.read_bytes() == before
  workdir.open(TINY, {"batch_size": 8, "steps": 6})  # a run may be prolonged
  workdir.open(small_config(TINY, remat="blocks"), {"batch_size": 8, "steps": 6})


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(steps=0), "`steps` must be at least 1, got 0"),
    (dict(batch_size=0), "`batch_size` must be at least 1, got 0"),
    (dict(learning_rate=0.0), "`learning_rate` must be positive, got 0.0"),
    (dict(warmup_steps=-1), "`warmup_steps` must be at least 0, got -1"),
    (dict(schedule="step"), "`schedule` 'step' gives the rate at each step"),
    (dict(validate_every=0), "`validate_every` must be at least 1, got 0"),
    (dict(seed=-1), "`seed` must be at least 0, got -1"),
    (dict(clip_norm=0.0), "`clip_norm` must be positive, got 0.0"),
    (dict(checkpoint_every=0), "`checkpoint_every` must be at least 1, got 0"),
    (dict(keep=0), "`keep` must be at least 1, got 0"),
    (dict(tensorboard=("plots",)), "`tensorboard` must be of scalars, samples, histograms, got \\('plots',\\)"),
    (dict(accumulate=0), "`accumulate` must be at least 1, got 0"),
    (dict(max_skipped=0), "`max_skipped` must be at least 1, got 0"),
    (
      dict(debug_numerics=True, steps_per_execution=2),
      "`debug_numerics` must be False unless `steps_per_execution` is 1: it must see each step",
    ),
    (dict(ema_decay=1.0), r"`ema_decay` must be in \[0, 1\), got 1.0"),
  ],
)
def test_bad_settings_are_value_errors_that_name_them_and_claim_no_workdir(tmp_path, changes, message):
  refuses(message, run, tmp_path / "run", **changes)
  assert not (tmp_path / "run").exists()


def test_bad_devices_are_value_errors_that_name_them(tmp_path, monkeypatch):
  tf.config.list_logical_devices()  # uses them
  refuses("`strategy` must be one of auto, one, mirrored, multiworker, tpu, got 'many'", training.get_strategy, "many")
  refuses("`tpu` is for `strategy` tpu, got 'mine' for `strategy` auto", training.get_strategy, tpu="mine")
  refuses("`num_virtual_cpus` must be set before", training.get_strategy, "one", num_virtual_cpus=3)
  refuses("multiworker needs the environment variable TF_CONFIG", training.get_strategy, "multiworker")
  monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}')
  refuses("TF_CONFIG must be like .*got .*a:1", training.get_strategy, "auto")
  with pytest.raises(ValueError, match="`batch_size` must be a multiple of the 2 devices, got 3"):
    run(tmp_path, batch_size=3, strategy=training.get_strategy("mirrored"))


@pytest.mark.slow
def test_tensorboard_gets_scalars_and_samples_by_step(tmp_path):
  workdir, _ = run(tmp_path, steps=4, validate_every=2, tensorboard=("scalars", "samples"))
  steps = {}
  for path in (workdir.path / "tensorboard").rglob("*.tfevents*"):
    for record in tf.data.TFRecordDataset(str(path)):
      event = tf.compat.v1.Event.FromString(record.numpy())
      for value in event.summary.value:
        steps.setdefault((path.parent.name, value.tag), []).append(event.step)
  for found in (("train", "bits_per_dim"), ("validation", "bits_per_dim"), ("samples", "samples")):
    assert steps[found] == [2, 4]


def test_tensorboard_shows_samples_of_any_number_of_channels(tmp_path):
  config = small_config(image_shape=(4, 4, 5), structure="columns:1")
  state = training.TrainState(fpp.FlowPlusPlus(config), training.TrainingConfig(steps=1, tensorboard=("samples",)))
  TensorBoard(tmp_path, state).after_validation({})
  assert list(tmp_path.rglob("*.tfevents*"))


@pytest.mark.slow
def test_models_of_different_sizes_train_on_two_devices_in_one_process():
  for filters in (4, 8):
    state = train_state(small_config(filters=filters), 2)
    assert np.isfinite(step(state, small_images(4))["bits_per_dim"])


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])  # in which another optimizer is around it
def test_keras_fit_refuses_an_optimizer_that_would_clip_on_each_replica(dtype):
  with training.get_strategy("mirrored").scope():
    model = fpp.FlowPlusPlus(small_config(dtype=dtype))
    refuses("`clipnorm` would clip on each replica", model.compile, keras.optimizers.Adam(clipnorm=1.0))


def test_the_seeds_of_a_step_stay_the_same():
  """A run that a version begins goes on in the next with the noise and the dropout masks that it would have drawn."""
  assert step_seed(3, 5).numpy().tolist() == [2907556547890733787, 5]
  assert dropout_seed(tf.constant([1, 2])).numpy().tolist() == [1274378477, 0]
