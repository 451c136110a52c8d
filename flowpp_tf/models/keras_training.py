"""Training of a model on its own bound by Keras' `compile`, `fit`, `evaluate` and `predict`.

Nothing that goes wrong is hidden. Pixels that are not integers in range are an error in arrays, and give a bound of NaN
in data sets. A step whose loss or gradients are not finite changes nothing, counts as NaN in the logs, and is an error
if it repeats.

Keras provides loops, progress, metrics and callbacks. `train_step` is ours, because Keras' own takes steps that are not
finite (its `LossScaleOptimizer` skips one by the gradients of the first replica only), has no labels, and counts a
batch by the number of its images instead of by their weights. `core/finite.py` defines a finite step, for this step and
for the step of a run.
"""

import abc
from collections.abc import Iterable, Sequence
import types
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from flowpp_tf.config.model import FlowPlusPlusConfig
from flowpp_tf.core import checks, finite
from flowpp_tf.core.checks import INT32_MAX, as_array, as_tensor, check_arguments, check_count, check_type
from flowpp_tf.core.errors import Diverged, InputError
from flowpp_tf.layers.flow import Adaptable
from flowpp_tf.models.conditioning import KEYS, by_key, checked_labels, unpack_batch
from flowpp_tf.types import Seed, TensorLike

_OR_WRONG_VALUES = "; or pixels or labels of a data set, which `fit` does not check, are out of range"
_NEVER_FINITE = (
  "no step was finite: probably the precision is too low for these images, as where pixels hardly vary; try a config "
  f"with `dtype` float32 and `flow_dtype` float64{_OR_WRONG_VALUES}"
)
_NO_LONGER_FINITE = (
  "steps before were finite: probably the learning rate is too high for these images; try an optimizer with a lower "
  f"`learning_rate`, or with a `global_clipnorm`{_OR_WRONG_VALUES}"
)


class BoundModel(Adaptable, keras.Model, abc.ABC):
  """A Keras model that is trained on the bound of its log-likelihood, which a subclass computes.

  Inputs of `fit`, `evaluate`, `predict` and of the model itself are images, integers in 0 .. levels - 1,
  `[B, H, W, C]`, or a dict with the key `"image"`, as TFDS gives it. A class-conditional model takes labels from
  `"label"` of the dict, or from the targets `y`; a model with a condition takes `"condition"`. Models without either
  accept both, and do not use them; nor are other keys used.

  Attributes:
    config: architecture. A subclass sets it.
  """

  config: FlowPlusPlusConfig

  @abc.abstractmethod
  def log_prob_bound(
    self,
    images: TensorLike,
    *,
    seed: Seed = None,
    training: bool = False,
    labels: TensorLike | None = None,
    condition: TensorLike | None = None,
  ) -> tf.Tensor:
    """Return a lower bound of the log-likelihood of images, `[B]` nats."""

  @abc.abstractmethod
  def initialize(
    self,
    images: TensorLike,
    *,
    labels: TensorLike | None = None,
    condition: TensorLike | None = None,
    overwrite: bool = False,
  ) -> tf.Tensor:
    """Initialise the weights from one batch of images, and return its bound, `[B]` nats."""

  @abc.abstractmethod
  def to_bits_per_dim(self, log_prob: Any) -> Any:
    """Return bits/dim from nats per image."""

  def call(self, inputs: Any, training: bool | None = False) -> tf.Tensor:
    """Return `log_prob_bound` with one sample, `[B]` nats; the same noise in each call outside of training.

    Args:
      inputs: images, or a dict of `"image"` and, where the model takes them, `"label"` and `"condition"`.
      training: whether dropout is on and each call draws other noise; None means False, as in Keras.

    Raises:
      InputError (a ValueError): for inputs that do not fit; in a graph, wrong values give NaN.
    """
    check_type("training", training, bool | None)
    images, conditioning = unpack_batch(inputs, self.config)
    if training:
      return self.log_prob_bound(images, seed=None, training=True, **conditioning)
    return self.log_prob_bound(images, seed=0, **conditioning)

  @check_arguments
  def compile(self, optimizer: str | keras.optimizers.Optimizer = "adam", max_skipped: int = 10, **kwargs: Any) -> None:
    """Prepare `fit` and `evaluate`, as in Keras, but without a loss: the loss is the negative bound, nats per image.

    A model that Keras has saved is loaded uncompiled.

    Args:
      optimizer: an optimizer of Keras, or its name.
      max_skipped: number of steps in a row whose loss or gradients are not finite after which `fit` ends.
      **kwargs: as in Keras.

    Raises:
      InputError (a ValueError): for a loss or metrics, for several workers, or for an optimizer that would clip each
        replica's gradients.
    """
    if isinstance(self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
      raise InputError("Keras' `fit` cannot average scalar metrics over workers; use `flowpp_tf.training.run_training`")
    for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
      if kwargs.get(name):
        raise InputError(f"`{name}` must be None: this model is trained on its own bound")
    check_count("max_skipped", max_skipped, high=INT32_MAX)
    optimizer = keras.optimizers.get(optimizer)
    inner_optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a `LossScaleOptimizer`
    # Keras itself looks at the dtype of the model, which is the dtype of the flow, and not of the networks.
    scales_loss = self.config.dtype == "mixed_float16" and kwargs.get("auto_scale_loss", True)
    if scales_loss and inner_optimizer is optimizer:
      optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    kwargs.setdefault("jit_compile", False)
    super().compile(optimizer=optimizer, **kwargs)
    for name in ("clipnorm", "clipvalue", "global_clipnorm"):
      if getattr(inner_optimizer, name, None) is not None and self.distribute_strategy.num_replicas_in_sync > 1:
        raise InputError(
          f"the optimizer's `{name}` would clip on each replica; `flowpp_tf.training.run_training` clips their mean"
        )
    self.max_skipped = max_skipped
    with self.distribute_strategy.scope():
      # In a namespace, so that checkpoints of the model do not hold it.
      self._skipped = types.SimpleNamespace(in_a_row=finite.replicated_variable(0, tf.int64, "skipped_in_a_row"))

  def get_compile_config(self) -> None:
    """Return None: a model is loaded uncompiled."""

  # --- Initialisation ---------------------------------------------------------------------------

  def adapt(self, data: Any, batch_size: int = 256, overwrite: bool = False) -> None:
    """Initialise a new model from data (data-dependent initialisation), as `adapt` of Keras' `Normalization`.

    Args:
      data: images, or a dict of images and their labels or conditions, as arrays; or batches as a `tf.data.Dataset`.
      batch_size: greatest number of images to use. Of a data set these are the first ones. Of arrays they are evenly
        spaced, as arrays may be sorted.
      overwrite: whether to initialise a model that is initialised already.

    Raises:
      InputError (a ValueError): if the model is initialised already, and `overwrite` is False; for images that are not
        integers in 0 .. levels - 1, and for other data, such as a generator.

    Examples:
      >>> model = fpp.FlowPlusPlus(fpp.get_config("digits"))
      >>> model.adapt(np.random.randint(0, 17, [64, 8, 8, 1]))
      >>> model.initialized
      True
    """
    check_count("batch_size", batch_size, high=INT32_MAX)
    if isinstance(data, tf.data.Dataset):
      batch = next(iter(data.unbatch().batch(batch_size)), None)
      if batch is None:
        raise InputError("`adapt` needs at least one image, got an empty data set")
      images, conditioning = unpack_batch(self._unpacked(batch)[0], self.config)
    else:
      images, conditioning = unpack_batch(data, self.config)
      images = as_array("data", images, [None, *self.config.image_shape])
      count = min(len(images), batch_size)
      indices = np.arange(count) * len(images) // count
      images = images[indices]
      conditioning = {name: as_array(name, values)[indices] for name, values in conditioning.items()}
    self.initialize(images, overwrite=overwrite, **conditioning)

  def load_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
    """Load weights from a file, as in Keras.

    A model whose weights do not fit is initialised no more than before.
    """
    initialized = self.initialized  # Keras sets it when it begins to read
    try:
      super().load_weights(filepath, *args, **kwargs)
      initialized = True
    finally:
      self.initialized = initialized

  # --- Keras' loops -----------------------------------------------------------------------------

  def fit(
    self, x: Any = None, y: Any = None, batch_size: int | None = None, epochs: int = 1, *args: Any, **kwargs: Any
  ) -> keras.callbacks.History:
    """Train the model; arguments as in Keras, callbacks and validation data by name.

    The model must be initialised, by `adapt` or by loaded weights. `sample_weight` needs no targets `y`; the loss of a
    batch is the weighted mean.

    Returns:
      The history: `loss` in nats per image and `bits_per_dim`; names of validation begin with `val_`. They are NaN in
      an epoch with a skipped step, whose loss or gradients are not finite. In float16, a step that is skipped to lower
      the loss scale does not count.

    Raises:
      InputError (a ValueError): for arrays of images that are not integers in 0 .. levels - 1, or a model that is not
        initialised.
      Diverged: after `max_skipped` skipped steps in a row, seen after each execution of `steps_per_execution` steps.
    """
    x, y = self._prepared(x, y, kwargs.get("sample_weight"))
    if kwargs.get("validation_data") is not None:
      images, labels, weights = keras.utils.unpack_x_y_sample_weight(kwargs["validation_data"])
      kwargs["validation_data"] = (*self._prepared(images, labels, weights), weights)
    if kwargs.get("initial_epoch", 0) >= epochs:
      epochs = 0  # otherwise Keras would copy EMA weights into the model that were never set
    callbacks = keras.tree.flatten(kwargs.get("callbacks") or [])
    kwargs["callbacks"] = [*callbacks, _Watch(callbacks)]
    return super().fit(x, y, batch_size, epochs, *args, **kwargs)

  def evaluate(self, x: Any = None, y: Any = None, *args: Any, sample_weight: Any = None, **kwargs: Any) -> Any:
    """Return `loss` and `bits_per_dim` of images, with the same noise in each call; arguments as in Keras.

    With weights, given by name or in the data, they are weighted means over all images. They are NaN for a data set
    with images that are not integers in 0 .. levels - 1.

    Raises:
      InputError (a ValueError): for arrays of such images.
    """
    x, y = self._prepared(x, y, sample_weight)
    return super().evaluate(x, y, *args, sample_weight=sample_weight, **kwargs)

  def predict(self, x: Any, *args: Any, **kwargs: Any) -> np.ndarray:
    """Return the bound of each image, `[N]` nats, with the same noise in each call; arguments as in Keras.

    It is NaN for an image of a data set whose pixels are not integers in 0 .. levels - 1.

    Raises:
      InputError (a ValueError): for arrays of such images.
    """
    return super().predict(self._prepared(x)[0], *args, **kwargs)

  def make_train_function(self, force: bool = False) -> None:
    """Make the function that takes training steps, as in Keras; `fit` and `train_on_batch` call it."""
    if not self.initialized:
      raise InputError(
        "the model is not initialised: call `model.adapt(images)`, or load weights, before training; after assigning "
        "trained weights in another way, set `model.initialized = True`"
      )
    if not self.optimizer.built:  # a step calls it in a branch, where no variables can be made
      with self.distribute_strategy.scope():
        self.optimizer.build(self.trainable_variables)
    super().make_train_function(force)

  # --- Steps ------------------------------------------------------------------------------------

  def train_step(self, data: Any) -> dict[str, Any]:
    """Take a step, in replica context, on this replica's share of a batch; return the logs.

    A step whose loss or gradients are not finite on any replica changes nothing, except for a dynamic loss scale.
    """
    inputs, sample_weight = self._unpacked(data)
    optimizer = self.optimizer
    with tf.GradientTape() as tape:
      loss, weight = _mean_loss(self._bound(inputs, training=True), sample_weight)
      scaled_loss = optimizer.scale_loss(loss)
    variables = self.trainable_variables
    gradients = tape.gradient(scaled_loss, [v.value for v in variables])
    gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]

    # A sum over replicas is finite if each replica's share is.
    norm = finite.global_norm(gradients, loss.dtype)
    loss_sum, norm_sum = tf.unstack(_sum_over_replicas(tf.stack([loss, norm])))
    scales_loss = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    scale = None
    if scales_loss:
      scale = tf.convert_to_tensor(optimizer.dynamic_scale)
    check = finite.check_step(loss_sum, norm_sum, scale)
    if scales_loss:  # the optimizer skips steps itself, by the gradients of its first replica
      gradients[0] = tf.where(check.finite, gradients[0], np.nan)

    def update(strategy, check, *gradients):
      check = check.on_first_replica(strategy)

      def apply():
        strategy.run(lambda *gradients: optimizer.apply(gradients, variables), args=gradients)
        return True

      if scales_loss:
        apply()
      else:
        tf.cond(check.finite, apply, lambda: False)
      finite.count_failures(self._skipped.in_a_row, check)

    # Outside of replicas: a branch of one replica could not synchronise it with the others.
    tf.distribute.get_replica_context().merge_call(update, args=(check, *gradients))
    logged_loss = tf.where(check.failed, tf.cast(np.nan, loss.dtype), loss_sum)
    return self._logs(logged_loss, weight)

  def test_step(self, data: Any) -> dict[str, Any]:
    """Evaluate this replica's share of a batch, as in Keras; return the logs."""
    inputs, sample_weight = self._unpacked(data)
    loss, weight = _mean_loss(self._bound(inputs, training=False), sample_weight)
    return self._logs(_sum_over_replicas(loss), weight)

  def _logs(self, loss, weight):
    """Count the loss of a batch, over all replicas, by its weight; return the logs. Keras keeps the last ones."""
    (loss_tracker,) = self.metrics
    loss_tracker.update_state(loss, weight)
    results = self.get_metrics_result()
    return {**results, "bits_per_dim": self.to_bits_per_dim(-results["loss"])}

  def predict_step(self, data: Any) -> tf.Tensor:
    """Return the bound of this replica's share of a batch, `[B]` nats."""
    return self._bound(self._unpacked(data)[0], training=False)

  def _bound(self, inputs, training):
    """Return the bound of each image, `[B]` nats.

    A replica may have no image of a small last batch. It then evaluates an image of zeros, as TensorFlow's convolutions
    fail without any.
    """
    images = inputs["image"]
    if images.shape[0]:
      return self(inputs, training=training)
    count = tf.shape(images)[0]
    missing = tf.maximum(1 - count, 0)
    padded = {}
    for key, values in inputs.items():
      other_axes = [[0, 0]] * (len(values.shape) - 1)
      padded[key] = tf.pad(values, [[0, missing], *other_axes])
    return self(padded, training=training)[:count]

  # --- Inputs -----------------------------------------------------------------------------------

  def _unpacked(self, data):
    """Return the model's inputs by key, and sample weights, from the data of a step; targets are labels."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    inputs = by_key(x)
    if y is not None and self.config.num_classes:
      if "label" in inputs:
        raise InputError('labels must be given once: either as "label" of the inputs or as the targets `y`')
      inputs["label"] = y
    return inputs, sample_weight

  def _prepared(self, x, y=None, sample_weight=None):
    """Return the first two arguments of `fit`, with the values of arrays checked, without keys the model never takes.

    The result has targets wherever there are weights: Keras drops weights without targets.
    """
    if isinstance(x, tf.data.Dataset):
      return x.map(_first_by_key), y
    inputs, _ = self._unpacked((x, y))
    images = inputs["image"]
    is_array = isinstance(images, Sequence) or hasattr(images, "__array__")
    if isinstance(images, Iterable) and not is_array:
      return x, y  # batches, which Keras reads
    arrays = {key: as_array(name, inputs[key]) for name, key in KEYS.items() if key in inputs}
    images = arrays["image"]
    labels = arrays.get("label")
    checks.check_shape("images", images.shape, [None, *self.config.image_shape])
    checks.check_pixels(images, self.config.pixel_levels)
    if not self.config.num_classes:
      if y is None:
        y = sample_weight  # any targets will do
      return arrays, y
    if labels is not None:
      checks.check_shape("labels", labels.shape, [len(images)])
      checked_labels(as_tensor("labels", labels), self.config)
    if y is not None or sample_weight is not None:
      y = arrays.pop("label", None)
    return arrays, y


class _Watch(keras.callbacks.Callback):
  """Ends a run of skipped steps, and lets `fit` end with EMA weights when a callback stops it.

  It must be the last of the callbacks.
  """

  def __init__(self, callbacks):
    super().__init__()
    self._ema_swaps = [callback for callback in callbacks if isinstance(callback, keras.callbacks.SwapEMAWeights)]

  def on_train_begin(self, logs=None):
    self.model._skipped.in_a_row.assign(0)
    self._first_step = self._iterations()

  def on_train_batch_end(self, batch, logs=None):
    in_a_row = int(self.model._skipped.in_a_row.numpy())
    causes = _NO_LONGER_FINITE if self._iterations() else _NEVER_FINITE
    finite.raise_if_diverged(in_a_row, self.model.max_skipped, causes)

  def on_epoch_end(self, epoch, logs=None):
    ends = self.model.stop_training or epoch == self.params["epochs"] - 1
    if ends and self._iterations() == self._first_step:
      # `fit` would copy EMA weights into the model that were never set.
      raise Diverged(f"no step was taken: loss or gradients were not finite in any; {_NEVER_FINITE}")
    # `fit` ends by copying the optimizer's EMA weights into the model. After an epoch that is not the last planned one,
    # `swap_on_epoch` has put them into the model already, and the optimizer holds the current weights.
    if self.model.stop_training:
      for swap in self._ema_swaps:
        swap.on_epoch_begin(epoch)

  def _iterations(self):
    return int(self.model.optimizer.iterations.numpy())


@tf.autograph.experimental.do_not_convert
def _first_by_key(x, *more):
  """Return an element of a data set for Keras, its inputs with only the keys that a model may take."""
  return by_key(x), *more


def _sum_over_replicas(value):
  return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)


def _mean_loss(bound, sample_weight):
  """Return this replica's share of a batch's mean negative bound, nats per image, and the weight of the batch.

  The shares of all replicas add up to the mean, weighted by the weights of images if there are any.
  """
  weights = tf.ones_like(bound)
  if sample_weight is not None:  # Keras may pass them as `[B, 1]`, which would be broadcast
    weights = tf.reshape(tf.cast(sample_weight, bound.dtype), tf.shape(bound))
  total_weight = _sum_over_replicas(tf.reduce_sum(weights))
  share = -tf.math.divide_no_nan(tf.reduce_sum(bound * weights), total_weight)
  return share, total_weight
