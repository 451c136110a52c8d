"""Define a command's options as a dataclass: the source of its flags, their checks, --help and the reference page.

    @dataclasses.dataclass(frozen=True)
    class ScoreOptions(ModelOptions):
      images: str | None = setting(None, "Folder of images.")
      num_samples: int = setting(16, "Samples of the bound.", at_least(1, 1 << 20))

`score.run(ScoreOptions(preset="digits", images="my_images"))` is the same as `bin/score --preset=digits
--images=my_images`. A flag that is not given leaves its field at the default, which is None if the command must know
whether the flag was given.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import math
import re
import shutil
import sys
import textwrap
from typing import Any, ClassVar, NamedTuple, TypeVar, get_args, get_origin

from absl import flags

from flowpp_tf.core.errors import InputError
from flowpp_tf.core.settings import Range, Settings, at_least, value_type

_DEFINE = {
  int: flags.DEFINE_integer,
  float: flags.DEFINE_float,
  bool: flags.DEFINE_bool,
  str: flags.DEFINE_string,
  tuple: flags.DEFINE_list,
  list: flags.DEFINE_multi_string,
}
SEED = at_least(-1 << 63, (1 << 63) - 1)
TEMPERATURES = Range(lambda values: len(values) > 0 and min(values) >= 0, "numbers of at least 0, such as 0.5,0.7,1.0")
_BRIEF = ("The trained model", "This command")  # titles above the flags that --help lists; --helpfull lists all
_WIDTHS = (40, 120)  # narrower or wider text is hard to read


class Flag(NamedTuple):
  """A flag of the command line.

  Attributes:
    name: name of the flag.
    kind: type of its value; tuple for several values in one flag, list for several flags.
    help: its description, and at the end its default, as "(default: 16)".
    names: known values to list in the help; empty for none.
  """

  name: str
  kind: type
  help: str
  names: tuple[str, ...] = ()

  @property
  def title(self) -> str:
    """The flag's name in the help."""
    return f"--[no]{self.name}" if self.kind is bool else f"--{self.name}"

  def define(self) -> None:
    """Define the flag in absl; its value is None unless it is given."""
    _DEFINE[self.kind](self.name, None, self.help)

  def describe(self, brief: bool = False) -> str:
    """Return the description of the flag, or only its first sentence, with its known values and its default."""
    text, _, default = " ".join(self.help.split()).partition(" (default: ")
    if brief:
      text = f"{text.partition('. ')[0].removesuffix('.')}."
    if any(not re.search(rf"\b{re.escape(name)}\b", text) for name in self.names):
      text = f"{text.removesuffix('.')}: {', '.join(self.names)}."
    if brief:
      text = text.removesuffix(".")
    return f"{text} (default: {default}" if default else text


@dataclasses.dataclass(frozen=True)
class Options(Settings):
  """Base class of the options of a command, a frozen dataclass whose fields are made by `setting`.

  Attributes:
    GROUP: title above the flags of the fields that a class adds; subclasses do not inherit it.
    ARGUMENTS: names of fields that are positional arguments, in their order.
    SETTINGS: settings classes whose fields are flags too, by the title above them, each with the help's text for the
      default of its flags, or None. The field `settings` holds the given values.
  """

  GROUP: ClassVar[str] = "This command"
  ARGUMENTS: ClassVar[tuple[str, ...]] = ()
  SETTINGS: ClassVar[Mapping[str, tuple[type, str | None]]] = {}

  def __post_init__(self) -> None:
    super().__post_init__()
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if value in ("", ()) and field.default is None:
        raise InputError(f"`{field.name}` is empty; leave it out, or give a value")
      texts = value if isinstance(value, tuple) else [value]
      if any("\0" in str(text) for text in texts):
        raise InputError(f"`{field.name}` has a NUL character: {value!r}")


OptionsT = TypeVar("OptionsT", bound=Options)


def names_among(names: Iterable[str]) -> Range:
  """Return a range that accepts any value, such as a path, and lists the given names in the help."""
  return Range(lambda value: True, "a name or a path", names=tuple(names))


def flags_in_groups(options_class: type[Options]) -> dict[str, list[Flag]]:
  """Return the flags of a command by the title above them."""
  groups: dict[str, list[Flag]] = {Options.GROUP: []}
  for field in dataclasses.fields(options_class):
    if field.name not in (*options_class.ARGUMENTS, "settings"):
      groups.setdefault(_title(options_class, field), []).append(_flag(field, None))
  for title, (settings_class, default) in options_class.SETTINGS.items():
    groups[title] = [_flag(field, default) for field in dataclasses.fields(settings_class)]
  return {title: group for title, group in groups.items() if group}


def options_from_flags(options_class: type[OptionsT], arguments: Sequence[str]) -> OptionsT:
  """Return the options of a command from the flags and arguments that were given.

  Raises:
    InputError (a ValueError): if a value is invalid, or options contradict each other.
  """
  given = given_flags()
  values = _values(options_class, given)
  for settings_class, _ in options_class.SETTINGS.values():
    values.setdefault("settings", {}).update(_values(settings_class, given))
  return options_class(**values, **dict(zip(options_class.ARGUMENTS, arguments)))


def given_flags() -> dict[str, Any]:
  """Return the values of the flags that were given, by name."""
  return {name: flags.FLAGS[name].value for name in flags.FLAGS if flags.FLAGS[name].present}


def help_text(options_class: type[Options], groups: Mapping[str, Sequence[Flag]], full: bool) -> str:
  """Return the text of --help or --helpfull: the docstring of the command's module, and its flags."""
  width = min(max(shutil.get_terminal_size((100, 0)).columns, _WIDTHS[0]), _WIDTHS[1])
  paragraphs = (sys.modules[options_class.__module__].__doc__ or "").strip().split("\n\n")
  if not full:
    paragraphs = paragraphs[:2]
  lines = []
  for paragraph in paragraphs:
    lines += [*_fill(paragraph, width).splitlines(), ""]
  if full:
    for title, group in groups.items():
      lines.append(f"{title}:")
      for flag in group:
        lines += _entry(flag, width)
      lines.append("")
    lines.append("--flagfile=FILE reads flags from a file, one in a line. Of a flag given twice the later one counts.")
    return "\n".join(lines)
  shown = [flag for title in _BRIEF for flag in groups.get(title, ())]
  column = max(len(flag.title) for flag in shown) + 4
  for flag in shown:
    text = textwrap.wrap(flag.describe(brief=True), width - column) or [""]
    lines += [f"  {flag.title:{column - 2}}{text[0]}", *(" " * column + line for line in text[1:])]
  return "\n".join([*lines, "", f"--helpfull explains all {sum(map(len, groups.values()))} flags."])


def _flag(field, default):
  """Return the flag of a field; `default` replaces the field's own default in the help unless it is None."""
  if default is None:
    default = field.default
    if isinstance(default, tuple):
      default = ",".join(map(str, default))
  text = field.metadata["help"]
  if default is not False and default not in (None, "", dataclasses.MISSING):
    text += f" (default: {default})"
  kind = value_type(field)
  allowed = field.metadata["range"]
  return Flag(field.name, get_origin(kind) or kind, text, allowed.names if allowed else ())


def _title(options_class, field):
  """Return the title above the flag of a field: the title of the class that adds the field."""
  owners = [cls for cls in options_class.__mro__ if field.name in getattr(cls, "__dataclass_fields__", ())]
  return vars(owners[-1]).get("GROUP", Options.GROUP)


def _values(settings_class, given):
  """Return the values of those fields whose flags were given, by name."""
  fields = {field.name: field for field in dataclasses.fields(settings_class)}
  return {name: _value(fields[name], value) for name, value in given.items() if name in fields}


def _value(field, value):
  """Convert the value of a flag to the field's type: absl's lists hold strings."""
  if not isinstance(value, list):
    return value
  item_type, *_ = get_args(value_type(field))
  try:
    values = tuple(map(item_type, value))
    if item_type is float and not all(map(math.isfinite, values)):
      raise ValueError
    return values
  except ValueError:
    expected = field.metadata["range"].expected
    raise InputError(f"`{field.name}` must be {expected}, got {','.join(value)}") from None


def _entry(flag, width):
  indent = " " * 6
  return [f"  {flag.title}", *textwrap.wrap(flag.describe(), width, initial_indent=indent, subsequent_indent=indent)]


def _fill(paragraph, width):
  """Wrap a paragraph to the terminal's width; commands and tables keep their lines."""
  is_verbatim = re.search(r"(?m)^(bin/|  )", paragraph)
  return paragraph if is_verbatim else textwrap.fill(paragraph, width)
