"""A training step of a run: the gradients of the bound, which `take_step` of core/training_step.py applies.

The loss is the mean negative bound in nats per image. Noise and dropout masks depend on an image's index in the global
batch, so a step does not depend on the number of replicas, microbatches and lanes.
"""

from typing import Any

import tensorflow as tf

from flowpp_tf.core.context import NOISE, as_seed, fold_in
from flowpp_tf.core.lanes import concat_shards, lane_count, map_shards, sum_shards
from flowpp_tf.core.tensors import shape_of
from flowpp_tf.core.training_step import take_step
from flowpp_tf.models import FlowPlusPlus, unpack_batch
from flowpp_tf.training.state import TrainState
from flowpp_tf.types import Seed


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
  bound, gradients, variables = _gradients(state, *unpack_batch(batch, state.model.config), seed, scale)
  take_step(state, -tf.reduce_mean(bound), gradients, variables, scale)


def validation_step(state: TrainState, batch: Any, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Return sums over this replica's images, in replica context: of bits/dim times weight, and of weights."""
  replica = tf.distribute.get_replica_context()
  images, given = unpack_batch(batch, state.model.config)
  size = shape_of(images)[0]
  # The same noise in every validation: two validations differ only by their weights.
  noise = step_noise(
    state.model,
    as_seed(state.config.seed),
    size * replica.num_replicas_in_sync,
    size * replica.replica_id_in_sync_group,
    size,
  )
  bound = concat_shards(
    lambda images, noise, *values: state.model.log_prob_bound(images, noise=noise, seed=0, **dict(zip(given, values))),
    images,
    noise,
    *given.values(),
  )
  bits = tf.cast(state.model.to_bits_per_dim(bound), weights.dtype)
  return tf.reduce_sum(bits * weights), tf.reduce_sum(weights)


def step_seed(seed: Seed, step: Any) -> tf.Tensor:
  """Return the stateless seed, `[2]`, of everything random in a training step."""
  return fold_in(as_seed(seed), tf.cast(step, tf.int64))


def step_noise(model: FlowPlusPlus, seed: tf.Tensor, batch_size: Any, batch_offset: Any, size: Any) -> tf.Tensor:
  """Return the noise of `size` images, beginning with the image `batch_offset` of a global batch.

  Args:
    model: `FlowPlusPlus`.
    seed: of the step.
    batch_size: images of the step, over all devices.
    batch_offset: index of the first image in the global batch: replica by replica, then microbatch by microbatch.
    size: number of images.
  """
  noise = model.sample_noise([batch_size], fold_in(seed, NOISE))
  return noise[batch_offset : batch_offset + size]


def dropout_seed(seed: tf.Tensor) -> tf.Tensor:
  """Return the seed of the dropout masks of a step, given the step's."""
  return fold_in(fold_in(seed, "dropout"), 0)  # the 0 only keeps the masks that a seed has always given


def _gradients(state, images, given, seed, scale):
  """Return the bound `[B]` of a replica's images, gradients of its negative mean times `scale`, and their variables."""
  replica = tf.distribute.get_replica_context()
  model, microbatches = state.model, state.config.accumulate
  images_here = shape_of(images)[0]
  size = images_here // microbatches
  lanes_here = lane_count(size)
  used: list[int] = []

  def lane(images, noise, places, *values):
    with tf.GradientTape() as tape:
      bound = model.log_prob_bound(
        images, noise=noise, training=True, seed=dropout_seed(seed), batch_offset=places[0], **dict(zip(given, values))
      )
      # This lane's share of the mean over microbatches and lanes: gradients are then only summed.
      loss = -tf.reduce_mean(bound) * (
        tf.cast(1.0 if scale is None else scale, bound.dtype) / (microbatches * lanes_here)
      )
    gradients = tape.gradient(loss, state.variables)
    # The published models keep weights that no evaluation uses; they have no gradient.
    used[:] = [i for i, g in enumerate(gradients) if g is not None]
    return bound, [gradients[i] for i in used]

  def microbatch(index):
    first = images_here * replica.replica_id_in_sync_group + size * index
    noise = step_noise(model, seed, images_here * replica.num_replicas_in_sync, first, size)
    share = lambda t: t if microbatches == 1 else t[size * index : size * (index + 1)]
    bounds, gradients = zip(
      *map_shards(lane, share(images), noise, first + tf.range(size), *map(share, given.values()))
    )
    return tf.concat(bounds, axis=0), [sum_shards(parts) for parts in zip(*gradients)]

  if microbatches == 1:
    bound, gradients = microbatch(0)
  else:
    tf.debugging.assert_equal(
      size * microbatches, images_here, (f"the images of a replica must be a multiple of `accumulate` {microbatches}")
    )

    def body(index, bounds, sums):
      bound, gradients = microbatch(index)
      more = dict(zip(used, gradients))
      return index + 1, bounds.write(index, bound), [s + more[i] if i in more else s for i, s in enumerate(sums)]

    bounds = tf.TensorArray(model.variable_dtype, microbatches, element_shape=[None])
    _, bounds, sums = tf.while_loop(
      lambda index, *_: index < microbatches,
      body,
      (0, bounds, [tf.zeros_like(v) for v in state.variables]),
      maximum_iterations=microbatches,
    )
    bound, gradients = bounds.concat(), [sums[i] for i in used]
  return bound, gradients, [state.variables[i] for i in used]
