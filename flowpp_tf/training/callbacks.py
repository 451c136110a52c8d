"""What happens beside the steps: throughput, guards, metrics.jsonl, the best weights, checkpoints."""

import json
import signal
import time

from absl import logging
import keras
import tensorflow as tf

from flowpp_tf.files import replace_file
from flowpp_tf.training.averaging import averaged_weights
from flowpp_tf.training.checkpoints import Checkpoints
from flowpp_tf.training.workers import Workers


class Stopped(Exception):
  """Training was asked to stop and has saved its state, `step`."""

  def __init__(self, step):
    super().__init__(f"stopped after step {step}")
    self.step = step


class Diverged(Exception):
  """Too many steps in a row had a loss or gradients that were not finite."""


class SkippedSteps(keras.callbacks.Callback):
  """Adds `skipped_steps`, of the whole run, to the logs, and ends a run that only skips.

  Args:
    most: skipped steps in a row after which `Diverged` is raised.
    explain: callable `step -> str` that says of a skipped step what was not finite, or None.
  """

  def __init__(self, most, explain=None):
    super().__init__()
    self._most = most
    self._explain = explain

  def on_train_batch_end(self, batch, logs=None):
    in_a_row = int(self.model.skipped_in_a_row.numpy())
    if not in_a_row:
      return
    step = int(self.model.optimizer.iterations.numpy())
    if in_a_row == 1 and self._explain:
      logging.warning("step %d is skipped: %s", step, self._explain(step - 1))
    if in_a_row >= self._most:
      raise Diverged(f"loss or gradients of the last {in_a_row} steps, up to step {step}, were not "
                     "finite")

  def on_epoch_end(self, epoch, logs=None):
    logs["skipped_steps"] = int(self.model.skipped_steps.numpy())


class Throughput(keras.callbacks.Callback):
  """Adds `images_per_second` since the last validation, and `learning_rate`, to the logs.

  The first batch of a fit, which waits for the step to be traced, counts in the first period only if
  it is all of it.

  Args:
    batch_size: images of a step.
    say: called once, with a line that tells how long the first step took.
  """

  def __init__(self, batch_size, say):
    super().__init__()
    self._batch_size = batch_size
    self._say = say
    self._traced = False
    self._rate = 0.0

  def on_epoch_begin(self, epoch, logs=None):
    self._start, self._batches, self._last = time.monotonic(), 0, -1

  def on_train_batch_end(self, batch, logs=None):
    now = time.monotonic()
    self._batches += batch - self._last  # several steps an execution
    self._last = batch
    self._rate = self._batches * self._batch_size / (now - self._start)
    if not self._traced:
      self._say(f"first step, traced and taken in {now - self._start:.1f} s")
      self._traced, self._start, self._batches = True, now, 0
    logs["images_per_second"] = self._rate

  def on_epoch_end(self, epoch, logs=None):
    logs["images_per_second"] = self._rate
    logs["learning_rate"] = float(self.model.optimizer.learning_rate)


class SaveProgress(keras.callbacks.Callback):
  """Saves a run so that it can go on from any moment as if it had not been stopped.

  After each validation: the best weights, a row of metrics, a checkpoint, in this order. Between
  validations: a checkpoint every so many steps or minutes, with the sums of the period's metrics. On
  SIGTERM, and on Ctrl-C: a checkpoint at the next step or at the end of a validation, then `Stopped`.

  A run that is killed goes on from its last checkpoint; rows and weights written after that are
  written again.

  Args:
    workdir: `Workdir`.
    every_steps: steps between checkpoints, or None.
    every_minutes: minutes between checkpoints, or None.
    keep: number of checkpoints to keep.
    workers: `Workers`; the chief writes, and when one is asked to stop all do.
    labels: `dict` of what is the same in each row of metrics.
  """

  def __init__(self, workdir, every_steps=None, every_minutes=None, keep=2, workers=None,
               labels=None):
    super().__init__()
    self._workers = workers or Workers(tf.distribute.get_strategy())
    self._workdir = workdir
    self._every_steps = every_steps
    self._every_seconds = every_minutes and 60 * every_minutes
    self._keep = keep
    self._labels = dict(labels or {})
    self._checkpoints = None
    self._sums = None
    self._handlers = {}
    self._signal = None

  def set_model(self, model):
    super().set_model(model)
    if self._checkpoints is not None:  # `fit` says again what `train` said before it restored
      return
    self._best = tf.Variable(float("inf"), dtype=tf.float64, trainable=False, name="best")
    self._recorded = tf.Variable(0, dtype=tf.int64, trainable=False, name="recorded")
    # Keras resets its metrics when a fit begins, and those of several workers are sums over them: what
    # they hold goes along in variables of our own.
    self._metrics = [v.value for v in model.metrics_variables]
    self._held = [tf.Variable(tf.zeros(m.shape, m.dtype), trainable=False) for m in self._metrics]
    self._checkpoints = Checkpoints(
        self._workdir.checkpoints, self._keep, model=model, optimizer=model.optimizer,
        best=self._best, recorded=self._recorded,
        **{f"average_{i}": average for i, average in enumerate(model.averages or [])},
        **{f"metric_{i}": metric for i, metric in enumerate(self._held)})

  @property
  def best(self):
    """Best validation so far, in bits/dim."""
    return float(self._best)

  def restore(self):
    """Sets model, optimizer and averages to the newest checkpoint; returns whether there was one.

    Raises:
      InputError (a ValueError): if there are checkpoints and none is whole.
    """
    found = self._checkpoints.restore(clean=self._workers.chief) is not None
    if found:
      self._sums = [held.numpy() for held in self._held]
    if self._workers.chief:
      self._keep_rows_up_to(int(self._recorded.numpy()))
    return found

  def validation_is_due(self, period):
    """Whether the state is that of the end of a period of so many steps, not validated yet."""
    return self._step() % period == 0 and self._step() > int(self._recorded.numpy())

  def on_train_begin(self, logs=None):
    self._saved, self._last_saved = time.monotonic(), self._step()
    self._handlers = {}
    for number in (signal.SIGTERM, signal.SIGINT):
      try:
        self._handlers[number] = signal.signal(number, self._on_signal)
      except ValueError:  # not the main thread: whoever runs that one is asked to stop
        pass

  def on_train_end(self, logs=None):
    self.release_signals()

  def release_signals(self):
    """Gives the signals back to whoever had them before."""
    for number, handler in self._handlers.items():
      signal.signal(number, handler)
    self._handlers = {}

  def _on_signal(self, number, frame):
    del frame
    if self._signal is not None and number == signal.SIGINT:
      raise KeyboardInterrupt  # a second Ctrl-C does not wait
    self._signal = number

  def on_epoch_begin(self, epoch, logs=None):
    if self._sums is not None:  # the first part of this period was before the restart
      for metric, value in zip(self._metrics, self._sums):
        metric.assign(value)
      self._sums = None

  def on_train_batch_end(self, batch, logs=None):
    # Time and signals are each worker's own.
    due = self._every_seconds and time.monotonic() - self._saved >= self._every_seconds
    due, stop = self._workers.any(due, self._signal is not None)
    if self._every_steps:
      due |= self._step() // self._every_steps > self._last_saved // self._every_steps
    if due or stop:
      self._save()
    if stop:
      raise Stopped(self._last_saved)

  def on_epoch_end(self, epoch, logs=None):
    value = logs.get("val_bits_per_dim", logs["bits_per_dim"])
    better = value < self.best
    try:
      if better and self._workers.chief:
        with averaged_weights(self.model):
          replace_file(self._workdir.best_weights, self.model.save_weights)
      if better:
        self._best.assign(value)
      row = {"step": self._step(), **{name: float(v) for name, v in logs.items()}, **self._labels}
      if self._workers.chief:
        with open(self._workdir.metrics, "a") as file:
          file.write(json.dumps(row) + "\n")
    except OSError as error:
      logging.warning("step %d could not be recorded, the run goes on: %s", self._step(), error)
    self._recorded.assign(self._step())
    self.model.reset_metrics()  # the next period starts from here
    self._save()
    if self._workers.any(self._signal is not None)[0]:
      raise Stopped(self._last_saved)

  def _save(self):
    self._last_saved = self._step()
    for held, metric in zip(self._held, self._metrics):
      held.assign(metric.numpy())  # by all workers: they add up
    if self._workers.chief:
      self._checkpoints.save(self._last_saved)
    self._saved = time.monotonic()

  def _step(self):
    return int(self.model.optimizer.iterations.numpy())

  def _keep_rows_up_to(self, step):
    if self._workdir.metrics.exists():
      rows = [row for row in self._workdir.metrics.read_text().splitlines()
              if row.endswith("}") and json.loads(row)["step"] <= step]  # the last may be cut off
      replace_file(self._workdir.metrics,
                   lambda path: path.write_text("".join(row + "\n" for row in rows)))
