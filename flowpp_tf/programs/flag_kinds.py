"""Flags made from bounds, from names, and from the fields of settings; what the help says of them, and their values."""

from collections.abc import Iterable
import dataclasses
import math
import typing

from absl import flags

from flowpp_tf.core.errors import InputError
from flowpp_tf.core.settings import value_type

flags.disclaim_key_flags()  # the flags belong to the module that calls these functions

_DEFINE = {
  int: flags.DEFINE_integer,
  float: flags.DEFINE_float,
  bool: flags.DEFINE_bool,
  str: flags.DEFINE_string,
  tuple: flags.DEFINE_list,
}
_GROUPS_OF_MODULES = {"data_flags": "Data", "device_flags": "Devices", "model_flags": "The trained model"}
_COUNTS = ("no", "one", "two", "three")


def define_float(name: str, default: float | None, help_text: str, low: float, high: float) -> None:
  """Define a flag for a finite number between bounds: absl's own bounds let NaN pass."""
  flags.DEFINE_float(name, default, help_text, lower_bound=low, upper_bound=high)
  flags.register_validator(name, lambda value: value is None or math.isfinite(value), "must be a finite number")


def define_name(name: str, default: str | None, names: Iterable[str], help_text: str, others: bool = False) -> None:
  """Define a flag for one of some names.

  Args:
    name: of the flag.
    default: its value if it is not given.
    names: what the help lists.
    help_text: of the flag.
    others: whether it takes other values too, such as paths.
  """
  flags.DEFINE_string(name, default, help_text)
  flags.FLAGS[name].names, flags.FLAGS[name].others = tuple(names), others


def check_names() -> None:
  """Raise an `InputError` if a flag that takes one of some names has another value."""
  for name in flags.FLAGS:
    flag = flags.FLAGS[name]
    if not getattr(flag, "others", True) and flag.value not in (None, *flag.names):
      raise InputError(f"`{name}` must be one of {', '.join(flag.names)}, got {flag.value!r}")


def define_settings_flags(settings_class: type, group: str, default: str | None = None) -> None:
  """Define a flag for each field of a dataclass of settings, None unless given.

  Args:
    settings_class: dataclass with fields of type int, float, bool, str, or tuples of these.
    group: title above them in the help.
    default: what the help says about flags that are not given; the default of each field if None.
  """
  for field in dataclasses.fields(settings_class):
    kind, value = value_type(field), field.default
    shown = default or (",".join(map(str, value)) if isinstance(value, tuple) else value)
    help_text = field.metadata.get("help", field.name)
    if shown not in (None, "", dataclasses.MISSING):
      help_text += f" (default: {shown})"
    _DEFINE[typing.get_origin(kind) or kind](field.name, None, help_text)
    flag, allowed = flags.FLAGS[field.name], field.metadata.get("range")
    flag.group, flag.names = group, allowed.names if allowed else ()


def names_of(flag: flags.Flag) -> tuple[str, ...]:
  """Return the names that a flag takes, or some of them; empty for a flag that takes anything."""
  return tuple(getattr(flag, "names", None) or getattr(flag.parser, "enum_values", None) or ())


def flags_in_groups() -> dict[str, list[flags.Flag]]:
  """Return the flags that are defined, those of other libraries left out, by the title of their group."""
  groups: dict[str, list[flags.Flag]] = {"This command": []}
  for module, defined in flags.FLAGS.flags_by_module_dict().items():
    package, _, name = module.rpartition(".")
    for flag in defined if package == __package__ else ():
      title = getattr(flag, "group", "") or _GROUPS_OF_MODULES.get(name, "This command")
      groups.setdefault(title, []).append(flag)
  return {title: sorted(found, key=lambda flag: flag.name) for title, found in groups.items() if found}


def given_from_flags() -> dict[str, typing.Any]:
  """Return the values of the flags that were given, by name."""
  return {name: flags.FLAGS[name].value for name in flags.FLAGS if flags.FLAGS[name].present}


def settings_from_flags(*settings_classes: type) -> dict[str, typing.Any]:
  """Return by name the values of those fields of dataclasses of settings whose flags were given."""
  given = given_from_flags()
  fields = [field for settings_class in settings_classes for field in dataclasses.fields(settings_class)]
  return {field.name: _field_value(field, given[field.name]) for field in fields if field.name in given}


def _field_value(field, value):
  """Return the value of a flag as the field's type: that of a list flag is a list of texts."""
  if not isinstance(value, list):
    return value
  item_type, *_ = typing.get_args(value_type(field)) or [type(field.default[0])]
  try:
    return tuple(map(item_type, value))
  except ValueError:
    expected = (
      field.metadata["range"].expected
      if not field.default
      else (f"{_COUNTS[len(field.default)]} integers such as {','.join(map(str, field.default))}")
    )
    raise InputError(f"`{field.name}` must be {expected}, got {','.join(value)}") from None
