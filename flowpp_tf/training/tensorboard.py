"""Event files for TensorBoard: scalars and histograms of each validation, grids of samples.

Of samples that are neither grey nor RGB the grid shows the first channel.
"""

import pathlib

import numpy as np
import tensorflow as tf

from flowpp_tf.core.environment import check_extra
from flowpp_tf.core.lanes import concat_shards
from flowpp_tf.training.step import TrainState

_SIDE = 6  # samples in a row and in a column of a grid


class TensorBoard:
  """Writer of a run's event files; a value of training and of validation with one name share a chart.

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
      row: of metrics.jsonl; the names of validation metrics begin with "val_".
    """
    what, step = self._state.config.tensorboard, self._state.step
    if "scalars" in what:
      for name, value in row.items():
        with self._writer("validation" if name.startswith("val_") else "train"):
          tf.summary.scalar(name.removeprefix("val_"), value, step)
    if "histograms" in what:
      with self._writer("train"):
        for weight in self._state.model.weights:
          tf.summary.histogram(weight.path, weight.value, step)
    if "samples" in what and not self._state.model.config.condition_shape:  # there is no condition to sample with
      with self._state.ema_weights():
        images, levels = self._sample().numpy(), self._state.model.config.pixel_levels
      if images.shape[-1] not in (1, 3):  # a picture has no other numbers of channels
        images = images[..., :1]
      low, high = (0, levels - 1) if levels else (images.min(), images.max())
      with self._writer("samples"):
        tf.summary.image("samples", (_grid(images) - low) / (high - low), step)
    for writer in self._writers.values():
      writer.flush()

  def _samples(self):
    """Return samples for the grid; of a model with classes, a column for each of the first classes."""
    model, count = self._state.model, _SIDE**2
    labels = [tf.range(count) % min(_SIDE, model.config.num_classes)] if model.config.num_classes else []
    return concat_shards(lambda z, *labels: model.decode(z, *labels), model.sample_latents(count, seed=0), *labels)

  def _writer(self, name):
    if name not in self._writers:
      self._writers[name] = tf.summary.create_file_writer(str(self._folder / name))
    return self._writers[name].as_default()


def _grid(images):
  height, width, channels = images.shape[1:]
  grid = images.reshape(_SIDE, _SIDE, height, width, channels).swapaxes(1, 2)
  return grid.reshape(1, _SIDE * height, _SIDE * width, channels).astype(np.float32)
