"""What TensorBoard shows of a run: Keras' own callback, and grids of samples."""

import keras
import numpy as np
import tensorflow as tf

from flowpp_tf.errors import InputError
from flowpp_tf.training.averaging import averaged_weights

TENSORBOARD = ("scalars", "samples", "histograms")


def tensorboard_callbacks(folder, what, profile=None):
  """Callbacks that write event files.

  Args:
    folder: where to.
    what: any of "scalars" (each validation), "samples" (a grid at each validation), "histograms" (of
      all weights at each validation).
    profile: `(first, last)` training steps of this process to profile, or None.

  Raises:
    InputError (a ValueError): for anything else.
  """
  for name in what:
    if name not in TENSORBOARD:
      raise InputError(f"`tensorboard` must be of {', '.join(TENSORBOARD)}, got {name!r}")
  if profile is not None and not (len(profile) == 2 and 0 < profile[0] <= profile[1]):
    raise InputError(f"`profile` must be two training steps such as 10,20, got {profile}")
  callbacks = []
  if profile or set(what) - {"samples"}:
    callbacks.append(keras.callbacks.TensorBoard(
        str(folder), histogram_freq=int("histograms" in what), write_graph=False,
        profile_batch=tuple(profile or ()) or 0))
  if "samples" in what:
    callbacks.append(SampleGrids(str(folder / "samples")))
  return callbacks


class SampleGrids(keras.callbacks.Callback):
  """After each validation, a grid of samples by the averaged weights, the same noise each time.

  Args:
    folder: of the event file.
    side: samples in a row and in a column.
  """

  def __init__(self, folder, side=6):
    super().__init__()
    self._folder = folder
    self._side = side
    self._writer = None

  def on_epoch_end(self, epoch, logs=None):
    if self._writer is None:
      self._writer = tf.summary.create_file_writer(self._folder)
      self._sample = tf.function(lambda: self.model.sample(self._side**2, seed=0))
    with averaged_weights(self.model):
      images = self._sample().numpy()
    height, width, channels = images.shape[1:]
    grid = images.reshape(self._side, self._side, height, width, channels).swapaxes(1, 2)
    grid = grid.reshape(1, self._side * height, self._side * width, channels)
    with self._writer.as_default():
      tf.summary.image("samples", np.float32(grid) / (self.model.config.levels - 1), step=epoch)
    self._writer.flush()
