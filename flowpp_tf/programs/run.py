"""What the programs share: one clear line and exit code 2 for bad input, and flags made from settings."""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import functools
import logging as std_logging
import math
import os
import pathlib
import re
import shlex
import sys
import textwrap
import typing

from absl import app, flags, logging

from flowpp_tf.config.recipe import SAY_THE_SAME
from flowpp_tf.core.errors import InputError, WorkerLost
from flowpp_tf.core.settings import value_type
from flowpp_tf.io import budget, gate
from flowpp_tf.io.budget import Budget
from flowpp_tf.io.files import owner_of, replace_file
from flowpp_tf.programs import process
from flowpp_tf.types import Path

_DEFINE = {
  int: flags.DEFINE_integer,
  float: flags.DEFINE_float,
  bool: flags.DEFINE_bool,
  str: flags.DEFINE_string,
  tuple: flags.DEFINE_list,
}
_MAY_BE_EMPTY = ("flow_dtype",)
_GROUPS: dict[str, str] = {}  # titles in the help, by name of a flag or of the module that defines it
_GROUPS_OF_MODULES = {"data_flags": "Data", "device_flags": "Devices", "model_flags": "The trained model"}
_LIMITS = {  # flags: field of `Budget`, and help
  "memory": ("memory", "Memory that what a file describes may take, such as 8G."),
  "max_pixels": ("pixels", "Pixels of an image that is decoded, such as 200M."),
  "max_output": ("bytes_out", f"Bytes that may come out of a file that is {Budget.ratio} times smaller, such as 2G."),
}
_MOST_FLAG_FILES = 1000
_COUNTS = ("no", "one", "two", "three")


def run_program(main: Callable[..., None], arguments: int = 0) -> None:
  """Parse the flags and call `main()`; what it raises for its user ends in one line and an exit code of process.py.

  Args:
    main: function that runs the program.
    arguments: how many arguments that are not flags the program takes; `main` is called with those that are given.
  """
  flags.DEFINE_bool("debug", False, "Show the whole traceback of an error.")
  flags.DEFINE_bool("version", False, "Show the version of flowpp_tf.")
  for name, (field, help_text) in _LIMITS.items():
    flags.DEFINE_string(name, budget.size_text(getattr(Budget, field)).replace(" ", "").removesuffix("iB"), help_text)
    _GROUPS[name] = "Limits for files from outside"
  app.run(functools.partial(_guarded, main), flags_parser=functools.partial(_parse, main.__module__, arguments))


def _parse(module, arguments, argv):
  """Parse the flags; return the program's name and the arguments that are not flags."""
  try:
    if {"--help", "-help", "-h", "--h", "-?"}.intersection(argv[1:]):
      print(_help(sys.modules[module]))
      sys.exit(process.DONE)
    _check_flag_files(argv)
    rest = flags.FLAGS(argv)
    prefer_command_line(argv)
    _check_texts()
  except BrokenPipeError:  # of a reader of the help
    raise
  except (flags.Error, ValueError, OSError, RecursionError) as error:
    fail(error)
  if len(rest) > 1 + arguments:
    fail(
      f"unexpected argument {rest[1 + arguments]!r}; all {'other ' if arguments else ''}settings are flags, see --help"
    )
  return rest


def _guarded(main, argv):
  """Call the program; an error that it raises for its user ends the process with one line."""
  logging.set_verbosity(logging.WARNING)
  std_logging.getLogger("tensorflow").setLevel(std_logging.ERROR)  # else it warns of tracing
  try:
    with budget.use(_budget_from_flags()):
      main(*argv[1:])
  except BrokenPipeError:
    raise
  except WorkerLost as error:
    fail(f"{error}; the same command on all hosts goes on from what is saved", process.FAILED)
  except (InputError, OSError) as error:
    if flags.FLAGS.debug:
      raise
    if isinstance(error, InputError):
      fail(error)
    # Of a path that no function was prepared for, or of the machine.
    where = "" if error.filename is None else f"{os.fspath(error.filename)[:200]!r}: "
    fail(f"{where}{gate.reason(error)}", process.FAILED)


def _budget_from_flags():
  given = {field: _amount(name, flags.FLAGS[name].value) for name, (field, _) in _LIMITS.items()}
  return Budget(**given, bytes_in=max(Budget.bytes_in, given["memory"]))


def _amount(name, text):
  """A number of bytes or pixels from a text such as 8G, 1.5GiB or 64,000,000."""
  found = re.fullmatch(r"([\d,]+|\d+\.\d+) ?([KMGT]?)(iB|B)?", text.strip(), re.IGNORECASE)
  if not found:
    raise InputError(f"`--{name}` must be a number such as 500M or 8G, got {text!r}")
  return int(float(found[1].replace(",", "")) * 1024 ** " KMGT".index(found[2].upper() or " "))


def _help(module):
  """The text of --help: the program's docstring, and its flags in groups."""
  groups: dict[str, list[str]] = {"This command": []}
  for name, defined in flags.FLAGS.flags_by_module_dict().items():
    if name.startswith(f"{__package__}."):
      for flag in defined:
        title = _GROUPS.get(flag.name) or _GROUPS_OF_MODULES.get(name.rpartition(".")[2], "This command")
        shown = (
          ""
          if flag.default is None or isinstance(flag.default, bool)
          else (f" (default: {','.join(flag.default) if isinstance(flag.default, list) else flag.default})")
        )
        text = " ".join(f"{flag.help}{shown if shown and '(default:' not in flag.help else ''}".split())
        lines = textwrap.wrap(text, 100, initial_indent=6 * " ", subsequent_indent=6 * " ")
        names = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
        groups.setdefault(title, []).append("\n".join([f"  {names}", *lines]))
  lines = [module.__doc__.strip(), "", "--flagfile=FILE reads flags from a file, one in a line."]
  for title, entries in groups.items():
    lines += ["", f"{title}:", *sorted(entries, key=lambda entry: entry.replace("[no]", ""))] if entries else []
  return "\n".join(lines)


def _check_flag_files(argv):
  """Raise an `OSError` or a `ValueError` unless the flag files can be read: a named pipe would block."""
  paths = [path for argument, following in zip(argv[1:], [*argv[2:], ""]) for path in _flag_file(argument, following)]
  count = 0
  while paths:
    path, count = paths.pop(), count + 1
    if count > _MOST_FLAG_FILES:  # they may name each other, and be read twice as often at each level
      raise ValueError(f"flag file {path!r} is one of more than {_MOST_FLAG_FILES:,} flag files that name each other")
    try:
      text = gate.read_text(path)
    except (OSError, ValueError) as error:
      raise ValueError(f"flag file {path!r} cannot be read: {gate.reason(error)}") from None
    paths += [path for line in text.splitlines() for path in _flag_file(line.strip())]


def prefer_command_line(argv: Sequence[str]) -> None:
  """Let flags of the command line replace those of flag files that say the same: --epochs replaces a file's --steps."""
  given = {argument.lstrip("-").partition("=")[0] for argument in argv[1:] if argument.startswith("-")}
  for _, *pair in SAY_THE_SAME:
    for name, other in (pair, pair[::-1]):
      if name in given and other not in given and other in flags.FLAGS:
        flags.FLAGS[other].unparse()


def _flag_file(argument, following=""):
  """The path of the flag file that an argument, or a line of a flag file, names, in a list."""
  name, equals, value = argument.partition("=")
  path = value if equals else following
  return [os.path.expanduser(path)] if name in ("-flagfile", "--flagfile") else []


def _check_texts():
  """Raise a `ValueError` for a text that no file and no name can have."""
  for name in flags.FLAGS:
    flag, value = flags.FLAGS[name], flags.FLAGS[name].value
    if value == "" and flag.default is None and name not in _MAY_BE_EMPTY:
      raise ValueError(f"flag --{name} is empty; leave it out, or give a value")
    for text in value if isinstance(value, list) else [value]:
      if isinstance(text, str) and "\0" in text:
        raise ValueError(f"flag --{name} has a NUL character: {text!r}")


def fail(error: str | Exception, code: int = process.BAD_INPUT) -> typing.NoReturn:
  """End the process with one line on stderr and an exit code."""
  process.say("error", error)
  sys.exit(code)


def define_float(name: str, default: float | None, help_text: str, low: float, high: float, group: str = "") -> None:
  """Define a flag for a finite number between bounds: absl's own bounds let NaN pass."""
  flags.DEFINE_float(name, default, help_text, lower_bound=low, upper_bound=high)
  flags.register_validator(name, lambda value: value is None or math.isfinite(value), "must be a finite number")
  _GROUPS[name] = group


def check_can_be_written(path: Path, inputs: Iterable[Path] = ()) -> None:
  """Raise an `InputError` if a file cannot or must not be written. Call this before the work of producing it.

  Args:
    path: the file.
    inputs: files that the program reads, which must stay as they are.
  """
  folder = os.path.dirname(path) or "."
  problem = (
    "the path is empty"
    if not os.fspath(path)
    else "it is a folder"
    if os.path.isdir(path)
    else f"there is no folder {folder!r}"
    if not os.path.isdir(folder)
    else "it is no regular file"
    if os.path.lexists(path) and not os.path.isfile(os.path.realpath(path)) and (os.path.exists(path))
    else "no permission"
    if not os.access(folder, os.W_OK)
    else "it is one of the images that are read"
    if any(_same(path, file) for file in inputs)
    else owner_of(path)
  )
  if problem:
    raise InputError(f"cannot write {str(path)!r}: {problem}")


def _same(path, other):
  try:
    return os.path.samefile(path, other)
  except OSError:
    return False


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
    raise InputError(f"cannot write {str(path)!r}: {gate.reason(error)}") from None


def write_file(path: Path, write: Callable[[pathlib.Path], typing.Any]) -> None:
  """Call `replace` and print the path."""
  replace(path, write)
  print(f"wrote {path}")


def warn(text: str) -> None:
  """Print a line on stderr."""
  process.say("warning", text)


def sibling_command(name: str) -> str:
  """Return how a shell calls another program: `bin/sample` from `bin/train`, `flowpp-sample` from `flowpp-train`."""
  folder, program = os.path.split(sys.argv[0])
  if program.startswith("flowpp-"):
    return f"flowpp-{name}"
  return shlex.quote(os.path.join(os.path.relpath(folder or "."), name))


def given_from_flags() -> dict[str, typing.Any]:
  """Return the values of the flags that were given, by name."""
  return {name: flags.FLAGS[name].value for name in flags.FLAGS if flags.FLAGS[name].present}


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
    _GROUPS[field.name] = group


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
