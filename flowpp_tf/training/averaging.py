"""Averaged weights in place of the present ones, for validation, sampling and what is kept."""

import contextlib

import keras


@contextlib.contextmanager
def averaged_weights(model):
  """Within it the model has its averaged weights; after it, bit for bit, those it had before.

  Args:
    model: compiled; without averages (`ema_decay=None`) nothing is changed.
  """
  if model.averages is None:
    yield
    return
  weights = model.trainable_variables
  present = [w.numpy() for w in weights]
  for weight, average in zip(weights, model.averages):
    weight.assign(average.numpy())
  try:
    yield
  finally:
    for weight, value in zip(weights, present):
      weight.assign(value)


class EvaluateAveragedWeights(keras.callbacks.Callback):
  """Every evaluation of the model, such as `fit`'s validation, sees the averaged weights."""

  def on_test_begin(self, logs=None):
    self._swap = averaged_weights(self.model)
    self._swap.__enter__()

  def on_test_end(self, logs=None):
    self._swap.__exit__(None, None, None)
