"""What a conditional model is given with its images: labels, conditions, or both.

Functions of many images take them as a `dict` of arrays by name, empty for an unconditional model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from flowpp_tf.config.model import FlowPlusPlusConfig
from flowpp_tf.core.errors import InputError
from flowpp_tf.types import TensorLike

KEYS = {"images": "image", "labels": "label", "condition": "condition"}  # of a batch, by argument


def given_specs(config: FlowPlusPlusConfig, dtype: Any) -> dict[str, tf.TensorSpec]:
  """Return the specs, for any batch size, of what images are given, by name."""
  specs = {}
  if config.num_classes:
    specs["labels"] = tf.TensorSpec([None], tf.int32, "labels")
  if config.condition_shape:
    specs["condition"] = tf.TensorSpec([None, *config.condition_shape], dtype, "condition")
  return specs


def check_given(
  config: FlowPlusPlusConfig,
  dtype: Any,
  count: Any,
  labels: TensorLike | None = None,
  condition: TensorLike | None = None,
) -> dict[str, tf.Tensor]:
  """Return what `count` images are given, as tensors by name, each with a batch of `count`.

  Args:
    config: of the model.
    dtype: of conditions.
    count: number of images, or None if it is not known.
    labels: integers `[count]`, or one for all.
    condition: `[count, *condition_shape]`, or one for all.

  Raises:
    InputError (a ValueError): if one is missing, not expected, or does not fit. The values of labels are checked where
      they can be seen: in eager mode.
  """
  given = dict(labels=labels, condition=condition)
  specs = given_specs(config, dtype)
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
    known = count if isinstance(count, int) else None
    if not tensor.shape.is_compatible_with([known, *spec.shape[1:]]):
      raise InputError(f"`{name}` must be of shape {[known or 'B', *spec.shape[1:]]}, got {list(tensor.shape)}")
    tensors[name] = tensor
  return tensors


def unpack(batch: Any, config: FlowPlusPlusConfig) -> tuple[Any, dict[str, Any]]:
  """Return images, and what they are given by name, of a batch.

  Args:
    batch: images, or a mapping with the key "image" and "label", "condition", as of TensorFlow Datasets; what the model
      does not take is left out.
    config: of the model.
  """
  if not isinstance(batch, Mapping):
    return batch, {}
  taken = {"labels": config.num_classes, "condition": config.condition_shape}
  return batch[KEYS["images"]], {
    name: batch[KEYS[name]] for name, wanted in taken.items() if wanted and KEYS[name] in batch
  }


def _check_labels(labels, config):
  if not labels.dtype.is_integer:
    raise InputError(f"`labels` must be integers, got {labels.dtype.name}")
  lowest = -1 if config.label_dropout else 0
  if tf.executing_eagerly() and not np.all((labels >= lowest) & (labels < config.num_classes)):
    more = "" if lowest else "; -1, no label, is for a model trained with `label_dropout`"
    raise InputError(
      f"`labels` must lie in {lowest} .. {config.num_classes - 1}, got values from "
      f"{np.min(labels)} to {np.max(labels)}{more}"
    )
