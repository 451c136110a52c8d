"""The state of a training, and a step on it with given gradients, for `run_training` and `fpp.fit`.

Loss and gradients are averaged over replicas in one all-reduce, and the gradients clipped by their global norm. A step
whose loss or gradients are not finite changes only the number of the step, the counts of such steps, and the loss scale
of networks in float16.
"""

from collections.abc import Iterator, Sequence
import contextlib
import functools
import math
from typing import Any

import keras
import tensorflow as tf

from flowpp_tf.core.finite import LossScale, check_step, count_failures, first_replica, global_norm, replicated_variable
from flowpp_tf.core.tracing import traced_once
from flowpp_tf.training.optimizer import Adam


class StepState:
  """The variables that a training step changes; create it in the scope of its `tf.distribute.Strategy`.

  Args:
    optimizer: Keras optimizer without clipping or EMA of its own.
    variables: trainable variables, of Keras or TensorFlow.
    clip_norm: global norm to which gradients are clipped; None for no clipping.
    ema_decay: decay of the EMA weights; None for no EMA weights.
    ema_warmup: whether the decay is at most (1 + t) / (10 + t) in step t.
    scales_loss: whether the loss is scaled dynamically, for float16.
    dtype: of the sums.

  Attributes:
    keeps_when_skipped: whether a step of the optimizer changes nothing if gradients and learning rate are 0. The state
      of other optimizers is copied in each step, so that a step that is not finite can be undone.
    variables: the trainable `tf.Variable`s.
    ema: EMA weights in the same order, or None.
    loss_scale: `LossScale`, or None without one.
    skipped_steps: number of skipped steps in the whole run.
    skipped_in_a_row: number of skipped steps since the last finite step.
    sums: sums over the finite steps since `reset_sums`: of their number, and of what is measured.
  """

  def __init__(
    self,
    optimizer: keras.optimizers.Optimizer,
    variables: Sequence[Any],
    *,
    clip_norm: float | None = None,
    ema_decay: float | None = None,
    ema_warmup: bool = False,
    scales_loss: bool = False,
    dtype: tf.DType = tf.float32,
  ) -> None:
    optimizer.build(variables)
    self.optimizer = optimizer
    is_simple = isinstance(optimizer, Adam) or type(optimizer) is keras.optimizers.SGD
    self.keeps_when_skipped = is_simple and not (optimizer.weight_decay or getattr(optimizer, "momentum", 0))
    self.clip_norm = clip_norm
    self.ema_decay = ema_decay
    self.ema_warmup = ema_warmup
    self.variables = [v.value if isinstance(v, keras.Variable) else v for v in variables]
    self.as_given = {id(raw): v for raw, v in zip(self.variables, variables)}
    self.ema = None
    if ema_decay is not None:
      self.ema = [tf.Variable(v, trainable=False, name="ema") for v in self.variables]
    self.loss_scale = LossScale() if scales_loss else None
    self.skipped_steps = replicated_variable(0, tf.int64, "skipped_steps")
    self.skipped_in_a_row = replicated_variable(0, tf.int64, "skipped_in_a_row")
    names = ["steps", *self._measured(0.0, 0.0)]
    self.sums = {name: replicated_variable(0, dtype, name) for name in names}

  def _measured(self, loss: Any, norm: Any) -> dict[str, Any]:
    """Return the values of a step that are summed, by name, from its loss and gradient norm."""
    del norm
    return {"loss": loss}

  @property
  def step(self) -> int:
    """Training steps taken."""
    return int(self.optimizer.iterations.numpy())

  def means(self) -> dict[str, float]:
    """Return the means of what is measured since `reset_sums`; NaN where every step was skipped."""
    means = {name: float(total.numpy()) for name, total in self.sums.items()}
    steps = means.pop("steps") or math.nan
    return {name: total / steps for name, total in means.items()}

  def reset_sums(self) -> None:
    """Set the sums to 0 for the next eval interval."""
    for total in self.sums.values():
      total.assign(0)

  @contextlib.contextmanager
  def ema_weights(self) -> Iterator[None]:
    """Give the variables their EMA weights within the context; restore their own exactly after it."""
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


def take_step(
  state: StepState, loss: tf.Tensor, gradients: Sequence[tf.Tensor | None], scale: tf.Tensor | None = None
) -> None:
  """Take a step, in replica context.

  Args:
    state: the state of the training.
    loss: mean loss of this replica.
    gradients: gradients of the loss times `scale`, one for each of the state's variables; None where the loss does not
      depend on a variable.
    scale: dynamic loss scale; None without one.
  """
  replica = tf.distribute.get_replica_context()
  variables = [v for v, g in zip(state.variables, gradients) if g is not None]
  means = [g for g in gradients if g is not None]
  *means, loss = _all_reduce_mean(replica, [*means, loss])
  factor = tf.constant(1.0, loss.dtype)
  if scale is not None:
    factor = 1 / tf.cast(scale, loss.dtype)
  norm = global_norm(means, loss.dtype) * factor
  check = check_step(loss, norm, scale)
  if state.clip_norm is not None:
    factor *= state.clip_norm / tf.maximum(norm, state.clip_norm)
  factor = tf.where(check.finite, factor, tf.zeros_like(factor))
  means = [tf.math.multiply_no_nan(g, tf.cast(factor, g.dtype)) for g in means]
  before = []
  if not state.keeps_when_skipped:
    before = _apply(state, means, variables)
  replica.merge_call(functools.partial(_update, state), args=(means, variables, loss, norm, check, before))


def _apply(state, gradients, variables):
  """Take a step of any Keras optimizer, in replica context; return the previous values of what it changes."""
  replicas = tf.distribute.get_replica_context().num_replicas_in_sync
  before = [tf.identity(v) for v in _changed(state, variables)]
  shares = [g / replicas for g in gradients]  # the optimizer sums over replicas
  as_given = [state.as_given[id(v)] for v in variables]
  state.optimizer.apply(shares, as_given)
  return before


def _changed(state, variables):
  """Return the variables that a step of the optimizer changes, except for the number of the step."""
  return [*variables, *(v.value for v in state.optimizer.variables if v is not state.optimizer.iterations)]


def _update(state, strategy, gradients, variables, loss, norm, check, before):
  """Update weights, EMA weights, counts and sums, in cross-replica context."""
  loss = first_replica(strategy, loss)
  norm = first_replica(strategy, norm)
  check = check.on_first_replica(strategy)
  if state.keeps_when_skipped:
    _update_weights(state, strategy, gradients, variables, check)
  else:
    _restore_if_skipped(state, strategy, variables, before, check)
  if state.ema is not None:
    _update_ema(state, strategy, check, loss.dtype)
  state.skipped_steps.assign_add(tf.cast(~check.finite, tf.int64))
  count_failures(state.skipped_in_a_row, check)
  if state.loss_scale is not None:
    state.loss_scale.after_step(check.finite)
  measured = {"steps": tf.ones_like(loss), **state._measured(loss, norm)}
  for name, value in measured.items():
    total = state.sums[name]
    total.assign_add(tf.cast(_zero_if_skipped(value, check), total.dtype))


def _zero_if_skipped(value, check):
  return tf.where(check.finite, value, tf.zeros_like(value))


def _update_weights(state, strategy, gradients, variables, check):
  """Take a step of an optimizer that changes nothing if gradients and learning rate are 0."""
  optimizer = state.optimizer
  # A branch for skipped steps would have thousands of inputs.
  rate = _zero_if_skipped(tf.convert_to_tensor(optimizer.learning_rate), check)

  def update(variable, gradient):
    optimizer.update_step(gradient, variable, rate)

  for variable, gradient in zip(variables, gradients):
    strategy.extended.update(variable, update, args=(gradient,), group=False)
  optimizer.iterations.assign_add(1)  # the next step has other images and noise


def _restore_if_skipped(state, strategy, variables, before, check):
  """Undo a step of the optimizer, except for the number of the step, if it is to be skipped."""

  def restore(variable, old):
    variable.assign(tf.where(check.finite, variable, old))

  for variable, old in zip(_changed(state, variables), before):
    strategy.extended.update(variable, restore, args=(old,), group=False)


def _update_ema(state, strategy, check, dtype):
  rate = _zero_if_skipped(_ema_rate(state, dtype), check)
  dtypes = {average.dtype for average in state.ema}
  rates = {dtype: tf.cast(rate, dtype) for dtype in dtypes}

  def update(average, variable):
    _move_average(average.handle, variable.handle, rates[average.dtype])

  for average, variable in zip(state.ema, state.variables):
    strategy.extended.update(average, update, args=(variable,), group=False)


@functools.partial(traced_once, inline=True)
def _move_average(average, variable, rate):
  """Compute average += rate (variable - average) for the variables with these handles."""
  average_value = tf.raw_ops.ReadVariableOp(resource=average, dtype=rate.dtype)
  value = tf.raw_ops.ReadVariableOp(resource=variable, dtype=rate.dtype)
  tf.raw_ops.ResourceApplyGradientDescent(var=average, alpha=rate, delta=average_value - value, use_locking=True)


def _ema_rate(state, dtype):
  """Return 1 - decay."""
  rate = tf.constant(1 - state.ema_decay, dtype)
  if state.ema_warmup:  # a decay of (1 + t) / (10 + t)
    step = tf.cast(state.optimizer.iterations.value, dtype)
    rate = tf.maximum(rate, 9 / (10 + step))
  return rate


def _all_reduce_mean(replica, tensors):
  """Return the means over replicas, by one all-reduce for each dtype."""
  if replica.num_replicas_in_sync == 1:
    return tensors
  means = {}
  for dtype in sorted({t.dtype.name for t in tensors}):
    group = [t for t in tensors if t.dtype == dtype]
    means[dtype] = iter(replica.all_reduce(tf.distribute.ReduceOp.MEAN, group))
  return [next(means[t.dtype.name]) for t in tensors]
