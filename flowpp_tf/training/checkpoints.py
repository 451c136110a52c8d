"""Atomic checkpoints: written under a temporary name, renamed when complete, verified on load.

    checkpoints/step_00001700/
        state.index, state.data-*           the state, as `tf.train.Checkpoint` writes it
        best.weights.safetensors, metrics.jsonl   the run's files as they were then
        manifest.json                       format, step, CPU time, the run's config, the SHA-256 of each of these files

A folder appears under its name once all of it is on disk. One that fails its check is an error, and stays.
"""

from collections.abc import Iterator, Sequence
import contextlib
import json
import os
import pathlib
import re
import shutil
import tempfile
from typing import Any, NamedTuple

import tensorflow as tf

from flowpp_tf.core.errors import InputError
from flowpp_tf.io import gate
from flowpp_tf.io.files import file_sha256, stream_sha256, sync, write_file
from flowpp_tf.training.identity import check_same_run, is_identity
from flowpp_tf.types import Path

MANIFEST = "manifest.json"
_FORMAT = 2
_UNFINISHED = ".unfinished."
_COPIED_BYTES = 1 << 22  # at once
_NAME = re.compile(r"step_(\d{8,})")


class Restored(NamedTuple):
  """The checkpoint that a state was restored from."""

  step: int
  folder: pathlib.Path
  cpu_seconds: float  # of all steps until then


class Checkpoints:
  """Save and restore the last `keep` training states.

  Args:
    folder: folder of the checkpoints.
    keep: number of states to keep.
    run: identifies the run, JSON-serializable; saved with each state.
    files: files of the run; each checkpoint has a copy of those that exist.
    **trackables: the parts of a state, by name, as for `tf.train.Checkpoint`.
  """

  def __init__(
    self,
    folder: Path,
    keep: int,
    run: dict[str, Any] | None = None,
    files: Sequence[pathlib.Path] = (),
    **trackables: Any,
  ) -> None:
    self._folder = pathlib.Path(folder)
    self._keep = keep
    self._run = run or {}
    self._files = files
    self._checkpoint = tf.train.Checkpoint(**trackables)

  def save(self, step: int, cpu_seconds: float = 0.0) -> None:
    """Write the current state.

    Args:
      step: number of training steps taken.
      cpu_seconds: CPU time of these steps.

    Raises:
      OSError: if it cannot be written, as on a full disk; the older checkpoints stay.
    """
    final = self._folder / f"step_{step:08d}"
    unfinished = final.with_name(_UNFINISHED + final.name)
    try:
      shutil.rmtree(unfinished, ignore_errors=True)
      self._folder.mkdir(exist_ok=True)  # not its parents: a run whose directory is gone does not bring it back
      unfinished.mkdir()
      with _plain(unfinished) as plain:
        self._checkpoint.write(f"{plain}/state")
      for file in self._files:
        if file.exists():
          with gate.open_regular(file) as source, open(unfinished / file.name, "wb") as copy:
            shutil.copyfileobj(source, copy, _COPIED_BYTES)
      digests = {path.name: _sha256(path) for path in unfinished.iterdir()}
      manifest = {"format": _FORMAT, "step": step, "cpu_seconds": cpu_seconds, "run": self._run, "files": digests}
      write_file(unfinished / MANIFEST, json.dumps(manifest, indent=2))
      for path in unfinished.iterdir():
        sync(path)
      shutil.rmtree(final, ignore_errors=True)  # exists if the run was shortened to a step that was saved before
      os.rename(unfinished, final)
      sync(self._folder)
    except tf.errors.OpError as error:
      raise OSError(gate.reason(error)) from error
    finally:
      shutil.rmtree(unfinished, ignore_errors=True)
    for old in checkpoint_folders(self._folder)[self._keep :]:
      shutil.rmtree(old, ignore_errors=True)

  def restore(self, clean: bool = True) -> Restored | None:
    """Restore the newest state; return its checkpoint, or None without a checkpoint.

    Args:
      clean: whether to remove what a killed run left unfinished.

    Raises:
      InputError (a ValueError): if it is damaged, or does not fit.
    """
    if clean:
      for unfinished in self._folder.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    folders = checkpoint_folders(self._folder)
    if not folders:
      return None
    newest, *before = folders
    try:
      manifest = read_manifest(newest)
      if self._run and not is_identity(manifest.get("run")):
        raise ValueError(f"{MANIFEST} does not say what run it is of")
    except (OSError, ValueError) as error:
      if isinstance(error, InputError):
        raise
      advice = "give another --workdir to start over"
      if before:
        advice = f"move it away to resume from {before[0].name}"
      raise InputError(f"checkpoint {str(newest)!r} is damaged: {gate.reason(error)}; {advice}") from None
    if self._run:  # somebody may have copied the checkpoint of another run, or edited config.json
      check_same_run(newest, manifest["run"], self._run)
    try:
      with _plain(newest) as plain:
        self._checkpoint.read(f"{plain}/state").assert_consumed()
    except (AssertionError, ValueError, tf.errors.OpError) as error:
      raise InputError(f"checkpoint {str(newest)!r} is not one of this model and these settings: {error}") from None
    return Restored(_step_of(newest), newest, manifest["cpu_seconds"])


def checkpoint_folders(folder: pathlib.Path) -> list[pathlib.Path]:
  """Return the folders of the checkpoints, the newest first; other names, such as a user's copies, are left alone."""
  found = [path for path in folder.glob("step_*") if _NAME.fullmatch(path.name)]
  return sorted(found, key=_step_of, reverse=True)


def _step_of(folder):
  return int(folder.name.rpartition("_")[2])


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
  """Verify the files of a checkpoint, and return its manifest.

  Raises:
    InputError (a ValueError): if a newer version of this package wrote it.
    OSError, ValueError: if it is damaged; the message says how.
  """
  manifest = gate.read_json(folder / MANIFEST)
  if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
    raise ValueError(f"{MANIFEST} is not the manifest of a checkpoint")
  if manifest.get("format") != _FORMAT:
    raise InputError(
      f"checkpoint {str(folder)!r} has the format {manifest.get('format')!r}, which this version of "
      f"flowpp_tf does not read; expected {_FORMAT}"
    )
  files = manifest["files"]
  present = {path.name for path in folder.iterdir()} - {MANIFEST}
  for name in present | files.keys():
    if name not in present:
      raise ValueError(f"{name} is missing")
    if name not in files:
      raise ValueError(f"{name} is not one of its files")
    if file_sha256(folder / name) != files[name]:
      raise ValueError(f"{name} changed since it was written")
  if not isinstance(manifest.get("cpu_seconds"), (int, float)):
    raise ValueError(f"{MANIFEST} is not the manifest of a checkpoint")
  return manifest


def _sha256(path):
  """Return the SHA-256 of a file that this process wrote, of any size."""
  with gate.open_regular(path) as file:
    return stream_sha256(file)


@contextlib.contextmanager
def _plain(folder: pathlib.Path) -> Iterator[str]:
  """Yield a path of a folder without glob characters: TensorFlow treats a checkpoint path as a pattern."""
  path = str(folder.absolute())
  if not re.search(r"[*?\[\]{}\\]", path):
    yield path
    return
  with tempfile.TemporaryDirectory() as outside:
    link = os.path.join(outside, "checkpoint")
    os.symlink(path, link, target_is_directory=True)
    yield link
