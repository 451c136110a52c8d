"""Find the layer or bijector that made the first value that is not finite."""

from typing import Any

import tensorflow as tf

from flowpp_tf.core.finite import first_non_finite_part
from flowpp_tf.models import FlowPlusPlus, unpack_batch
from flowpp_tf.training.state import TrainState
from flowpp_tf.training.step import dropout_seed, step_noise, step_seed
from flowpp_tf.types import Seed, TensorLike


def first_non_finite(
  model: FlowPlusPlus, images: TensorLike, noise: TensorLike, seed: Seed, batch_offset: int = 0, **given: TensorLike
) -> str | None:
  """Return what made the bound of some images, or its gradient, not finite.

  The bound is evaluated again, eagerly, with `tf.debugging.enable_check_numerics`. The layer and the bijector are those
  in whose code the first operation failed.

  Args:
    model: `FlowPlusPlus`.
    images: `[B, H, W, C]`.
    noise: the dequantizer's draws, as in `log_prob_bound`.
    seed: of the dropout masks.
    batch_offset: as in `log_prob_bound`.
    **given: labels and condition, as in `log_prob_bound`.

  Returns:
    A sentence, or None if all is finite.
  """

  def loss():
    return -tf.reduce_mean(
      model.log_prob_bound(images, noise=noise, seed=seed, training=True, batch_offset=batch_offset, **given)
    )

  with tf.GradientTape() as tape:
    value = loss()
  if not tf.math.is_finite(value):
    return first_non_finite_part(loss) or "all parts are finite, their sum is not"
  gradients = zip(model.trainable_variables, tape.gradient(value, [v.value for v in model.trainable_variables]))
  bad = [v.path for v, g in gradients if g is not None and not tf.reduce_all(tf.math.is_finite(g))]
  if bad:  # the gradient comes from the end of the evaluation
    return (
      f"the bound is finite, the gradients of {len(bad)} weights are not; the last of them in the "
      f"order of evaluation is {bad[-1]}"
    )
  return None


def explain_skipped_step(state: TrainState, batch: Any, replicas: int, step: int) -> str:
  """Return what was not finite in a skipped training step, while the weights are still those before it.

  Args:
    state: of the run.
    batch: of the step, over all devices.
    replicas: number of devices that took the step.
    step: its number.
  """
  images, given = unpack_batch(batch, state.model.config)
  parts = replicas * state.config.accumulate
  size = len(images) // parts
  for part in range(parts):
    seed, batch_offset = step_seed(state.config.seed, step), size * part
    noise = step_noise(state.model, seed, len(images), batch_offset, size)
    share = {name: value[batch_offset : batch_offset + size] for name, value in given.items()}
    found = first_non_finite(
      state.model, images[batch_offset : batch_offset + size], noise, dropout_seed(seed), batch_offset, **share
    )
    if found:
      return found
  return "no non-finite value was found on re-evaluation"
