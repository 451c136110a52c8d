"""What the images of a conditional model are given: labels, conditions, or both.

Functions of many images take this conditioning as a `dict` of arrays by name, empty for an unconditional model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from flowpp_tf.config.model import FlowPlusPlusConfig
from flowpp_tf.core import checks
from flowpp_tf.core.checks import as_dtype, as_tensor, check_all_finite, check_arguments, check_type
from flowpp_tf.core.errors import InputError
from flowpp_tf.types import TensorLike

KEYS = {"images": "image", "labels": "label", "condition": "condition"}  # of a batch, by argument


@check_arguments
def conditioning_specs(config: FlowPlusPlusConfig, dtype: Any) -> dict[str, tf.TensorSpec]:
  """Return the specs of a model's conditioning by name, for any batch size.

  Examples:
    >>> fpp.models.conditioning_specs(fpp.get_config("digits_by_class"), tf.float32)
    {'labels': TensorSpec(shape=(None,), dtype=tf.int32, name='labels')}
  """
  dtype, specs = as_dtype("dtype", dtype), {}
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
    dtype: dtype of conditions, to which real numbers of another one are cast, as images are.
    count: number of images, or None if it is not known.
    labels: integers `[count]`, or one for all of a known number.
    condition: `[count, *condition_shape]`, or one for all of a known number.

  Raises:
    InputError (a ValueError): if one is missing, not expected, or does not fit. The values of labels are checked only
      in eager mode; `conditioning_checks` are for graphs.

  Examples:
    >>> config = fpp.get_config("digits_by_class")
    >>> fpp.models.check_conditioning(config, tf.float32, count=2, labels=3)["labels"].numpy().tolist()
    [3, 3]
  """
  check_type("count", count, int | tf.Tensor | None)
  tensors = _as_tensors(config, dtype, labels, condition)
  for name, spec in conditioning_specs(config, dtype).items():
    tensor = tf.cast(tensors[name], spec.dtype)
    if tensor.shape.rank == len(spec.shape) - 1:  # one for all
      if count is None:
        raise InputError(f"`{name}` must have a batch where `count` is None, got one for all images")
      tensor = tf.repeat(tensor[tf.newaxis], count, axis=0)
    checks.check_shape(name, [*tensor.shape], [count if isinstance(count, int) else None, *spec.shape[1:]])
    tensors[name] = tensor
  return tensors


def conditioning_of_any_batch(
  config: FlowPlusPlusConfig, dtype: Any, labels: TensorLike | None = None, condition: TensorLike | None = None
) -> tuple[tf.Tensor | None, tf.Tensor | None]:
  """Return labels `[...]` and conditions `[..., *condition_shape]` as tensors; errors as of `check_conditioning`."""
  tensors = _as_tensors(config, dtype, labels, condition)
  for name, spec in conditioning_specs(config, dtype).items():
    event = [*spec.shape[1:]]
    shape = [*tensors[name].shape]
    checks.check_shape(name, shape, [*[None] * (len(shape) - len(event)), *event], "...")
  if len(tensors) == 2:
    of_labels, of_condition = tensors["labels"].shape, tensors["condition"].shape
    try:
      tf.broadcast_static_shape(of_labels, of_condition[:-3])
    except ValueError:
      raise InputError(
        f"`labels` and `condition` must have batches that can be broadcast, got {of_labels} and {of_condition}"
      ) from None
  return tensors.get("labels"), tensors.get("condition")


def _as_tensors(config, dtype, labels, condition):
  """The conditioning as tensors by name; whether each is wanted, and its values, have been checked."""
  check_type("config", config, FlowPlusPlusConfig)
  given, specs = dict(labels=labels, condition=condition), conditioning_specs(config, dtype)
  for name, value in given.items():
    if name in specs and value is None:
      raise InputError(f"`{name}` must be given: this is a model of images given {name}")
    if name not in specs and value is not None:
      raise InputError(f"`{name}` must be None: this model takes none")
  tensors = {name: as_tensor(name, given[name]) for name in specs}
  if "labels" in tensors:
    _check_labels(tensors["labels"], config)
    dtype = tensors["labels"].dtype
    if dtype.max > tf.int32.max:  # a cast would wrap around, and a graph check it too late
      limits = (tf.constant(limit, dtype) for limit in (0 if dtype.is_unsigned else -2, config.num_classes))
      tensors["labels"] = tf.clip_by_value(tensors["labels"], *limits)
  if "condition" in tensors:
    check_all_finite("condition", tensors["condition"])
  return tensors


@check_arguments
def conditioning_checks(config: FlowPlusPlusConfig, conditioning: Mapping[str, tf.Tensor]) -> list[checks.Check]:
  """Return the checks, in a graph, of the values of a model's conditioning.

  Examples:
    >>> config = fpp.get_config("digits_by_class")
    >>> len(fpp.models.conditioning_checks(config, {"labels": tf.constant([3, 4])})) > 0
    True
  """
  found = []
  if "labels" in conditioning:
    found += checks.label_checks(conditioning["labels"], lowest_label(config), config.num_classes)
  if "condition" in conditioning:
    found.append(checks.finite_check("condition", conditioning["condition"]))
  return found


@check_arguments
def unpack_batch(batch: Any, config: FlowPlusPlusConfig) -> tuple[Any, dict[str, Any]]:
  """Return the images of a batch, and their conditioning by name.

  Args:
    batch: images, or a mapping with the key "image" and "label", "condition", as of TensorFlow Datasets; what the model
      does not take is left out.
    config: config of the model.

  Raises:
    InputError (a ValueError): for a mapping without images.

  Examples:
    >>> batch = {"image": np.zeros([2, 8, 8, 1], np.uint8), "label": np.array([3, 4])}
    >>> images, conditioning = fpp.models.unpack_batch(batch, fpp.get_config("digits_by_class"))
    >>> images.shape, sorted(conditioning)
    ((2, 8, 8, 1), ['labels'])
  """
  if not isinstance(batch, Mapping):
    return batch, {}
  taken = {"labels": config.num_classes, "condition": config.condition_shape}
  check_has_images(batch)
  return batch[KEYS["images"]], {
    name: batch[KEYS[name]] for name, wanted in taken.items() if wanted and KEYS[name] in batch
  }


def check_has_images(batch: Mapping[str, Any]) -> None:
  """Raise an `InputError` for a mapping without images."""
  if KEYS["images"] not in batch:
    raise InputError(f'inputs must have the key "image", got {[*batch]}')


def lowest_label(config: FlowPlusPlusConfig) -> int:
  """Return -1, no label, for a model that has been trained by leaving labels out, else 0."""
  return -1 if config.label_dropout else 0


def _check_labels(labels, config):
  if not labels.dtype.is_integer:
    raise InputError(f"`labels` must be integers, got {labels.dtype.name}")
  if tf.executing_eagerly():
    lowest = lowest_label(config)
    hint = "" if lowest else "; -1, no label, is for a model trained with `label_dropout`"
    checks.check_labels(labels.numpy(), lowest, config.num_classes, hint=hint)
