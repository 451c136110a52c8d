"""Checkpoints that are whole or not there: written beside, checked on load, put in place at once.

    checkpoints/step_00001700/state.index, state.data-*, digests.json

A folder appears under its name once all of it is on disk, with the SHA-256 of each file in digests.json. One that
fails that check later is passed over for the one before it.
"""

from collections.abc import Callable
import json
import os
import pathlib
import shutil
from typing import Any

from absl import logging
import tensorflow as tf

from flowpp_tf.errors import InputError
from flowpp_tf.files import file_sha256
from flowpp_tf.types import Path

_DIGESTS = "digests.json"
_UNFINISHED = ".unfinished."
_KEY_OF_FIRST_FORMAT = "optimizer/_iterations/.ATTRIBUTES/VARIABLE_VALUE"


class Checkpoints:
  """The newest states of a run.

  Args:
    folder: folder of the checkpoints.
    keep: how many are kept.
    trackables: what a state consists of, by name, as for `tf.train.Checkpoint`.
  """

  def __init__(self, folder: Path, keep: int, **trackables: Any) -> None:
    self._folder = pathlib.Path(folder)
    self._keep = keep
    self._checkpoint = tf.train.Checkpoint(**trackables)

  def save(self, step: int) -> bool:
    """Write the current state as that of `step`; return whether it succeeded.

    On failure (a full disk, say) it logs a warning, and the older checkpoints stay.
    """
    final = self._path(step)
    unfinished = final.with_name(_UNFINISHED + final.name)
    try:
      shutil.rmtree(unfinished, ignore_errors=True)
      unfinished.mkdir(parents=True)
      self._checkpoint.write(str(unfinished / "state"))
      digests = {path.name: file_sha256(path) for path in unfinished.iterdir()}
      (unfinished / _DIGESTS).write_text(json.dumps(digests, indent=2))
      for path in unfinished.iterdir():
        _flush(path)
      if final.exists():  # of an earlier life of the run, passed over as damaged or equal to this
        shutil.rmtree(final)
      os.rename(unfinished, final)
      _flush(self._folder)
    except (OSError, tf.errors.OpError) as error:
      shutil.rmtree(unfinished, ignore_errors=True)
      logging.warning("the checkpoint of step %d could not be written, the run goes on without it: %s", step, error)
      return False
    for old in self._all()[:-self._keep]:
      shutil.rmtree(old, ignore_errors=True)
    return True

  def restore(self, clean: bool = True, first_format: Callable[[str], None] | None = None) -> int | None:
    """Restore the newest state that is whole; return its step, or None if there is none at all.

    Args:
      clean: whether to remove what a killed run left unfinished.
      first_format: restores a path that has the format of the first versions.

    Raises:
      InputError (a ValueError): if there are checkpoints and none is whole, or the newest does not fit.
    """
    for unfinished in self._folder.glob(f"{_UNFINISHED}*") if clean else ():
      shutil.rmtree(unfinished, ignore_errors=True)
    for path in reversed(self._all()):
      damage = _damage(path)
      if damage:
        logging.warning("checkpoint %s is passed over: %s", path, damage)
        continue
      try:
        if first_format and tf.train.load_checkpoint(str(path / "state")).has_tensor(_KEY_OF_FIRST_FORMAT):
          first_format(str(path / "state"))
        else:
          self._checkpoint.read(str(path / "state")).assert_consumed()
      except (AssertionError, ValueError) as error:
        raise InputError(f"checkpoint {str(path)!r} is not one of this model and these settings: {error}") from None
      return int(path.name.rpartition("_")[2])
    if self._all():
      raise InputError(f"no checkpoint in {str(self._folder)!r} is whole; move it away to start over")
    return None

  def _path(self, step):
    return self._folder / f"step_{step:08d}"

  def _all(self):
    return sorted(self._folder.glob("step_*"))


def _damage(path):
  """The reason why a checkpoint's folder is not whole, or None."""
  try:
    digests = json.loads((path / _DIGESTS).read_text())
    wrong = [name for name, digest in digests.items() if file_sha256(path / name) != digest]
    return f"{', '.join(wrong)} changed since it was written" if wrong else None
  except (OSError, ValueError, AttributeError) as error:
    return f"{error}"


def _flush(path):
  """Wait until a file, or the list of a folder's files, is on disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
