"""What the images of a conditional model are given: labels, conditions, or both.

This conditioning is a `dict` of arrays by name, empty for an unconditional model: `labels`, integers `[B]`, -1 for no
label, and `condition`, `[B, *condition_shape]`. Within the model its values are tensors that have been checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from flowpp_tf.config.model import FlowPlusPlusConfig
from flowpp_tf.core.checks import as_tensor, check_all_finite, check_arguments, check_event, check_labels
from flowpp_tf.core.errors import InputError
from flowpp_tf.types import TensorLike

KEYS = {"images": "image", "labels": "label", "condition": "condition"}  # argument of a method -> key of a batch


def conditioning_specs(config: FlowPlusPlusConfig, dtype: tf.DType | str) -> dict[str, tf.TensorSpec]:
  """Return the specs of a model's conditioning by name, for any batch size; conditions have the `dtype`."""
  specs = {}
  if config.num_classes:
    specs["labels"] = tf.TensorSpec([None], tf.int32, "labels")
  if config.condition_shape:
    specs["condition"] = tf.TensorSpec([None, *config.condition_shape], dtype, "condition")
  return specs


def conditioning_tensors(
  config: FlowPlusPlusConfig, dtype: tf.DType | str, labels: TensorLike | None, condition: TensorLike | None
) -> dict[str, tf.Tensor]:
  """Return a model's conditioning as tensors by name, with any batch shape.

  Raises:
    InputError (a ValueError): if one is missing or not expected, or its values are wrong.
  """
  tensors = {}
  specs = conditioning_specs(config, dtype)
  for name, value in dict(labels=labels, condition=condition).items():
    if name in specs and value is None:
      raise InputError(f"`{name}` must be given: this is a model of images given {name}")
    if name not in specs and value is not None:
      raise InputError(f"`{name}` must be None: this model takes none")
    if value is not None:
      tensor = as_tensor(name, value)
      if name == "labels":
        tensor = checked_labels(tensor, config)
      check_event(name, tensor.shape, specs[name].shape[1:])
      tensors[name] = tf.cast(tensor, specs[name].dtype)
      check_all_finite(name, tensors[name])  # in the model's dtype, which may overflow
  return tensors


def checked_labels(labels: tf.Tensor, config: FlowPlusPlusConfig) -> tf.Tensor:
  """Return labels of this model; raise an `InputError` for others.

  In a graph, which cannot see their values, wrong ones become one that gives NaN.
  """
  if not labels.dtype.is_integer:
    raise InputError(f"`labels` must be integers, got {labels.dtype.name}")
  lowest = lowest_label(config)
  if tf.executing_eagerly():
    hint = ""
    if not config.label_dropout:
      hint = "; -1, no label, is for a model trained with `label_dropout`"
    check_labels(labels.numpy(), lowest, config.num_classes, hint=hint)
    return labels
  values = tf.cast(labels, tf.float64)  # a cast to integers would make -1 of the largest uint64
  is_known = (values >= lowest) & (values < config.num_classes)
  return tf.where(is_known, tf.cast(labels, tf.int32), config.num_classes)


@check_arguments
def unpack_batch(batch: Any, config: FlowPlusPlusConfig) -> tuple[Any, dict[str, Any]]:
  """Return the images of a batch, and their conditioning by name.

  Args:
    batch: images, or a mapping with the keys "image", "label" and "condition", as from TensorFlow Datasets; keys that
      the model does not take are left out.
    config: config of the model.

  Raises:
    InputError (a ValueError): for a mapping without images.

  Examples:
    >>> batch = {"image": np.zeros([2, 8, 8, 1], np.uint8), "label": np.array([3, 4])}
    >>> images, conditioning = fpp.models.unpack_batch(batch, fpp.get_config("digits_by_class"))
    >>> images.shape, sorted(conditioning)
    ((2, 8, 8, 1), ['labels'])
  """
  inputs = by_key(batch)
  conditioning = {}
  for name in conditioning_specs(config, tf.float32):
    if KEYS[name] in inputs:
      conditioning[name] = inputs[KEYS[name]]
  return inputs["image"], conditioning


def by_key(batch: Any) -> dict[str, Any]:
  """Return a batch, images or a mapping, as a dict with only the keys that a model may take."""
  if not isinstance(batch, Mapping):
    batch = {"image": batch}
  if "image" not in batch:
    raise InputError(f'inputs must have the key "image", got {[*batch]}')
  return {key: batch[key] for key in KEYS.values() if key in batch}


def lowest_label(config: FlowPlusPlusConfig) -> int:
  """Return -1, no label, for a model trained with `label_dropout`, else 0."""
  return -1 if config.label_dropout else 0
