"""Event files for TensorBoard: scalars and histograms of each validation, grids of samples.

The grid shows only the first channel of samples that are neither grey nor RGB.
"""

import pathlib

import numpy as np
import tensorflow as tf

from flowpp_tf.core.environment import check_extra
from flowpp_tf.core.lanes import concat_shards
from flowpp_tf.training.step import TrainState

_SIDE = 6  # samples in a row and in a column of a grid


class TensorBoard:
  """Writer of a run's event files. Values of training and validation with the same name share a chart.

  Args:
    folder: folder of the event files.
    state: `TrainState` of the run.
  """

  def __init__(self, folder: pathlib.Path, state: TrainState) -> None:
    if state.config.tensorboard:  # `tf.summary` imports it
      check_extra("tensorboard", "train", f"`tensorboard` {', '.join(state.config.tensorboard)}")
    self._folder = folder
    self._state = state
    self._writers: dict[str, tf.summary.SummaryWriter] = {}
    self._sample = tf.function(self._samples, autograph=False)

  def after_validation(self, row: dict[str, float]) -> None:
    """Write what the run's `tensorboard` setting asks for.

    Args:
      row: the row of metrics.jsonl; the names of validation metrics begin with "val_".
    """
    what = self._state.config.tensorboard
    model = self._state.model
    step = self._state.step
    if "scalars" in what:
      for name in row:
        if name != "step":
          with self._writer("validation" if name.startswith("val_") else "train"):
            tf.summary.scalar(name.removeprefix("val_"), row[name], step)
    if "histograms" in what:
      with self._writer("train"):
        for weight in model.weights:
          tf.summary.histogram(weight.path, weight.value, step)
    if "samples" in what and not model.config.condition_shape:  # the writer has no condition to sample with
      with self._state.ema_weights():
        images = self._sample().numpy()
      with self._writer("samples"):
        tf.summary.image("samples", _grid(images, model.config.pixel_levels), step)
    for writer in self._writers.values():
      writer.flush()

  def _samples(self):
    """Return samples for the grid; with classes, one class in each column."""
    model = self._state.model
    count = _SIDE**2
    latents = model.sample_latents(count, seed=0)
    classes = model.config.num_classes
    if not classes:
      return concat_shards(model.decode, latents)
    labels = tf.range(count) % min(_SIDE, classes)
    return concat_shards(model.decode, latents, labels)

  def _writer(self, name):
    if name not in self._writers:
      self._writers[name] = tf.summary.create_file_writer(str(self._folder / name))
    return self._writers[name].as_default()


def _grid(images, levels):
  """Return a grid of samples as a picture, numbers in 0 .. 1 of shape `[1, height, width, 1 or 3]`."""
  if images.shape[-1] not in (1, 3):
    images = images[..., :1]
  height, width, channels = images.shape[1:]
  grid = images.reshape(_SIDE, _SIDE, height, width, channels).swapaxes(1, 2)
  grid = grid.reshape(1, _SIDE * height, _SIDE * width, channels).astype(np.float32)
  if levels:
    return grid / (levels - 1)
  return (grid - grid.min()) / (grid.max() - grid.min())
