"""Training of a model on its own bound by Keras' `compile`, `fit` and `evaluate`."""

from typing import Any

import keras
import tensorflow as tf

from flowpp_tf.errors import InputError
from flowpp_tf.types import TensorLike


class BoundTraining(keras.Model):
  """A Keras model that is trained on the bound of its log-likelihood, `log_prob_bound`."""

  def call(self, images: TensorLike, training: bool = False) -> tf.Tensor:
    """Return `log_prob_bound(images)` with one sample, `[B]` nats; the same noise in each call outside of training."""
    return self.log_prob_bound(images, seed=None if training else 0, training=training)

  def compile(self, optimizer: Any = "adam", **kwargs: Any) -> None:
    """Prepare `fit` and `evaluate`; as in Keras, without a loss: that is the negative bound, nats per image.

    A model that Keras has saved is loaded uncompiled.

    Raises:
      InputError (a ValueError): for a loss or metrics, for several workers, or for an optimizer that would clip each
        replica's gradients.
    """
    if isinstance(self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
      raise InputError("Keras' `fit` cannot average scalar metrics over workers; use `flowpp_tf.training.train`")
    for name in ("loss", "metrics", "weighted_metrics"):
      if kwargs.get(name):
        raise InputError(f"`{name}` must be None: this model is trained on its own bound")
    kwargs.setdefault("jit_compile", False)
    super().compile(optimizer=optimizer, **kwargs)
    for name in ("clipnorm", "clipvalue", "global_clipnorm"):
      if getattr(self.optimizer, name, None) is not None and self.distribute_strategy.num_replicas_in_sync > 1:
        raise InputError(f"the optimizer's `{name}` would clip on each replica; `flowpp_tf.training.train` clips their "
                         "mean")

  def get_compile_config(self) -> None:
    """Return None: a model is loaded uncompiled."""

  def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None,
                   training: bool = True) -> tf.Tensor:
    """Return the mean negative bound, nats per image, of this replica's share of the batch."""
    loss = -_weighted_mean(y_pred, sample_weight)
    return loss / tf.cast(tf.distribute.get_strategy().num_replicas_in_sync, loss.dtype)

  def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
    """Return `loss`, nats per image, and the same as `bits_per_dim`."""
    results = self.get_metrics_result()
    return {**results, "bits_per_dim": self.to_bits_per_dim(-results["loss"])}


def _weighted_mean(values, weights):
  if weights is None:
    return tf.reduce_mean(values)
  weights = tf.cast(weights, values.dtype)
  return tf.math.divide_no_nan(tf.reduce_sum(values * weights), tf.reduce_sum(weights))
