#!/usr/bin/env python3
"""Convert the checkpoints of a run that a version before 0.2.0 trained, so that it can be resumed.

    python tools/convert_run.py RUN

Each whole checkpoint is replaced by one of today's format; those that are damaged stay as they are, with a warning.
Needs the clone's package, or an installed one. A run can be evaluated and sampled without this.
"""

import dataclasses
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from absl import logging
import tensorflow as tf

from flowpp_tf.core.errors import InputError
from flowpp_tf.io import gate
from flowpp_tf.io.files import file_sha256
from flowpp_tf.models import FlowPlusPlus, FlowPlusPlusConfig
from flowpp_tf.training import TrainingConfig, Workdir
from flowpp_tf.training.checkpoints import FIRST_DIGESTS, MANIFEST, checkpoint_folders
from flowpp_tf.training.state import TrainState

# Of a compiled Keras model with its metrics, whose attributes are the keys; else the layout is today's.
_KEY_OF_KERAS_MODEL = "optimizer/_iterations/.ATTRIBUTES/VARIABLE_VALUE"


def convert(path: str) -> int:
  """Convert a run in place; return how many checkpoints were converted.

  Raises:
    InputError (a ValueError): if it is not a run, or a checkpoint is not one of its model and settings.
  """
  workdir = Workdir(path)
  with gate.reading(workdir.config):
    run = gate.read_json(workdir.config)
    config = FlowPlusPlusConfig(**run["model"])
    known = {field.name for field in dataclasses.fields(TrainingConfig)}
    training = TrainingConfig(**{name: value for name, value in run["training"].items() if name in known})
  with workdir.sole_owner():
    old = [folder for folder in checkpoint_folders(workdir.checkpoints) if not (folder / MANIFEST).exists()]
    state = TrainState(FlowPlusPlus(config), training)
    best = tf.Variable(float("inf"), dtype=tf.float64)
    recorded = tf.Variable(0, dtype=tf.int64)
    identity = json.loads(json.dumps({"format": 2, "model": dataclasses.asdict(config), "training": run["training"]}))
    converted = workdir.new_checkpoints(sys.maxsize, identity, best=best, recorded=recorded, **state.trackables())
    count = 0
    for folder in old:
      try:
        _check(folder)
      except (OSError, ValueError) as error:
        logging.warning("%s is damaged, and not converted: %s; move it away to resume", folder, gate.reason(error))
        continue
      try:
        _read(state, str(folder.absolute() / "state"), best=best, recorded=recorded)
      except (AssertionError, ValueError, tf.errors.OpError) as error:
        raise InputError(f"checkpoint {str(folder)!r} is not one of this model and these settings: {error}") from None
      if not converted.save(int(folder.name.rpartition("_")[2])):
        raise InputError(f"{str(folder)!r} cannot be replaced")
      count += 1
  return count


def _check(folder):
  digests = gate.read_json(folder / FIRST_DIGESTS)
  if not isinstance(digests, dict) or "state.index" not in digests:
    raise ValueError(f"{FIRST_DIGESTS} is not that of a checkpoint")
  for name, digest in digests.items():
    if file_sha256(folder / pathlib.PurePath(name).name) != digest:
      raise ValueError(f"{name} changed since it was written")


def _read(state, path, **others):
  """Restore a checkpoint into a `TrainState` and variables that have the same name in both layouts."""
  if not tf.train.load_checkpoint(path).has_tensor(_KEY_OF_KERAS_MODEL):
    tf.train.Checkpoint(**others, **state.trackables()).read(path).assert_consumed()
    return
  group = tf.train.Checkpoint
  metrics = [tf.Variable(0.0) for _ in range(4)]  # bits/dim and gradient norm: total and count of each
  scale = {} if state.loss_scale is None else {"loss_scale": state.loss_scale}
  checkpoint = group(
    optimizer=group(
      _trainable_variables=state.variables,
      _iterations=state.optimizer.iterations.value,
      _variables=[v.value for v in state.optimizer.variables],
    ),
    model=group(skipped_steps=state.skipped_steps, skipped_in_a_row=state.skipped_in_a_row, **scale),
    **{f"average_{i}": average for i, average in enumerate(state.ema or [])},
    **{f"metric_{i}": metric for i, metric in enumerate(metrics)},
    **others,
  )
  checkpoint.read(path).assert_existing_objects_matched().expect_partial()
  bits, images, norm, steps = (float(metric.numpy()) for metric in metrics)
  for name, total in (("steps", steps), ("bits_per_dim", steps * bits / max(images, 1.0)), ("gradient_norm", norm)):
    state.sums[name].assign(total)


if __name__ == "__main__":
  if len(sys.argv) != 2:
    sys.exit(__doc__)
  try:
    print(f"{convert(sys.argv[1])} checkpoints converted")
  except InputError as error:
    sys.exit(str(error))
