"""A training step: gradients of the bound, all-reduce, clip, update.

The loss is the mean negative bound in nats per image. Gradients are averaged over replicas in one all-reduce, and then
clipped by their global norm. Noise and dropout masks depend on an image's index in the global batch, so a step does not
depend on the number of replicas, microbatches and lanes. A step whose loss or gradients are not finite changes only the
number of the step, the counts of such steps, and the loss scale of networks in float16.
"""

import functools
from typing import Any

import tensorflow as tf

from flowpp_tf.core.context import NOISE, as_seed, fold_in
from flowpp_tf.core.finite import StepCheck, check_step, count_failures, global_norm
from flowpp_tf.core.lanes import concat_shards, lane_count, map_shards, sum_shards
from flowpp_tf.core.tensors import shape_of
from flowpp_tf.core.tracing import traced_once
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
  replica = tf.distribute.get_replica_context()
  scale = None if state.loss_scale is None else tf.convert_to_tensor(state.loss_scale.value)
  seed = step_seed(state.config.seed, state.optimizer.iterations.value)
  bound, gradients, variables = _gradients(state, *unpack_batch(batch, state.model.config), seed, scale)
  *gradients, loss = _all_reduce_mean(replica, [*gradients, -tf.reduce_mean(bound)])

  factor = tf.constant(1.0, loss.dtype) if scale is None else 1 / tf.cast(scale, loss.dtype)
  norm = global_norm(gradients, loss.dtype) * factor
  check = check_step(loss, norm, scale)
  if state.config.clip_norm is not None:
    factor *= state.config.clip_norm / tf.maximum(norm, state.config.clip_norm)
  factor = tf.where(check.finite, factor, tf.zeros_like(factor))
  gradients = [tf.math.multiply_no_nan(g, tf.cast(factor, g.dtype)) for g in gradients]
  before = [] if state.keeps_when_skipped else _apply(state, gradients, variables)
  replica.merge_call(functools.partial(_update, state), args=(gradients, variables, loss, norm, check, before))


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


def _apply(state, gradients, variables):
  """Take a step of any Keras optimizer, in replica context; return the previous values of what it changes."""
  replicas = tf.distribute.get_replica_context().num_replicas_in_sync
  of = {id(v.value): v for v in state.model.trainable_variables}
  before = [tf.identity(v) for v in _changed(state, variables)]
  state.optimizer.apply([g / replicas for g in gradients], [of[id(v)] for v in variables])  # it sums over replicas
  return before


def _changed(state, variables):
  """Return the variables that a step of the optimizer changes, except for the number of the step."""
  return [*variables, *(v.value for v in state.optimizer.variables if v is not state.optimizer.iterations)]


def _update(state, strategy, gradients, variables, loss, norm, check, before):
  """Update weights, EMA weights, counts and sums, in cross-replica context."""
  # After the all-reduce they are the same on all replicas.
  loss, norm, *flags = (strategy.experimental_local_results(value)[0] for value in (loss, norm, *check))
  check = StepCheck(*flags)
  unless_skipped = lambda value: tf.where(check.finite, value, tf.zeros_like(value))
  optimizer, extended = state.optimizer, strategy.extended

  if state.keeps_when_skipped:
    rate = unless_skipped(tf.convert_to_tensor(optimizer.learning_rate))
    for variable, gradient in zip(variables, gradients):  # without a branch, which would have thousands of inputs
      extended.update(variable, lambda v, g: optimizer.update_step(g, v, rate), args=(gradient,), group=False)
    optimizer.iterations.assign_add(1)  # the next step has other images and noise
  else:
    for variable, value in zip(_changed(state, variables), before):
      extended.update(variable, lambda v, old: v.assign(tf.where(check.finite, v, old)), args=(value,), group=False)

  if state.ema is not None:
    ema_rate = unless_skipped(_ema_rate(state))
    rates = {dtype: tf.cast(ema_rate, dtype) for dtype in {average.dtype for average in state.ema}}
    for average, variable in zip(state.ema, state.variables):
      extended.update(
        average, lambda a, v: _move_average(a.handle, v.handle, rates[a.dtype]), args=(variable,), group=False
      )

  state.skipped_steps.assign_add(tf.cast(~check.finite, tf.int64))
  count_failures(state.skipped_in_a_row, check)
  if state.loss_scale is not None:
    state.loss_scale.after_step(check.finite)
  for name, value in (
    ("steps", tf.ones_like(loss)),
    ("bits_per_dim", state.model.to_bits_per_dim(-loss)),
    ("gradient_norm", norm),
  ):
    state.sums[name].assign_add(tf.cast(unless_skipped(value), tf.float32))


@functools.partial(traced_once, inline=True)
def _move_average(average, variable, rate):
  """Compute average += rate (variable - average) for the variables with these handles."""
  read = lambda handle: tf.raw_ops.ReadVariableOp(resource=handle, dtype=rate.dtype)
  tf.raw_ops.ResourceApplyGradientDescent(
    var=average, alpha=rate, delta=read(average) - read(variable), use_locking=True
  )


def _ema_rate(state):
  """1 - decay."""
  rate = tf.constant(1 - state.config.ema_decay, state.model.variable_dtype)
  if state.config.ema_warmup:  # a decay of (1 + t) / (10 + t)
    rate = tf.maximum(rate, 9 / (10 + tf.cast(state.optimizer.iterations.value, rate.dtype)))
  return rate


def _all_reduce_mean(replica, tensors):
  """Return the means over replicas, by one all-reduce for each dtype."""
  if replica.num_replicas_in_sync == 1:
    return tensors
  means = list(tensors)
  for dtype in sorted({t.dtype.name for t in tensors}):
    indices = [i for i, t in enumerate(tensors) if t.dtype == dtype]
    reduced = replica.all_reduce(tf.distribute.ReduceOp.MEAN, [tensors[i] for i in indices])
    for i, mean in zip(indices, reduced):
      means[i] = mean
  return means
