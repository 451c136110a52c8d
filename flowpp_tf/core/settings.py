"""Settings as frozen dataclasses: a field's name, type, default, range and help are written once.

    @dataclasses.dataclass(frozen=True) class Example(Settings):
      steps: int = setting(100, "Training steps.", at_least(1))
      clip_norm: float | None = setting(1.0, "Global norm of the gradients.", POSITIVE)

`programs/options.py` makes a flag of each field.
"""

from collections.abc import Callable
import dataclasses
import math
import os
import types
from typing import Any, ClassVar, NamedTuple, get_args, get_origin

import numpy as np

from flowpp_tf.core.checks import INT32_MAX, check_type
from flowpp_tf.core.errors import InputError


class Range(NamedTuple):
  """The values that a setting may have: `expected` in words, `high` the largest number, `names` all that exist."""

  holds: Callable[[Any], bool]
  expected: str
  high: float = math.inf
  names: tuple[str, ...] = ()


def at_least(low: float, high: float = INT32_MAX) -> Range:
  """Return the range of numbers from `low` to `high`."""
  return Range(lambda value: value >= low, f"at least {low}", high)


def one_of(*names: str) -> Range:
  """Return the range of the given names."""
  return Range(lambda value: value in names, f"one of {', '.join(names)}", names=names)


COUNT = at_least(1, 2**16)
POSITIVE = Range(lambda value: value > 0, "positive")
FRACTION = Range(lambda value: 0 <= value < 1, "in [0, 1)")


def setting(default: Any, help: str, range: Range | None = None) -> Any:
  """Return a dataclass field with a help text and a range of values of the field's type; None is in each range."""
  return dataclasses.field(default=default, metadata={"help": help, "range": range})


class Rule(NamedTuple):
  """A field that must have its default unless `allows(settings)`, which `expected` says in words.

  Rule("label_dropout", lambda config: config.num_classes > 0, "0 for a model without labels")
  """

  name: str
  allows: Callable[[Any], bool]
  expected: str


class Settings:
  """Base class of frozen dataclasses whose fields are made by `setting`.

  Attributes:
    RULES: for several fields together, checked after the fields.

  Raises:
    InputError (a ValueError): if a value is out of its range; the message names field, value and what was expected.
  """

  RULES: ClassVar[tuple[Rule, ...]] = ()

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):  # type: ignore[arg-type]
      value = as_setting(field, getattr(self, field.name))
      allowed = field.metadata["range"]
      object.__setattr__(self, field.name, value)  # the class is frozen
      if value is not None and allowed is not None:
        self._require(field.name, allowed.holds(value), allowed.expected)
        if allowed.high < math.inf:
          self._require(field.name, value <= allowed.high, f"at most {allowed.high:,}")
    for name, allows, expected in self.RULES:
      has_default = getattr(self, name) == getattr(type(self), name)
      self._require(name, has_default or allows(self), expected)

  def _require(self, name, holds, expected):
    if not holds:
      raise InputError(f"`{name}` must be {expected}, got {getattr(self, name)!r}")


def as_setting(field: dataclasses.Field, value: Any) -> Any:
  """Return a value as a field stores it: sequences as tuples, paths as texts, NumPy's numbers as Python's.

  JSON has no NumPy numbers, and their integers overflow.

  Raises:
    InputError (a ValueError): if it is not of the field's type.
  """
  if isinstance(value, os.PathLike):
    value = os.fspath(value)
  check_type(field.name, value, field.type)
  if get_origin(value_type(field)) is tuple and value is not None:
    return tuple(map(python_number, value))
  return python_number(value)


def python_number(value: Any) -> Any:
  """Return a number of NumPy as one of Python; anything else is returned unchanged."""
  if isinstance(value, np.generic):
    return value.item()
  return value


def value_type(field: dataclasses.Field) -> Any:
  """Return the type of a field's values: `int` for a field of `int | None`."""
  if isinstance(field.type, types.UnionType):
    return next(t for t in get_args(field.type) if t is not types.NoneType)
  return field.type
