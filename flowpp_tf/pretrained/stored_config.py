"""Configs that come from a file: their fields are known, and the model is claimed before it is built."""

import dataclasses
from typing import Any, Protocol

import tensorflow as tf

from flowpp_tf.config.model import FlowPlusPlusConfig
from flowpp_tf.config.recipe import PRECISIONS
from flowpp_tf.config.size import model_size
from flowpp_tf.core.checks import check_type
from flowpp_tf.core.errors import InputError
from flowpp_tf.io import budget


class FlowPlusPlusLike(Protocol):
  """The parts of a `FlowPlusPlus` that stored weights need; its own module is above this room."""

  config: FlowPlusPlusConfig
  weights: list[Any]
  variable_dtype: str
  initialized: bool
  dequantizer: Any
  augmenter: Any
  coupling_flow: Any

  @property
  def has_exact_density(self) -> bool: ...

  @property
  def image_dtype(self) -> tf.DType: ...


_FIELDS = {field.name for field in dataclasses.fields(FlowPlusPlusConfig)}


def config_from_fields(fields: dict[str, Any], what: str) -> FlowPlusPlusConfig:
  """Return the config of the fields that a file has.

  Args:
    fields: by name, as JSON or Keras has them.
    what: name of the fields in errors: "`config`", or the file.

  Raises:
    InputError (a ValueError): for unknown fields, or values out of range.
    BudgetError (an InputError): for a model that would take more memory than the budget has.
  """
  unknown = sorted(map(str, {*fields} - _FIELDS))
  if unknown:
    raise InputError(f"{what} must have the fields of `FlowPlusPlusConfig`, got {', '.join(map(repr, unknown))}")
  config = FlowPlusPlusConfig(**fields)
  itemsize = 8 if "float64" in (config.dtype, config.flow_dtype) else 4
  budget.claim("memory", model_size(config).memory(itemsize), f"the model of {what}")
  return config


def with_precision(config: FlowPlusPlusConfig, precision: str | None = None) -> FlowPlusPlusConfig:
  """Return the config of a trained model with networks in a precision, which may differ from the training's.

  Args:
    config: of the training.
    precision: "float32", "bfloat16" or "float16"; None for float32, or float64 if the config has that.
  """
  check_type("precision", precision, str | None)
  if precision is None:
    dtype = "float64" if config.dtype == "float64" else "float32"
    return dataclasses.replace(config, dtype=dtype)
  if precision not in PRECISIONS:
    raise InputError(f"`precision` must be one of {', '.join(PRECISIONS)}, got {precision!r}")
  return dataclasses.replace(config, dtype=PRECISIONS[precision])
