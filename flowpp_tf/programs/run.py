"""What the programs share: one clear line and exit code 2 for bad input, and flags made from settings."""

from collections.abc import Callable
import dataclasses
import os
import pathlib
import sys
import typing

from absl import app, flags, logging

from flowpp_tf.errors import InputError, WorkerLost
from flowpp_tf.files import replace_file
from flowpp_tf.settings import value_type
from flowpp_tf.types import Path

_DEFINE = {int: flags.DEFINE_integer, float: flags.DEFINE_float, bool: flags.DEFINE_bool,
           str: flags.DEFINE_string, tuple: flags.DEFINE_list}
_COUNTS = ("no", "one", "two", "three")
T = typing.TypeVar("T")


def run_program(main: Callable[..., None], arguments: int = 0) -> None:
  """Parse the flags and call `main()`; bad input ends in one line and exit code 2, a lost worker in 1.

  Args:
    main: function that runs the program.
    arguments: how many arguments that are not flags the program takes; `main` is called with those that are given.
  """
  # `--help` shows the docstring and the flags of the script: give it those of the program.
  module = sys.modules[main.__module__]
  sys.modules["__main__"].__doc__ = module.__doc__
  for name, defined in flags.FLAGS.flags_by_module_dict().items():
    if name.startswith(f"{__package__}."):
      for flag in defined:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)

  def parse(argv):
    try:
      rest = flags.FLAGS(argv)
    except flags.Error as error:
      fail(error)
    if len(rest) > 1 + arguments:
      fail(f"unexpected argument {rest[1 + arguments]!r}; all {'other ' if arguments else ''}settings are flags, see "
           "--help")
    return rest

  def guarded(argv):
    logging.set_verbosity(logging.WARNING)
    try:
      main(*argv[1:])
    except InputError as error:
      fail(error)
    except WorkerLost as error:
      fail(f"{error}; the same command on all hosts goes on from what is saved", code=1)

  app.run(guarded, flags_parser=parse)


def fail(error: str | Exception, code: int = 2) -> typing.NoReturn:
  """End the process with one line on stderr and an exit code."""
  _say("error", error)
  sys.exit(code)


def check_can_be_written(path: Path) -> None:
  """Raise an `InputError` if a file cannot be written. Call this before the work of producing it."""
  folder = os.path.dirname(path) or "."
  reason = ("it is a folder" if os.path.isdir(path) else
            f"there is no folder {folder!r}" if not os.path.isdir(folder) else
            "no permission" if not os.access(folder, os.W_OK) else None)
  if reason:
    raise InputError(f"cannot write {str(path)!r}: {reason}")


def check_is_new(path: Path) -> None:
  """Raise an `InputError` if a file is there already, or cannot be written."""
  if os.path.lexists(path):
    raise InputError(f"{str(path)!r} is there already; give another name, or remove it")
  check_can_be_written(path)


def replace(path: Path, write: Callable[[pathlib.Path], typing.Any]) -> None:
  """Call `replace_file`; raise an `InputError` if the file cannot be written."""
  try:
    replace_file(path, write)
  except OSError as error:
    raise InputError(f"cannot write {str(path)!r}: {error.strerror or error}") from None


def write_file(path: Path, write: Callable[[pathlib.Path], typing.Any]) -> None:
  """Call `replace` and print the path."""
  replace(path, write)
  print(f"wrote {path}")


def warn(text: str) -> None:
  """Print a line on stderr."""
  _say("warning", text)


def _say(kind, text):
  print(f"{os.path.basename(sys.argv[0])}: {kind}: {' '.join(str(text).split())}", file=sys.stderr)


def sibling_command(name: str) -> str:
  """Return how to call another program: `bin/sample` from `bin/train`, `flowpp-sample` from `flowpp-train`."""
  folder, program = os.path.split(sys.argv[0])
  if program.startswith("flowpp-"):
    return f"flowpp-{name}"
  return os.path.join(os.path.relpath(folder or "."), name)


def given_from_flags() -> dict[str, typing.Any]:
  """Return the values of the flags that were given, by name."""
  return {name: flags.FLAGS[name].value for name in flags.FLAGS if flags.FLAGS[name].present}


def define_settings_flags(settings_class: type, default: str | None = None) -> None:
  """Define a flag for each field of a dataclass of settings, None unless given.

  Args:
    settings_class: dataclass with fields of type int, float, bool, str, or tuples of these.
    default: what the help says about flags that are not given; the default of each field if None.
  """
  for field in dataclasses.fields(settings_class):
    kind, value = value_type(field), field.default
    shown = default or (",".join(map(str, value)) if isinstance(value, tuple) else value)
    help_text = field.metadata.get("help", field.name)
    if shown not in (None, "", dataclasses.MISSING):
      help_text += f" (default: {shown})"
    _DEFINE[typing.get_origin(kind) or kind](field.name, None, help_text)


def settings_from_flags(settings: T) -> T:
  """Return a dataclass of settings with those fields replaced whose flags were given."""
  given, current = given_from_flags(), typing.cast(typing.Any, settings)
  return dataclasses.replace(current, **{field.name: _field_value(field, given[field.name])
                                         for field in dataclasses.fields(current) if field.name in given})


def _field_value(field, value):
  """Return the value of a flag as the field's type: that of a list flag is a list of texts."""
  if not isinstance(value, list):
    return value
  item_type, *_ = typing.get_args(value_type(field)) or [type(field.default[0])]
  try:
    return tuple(map(item_type, value))
  except ValueError:
    expected = field.metadata["range"].expected if not field.default else (
        f"{_COUNTS[len(field.default)]} integers such as {','.join(map(str, field.default))}")
    raise InputError(f"`{field.name}` must be {expected}, got {','.join(value)}") from None
