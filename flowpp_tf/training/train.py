"""A training run: initialise, fit, validate, keep the best; go on where a killed run was."""

import keras

from flowpp_tf.data import evaluation_batches
from flowpp_tf.data import training_batches
from flowpp_tf.errors import InputError
from flowpp_tf.models import FlowPlusPlus
from flowpp_tf.training.averaging import EvaluateAveragedWeights
from flowpp_tf.training.callbacks import SaveProgress
from flowpp_tf.training.callbacks import Throughput
from flowpp_tf.training.schedules import learning_rate_schedule
from flowpp_tf.training.strategy import get_strategy


def train(config, dataset, workdir, *, steps, batch_size, learning_rate=None, schedule="constant",
          warmup_steps=0, clip_norm=1.0, ema_decay=0.999, validate_every=None, init_batch_size=None,
          seed=0, strategy="one", num_virtual_cpus=0, verbose="auto", say=print):
  """Trains a model in a working directory, or goes on with the run that it holds.

  Args:
    config: `FlowPlusPlusConfig`.
    dataset: `ImageDataset`.
    workdir: `Workdir`, opened for this run.
    steps: training steps, rounded up to a multiple of `validate_every`.
    batch_size: images a step, over all devices.
    learning_rate: peak of Adam's learning rate, see `learning_rate_schedule`.
    schedule: see `learning_rate_schedule`.
    warmup_steps: see `learning_rate_schedule`.
    clip_norm: global norm of the gradients, or None.
    ema_decay: decay of the averaged weights, or None.
    validate_every: steps between validations; None for an epoch, but no more than `steps`.
    init_batch_size: images for the data-dependent initialisation; None for `batch_size`.
    seed: integer; initial weights, shuffle, noise and dropout follow from it.
    strategy: see `get_strategy`.
    num_virtual_cpus: see `get_strategy`.
    verbose: as in `keras.Model.fit`.
    say: called with each line for the user.

  Returns:
    The best validation, in bits/dim; the weights are in the working directory.

  Raises:
    InputError (a ValueError): if a value is out of range, or data and config do not fit.
  """
  for name, value in (("steps", steps), ("batch_size", batch_size)):
    if value < 1:
      raise InputError(f"`{name}` must be at least 1, got {value}")
  dataset.check(config)
  validate_every = min(validate_every or max(1, len(dataset.train) // batch_size), steps)
  periods = -(-steps // validate_every)
  steps = periods * validate_every
  learning_rate = learning_rate_schedule(schedule, learning_rate, warmup_steps, steps)

  keras.utils.set_random_seed(seed)
  strategy = get_strategy(strategy, num_virtual_cpus)
  if batch_size % strategy.num_replicas_in_sync:
    raise InputError(f"`batch_size` must be a multiple of the {strategy.num_replicas_in_sync} "
                     f"devices, got {batch_size}")
  with strategy.scope():
    model = FlowPlusPlus(config)
    model.compile(keras.optimizers.Adam(learning_rate), clip_norm=clip_norm, ema_decay=ema_decay,
                  seed=seed)
  say(f"model: {model.count_params():,} parameters, "
      f"{sum(v.value.shape.num_elements() for v in model.dequantizer.trainable_variables):,} of them "
      f"in the dequantizer; {strategy.num_replicas_in_sync} device(s)")
  say(f"data: {dataset.name}, {len(dataset.train):,} / {len(dataset.validation):,} / "
      f"{len(dataset.test):,} images of shape {dataset.image_shape}, {dataset.levels} levels")

  progress = SaveProgress(workdir)
  progress.set_model(model)
  if progress.restore():
    say(f"resumed at step {int(model.optimizer.iterations.numpy())} of {steps}")
  else:
    batch = next(iter(training_batches(dataset.train, min(
        init_batch_size or batch_size, len(dataset.train)), seed)))
    bound = model.initialize(batch, seed=seed)
    say(f"initialised on {len(batch)} images: {float(model.to_bits_per_dim(bound).numpy().mean()):.3f}"
        " bits/dim")
    model.reset_averages()

  step = int(model.optimizer.iterations.numpy())
  if step < steps:
    model.fit(
        training_batches(dataset.train, batch_size, seed, start_step=step),
        steps_per_epoch=validate_every, initial_epoch=step // validate_every, epochs=periods,
        validation_data=evaluation_batches(dataset.validation, batch_size), shuffle=False,
        callbacks=[EvaluateAveragedWeights(), Throughput(batch_size), progress], verbose=verbose)
  return progress.best
