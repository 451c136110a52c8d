"""What happens beside the steps: throughput, metrics.jsonl, checkpoints and the best weights."""

import json
import time

import keras
import tensorflow as tf

from flowpp_tf.files import replace_file
from flowpp_tf.training.averaging import averaged_weights


class Throughput(keras.callbacks.Callback):
  """Adds `images_per_second` since the last validation, and `learning_rate`, to the logs.

  The first batch of a fit, which waits for the step to be traced, counts in the first period only if
  it is all of it.
  """

  def __init__(self, batch_size):
    super().__init__()
    self._batch_size = batch_size
    self._traced = False
    self._rate = 0.0

  def on_epoch_begin(self, epoch, logs=None):
    self._start, self._batches = time.monotonic(), 0

  def on_train_batch_end(self, batch, logs=None):
    now = time.monotonic()
    self._batches += 1
    self._rate = self._batches * self._batch_size / (now - self._start)
    if not self._traced:
      self._traced, self._start, self._batches = True, now, 0
    logs["images_per_second"] = self._rate

  def on_epoch_end(self, epoch, logs=None):
    logs["images_per_second"] = self._rate
    logs["learning_rate"] = float(self.model.optimizer.learning_rate)


class SaveProgress(keras.callbacks.Callback):
  """After each validation: the best weights, a row of metrics, a checkpoint, in this order.

  A run that is killed goes on from its last checkpoint; rows and weights written after that are
  written again.

  Args:
    workdir: `Workdir`.
    keep: number of checkpoints to keep.
  """

  def __init__(self, workdir, keep=2):
    super().__init__()
    self._workdir = workdir
    self._keep = keep
    self._manager = None

  def set_model(self, model):
    super().set_model(model)
    if self._manager is not None:  # `fit` says again what `train` said before it restored
      return
    self._best = tf.Variable(float("inf"), dtype=tf.float64, trainable=False, name="best")
    averages = {f"average_{i}": average for i, average in enumerate(model.averages or [])}
    self._manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(model=model, optimizer=model.optimizer, best=self._best, **averages),
        str(self._workdir.checkpoints), max_to_keep=self._keep)

  @property
  def best(self):
    """Best validation so far, in bits/dim."""
    return float(self._best)

  def restore(self):
    """Sets model, optimizer and averages to the newest checkpoint; returns whether there was one."""
    path = self._manager.latest_checkpoint
    if path is not None:
      self._manager.checkpoint.restore(path).assert_consumed()
    self._keep_rows_up_to(self._step())
    return path is not None

  def on_epoch_end(self, epoch, logs=None):
    value = logs.get("val_bits_per_dim", logs["bits_per_dim"])
    if value < self.best:
      self._best.assign(value)
      with averaged_weights(self.model):
        replace_file(self._workdir.best_weights, self.model.save_weights)
    row = {"step": self._step(), **{name: float(v) for name, v in logs.items()}}
    with open(self._workdir.metrics, "a") as file:
      file.write(json.dumps(row) + "\n")
    self._manager.save(checkpoint_number=self._step())

  def _step(self):
    return int(self.model.optimizer.iterations.numpy())

  def _keep_rows_up_to(self, step):
    if self._workdir.metrics.exists():
      rows = [row for row in self._workdir.metrics.read_text().splitlines()
              if row.endswith("}") and json.loads(row)["step"] <= step]  # the last may be cut off
      replace_file(self._workdir.metrics,
                   lambda path: path.write_text("".join(row + "\n" for row in rows)))
