"""The settings of a training run and of its logging: one frozen config. Flow++ section 4."""

import dataclasses
from typing import Any

from flowpp_tf.core.settings import COUNT, FRACTION, POSITIVE, Range, Rule, Settings, at_least, one_of, setting

TENSORBOARD = ("scalars", "samples", "histograms")

# Keras' default; TensorFlow 1's, with which the published models were trained, is 1e-8.
DEFAULT_EPSILON = 1e-7
WITHOUT_EPSILON = ("lion", "sgd")

# Settings that determine the weights; the others may change when a run is resumed.
_DETERMINE_THE_RUN = (
  "steps batch_size optimizer adam_epsilon learning_rate schedule warmup_steps clip_norm ema_decay ema_warmup "
  "accumulate validate_every init_batch_size seed flip"
).split()


@dataclasses.dataclass(frozen=True)
class TrainingConfig(Settings):
  """The settings of a training run; `dataclasses.replace` makes variants.

  Raises:
    InputError (a ValueError): if a value is out of range.

  Examples:
    >>> from flowpp_tf.config import TrainingConfig
    >>> training = TrainingConfig(steps=1_000, schedule="linear:1e-3@100,cosine:0@1000")
    >>> training.batch_size, training.ema_decay
    (64, 0.999)
  """

  steps: int = setting(dataclasses.MISSING, "Training steps; the last ones are validated too.", at_least(1))
  batch_size: int = setting(64, "Batch size, over all devices.", at_least(1))
  accumulate: int = setting(
    1, "Microbatches per step: the gradients of so many times the batch size, in the memory of one.", at_least(1)
  )
  optimizer: str = setting(
    "adam",
    "Optimizer; adam_95 and adamw have a second-moment decay of 0.95, sgd has no momentum.",
    one_of("adam", "adam_95", "adamw", "lion", "muon", "sgd"),
  )
  adam_epsilon: float = setting(
    DEFAULT_EPSILON,
    "Number added to the root of the second moments, of the optimizers that have it: adam, adam_95, adamw and muon.",
    Range(lambda value: 0 < value <= 1, "a number in (0, 1]"),
  )
  learning_rate: float | None = setting(None, "Peak learning rate, 1e-3 if not given.", POSITIVE)
  schedule: str = setting(
    "constant",
    "After the warm-up: constant, or cosine (to zero). Or the whole schedule, such as "
    "linear:3e-4@2000,hold; see flowpp_tf/training/schedules.py.",
  )
  warmup_steps: int = setting(0, "Steps of linear warm-up of the learning rate.", at_least(0))
  clip_norm: float | None = setting(1.0, "Global norm to which gradients are clipped.", POSITIVE)
  ema_decay: float | None = setting(0.999, "Decay of the EMA weights.", FRACTION)
  ema_warmup: bool = setting(False, "Cap the EMA decay at (1 + t) / (10 + t) at step t.")
  validate_every: int | None = setting(None, "Steps between validations; an epoch if not given.", at_least(1))
  init_batch_size: int | None = setting(
    None, "Images for the data-dependent initialisation; those of a step if not given.", at_least(1)
  )
  seed: int = setting(0, "Seed of weights, shuffle, noise and dropout.", at_least(0, 2**32 - 1))
  flip: bool = setting(False, "Mirror half of the training images left to right, others each epoch; off, as published.")
  max_skipped: int = setting(
    10, "Steps in a row that may be skipped because loss or gradients are not finite.", at_least(1)
  )
  debug_numerics: bool = setting(False, "Say which layer and bijector made a step be skipped.")
  checkpoint_every: int | None = setting(
    None, "Steps between checkpoints, in addition to those by checkpoint_minutes and at validations.", at_least(1)
  )
  checkpoint_minutes: float | None = setting(10.0, "Minutes between checkpoints.", at_least(0))
  keep: int = setting(2, "Checkpoints to keep.", COUNT)
  tensorboard: tuple[str, ...] = setting(
    ("scalars", "samples"),
    f"What to write for TensorBoard: any of {', '.join(TENSORBOARD)}, or nothing.",
    Range(lambda names: {*names} <= {*TENSORBOARD}, f"of {', '.join(TENSORBOARD)}"),
  )
  steps_per_execution: int = setting(1, "Steps between returns to Python.", at_least(1))

  RULES = (
    Rule(
      "adam_epsilon",
      lambda training: training.optimizer not in WITHOUT_EPSILON,
      f"{DEFAULT_EPSILON}, its default, unless `optimizer` has an epsilon",
    ),
    Rule(
      "debug_numerics",
      lambda training: training.steps_per_execution == 1,
      "False unless `steps_per_execution` is 1: it must see each step",
    ),
  )

  @property
  def images_per_step(self) -> int:
    """Images whose gradients a step averages."""
    return self.batch_size * self.accumulate

  def identity(self) -> dict[str, Any]:
    """Return the settings that determine the weights, for the run's config.json."""
    return {name: getattr(self, name) for name in _DETERMINE_THE_RUN}
