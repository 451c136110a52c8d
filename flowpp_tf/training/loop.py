"""A training run: initialise, step, validate, keep the best, checkpoint; resume where it was stopped."""

from collections.abc import Callable
import contextlib
import dataclasses
import hashlib
import math
import time
from typing import Any

from absl import logging
import keras
import tensorflow as tf
import tensorflow_probability as tfp
import tqdm

from flowpp_tf.config.training import TrainingConfig
from flowpp_tf.core.checks import check_arguments
from flowpp_tf.core.environment import usable_cores
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.finite import raise_if_diverged
from flowpp_tf.core.lanes import lane_count
from flowpp_tf.data import DataPipeline, ImageDataset, describe, weighted_batches
from flowpp_tf.devices import Workers
from flowpp_tf.io import gate
from flowpp_tf.models import FlowPlusPlus, FlowPlusPlusConfig, InitialWeights, unpack_batch
from flowpp_tf.training.optimizer import make_optimizer, make_schedule
from flowpp_tf.training.signals import Stopped, StopSignals
from flowpp_tf.training.step import TrainState, explain_skipped_step, train_step, validation_step
from flowpp_tf.training.tensorboard import TensorBoard
from flowpp_tf.training.workdir import Workdir

_NEVER_FINITE = (
  "no step was finite: probably the precision is too low for these data, as where pixels hardly vary; try `precision` "
  "float32 and `flow_dtype` float64"
)
_NO_LONGER_FINITE = (
  "steps before were finite: probably the learning rate is too high for these data; try a lower `learning_rate` or "
  "`clip_norm`, or a longer `warmup_steps`"
)


@check_arguments
def run_training(
  config: FlowPlusPlusConfig,
  training: TrainingConfig,
  dataset: ImageDataset,
  workdir: Workdir,
  *,
  extra_metadata: dict[str, Any] | None = None,
  init_from: InitialWeights | None = None,
  condition: Callable[[tf.Tensor], tf.Tensor] | None = None,
  strategy: tf.distribute.Strategy | None = None,
  progress_bar: bool = False,
  log_fn: Callable[[str], None] = print,
) -> float:
  """Train a model in a working directory, or resume the run that it holds.

  Every worker of a strategy calls this; only the chief writes and logs.

  Args:
    config: architecture.
    training: settings of the run.
    dataset: `ImageDataset`.
    workdir: `Workdir`; it is opened for this run once all settings have been checked.
    extra_metadata: further entries of the run's config.json.
    init_from: trained weights to begin with; they are validated as step 0. None for the data-dependent initialisation.
    condition: for a model with a condition, the function that makes it, `[B, *condition_shape]`, from integer images
      `[B, H, W, C]`, such as a smaller copy of each. No file records the function: give the same one on resume.
    strategy: `tf.distribute.Strategy`, see `get_strategy`; None for the current one.
    progress_bar: whether to show a line with step, bits/dim, best and remaining time.
    log_fn: called with each line for the user.

  Returns:
    The best validation, in bits/dim; the weights are in the working directory.

  Raises:
    InputError (a ValueError): if data and configs do not fit, workers have different ones, the working directory holds
      another run, or its newest checkpoint is damaged.
    Stopped: when asked to stop by SIGTERM or Ctrl-C, after the state has been saved, if that was possible.
    Diverged: after `max_skipped` skipped steps in a row; the newest checkpoint stays as it is.
    WorkerLost: if another worker of the strategy is gone.

  Examples:
    >>> from flowpp_tf.data import load_dataset
    >>> from flowpp_tf.training import TrainingConfig, Workdir, run_training
    >>> config, training = fpp.get_config("digits"), TrainingConfig(steps=500, tensorboard=())
    >>> best = run_training(config, training, load_dataset("digits"), Workdir("runs/digits"), log_fn=lambda line: None)
    >>> best > 0
    True
  """
  strategy = strategy or tf.distribute.get_strategy()
  workers = Workers(strategy)
  _check_settings(config, training, dataset, condition, strategy.num_replicas_in_sync)
  fingerprint = dataset.fingerprint()
  settings = {
    "dataset": dataset.name,
    **(extra_metadata or {}),
    **training.identity(),
    "init_from": None,
    "fingerprint": fingerprint,
  }
  if init_from is not None:
    settings["init_from"] = {"source": init_from.source, "sha256": init_from.sha256}
  with contextlib.ExitStack() as stack:
    identity: dict[str, Any] = {}
    if workers.chief:
      workdir.check(config, settings)  # before anything is written
      stack.enter_context(workdir.sole_owner())
    else:
      log_fn = lambda line: None
    stack.enter_context(workers.guard())
    if workers.chief:
      identity = workdir.open(config, settings)
    _check_same_on_all(workers, config, training, settings)
    keras.utils.set_random_seed(training.seed)
    log_fn(f"data: {'; '.join([describe(fingerprint), *dataset.notes])}")  # before what takes time
    with workers.scope():
      state = TrainState(FlowPlusPlus(config), training)
    _log_what_is_trained(state, workers, log_fn)
    batches = DataPipeline(dataset, condition, bool(config.num_classes))
    run = Run(state, batches, workdir, identity, workers, fingerprint["digest"], progress_bar, log_fn)
    if run.restore():
      log_fn(f"resumed at step {state.step} of {training.steps}")
    elif init_from is not None:
      run.begin_with(init_from)
    else:
      run.initialize()
    asked = "asked to stop: the run ends once the state is saved, after this step; press Ctrl-C again to stop now"
    with StopSignals(asked if workers.chief else "") as signals:
      best = run.run(signals)
    if workers.chief and _best_is_step_0(workdir, best):
      log_fn("no validation is better than that of step 0: the best weights are those that the run began with")
    return best


def _best_is_step_0(workdir, best):
  return any(row["step"] == 0 and row["val_bits_per_dim"] == best for row in workdir.rows())


def _check_settings(config, training, dataset, condition, replicas):
  """Raise an `InputError` if architecture, settings, data and devices do not fit each other."""
  if training.batch_size % replicas:
    raise InputError(f"`batch_size` must be a multiple of the {replicas} devices, got {training.batch_size}")
  dataset.check(config)
  count = training.images_per_step
  limit = len(dataset.train)
  if count > limit:
    raise InputError(f"`batch_size` times `accumulate` must be at most the {limit:,} training images, got {count:,}")
  takes_condition = config.condition_shape and not config.tile_neighbours  # tiles come with theirs
  if takes_condition and condition is None:
    raise InputError("`condition` must be given: the model is one of images given a condition")
  if condition is not None and not takes_condition:
    raise InputError("`condition` must be None: the model takes none")
  make_optimizer(training)  # checks schedule and rate


def _check_same_on_all(workers, config, training, settings):
  """Raise an `InputError` if workers have other data, configs or initial weights: each would take steps of its own."""
  model = dataclasses.replace(config, remat="off")  # `remat` changes no number
  data = settings["fingerprint"]["sha256"]
  weights = settings["init_from"] and settings["init_from"]["sha256"]
  what = repr([model, training.identity(), training.steps_per_execution, data, weights])
  digest = hashlib.sha256(what.encode()).hexdigest()[:12]  # a float64 holds 12 digits
  if not workers.agree(int(digest, 16)):
    raise InputError(
      f"the {workers.count} workers have different settings, data or initial weights; start all by the same command"
    )


class Run:
  """The loop of a run: steps, validations, checkpoints.

  After each validation it saves the best weights, a row of metrics, and a checkpoint, in this order. Between
  validations it saves a checkpoint every so many steps or minutes. When asked to stop, it saves one after the current
  step or validation. A killed run resumes from its last checkpoint, and writes later rows and weights again. A run that
  begins with trained weights validates them as step 0, so that they are the best until others are better.

  Args:
    state: `TrainState`.
    batches: `DataPipeline`.
    workdir: `Workdir`.
    identity: what identifies the run, from `Workdir.open`.
    workers: `Workers` of the strategy; the chief writes.
    digest: digest of the data, for the rows of metrics.
    progress_bar: as in `run_training`.
    log_fn: as in `run_training`.
  """

  def __init__(
    self,
    state: TrainState,
    batches: DataPipeline,
    workdir: Workdir,
    identity: dict[str, Any],
    workers: Workers,
    digest: str,
    progress_bar: bool,
    log_fn: Callable[[str], None],
  ) -> None:
    config = state.config
    self._state = state
    self._config = config
    self._data = batches
    self._workdir = workdir
    self._workers = workers
    self._strategy = workers.strategy
    self._digest = digest
    self._log_fn = log_fn
    self._shows_bar = workers.chief and progress_bar
    epoch = max(1, len(batches.dataset.train) // config.images_per_step)
    self._period = min(config.validate_every or epoch, config.steps)
    self._best = tf.Variable(float("inf"), dtype=tf.float64, trainable=False, name="best")
    self._recorded = tf.Variable(0, dtype=tf.int64, trainable=False, name="recorded")  # step of the last validation
    self._checkpoints = workdir.new_checkpoints(
      config.keep, identity, best=self._best, recorded=self._recorded, **state.trackables()
    )
    self._board = TensorBoard(workdir.path / "tensorboard", state) if workers.chief else None
    self._take_steps = tf.function(self._steps_of_replicas, autograph=False)
    self._validate_batch = tf.function(self._validation_of_replicas, autograph=False)
    self._traced = False
    self._paced = False
    self._saved: int | None = None  # step of the newest checkpoint; a worker that writes none counts it too
    self._cpu_seconds = 0.0  # of all steps of the run, also in earlier processes, without tracing

  def restore(self) -> bool:
    """Set the state to the newest checkpoint; return whether there was one.

    Raises:
      InputError (a ValueError): if it is damaged, or another worker found another one.
    """
    restored = self._checkpoints.restore(clean=self._workers.chief)
    if not self._workers.agree(-1 if restored is None else restored.step):
      found = "nothing" if restored is None else f"step {restored.step}"
      raise InputError(
        f"worker {self._workers.index} finds {found} to resume in workdir {str(self._workdir.path)!r}, and another "
        "worker something else; all must see the same whole files in it"
      )
    if self._workers.chief:
      self._workdir.recover(restored, int(self._recorded.numpy()))
    if restored is None:
      return False
    self._saved = restored.step
    self._cpu_seconds = restored.cpu_seconds
    self._state.model.initialized = True
    return True

  def begin_with(self, weights: InitialWeights) -> None:
    """Begin with trained weights, which are validated as step 0."""
    weights.load(self._state.model)
    self._state.reset_ema()
    self._recorded.assign(-1)
    self._log_fn(f"begins with the weights of {weights.path}")

  def initialize(self) -> None:
    """Initialise the model from the first training images."""
    model = self._state.model
    config = self._config
    count = min(config.init_batch_size or config.images_per_step, len(self._data.dataset.train))
    images, conditioning = unpack_batch(next(iter(self._data.training_batches(count, config.seed))), model.config)
    self._log_fn(f"initialising on {len(images)} images")
    bound = model.initialize(images, seed=config.seed, **conditioning)
    self._workers.broadcast([v.value for v in model.weights])  # hosts may round differently
    self._state.reset_ema()
    bits = float(tf.reduce_mean(model.to_bits_per_dim(bound)))
    self._log_fn(f"initialised on {len(images)} images: {bits:.3f} bits/dim")

  def run(self, signals: StopSignals) -> float:
    """Take the remaining steps, unless `signals` ask to stop; return the best validation in bits/dim."""
    config = self._config
    step = self._state.step
    batches = iter(self._batches(step)) if step < config.steps else None
    self._time_from(step)
    self._last_tried = step
    self._tried_at = time.monotonic()
    hidden = not self._shows_bar
    self._bar = tqdm.tqdm(total=config.steps, unit="step", initial=step, disable=hidden, leave=False)
    with self._bar:
      while True:
        if self._ends_period(step) and step > int(self._recorded.numpy()):  # also if stopped between the two
          self._end_period(step)
          self._stop_if(self._workers.any(signals.received)[0], step)
          self._time_from(step)
        if step >= config.steps:
          return float(self._best)

        count = min(config.steps_per_execution, self._period - step % self._period, config.steps - step)
        step += count
        self._take(batches, count, step)
        self._update_bar(count)

        minutes = (time.monotonic() - self._tried_at) / 60
        due = config.checkpoint_minutes and minutes >= config.checkpoint_minutes
        due, stop = self._workers.any(due, signals.received)  # each worker has a clock and signals of its own
        if config.checkpoint_every:
          due |= step // config.checkpoint_every > self._last_tried // config.checkpoint_every
        if (due or stop) and not self._ends_period(step):
          self._save(step)
          self._stop_if(stop, step)

  def _ends_period(self, step):
    return step % self._period == 0 or step >= self._config.steps

  def _time_from(self, step):
    """Begin to measure images/s with the step after this one."""
    self._timed_from = step
    self._clock = time.monotonic()

  def _update_bar(self, count):
    if self._bar.update(count):  # drawn: the device is asked for the sums only now
      best = f", best {float(self._best):.4f}" if math.isfinite(float(self._best)) else ""
      self._bar.set_postfix_str(f"{self._state.means()['bits_per_dim']:.4f} bits/dim{best}")

  def _log(self, line):
    self._bar.clear()  # the next steps draw it below the line
    self._log_fn(line)

  # --- Steps ------------------------------------------------------------------------------------

  def _batches(self, step):
    """Return this worker's share of the batches from a step on, in the order of its replicas."""
    if self._strategy.num_replicas_in_sync == 1:
      return self._global_batches(step)

    def worker_batches(context):
      batches = self._global_batches(step, context.num_input_pipelines, context.input_pipeline_id)
      return batches.rebatch(context.get_per_replica_batch_size(self._config.images_per_step))

    return self._strategy.distribute_datasets_from_function(worker_batches)

  def _global_batches(self, step, num_shards=1, shard=0):
    return self._data.training_batches(
      self._config.images_per_step, self._config.seed, step, num_shards, shard, flip=self._config.flip
    )

  def _take(self, batches, count, last):
    """Take `count` steps up to step `last`. Their time does not include tracing."""
    if not self._traced:
      self._log("tracing the first step")
    cpu_clock = time.process_time()
    self._take_steps(batches, tf.constant(count))
    self._watch_skipped(last)
    if self._traced:
      self._cpu_seconds += time.process_time() - cpu_clock
      self._log_pace(last)
      return
    self._log(f"first step, traced and taken in {time.monotonic() - self._clock:.1f} s")
    self._traced = True
    self._bar.unpause()  # so that tracing does not count in the remaining time
    if not self._ends_period(last):  # exclude tracing time unless this step is the whole interval
      self._time_from(last)

  def _log_pace(self, step):
    """Log once, after 20 steps or 10 seconds, how long a step takes, and when the run will end."""
    steps = step - self._timed_from
    seconds = time.monotonic() - self._clock
    if not self._paced and (steps >= 20 or seconds >= 10):
      self._paced = True
      self._log(pace(seconds / steps, self._config.steps - step, time.time()))

  def _steps_of_replicas(self, batches, count):
    def one_step(i):
      self._strategy.run(train_step, args=(self._state, next(batches)))
      return i + 1

    if self._config.steps_per_execution == 1:
      one_step(0)
    else:
      tf.while_loop(lambda i: i < count, one_step, [0])

  def _watch_skipped(self, step):
    in_a_row = int(self._state.skipped_in_a_row.numpy())
    if in_a_row == 1 and self._config.debug_numerics:
      batch = next(iter(self._global_batches(step - 1)))
      found = explain_skipped_step(self._state, batch, self._strategy.num_replicas_in_sync, step - 1)
      logging.warning("step %d is skipped: %s", step, found)
    cause = _NO_LONGER_FINITE if step > in_a_row else _NEVER_FINITE
    raise_if_diverged(in_a_row, self._config.max_skipped, cause, step)

  # --- Validation -------------------------------------------------------------------------------

  def _validation_of_replicas(self, batch, weights):
    sums = self._strategy.run(validation_step, args=(self._state, batch, weights))
    return [self._strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None) for value in sums]

  def validate(self) -> float:
    """Return bits/dim of the validation split under the EMA weights."""
    size = self._config.batch_size
    batches = weighted_batches(self._data.evaluation_batches("validation", size), size)  # all of one shape
    if self._strategy.num_replicas_in_sync > 1:
      batches = self._strategy.experimental_distribute_dataset(batches)
    total = 0.0
    count = 0.0
    with self._state.ema_weights():
      for batch, weights, _ in batches:
        batch_total, batch_count = self._validate_batch(batch, weights)
        total += float(batch_total)
        count += float(batch_count)
    return total / count

  def _end_period(self, step):
    """Validate; save the best weights, a row of metrics and a checkpoint, in this order; log the result."""
    row = self._measure(step)
    bits = row["val_bits_per_dim"]
    is_best = math.isfinite(bits) and bits < float(self._best)
    if is_best and self._written("best weights", step, self._save_best, bits):
      self._best.assign(bits)
    self._written("metrics", step, self._workdir.add_row, {**row, "data": self._digest})
    self._recorded.assign(step)
    self._state.reset_sums()
    self._save(step)
    self._log(f"step {step} of {self._config.steps}: {self._results(row)}")
    if self._board:
      self._board.after_validation(row)

  def _measure(self, step):
    """Return the row of metrics of a step."""
    images = (step - self._timed_from) * self._config.images_per_step
    images_per_second = math.nan
    if images:
      images_per_second = images / (time.monotonic() - self._clock)
    learning_rate = math.nan
    if step:
      learning_rate = float(make_schedule(self._config)(step - 1))  # the optimizer has the rate of the next step
    return {
      "step": step,
      **self._state.means(),
      "images_per_second": images_per_second,
      "cpu_seconds": self._cpu_seconds,
      "learning_rate": learning_rate,
      "val_bits_per_dim": self.validate(),
      "skipped_steps": int(self._state.skipped_steps.numpy()),
    }

  def _results(self, row):
    """Return what a row of metrics says, for the log."""
    model_config = self._state.model.config
    validation = f"validation {row['val_bits_per_dim']:.4f}"
    if model_config.dtype.startswith("mixed_"):
      validation += f" in {model_config.precision}"
    if not row["step"]:
      return validation
    return (
      f"{row['bits_per_dim']:.4f} bits/dim, {validation}, gradient norm {row['gradient_norm']:.4g}, "
      f"{row['images_per_second']:.1f} images/s"
    )

  # --- Files ------------------------------------------------------------------------------------

  def _save_best(self, value):
    with self._state.ema_weights():
      self._workdir.save_best(self._state.model, self._state.step, value)

  def _written(self, what, step, write, *arguments):
    """Let the chief write, if the directory is still the run's; return False if it failed."""
    try:
      if self._workers.chief:
        self._workdir.check_owned()
        write(*arguments)
      return True
    except OSError as error:
      logging.warning("the %s of step %d could not be written, the run goes on: %s", what, step, gate.reason(error))
      return False

  def _save(self, step):
    if self._written("checkpoint", step, self._checkpoints.save, step, self._cpu_seconds):
      self._saved = step
    self._last_tried = step
    self._tried_at = time.monotonic()

  def _stop_if(self, asked, step):
    if asked:
      raise Stopped(step, self._saved)


def pace(seconds: float, steps: int, now: float) -> str:
  """Return a line that says how long a step takes, and when the run will end.

  Args:
    seconds: time of a step, without tracing and validation.
    steps: number of remaining steps.
    now: seconds since the epoch.
  """
  end = time.strftime("%Y-%m-%d %H:%M", time.localtime(now + seconds * steps))
  return f"a step takes {seconds:.3g} s: the remaining {steps:,} end at {end}, later by the time of validations"


def _log_what_is_trained(state, workers, log_fn):
  model = state.model
  log_fn(f"model: {model.count_params():,} parameters, {model.dequantizer.count_params():,} of them in the dequantizer")
  cores = len(usable_cores())
  gpus = len(tf.config.list_physical_devices("GPU"))
  here = f"{cores} CPU cores, {gpus} GPUs, {lane_count()} lane(s)"
  log_fn(f"devices: {workers.strategy.num_replicas_in_sync} in {workers.count} worker(s); here {here}")
  versions = f"TensorFlow {tf.__version__}, Keras {keras.__version__}, TensorFlow Probability {tfp.__version__}"
  log_fn(f"versions: {versions}; seed {state.config.seed}")
