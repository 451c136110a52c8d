"""A training run: initialise, fit, validate, keep the best; go on where a killed run was."""

import functools
import os

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.data import describe
from flowpp_tf.data import evaluation_batches
from flowpp_tf.data import training_batches
from flowpp_tf.data import weighted_batches
from flowpp_tf.errors import InputError
from flowpp_tf.models import FlowPlusPlus
from flowpp_tf.training.adam import Adam
from flowpp_tf.training.averaging import EvaluateAveragedWeights
from flowpp_tf.training.callbacks import SaveProgress
from flowpp_tf.training.callbacks import SkippedSteps
from flowpp_tf.training.callbacks import Throughput
from flowpp_tf.training.numerics import explain_skipped_step
from flowpp_tf.training.schedules import learning_rate_schedule
from flowpp_tf.training.tensorboard import tensorboard_callbacks
from flowpp_tf.training.workers import Workers


def train(config, dataset, workdir, *, steps, batch_size, learning_rate=None, schedule="constant",
          warmup_steps=0, clip_norm=1.0, ema_decay=0.999, ema_warmup=False, accumulate=1,
          validate_every=None, init_batch_size=None, seed=0, max_skipped=10, debug_numerics=False,
          checkpoint_every=None, checkpoint_minutes=10.0, keep=2, tensorboard=(), profile=None,
          steps_per_execution=1, flip=False, record=None, strategy=None, verbose="auto", say=print):
  """Trains a model in a working directory, or goes on with the run that it holds.

  Args:
    config: `FlowPlusPlusConfig`.
    dataset: `ImageDataset`.
    workdir: `Workdir`; it is opened for this run once all settings have been found good.
    steps: training steps, rounded up to whole periods of `validate_every`.
    batch_size: images at once, over all devices.
    learning_rate: peak of Adam's learning rate, see `learning_rate_schedule`.
    schedule: see `learning_rate_schedule`.
    warmup_steps: see `learning_rate_schedule`.
    clip_norm: global norm of the gradients, or None.
    ema_decay: decay of the averaged weights, or None.
    ema_warmup: whether that decay is at most (1 + t) / (10 + t) at step t.
    accumulate: batches to a step: the same steps as with `accumulate` times the batch size, dropout
      masks apart, in the memory of one batch.
    validate_every: steps between validations; None for an epoch, but no more than `steps`.
    init_batch_size: images for the data-dependent initialisation; None for `batch_size`.
    seed: integer; initial weights, shuffle, noise and dropout follow from it.
    max_skipped: steps in a row that may be skipped, since loss or gradients are not finite.
    debug_numerics: whether to evaluate the first skipped step in a row again, and say which layer and
      bijector made the first value that is not finite.
    checkpoint_every: steps between checkpoints; None for those of `checkpoint_minutes` and of
      validations alone.
    checkpoint_minutes: minutes between checkpoints, or None.
    keep: checkpoints to keep.
    tensorboard: what to write for TensorBoard, see `tensorboard_callbacks`.
    profile: `(first, last)` training steps of this process to profile for TensorBoard, or None.
    steps_per_execution: steps between returns to Python, as in `keras.Model.compile`.
    flip: whether to mirror half of the training images left to right.
    record: `dict` of what else is to be written into the run's config.json.
    strategy: `tf.distribute.Strategy`, see `get_strategy`; None for the present one.
    verbose: as in `keras.Model.fit`.
    say: called with each line for the user.

  Returns:
    The best validation, in bits/dim; the weights are in the working directory.

  Raises:
    InputError (a ValueError): if a value is out of range, data and config do not fit, the working
      directory holds another run, or none of its checkpoints is whole.
    Stopped: when asked to stop by SIGTERM or Ctrl-C, after the state has been saved.
    Diverged: after `max_skipped` skipped steps in a row; the newest checkpoint stays as it is.
    WorkerLost: if another worker of the strategy is gone.

  Every worker of a strategy calls this; the chief alone writes and speaks.
  """
  settings = dict(
      steps=steps, batch_size=batch_size, learning_rate=learning_rate, schedule=schedule,
      warmup_steps=warmup_steps, clip_norm=clip_norm, ema_decay=ema_decay, ema_warmup=ema_warmup,
      accumulate=accumulate, validate_every=validate_every, init_batch_size=init_batch_size, seed=seed,
      flip=flip)
  strategy = strategy or tf.distribute.get_strategy()
  workers = Workers(strategy)
  _check({**settings, "checkpoint_every": checkpoint_every, "keep": keep, "max_skipped": max_skipped,
          "steps_per_execution": steps_per_execution}, strategy.num_replicas_in_sync)
  if debug_numerics and steps_per_execution > 1:
    raise InputError("`debug_numerics` must see each step: it needs `steps_per_execution` 1, got "
                     f"{steps_per_execution}")
  dataset.check(config)
  images_a_step = batch_size * accumulate
  validate_every = min(validate_every or max(1, len(dataset.train) // images_a_step), steps)
  rate = learning_rate_schedule(schedule, learning_rate, warmup_steps, steps)
  boards = tensorboard_callbacks(workdir.path / "tensorboard", tensorboard, profile)
  fingerprint = dataset.fingerprint()
  if workers.chief:
    workdir.open(
        config, {"dataset": dataset.name, **(record or {}), **settings, "fingerprint": fingerprint})
  else:
    boards, say, verbose = [], lambda line: None, 0

  progress = SaveProgress(workdir, checkpoint_every, checkpoint_minutes, keep, workers,
                          labels={"data": fingerprint["digest"]})
  batches = lambda start_step, shards=1, shard=0: training_batches(
      dataset.train, images_a_step, seed, start_step, shards, shard, flip)
  try:
    with workers.guard():
      keras.utils.set_random_seed(seed)
      with strategy.scope():
        model = FlowPlusPlus(config)
        model.compile(Adam(rate), clip_norm=clip_norm, ema_decay=ema_decay,
                      ema_warmup=ema_warmup, accumulate=accumulate, seed=seed,
                      steps_per_execution=steps_per_execution)
      _say_what_is_trained(model, [describe(fingerprint), *dataset.notes], strategy, workers, seed, say)
      progress.set_model(model)
      if progress.restore():
        say(f"resumed at step {int(model.optimizer.iterations.numpy())} of {steps}")
      else:
        _initialize(model, dataset.train, init_batch_size or batch_size, seed, workers, say)

      validation = evaluation_batches(dataset.validation, batch_size)
      if strategy.num_replicas_in_sync > 1:
        validation = weighted_batches(validation, strategy.num_replicas_in_sync)
      explain = functools.partial(
          explain_skipped_step, model, batches, strategy.num_replicas_in_sync)
      callbacks = [EvaluateAveragedWeights(), Throughput(images_a_step, say),
                   SkippedSteps(max_skipped, explain if debug_numerics else None), progress]
      _fit(model, functools.partial(_distribute, strategy, batches, images_a_step), validation, steps,
           validate_every, progress, callbacks, boards, verbose)
  finally:
    progress.release_signals()
  return progress.best


def _say_what_is_trained(model, data, strategy, workers, seed, say):
  say(f"model: {model.count_params():,} parameters, "
      f"{sum(v.value.shape.num_elements() for v in model.dequantizer.trainable_variables):,} of them "
      f"in the dequantizer")
  say(f"data: {'; '.join(data)}")
  say(f"devices: {strategy.num_replicas_in_sync} in {workers.count} worker(s); here {os.cpu_count()} "
      f"CPU cores, {len(tf.config.list_physical_devices('GPU'))} GPUs")
  say(f"versions: TensorFlow {tf.__version__}, Keras {keras.__version__}, TensorFlow Probability "
      f"{tfp.__version__}; seed {seed}")


def _initialize(model, images, count, seed, workers, say):
  batch = next(iter(training_batches(images, min(count, len(images)), seed)))
  bound = model.initialize(batch, seed=seed)
  workers.broadcast([v.value for v in model.trainable_variables])  # hosts may round differently
  model.reset_averages()
  say(f"initialised on {len(batch)} images: {float(model.to_bits_per_dim(bound).numpy().mean()):.3f} "
      "bits/dim")


def _distribute(strategy, batches, batch_size, start_step):
  """Each worker's share of the batches, in the order of its replicas."""
  if strategy.num_replicas_in_sync == 1:
    return batches(start_step)
  return strategy.distribute_datasets_from_function(lambda context: batches(
      start_step, context.num_input_pipelines, context.input_pipeline_id).rebatch(
          context.get_per_replica_batch_size(batch_size)))


def _fit(model, batches, validation, steps, period, progress, callbacks, boards, verbose):
  """Trains from the model's present step on, by periods that end in a validation."""
  step = int(model.optimizer.iterations.numpy())
  if progress.validation_is_due(period):  # the run was stopped between the two
    progress.on_epoch_begin(None)
    logs = dict(model.get_metrics_result())
    logs |= {f"val_{name}": value for name, value in model.evaluate(
        validation, callbacks=callbacks[:1], return_dict=True, verbose=0).items()}
    keras.callbacks.CallbackList(callbacks, model=model).on_epoch_end(step // period - 1, logs)
  while step < steps:
    done, rest = divmod(step, period)
    # What is left of a period that was begun, or all whole periods.
    epochs, length = (1, period - rest) if rest else (-(-(steps - step) // period), period)
    model.fit(
        batches(step), steps_per_epoch=length, initial_epoch=done, epochs=done + epochs,
        validation_data=validation, shuffle=False, callbacks=[*callbacks, *boards], verbose=verbose)
    step += epochs * length


def _check(settings, devices):
  """Raises an `InputError` for the first setting that is out of range."""
  for name, smallest in (("steps", 1), ("batch_size", 1), ("validate_every", 1),
                         ("init_batch_size", 1), ("seed", 0), ("checkpoint_every", 1), ("keep", 1),
                         ("steps_per_execution", 1), ("accumulate", 1), ("max_skipped", 1)):
    value = settings[name]
    if value is not None and value < smallest:
      raise InputError(f"`{name}` must be at least {smallest}, got {value}")
  if settings["batch_size"] % devices:
    raise InputError(f"`batch_size` must be a multiple of the {devices} devices, got "
                     f"{settings['batch_size']}")
  if settings["clip_norm"] is not None and not settings["clip_norm"] > 0:
    raise InputError(f"`clip_norm` must be positive, got {settings['clip_norm']}")
  if settings["ema_decay"] is not None and not 0 <= settings["ema_decay"] < 1:
    raise InputError(f"`ema_decay` must be in [0, 1), got {settings['ema_decay']}")
