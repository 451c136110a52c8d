"""What is not finite: training steps are skipped, results are an error.

A step is counted, and answered by a lower loss scale; the training step of a run and the one of Keras' `fit` share
these rules. The error of a result names the layers and bijectors where the values began. Where results leave the
library as images or reports, NaN must not become a number.
"""

from collections.abc import Callable, Iterable, Sequence
import traceback
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.core.errors import Diverged, InputError

_START = 2.0**15
_GOOD_STEPS = 2000
_PARTS = tfp.bijectors.Bijector, keras.layers.Layer  # of a model


class StepCheck(NamedTuple):
  """Whether a step is taken; the same on all replicas.

  Attributes:
    finite: whether loss and gradients are finite; a step that is not is skipped.
    failed: whether the skipped step counts as a failure. One that only lowers the loss scale does not.
  """

  finite: tf.Tensor
  failed: tf.Tensor

  def on_first_replica(self, strategy: tf.distribute.Strategy) -> "StepCheck":
    """Return the check as tensors, in cross-replica context."""
    return StepCheck(first_replica(strategy, self.finite), first_replica(strategy, self.failed))


def first_replica(strategy: tf.distribute.Strategy, value: Any) -> tf.Tensor:
  """Return the first replica's value, in cross-replica context; after an all-reduce all replicas have the same."""
  return strategy.experimental_local_results(value)[0]


def check_step(loss: tf.Tensor, norm: tf.Tensor, scale: tf.Tensor | None) -> StepCheck:
  """Return the check of a step.

  Args:
    loss: of all replicas.
    norm: global norm of the gradients of all replicas.
    scale: dynamic loss scale; None without one.
  """
  loss_is_finite = tf.math.is_finite(loss)
  finite = loss_is_finite & tf.math.is_finite(norm)
  if scale is None:
    return StepCheck(finite, failed=~finite)
  only_lowers_scale = loss_is_finite & (scale > 1)
  return StepCheck(finite, failed=~(finite | only_lowers_scale))


def count_failures(in_a_row: tf.Variable, check: StepCheck) -> None:
  """Update the number of failures since the last finite step, in cross-replica context."""
  more = in_a_row + tf.cast(check.failed, in_a_row.dtype)
  in_a_row.assign(tf.where(check.finite, tf.zeros_like(more), more))


def raise_if_diverged(in_a_row: int, max_skipped: int, cause: str, step: int | None = None) -> None:
  """Raise `Diverged` after `max_skipped` failures in a row, up to `step` if that is known.

  The text ends with `cause`: the likely one, and what to change, with the names of arguments in backticks.
  """
  if in_a_row >= max_skipped:
    up_to = "" if step is None else f", up to step {step},"
    raise Diverged(f"loss or gradients of the last {in_a_row} steps{up_to} were not finite; {cause}")


def global_norm(tensors: Sequence[tf.Tensor], dtype: tf.DType) -> tf.Tensor:
  """Return the same as `tf.linalg.global_norm`, for tensors of several dtypes."""
  return tf.sqrt(2 * tf.reduce_sum(tf.stack([tf.cast(tf.nn.l2_loss(t), dtype) for t in tensors])))


class LossScale(tf.Module):
  """Dynamic loss scaling for float16 (Micikevicius et al. 2018).

  The factor is halved after a step that is not finite, and doubled after 2000 finite steps in a row, as by
  `keras.optimizers.LossScaleOptimizer`. That class decides by each replica's gradients, with a branch around all
  updates; here the all-reduced gradients decide, without a branch. The factor is a power of two, so scaling is exact.

  Attributes:
    value: the factor, float32, the same on all replicas.
    good_steps: number of finite steps since the factor last changed.
  """

  def __init__(self) -> None:
    super().__init__(name="loss_scale")
    self.value = replicated_variable(_START, tf.float32, "value")
    self.good_steps = replicated_variable(0, tf.int64, "good_steps")

  def after_step(self, finite: tf.Tensor) -> None:
    """Update the factor, in cross-replica context, after a step that was finite or not."""
    steps = self.good_steps + 1
    grow = steps >= _GOOD_STEPS
    self.value.assign(self.value * tf.where(finite, tf.where(grow, 2.0, 1.0), 0.5))
    self.good_steps.assign(tf.where(finite & ~grow, steps, tf.zeros_like(steps)))


def replicated_variable(value: float, dtype: tf.DType, name: str) -> tf.Variable:
  """Return a variable that is not trained and has the same value on all replicas."""
  return tf.Variable(
    value, dtype=dtype, trainable=False, name=name, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
  )


def check_finite(name: str, results: Any, evaluate: Callable[[], Any]) -> None:
  """Raise an `InputError` unless all results are finite.

  Args:
    name: what the results are, in the message.
    results: floating tensor or array of any shape.
    evaluate: function that computes the results again, eagerly.
  """
  if not np.all(np.isfinite(results)):
    raise InputError(not_finite(name, evaluate))


def not_finite(name: str, evaluate: Callable[[], Any]) -> str:
  """Return the message about results that are not finite; arguments as in `check_finite`."""
  found = first_non_finite_part(evaluate)
  return f"{name} must be finite, got NaN or infinity{f': {found}' if found else ''}"


def check_weights_finite(weights: Iterable[Any]) -> None:
  """Raise an `InputError` unless all weights, of Keras or TensorFlow, are finite."""
  for variable in weights:
    if tf.as_dtype(variable.dtype).is_floating and not np.all(np.isfinite(np.asarray(variable, np.float64))):
      name = getattr(variable, "path", variable.name)
      raise InputError(f"the weights of the model must be finite, got NaN or infinity in {name}")


def first_non_finite_part(evaluate: Callable[[], Any]) -> str | None:
  """Return a sentence about the layers and bijectors around the first operation whose result is not finite.

  Args:
    evaluate: function of no arguments, which is called with `tf.debugging.enable_check_numerics`.
  """
  functions_were_eager = tf.config.functions_run_eagerly()
  tf.config.run_functions_eagerly(True)  # to have the frames of layers within blocks
  tf.debugging.enable_check_numerics()
  try:
    evaluate()
  except (tf.errors.InvalidArgumentError, InputError) as error:
    cause = error.__cause__ or error  # public methods of bijectors name their argument
    if not isinstance(cause, tf.errors.InvalidArgumentError):
      raise
    found = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(cause.__traceback__)]
    parts = [part for part in reversed(found) if isinstance(part, _PARTS) and not isinstance(part, keras.Model)]
    if parts:
      return f"{' in '.join(dict.fromkeys(part.name for part in parts))} made the first value that is not finite"
  finally:
    tf.debugging.disable_check_numerics()
    tf.config.run_functions_eagerly(functions_were_eager)
  return None
