"""The state of a run, what a checkpoint holds of it, and its optimizer."""

from collections.abc import Iterator
import contextlib
import functools
from typing import Any

import keras

from flowpp_tf.config.training import WITHOUT_EPSILON, TrainingConfig
from flowpp_tf.core.checks import check_arguments
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.training_step import StepState
from flowpp_tf.models import FlowPlusPlus
from flowpp_tf.training.adam import Adam
from flowpp_tf.training.schedules import PiecewiseSchedule, learning_rate_schedule


class TrainState(StepState):
  """The state of a run; create it in the scope of its `tf.distribute.Strategy`.

  Args:
    model: `FlowPlusPlus`.
    config: `TrainingConfig`.
    optimizer: any Keras optimizer without clipping or EMA of its own; None for that of the config. `Adam` and
      `keras.optimizers.SGD` without momentum take the least time and memory: the state of others is copied in each
      step, to undo one that is not finite.

  Attributes:
    sums: of the finite steps since the last validation: their number, bits/dim, gradient norms.
    variables, ema, loss_scale, skipped_steps, skipped_in_a_row: as in `StepState`.

  Raises:
    InputError (a ValueError): for an optimizer that clips or averages itself.

  Examples:
    >>> from flowpp_tf.training import TrainingConfig, TrainState
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> state = TrainState(model, TrainingConfig(steps=10))
    >>> state.step, len(state.ema) == len(model.trainable_variables)
    (0, True)
  """

  @check_arguments
  def __init__(
    self, model: FlowPlusPlus, config: TrainingConfig, optimizer: keras.optimizers.Optimizer | None = None
  ) -> None:
    self.model = model
    self.config = config
    optimizer = optimizer or make_optimizer(config)
    _check_optimizer(optimizer)
    super().__init__(
      optimizer,
      model.trainable_variables,
      keeps_when_skipped=(isinstance(optimizer, Adam) or type(optimizer) is keras.optimizers.SGD)
      and not (optimizer.weight_decay or getattr(optimizer, "momentum", 0)),
      clip_norm=config.clip_norm,
      ema_decay=config.ema_decay,
      ema_warmup=config.ema_warmup,
      scales_loss=model.config.dtype == "mixed_float16",
      measured=lambda loss, norm: {"bits_per_dim": model.to_bits_per_dim(-loss), "gradient_norm": norm},
    )

  def reset_ema(self) -> None:
    """Set the EMA weights, if any, to the current weights."""
    for average, variable in zip(self.ema or [], self.variables):
      average.assign(variable)

  @contextlib.contextmanager
  def ema_weights(self) -> Iterator[None]:
    """Give the model its EMA weights within the context; restore its own exactly after it."""
    if self.ema is None:
      yield
      return
    current = [variable.numpy() for variable in self.variables]
    for variable, average in zip(self.variables, self.ema):
      variable.assign(average.numpy())
    try:
      yield
    finally:
      for variable, value in zip(self.variables, current):
        variable.assign(value)

  # --- Checkpoints ------------------------------------------------------------------------------

  def trackables(self) -> dict[str, Any]:
    """Return what a checkpoint holds, by name, as for `tf.train.Checkpoint`."""
    scale = {} if self.loss_scale is None else {"loss_scale": self.loss_scale}
    return dict(
      weights=[v.value for v in self.model.weights],
      ema=list(self.ema or []),
      optimizer=[v.value for v in self.optimizer.variables],
      skipped_steps=self.skipped_steps,
      skipped_in_a_row=self.skipped_in_a_row,
      sums=dict(self.sums),
      **scale,
    )


_OPTIMIZERS = {
  "adam": Adam,
  "adam_95": functools.partial(Adam, beta_2=0.95),
  "adamw": functools.partial(keras.optimizers.AdamW, beta_2=0.95),
  "lion": keras.optimizers.Lion,
  "muon": keras.optimizers.Muon,
  "sgd": keras.optimizers.SGD,
}


def schedule_of(config: TrainingConfig) -> PiecewiseSchedule:
  """Return the learning-rate schedule of a run."""
  return learning_rate_schedule(config.schedule, config.learning_rate, config.warmup_steps, config.steps)


def make_optimizer(config: TrainingConfig) -> keras.optimizers.Optimizer:
  """Return the optimizer of a run with its learning-rate schedule."""
  epsilon = {} if config.optimizer in WITHOUT_EPSILON else {"epsilon": config.adam_epsilon}
  return _OPTIMIZERS[config.optimizer](schedule_of(config), **epsilon)


def _check_optimizer(optimizer):
  for name in ("clipnorm", "clipvalue", "global_clipnorm"):
    if getattr(optimizer, name) is not None:
      raise InputError(f"the optimizer's `{name}` would clip on each replica; use `clip_norm`")
  for name, instead in (
    ("use_ema", "`ema_decay`"),
    ("gradient_accumulation_steps", "`accumulate`"),
    ("loss_scale_factor", "the loss scale of the training step"),
  ):
    if getattr(optimizer, name):
      raise InputError(f"the optimizer's `{name}` must be off: there is {instead}")
  if isinstance(optimizer, getattr(keras.optimizers, "ScheduleFreeAdamW", ())):  # of Keras 3.13, on Python 3.11
    raise InputError(
      "`ScheduleFreeAdamW` cannot be used: its state begins as a copy of the weights, which are "
      "initialised from data afterwards"
    )
  if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
    raise InputError("the optimizer must not scale the loss: the training step does, in float16")
