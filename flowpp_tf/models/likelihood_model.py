"""Training on a bound of the log-likelihood: the step that `keras.Model.fit` takes.

The loss is the mean negative bound in nats an image. Gradients are averaged over replicas first and
clipped by their global norm once, and the noise is drawn for the global batch, of which each replica
takes its part: but for its dropout masks, a step is the same on one device and on many.
"""

import keras
import tensorflow as tf

from flowpp_tf.errors import InputError
from flowpp_tf.layers import fold_in
from flowpp_tf.models.seeds import as_seed

_NOISE, _DROPOUT = 0, 1  # streams of random numbers of a step


class LikelihoodModel(keras.Model):
  """A Keras model with `log_prob_bound`, trained to make it large.

  Subclasses define `log_prob_bound(images, noise=, training=, seed=)` in nats, `[B]`, and
  `sample_noise(shape, seed)`, the draws that it takes.
  """

  def compile(self, optimizer="adam", clip_norm=None, ema_decay=None, seed=0, jit_compile=False,
              **kwargs):
    """As in Keras, without a loss: that is the bound.

    Args:
      optimizer: a `keras.optimizers.Optimizer` or its name, without clipping of its own.
      clip_norm: global norm to which the averaged gradients are clipped; None for no clipping.
      ema_decay: decay of the averaged weights, which start as the present ones; None for none.
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
    super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
    for name in ("clipnorm", "clipvalue", "global_clipnorm"):
      if getattr(self.optimizer, name, None) is not None:
        raise InputError(f"the optimizer's `{name}` would clip on each replica; use `clip_norm`")
    if clip_norm is not None and not clip_norm > 0:
      raise InputError(f"`clip_norm` must be positive or None, got {clip_norm}")
    if ema_decay is not None and not 0 <= ema_decay < 1:
      raise InputError(f"`ema_decay` must be in [0, 1) or None, got {ema_decay}")
    self.clip_norm = clip_norm
    self.seed = seed
    with self.distribute_strategy.scope():
      self._bits_per_dim_metric = keras.metrics.Mean("bits_per_dim")
      self._gradient_norm_metric = keras.metrics.Mean("gradient_norm")
      self.optimizer.build(self.trainable_variables)
      self.averages = None
      if ema_decay is not None:
        self._ema = tf.train.ExponentialMovingAverage(ema_decay)
        self._update_averages()
        self.averages = [self._ema.average(v) for v in self._tf_trainable_variables()]

  def get_compile_config(self):
    return None  # see `compile`

  def reset_averages(self):
    """Sets the averaged weights, if there are any, to the present ones."""
    for average, variable in zip(self.averages or [], self._tf_trainable_variables()):
      average.assign(variable)

  @property
  def metrics(self):
    return [self._bits_per_dim_metric, self._gradient_norm_metric] if self.compiled else []

  def train_step(self, data):
    images = keras.utils.unpack_x_y_sample_weight(data)[0]
    seed = fold_in(as_seed(self.seed), tf.cast(self.optimizer.iterations.value, tf.int64))
    with tf.GradientTape() as tape:
      bound = self._bound(images, seed, training=True)
      loss = -tf.reduce_mean(bound)
    variables = self._tf_trainable_variables()
    gradients = tape.gradient(loss, variables)
    norm = self._apply_gradients(gradients, variables)
    if self.averages is not None:
      self._update_averages()
    self._gradient_norm_metric.update_state(norm)
    self._bits_per_dim_metric.update_state(self.to_bits_per_dim(bound))
    return self.get_metrics_result()

  def test_step(self, data):
    images = keras.utils.unpack_x_y_sample_weight(data)[0]
    # The same noise in every evaluation: two of them differ by their weights alone.
    bound = self._bound(images, as_seed(self.seed), training=False)
    self._bits_per_dim_metric.update_state(self.to_bits_per_dim(bound))
    return {"bits_per_dim": self._bits_per_dim_metric.result()}

  def _bound(self, images, seed, training):
    replica = tf.distribute.get_replica_context()
    size = tf.shape(images)[0]
    noise = self.sample_noise([size * replica.num_replicas_in_sync], fold_in(seed, _NOISE))
    start = size * replica.replica_id_in_sync_group
    return self.log_prob_bound(
        images, noise=noise[start:start + size], training=training,
        seed=fold_in(fold_in(seed, _DROPOUT), replica.replica_id_in_sync_group))

  def _apply_gradients(self, gradients, variables):
    replica = tf.distribute.get_replica_context()
    # Weights that no evaluation uses are kept for the published models' sake; they have no gradient.
    pairs = [(g, v) for g, v in zip(gradients, variables) if g is not None]
    gradients, variables = zip(*pairs)
    gradients = replica.all_reduce(tf.distribute.ReduceOp.MEAN, list(gradients))
    norm = tf.linalg.global_norm(gradients)
    if self.clip_norm is not None:
      gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm, use_norm=norm)
    # The optimizer adds up over replicas what is already the same on each.
    gradients = [g / replica.num_replicas_in_sync for g in gradients]
    self.optimizer.apply(gradients, variables)
    return norm

  def _tf_trainable_variables(self):
    return [v.value for v in self.trainable_variables]

  def _update_averages(self):
    self._ema.apply(self._tf_trainable_variables())
