"""Training on a bound of the log-likelihood: the step that `keras.Model.fit` takes.

The loss is the mean negative bound in nats an image. Gradients are averaged over replicas, in one
all-reduce, and clipped by their global norm once. The noise is drawn for the global batch, of which each
replica, and each part of an accumulated batch, takes its own: but for the dropout masks, a step is
the same on one device and on many, at once and in parts. A step whose loss or gradients are not finite
leaves everything but the step's number, and the loss scale of networks in float16, as it was.
"""

import keras
import tensorflow as tf

from flowpp_tf.errors import InputError
from flowpp_tf.layers import fold_in
from flowpp_tf.models.loss_scale import LossScale
from flowpp_tf.models.seeds import as_seed

_NOISE, _DROPOUT = 0, 1  # streams of random numbers of a step


class LikelihoodModel(keras.Model):
  """A Keras model with `log_prob_bound`, trained to make it large.

  Subclasses define `log_prob_bound(images, noise=, training=, seed=)` in nats, `[B]`, and
  `sample_noise(shape, seed)`, the draws that it takes.
  """

  def compile(self, optimizer="adam", clip_norm=None, ema_decay=None, ema_warmup=False, accumulate=1,
              seed=0, jit_compile=False, **kwargs):
    """As in Keras, without a loss: that is the bound.

    Args:
      optimizer: a `keras.optimizers.Optimizer` or its name, without clipping of its own.
      clip_norm: global norm to which the averaged gradients are clipped; None for no clipping.
      ema_decay: decay of the averaged weights, which start as the present ones; None for none.
      ema_warmup: whether the decay of step t is at most (1 + t) / (10 + t).
      accumulate: equal parts, one after the other, in which a replica takes its share of a batch: it
        has the gradients of the whole batch, and takes the memory of a part.
      seed: integer from which the noise and the dropout masks of all steps follow.
      jit_compile: as in Keras; off by default.
      **kwargs: passed to `keras.Model.compile`.

    A model that Keras has saved is loaded uncompiled, as the averages are not in the file; a run goes
    on from its checkpoint.

    Raises:
      InputError (a ValueError): for a loss, an optimizer that clips, or values out of range.
    """
    for name in ("loss", "metrics", "weighted_metrics"):
      if kwargs.get(name):
        raise InputError(f"`{name}` must be None: this model is trained on its own bound")
    super().compile(optimizer=optimizer, jit_compile=jit_compile, auto_scale_loss=False, **kwargs)
    if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
      raise InputError("the optimizer must not scale the loss: the model does, in float16")
    for name in ("clipnorm", "clipvalue", "global_clipnorm"):
      if getattr(self.optimizer, name, None) is not None:
        raise InputError(f"the optimizer's `{name}` would clip on each replica; use `clip_norm`")
    if clip_norm is not None and not clip_norm > 0:
      raise InputError(f"`clip_norm` must be positive or None, got {clip_norm}")
    if ema_decay is not None and not 0 <= ema_decay < 1:
      raise InputError(f"`ema_decay` must be in [0, 1) or None, got {ema_decay}")
    if accumulate < 1:
      raise InputError(f"`accumulate` must be at least 1, got {accumulate}")
    self.clip_norm = clip_norm
    self.ema_decay = ema_decay
    self.ema_warmup = ema_warmup
    self.accumulate = accumulate
    self.seed = seed
    # The optimizer would add up over replicas what is already the same on each.
    self.optimizer._all_reduce_sum_gradients = lambda gradients_and_variables: gradients_and_variables
    with self.distribute_strategy.scope():
      self._bits_per_dim_metric = keras.metrics.Mean("bits_per_dim")
      self._gradient_norm_metric = keras.metrics.Mean("gradient_norm")
      self.optimizer.build(self.trainable_variables)
      counter = lambda name: tf.Variable(
          0, dtype=tf.int64, trainable=False, name=name,
          aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
      self.skipped_steps, self.skipped_in_a_row = counter("skipped_steps"), counter("skipped_in_a_row")
      self.averages = None if ema_decay is None else [
          tf.Variable(v, trainable=False, name="average") for v in self._tf_trainable_variables()]
      in_float16 = any(layer.compute_dtype == "float16" for layer in self._flatten_layers())
      self.loss_scale = LossScale() if in_float16 else None

  def get_compile_config(self):
    return None  # see `compile`

  def reset_averages(self):
    """Sets the averaged weights, if there are any, to the present ones."""
    for average, variable in zip(self.averages or [], self._tf_trainable_variables()):
      average.assign(variable)

  @property
  def metrics(self):
    return [self._bits_per_dim_metric, self._gradient_norm_metric] if self.compiled else []

  def _maybe_symbolic_build(self, iterator=None, data_batch=None):
    """Keras builds models by a batch averaged over workers, which uint8 has not; this one is built."""

  def train_step(self, data):
    images = keras.utils.unpack_x_y_sample_weight(data)[0]
    seed = self.step_seed(self.optimizer.iterations.value)
    scale = tf.cast(1.0 if self.loss_scale is None else self.loss_scale.value, self.variable_dtype)
    bound, gradients, variables = self._gradients(images, seed, scale)
    replica = tf.distribute.get_replica_context()
    *gradients, loss = _all_reduce_mean(replica, [*gradients, -tf.reduce_mean(bound)])
    norm = _global_norm(gradients, scale.dtype) / scale
    finite = tf.math.is_finite(norm) & tf.math.is_finite(loss)
    overflow = tf.math.is_finite(loss) & (scale > 1)  # if not finite: the scale may yet come down
    factor = 1 / scale
    if self.clip_norm is not None:
      factor *= self.clip_norm / tf.maximum(norm, self.clip_norm)
    factor = tf.where(finite, factor, tf.zeros_like(factor))
    gradients = [tf.math.multiply_no_nan(g, tf.cast(factor, g.dtype)) for g in gradients]
    replica.merge_call(self._update_if_finite, args=(finite, overflow, gradients, variables))
    self._gradient_norm_metric.update_state(*_masked(norm, finite))
    self._bits_per_dim_metric.update_state(*_masked(self.to_bits_per_dim(bound), finite))
    return self._results(["bits_per_dim", "gradient_norm"])

  def test_step(self, data):
    images, _, weights = keras.utils.unpack_x_y_sample_weight(data)
    replica = tf.distribute.get_replica_context()
    # The same noise in every evaluation: two of them differ by their weights alone.
    noise, seed = self.step_noise(
        tf.shape(images)[0], as_seed(self.seed), replica.replica_id_in_sync_group,
        replica.num_replicas_in_sync)
    bound = self.log_prob_bound(images, noise=noise, training=False, seed=seed)
    self._bits_per_dim_metric.update_state(self.to_bits_per_dim(bound), weights)
    return self._results(["bits_per_dim"])

  def step_seed(self, step):
    """The stateless seed, `[2]`, of what is random in a training step."""
    return fold_in(as_seed(self.seed), tf.cast(step, tf.int64))

  def step_noise(self, size, seed, part, parts):
    """Noise and dropout seed of one of the equal parts of a global batch.

    Args:
      size: images in the part.
      seed: of the step.
      part: its number; replica by replica, and within each in the order of accumulation.
      parts: how many there are.
    """
    noise = self.sample_noise([size * parts], fold_in(seed, _NOISE))
    return noise[size * part:size * (part + 1)], fold_in(fold_in(seed, _DROPOUT), part)

  def _gradients(self, images, seed, scale):
    """Bound `[B]` of a replica's images, gradients of its mean times `scale`, and their variables."""
    replica = tf.distribute.get_replica_context()
    variables = self._tf_trainable_variables()
    size = tf.shape(images)[0] // self.accumulate
    used = []

    def part(index):
      noise, dropout_seed = self.step_noise(
          size, seed, replica.replica_id_in_sync_group * self.accumulate + index,
          replica.num_replicas_in_sync * self.accumulate)
      with tf.GradientTape() as tape:
        bound = self.log_prob_bound(images[size * index:size * (index + 1)], noise=noise,
                                    training=True, seed=dropout_seed)
        loss = -tf.reduce_mean(bound) * scale
      gradients = tape.gradient(loss, variables)
      # Weights that no evaluation uses are kept for the published models' sake; they have no gradient.
      used[:] = [i for i, g in enumerate(gradients) if g is not None]
      return bound, gradients

    if self.accumulate == 1:
      bound, gradients = part(0)
    else:
      tf.debugging.assert_equal(size * self.accumulate, tf.shape(images)[0], (
          f"the images of a replica must be a multiple of `accumulate` {self.accumulate}"))

      def body(index, bounds, sums):
        bound, gradients = part(index)
        return index + 1, bounds.write(index, bound), [
            s if g is None else s + g / self.accumulate for s, g in zip(sums, gradients)]

      bounds = tf.TensorArray(self.variable_dtype, self.accumulate, element_shape=[None])
      _, bounds, gradients = tf.while_loop(
          lambda index, *_: index < self.accumulate, body,
          (0, bounds, [tf.zeros_like(v) for v in variables]), maximum_iterations=self.accumulate)
      bound = bounds.concat()
    return bound, [gradients[i] for i in used], [variables[i] for i in used]

  def _update_if_finite(self, strategy, finite, overflow, gradients, variables):
    """In cross-replica context: an update of weights and averages, or a step that is skipped."""
    optimizer = self.optimizer
    each = lambda function, *args: strategy.extended.call_for_each_replica(function, args=args)
    # They are the same on all replicas, after the all-reduce.
    good, overflow = (strategy.experimental_local_results(flag)[0] for flag in (finite, overflow))
    if hasattr(optimizer, "apply_if"):  # a branch has thousands of inputs, and takes as long to trace
      each(optimizer.apply_if, finite, gradients, variables)
    else:
      def skip():
        optimizer.iterations.assign_add(1)  # the next step has other images and noise

      # It updates variables on all replicas, which only a conditional over all of them may do.
      tf.cond(good, lambda: each(optimizer.apply, gradients, variables), skip)
    self._update_averages(strategy, good)
    bad = tf.cast(~good, tf.int64)
    self.skipped_steps.assign_add(bad)
    self.skipped_in_a_row.assign(bad * (self.skipped_in_a_row + tf.cast(~overflow, tf.int64)))
    if self.loss_scale is not None:
      self.loss_scale.after_step(good)

  def _update_averages(self, strategy, good):
    """In cross-replica context: after a good step each average goes 1 - decay of the way to its weight."""
    if self.averages is None:
      return
    rate = tf.constant(1 - self.ema_decay, self.variable_dtype)
    if self.ema_warmup:  # a decay of (1 + t) / (10 + t)
      rate = tf.maximum(rate, 9 / (10 + tf.cast(self.optimizer.iterations.value, rate.dtype)))
    rate = tf.where(good, rate, tf.zeros_like(rate))

    def update(average, variable, rate):
      tf.raw_ops.ResourceApplyGradientDescent(
          var=average.handle, alpha=rate, delta=average - variable, use_locking=True)

    for average, variable in zip(self.averages, self._tf_trainable_variables()):
      strategy.extended.update(average, update, args=(variable, tf.cast(rate, average.dtype)), group=False)

  def _results(self, names):
    results = {name: self.get_metrics_result()[name] for name in names}
    if isinstance(self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
      # Keras averages over workers what a step returns, along an axis.
      results = {name: tf.reshape(value, [1]) for name, value in results.items()}
    return results

  def _get_metrics_result_or_logs(self, logs):
    """Keras would pass on what the last step of an evaluation returned, as it returned it."""
    return {name: value for name, value in self.get_metrics_result().items() if name in logs}

  def _tf_trainable_variables(self):
    return [v.value for v in self.trainable_variables]


def _masked(values, finite):
  """Arguments of a metric's update: the values, or nothing where the step is skipped."""
  return tf.where(finite, values, tf.zeros_like(values)), tf.cast(finite, values.dtype)


def _all_reduce_mean(replica, tensors):
  """Their means over replicas, in one all-reduce of each dtype: it joins what it sends."""
  means = list(tensors)
  for dtype in sorted({t.dtype.name for t in tensors}):
    indices = [i for i, t in enumerate(tensors) if t.dtype == dtype]
    reduced = replica.all_reduce(tf.distribute.ReduceOp.MEAN, [tensors[i] for i in indices])
    for i, mean in zip(indices, reduced):
      means[i] = mean
  return means


def _global_norm(tensors, dtype):
  """As `tf.linalg.global_norm`, of tensors of several dtypes."""
  return tf.sqrt(2 * tf.reduce_sum(tf.stack([tf.cast(tf.nn.l2_loss(t), dtype) for t in tensors])))
