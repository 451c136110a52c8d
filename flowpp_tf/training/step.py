"""A training step of a run: the gradients of the bound, which `take_step` of state.py applies.

The loss is the mean negative bound in nats per image. Noise and dropout masks depend on an image's index in the global
batch, so a step does not depend on the number of replicas, microbatches and lanes.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from flowpp_tf.config.training import TrainingConfig
from flowpp_tf.core.checks import check_arguments
from flowpp_tf.core.context import NOISE, as_seed, fold_in
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.finite import first_non_finite_part
from flowpp_tf.core.lanes import concat_shards, lane_count, map_shards, sum_shards
from flowpp_tf.core.tensors import shape_of
from flowpp_tf.models import FlowPlusPlus, unpack_batch
from flowpp_tf.training.optimizer import make_optimizer
from flowpp_tf.training.state import StepState, take_step
from flowpp_tf.types import Seed, TensorLike


class TrainState(StepState):
  """The state of a run; create it in the scope of its `tf.distribute.Strategy`.

  Args:
    model: `FlowPlusPlus`.
    config: `TrainingConfig`.

  Attributes:
    sums: sums over the finite steps since the last validation: of their number, bits/dim and gradient norms.
    variables, ema, loss_scale, skipped_steps, skipped_in_a_row: as in `StepState`.

  Examples:
    >>> from flowpp_tf.training import TrainingConfig, TrainState
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> state = TrainState(model, TrainingConfig(steps=10))
    >>> state.step, len(state.ema) == len(model.trainable_variables)
    (0, True)
  """

  @check_arguments
  def __init__(self, model: FlowPlusPlus, config: TrainingConfig) -> None:
    self.model = model
    self.config = config
    super().__init__(
      make_optimizer(config),
      model.trainable_variables,
      clip_norm=config.clip_norm,
      ema_decay=config.ema_decay,
      ema_warmup=config.ema_warmup,
      scales_loss=model.config.dtype == "mixed_float16",
    )

  def _measured(self, loss: Any, norm: Any) -> dict[str, Any]:
    return {"bits_per_dim": self.model.to_bits_per_dim(-loss), "gradient_norm": norm}

  def reset_ema(self) -> None:
    """Set the EMA weights, if any, to the current weights."""
    for average, variable in zip(self.ema or [], self.variables):
      average.assign(variable)

  # --- Checkpoints ------------------------------------------------------------------------------

  def trackables(self) -> dict[str, Any]:
    """Return what a checkpoint holds, by name, as for `tf.train.Checkpoint`."""
    parts = dict(
      weights=[v.value for v in self.model.weights],
      ema=list(self.ema or []),
      optimizer=[v.value for v in self.optimizer.variables],
      skipped_steps=self.skipped_steps,
      skipped_in_a_row=self.skipped_in_a_row,
      sums=dict(self.sums),
    )
    if self.loss_scale is not None:
      parts["loss_scale"] = self.loss_scale
    return parts


def train_step(state: TrainState, batch: Any) -> None:
  """Take a step, in replica context, on this replica's share of a batch; see `unpack_batch` for what a batch can be.

  Examples:
    >>> from flowpp_tf.training import TrainingConfig, TrainState, train_step
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> state = TrainState(model, TrainingConfig(steps=10))
    >>> tf.distribute.get_strategy().run(train_step, (state, tf.zeros([2, 8, 8, 1], tf.uint8)))
    >>> state.step
    1
  """
  scale = None if state.loss_scale is None else tf.convert_to_tensor(state.loss_scale.value)
  seed = step_seed(state.config.seed, state.optimizer.iterations.value)
  bound, gradients = _gradients(state, *unpack_batch(batch, state.model.config), seed, scale)
  take_step(state, -tf.reduce_mean(bound), gradients, scale)


def validation_step(state: TrainState, batch: Any, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Return sums over this replica's images, in replica context: of bits/dim times weight, and of weights."""
  replica = tf.distribute.get_replica_context()
  images, conditioning = unpack_batch(batch, state.model.config)
  size = shape_of(images)[0]
  count = size * replica.num_replicas_in_sync
  first = size * replica.replica_id_in_sync_group
  # The same noise in every validation: two validations differ only by their weights.
  noise = step_noise(state.model, as_seed(state.config.seed), count, first, size)

  def lane(images, noise, *values):
    return state.model.log_prob_bound(images, noise=noise, seed=0, **dict(zip(conditioning, values)))

  bound = concat_shards(lane, images, noise, *conditioning.values())
  bits = tf.cast(state.model.to_bits_per_dim(bound), weights.dtype)
  return tf.reduce_sum(bits * weights), tf.reduce_sum(weights)


def step_seed(seed: Seed, step: Any) -> tf.Tensor:
  """Return the stateless seed, `[2]`, of everything random in a training step."""
  return fold_in(as_seed(seed), tf.cast(step, tf.int64))


def step_noise(model: FlowPlusPlus, seed: tf.Tensor, batch_size: Any, batch_offset: Any, size: Any) -> tf.Tensor:
  """Return the noise of `size` images, beginning with the image `batch_offset` of a global batch.

  Args:
    model: `FlowPlusPlus`.
    seed: seed of the step.
    batch_size: number of images of the step, over all devices.
    batch_offset: index of the first image in the global batch: replica by replica, then microbatch by microbatch.
    size: number of images.
  """
  noise = model.sample_noise([batch_size], fold_in(seed, NOISE))
  return noise[batch_offset : batch_offset + size]


def dropout_seed(seed: tf.Tensor) -> tf.Tensor:
  """Return the seed of the dropout masks of a step, given the seed of the step."""
  return fold_in(fold_in(seed, "dropout"), 0)  # the 0 keeps the masks of earlier versions


def _gradients(state, images, conditioning, seed, scale):
  """Return the bound of a replica's images, `[B]`, and the gradients of its negative mean times `scale`."""
  microbatches = state.config.accumulate
  if microbatches == 1:
    return _microbatch_gradients(state, images, conditioning, seed, scale, 0)
  count = shape_of(images)[0]
  if isinstance(count, int) and count % microbatches:
    raise InputError(f"`batch` must have a multiple of `accumulate` {microbatches} images on each replica")

  def accumulate(index, bounds, sums):
    bound, gradients = _microbatch_gradients(state, images, conditioning, seed, scale, index)
    return index + 1, bounds.write(index, bound), [total + g for total, g in zip(sums, gradients)]

  bounds = tf.TensorArray(state.model.variable_dtype, microbatches, element_shape=[None])
  zeros = [tf.zeros_like(v) for v in state.variables]
  _, bounds, gradients = tf.while_loop(
    lambda index, *_: index < microbatches, accumulate, (0, bounds, zeros), maximum_iterations=microbatches
  )
  # NaN, so that the step is skipped, where a graph leaves out images of a batch whose size it did not know.
  is_whole = tf.equal(count // microbatches * microbatches, count)
  return tf.where(is_whole, bounds.concat(), np.nan), gradients


def _microbatch_gradients(state, images, conditioning, seed, scale, index):
  """Return the bound of the microbatch `index` of a replica's images, and its share of the gradients."""
  replica = tf.distribute.get_replica_context()
  model = state.model
  microbatches = state.config.accumulate
  count = shape_of(images)[0]
  size = count // microbatches
  first = count * replica.replica_id_in_sync_group + size * index  # place in the global batch
  noise = step_noise(model, seed, count * replica.num_replicas_in_sync, first, size)
  places = first + tf.range(size)
  tensors = [images, *conditioning.values()]
  if microbatches > 1:
    tensors = [tensor[size * index : size * (index + 1)] for tensor in tensors]
  loss_scale = tf.cast(1.0 if scale is None else scale, model.variable_dtype)
  weight = loss_scale / (microbatches * lane_count(size))

  def lane(noise, places, images, *values):
    with tf.GradientTape() as tape:
      bound = model.log_prob_bound(
        images,
        noise=noise,
        training=True,
        seed=dropout_seed(seed),
        batch_offset=places[0],
        **dict(zip(conditioning, values)),
      )
      loss = -tf.reduce_mean(bound) * weight
    return bound, tape.gradient(loss, state.variables)

  bounds, gradients = zip(*map_shards(lane, noise, places, *tensors))
  return tf.concat(bounds, axis=0), [sum_shards(parts) for parts in zip(*gradients)]


# --- Steps that are skipped ----------------------------------------------------------------------


def first_non_finite(model: FlowPlusPlus, images: TensorLike, **arguments: Any) -> str | None:
  """Return what made the bound of some images, or its gradient, not finite.

  The bound is evaluated again, eagerly, with `tf.debugging.enable_check_numerics`. The sentence names the layers and
  bijectors in whose code the first operation failed, the innermost first.

  Args:
    model: `FlowPlusPlus`.
    images: `[B, H, W, C]`.
    **arguments: the arguments of `log_prob_bound` in the step.

  Returns:
    A sentence, or None if all is finite.
  """

  def loss():
    return -tf.reduce_mean(model.log_prob_bound(images, training=True, **arguments))

  with tf.GradientTape() as tape:
    value = loss()
  if not tf.math.is_finite(value):
    return first_non_finite_part(loss) or "all parts are finite, their sum is not"
  gradients = tape.gradient(value, [v.value for v in model.trainable_variables])
  bad = []
  for variable, gradient in zip(model.trainable_variables, gradients):
    if gradient is not None and not tf.reduce_all(tf.math.is_finite(gradient)):
      bad.append(variable.path)
  if bad:  # the gradient comes from the end of the evaluation
    return (
      f"the bound is finite, the gradients of {len(bad)} weights are not; the last of them in the "
      f"order of evaluation is {bad[-1]}"
    )
  return None


def explain_skipped_step(state: TrainState, batch: Any, replicas: int, step: int) -> str:
  """Return what was not finite in a training step that was just skipped, so that it did not change the weights.

  Args:
    state: the state of the run.
    batch: the batch of the step, over all devices.
    replicas: number of devices that took the step.
    step: number of the step.
  """
  images, conditioning = unpack_batch(batch, state.model.config)
  seed = step_seed(state.config.seed, step)
  size = len(images) // (replicas * state.config.accumulate)
  for first in range(0, len(images), size):
    part = slice(first, first + size)
    noise = step_noise(state.model, seed, len(images), first, size)
    given = {name: value[part] for name, value in conditioning.items()}
    found = first_non_finite(
      state.model, images[part], noise=noise, seed=dropout_seed(seed), batch_offset=first, **given
    )
    if found:
      return found
  return "no non-finite value was found on re-evaluation"
