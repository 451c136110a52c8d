"""What the images of a conditional model are given: labels, conditions, or both.

Functions of many images take this conditioning as a `dict` of arrays by name, empty for an unconditional model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from flowpp_tf.config.model import FlowPlusPlusConfig
from flowpp_tf.core import checks
from flowpp_tf.core.errors import InputError
from flowpp_tf.types import TensorLike

KEYS = {"images": "image", "labels": "label", "condition": "condition"}  # of a batch, by argument


def conditioning_specs(config: FlowPlusPlusConfig, dtype: Any) -> dict[str, tf.TensorSpec]:
  """Return the specs of a model's conditioning by name, for any batch size."""
  specs = {}
  if config.num_classes:
    specs["labels"] = tf.TensorSpec([None], tf.int32, "labels")
  if config.condition_shape:
    specs["condition"] = tf.TensorSpec([None, *config.condition_shape], dtype, "condition")
  return specs


def check_conditioning(
  config: FlowPlusPlusConfig,
  dtype: Any,
  count: Any,
  labels: TensorLike | None = None,
  condition: TensorLike | None = None,
) -> dict[str, tf.Tensor]:
  """Return the conditioning of `count` images as tensors by name, each with a batch of `count`.

  Args:
    config: config of the model.
    dtype: dtype of conditions.
    count: number of images, or None if it is not known.
    labels: integers `[count]`, or one for all.
    condition: `[count, *condition_shape]`, or one for all.

  Raises:
    InputError (a ValueError): if one is missing, not expected, or does not fit. The values of labels are checked only
      in eager mode; `conditioning_checks` are for graphs.
  """
  given = dict(labels=labels, condition=condition)
  specs = conditioning_specs(config, dtype)
  for name, value in given.items():
    if name in specs and value is None:
      raise InputError(f"`{name}` must be given: this is a model of images given {name}")
    if name not in specs and value is not None:
      raise InputError(f"`{name}` must be None: this model takes none")
  tensors = {name: tf.convert_to_tensor(given[name]) for name in specs}
  if "labels" in tensors:
    _check_labels(tensors["labels"], config)
  for name, spec in specs.items():
    tensor = tf.cast(tensors[name], spec.dtype)
    if tensor.shape.rank == len(spec.shape) - 1:  # one for all
      tensor = tf.repeat(tensor[tf.newaxis], count, axis=0)
    checks.check_shape(name, [*tensor.shape], [count if isinstance(count, int) else None, *spec.shape[1:]])
    tensors[name] = tensor
  return tensors


def conditioning_checks(config: FlowPlusPlusConfig, conditioning: Mapping[str, tf.Tensor]) -> list[checks.Check]:
  """Return the checks, in a graph, of the values of a model's conditioning."""
  if "labels" not in conditioning:
    return []
  return checks.label_checks(conditioning["labels"], _lowest_label(config), config.num_classes)


def unpack_batch(batch: Any, config: FlowPlusPlusConfig) -> tuple[Any, dict[str, Any]]:
  """Return the images of a batch, and their conditioning by name.

  Args:
    batch: images, or a mapping with the key "image" and "label", "condition", as of TensorFlow Datasets; what the model
      does not take is left out.
    config: config of the model.
  """
  if not isinstance(batch, Mapping):
    return batch, {}
  taken = {"labels": config.num_classes, "condition": config.condition_shape}
  return batch[KEYS["images"]], {
    name: batch[KEYS[name]] for name, wanted in taken.items() if wanted and KEYS[name] in batch
  }


def _lowest_label(config):
  return -1 if config.label_dropout else 0


def _check_labels(labels, config):
  if not labels.dtype.is_integer:
    raise InputError(f"`labels` must be integers, got {labels.dtype.name}")
  if tf.executing_eagerly():
    lowest = _lowest_label(config)
    hint = "" if lowest else "; -1, no label, is for a model trained with `label_dropout`"
    checks.check_labels(labels.numpy(), lowest, config.num_classes, hint=hint)
