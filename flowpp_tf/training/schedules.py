"""Learning-rate schedules: linear warm-up to a peak, then constant or a cosine to zero."""

import keras

from flowpp_tf.errors import InputError

SCHEDULES = ("constant", "cosine")


def learning_rate_schedule(kind, peak, warmup_steps, steps):
  """A Keras learning-rate schedule.

  Args:
    kind: "constant" after the warm-up, or "cosine" decay to zero at the last step.
    peak: learning rate after the warm-up.
    warmup_steps: number of steps of linear warm-up from 0.
    steps: of the whole run.

  Raises:
    InputError (a ValueError): if a value is out of range.
  """
  if kind not in SCHEDULES:
    raise InputError(f"`schedule` must be one of {', '.join(SCHEDULES)}, got {kind!r}")
  if not peak > 0:
    raise InputError(f"`learning_rate` must be positive, got {peak}")
  if not 0 <= warmup_steps < steps:
    raise InputError(f"`warmup_steps` must be at least 0 and less than the {steps} steps, got "
                     f"{warmup_steps}")
  return keras.optimizers.schedules.CosineDecay(
      initial_learning_rate=0.0, decay_steps=steps - warmup_steps,
      alpha=1.0 if kind == "constant" else 0.0, warmup_target=peak, warmup_steps=warmup_steps)
