"""What the programs share: a command from its flags to its end, one clear line and exit code 2 for bad input."""

from collections.abc import Callable, Iterable, Sequence
import functools
import importlib
import importlib.util
import inspect
import logging as std_logging
import os
import pathlib
import re
import shlex
import sys
import typing

from absl import app, flags, logging

from flowpp_tf.config.recipe import replaced_by
from flowpp_tf.core.errors import InputError, WorkerLost
from flowpp_tf.io import budget, gate
from flowpp_tf.io.budget import Budget
from flowpp_tf.io.files import replace_file
from flowpp_tf.programs import command as command_module
from flowpp_tf.programs import process
from flowpp_tf.programs.flag_kinds import check_names, flags_in_groups, given_from_flags
from flowpp_tf.programs.help import FULL, asked_for, help_text
from flowpp_tf.programs.imports import without_garbage_collection, without_noise, without_optional_packages
from flowpp_tf.types import Path

_LIMITS = {  # flags: field of `Budget`, and help
  "memory": ("memory", "Memory that what a file describes may take, such as 8G."),
  "max_pixels": ("pixels", "Pixels of an image that is decoded, such as 200M."),
  "max_output": ("bytes_out", f"Bytes that may come out of a file that is {Budget.ratio} times smaller, such as 2G."),
}
_MAY_BE_EMPTY = ("flow_dtype", "condition_shape", "tensorboard")


def run_command(command: str) -> None:
  """Parse the flags of a command, say what it will do, import what does it, and call that.

  The flags, and all that can be refused without TensorFlow, are in the module `train_flags`; what `train` does is in
  the module `train`, which imports TensorFlow.
  """
  if importlib.util.find_spec(f"{__package__}.{command}_flags") is None:
    return command_module.run_command(command)
  definitions = importlib.import_module(f"{__package__}.{command}_flags")
  definitions.define_flags()

  def work(*arguments):
    process.phase(definitions.plan_from_flags(*arguments))
    if getattr(definitions, "NEEDS_TENSORFLOW", True):
      process.phase("importing TensorFlow")
    with without_noise(), without_optional_packages(), without_garbage_collection():
      program = importlib.import_module(f"{__package__}.{command}")
    getattr(program, f"{command}_from_flags")(*arguments)

  arguments = len(inspect.signature(definitions.plan_from_flags).parameters)
  run_program(work, arguments, functools.partial(help_text, definitions))


def flags_of(command: str) -> dict:
  """Return the flags of a command by the title of their group; they are defined only while they are read."""
  if importlib.util.find_spec(f"{__package__}.{command}_flags") is None:
    return command_module.flags_of(command_module.options_of(command))
  before = {*flags.FLAGS}
  importlib.import_module(f"{__package__}.{command}_flags").define_flags()
  define_common_flags()
  found = flags_in_groups()
  for name in {*flags.FLAGS} - before:
    delattr(flags.FLAGS, name)
  return found


def run_program(
  main: Callable[..., None], arguments: int = 0, show_help: Callable[[bool], str] = lambda full: ""
) -> None:
  """Parse the flags and call `main()`; what it raises for its user ends in one line and an exit code of process.py.

  Args:
    main: function that runs the program.
    arguments: how many arguments that are not flags the program takes; `main` is called with those that are given.
    show_help: returns the text of --help, or of --helpfull.
  """
  define_common_flags()
  app.run(functools.partial(_guarded, main), flags_parser=functools.partial(_parse, show_help, arguments))


def define_common_flags() -> None:
  """Define the flags that all programs have."""
  flags.DEFINE_bool("debug", False, "Show the whole traceback of an error.")
  flags.DEFINE_bool("version", False, "Show the version of flowpp_tf.")
  flags.DEFINE_multi_string(
    "import",
    None,
    "Module that registers couplings, data sets or configs of your own, by `fpp.register_coupling` and so on; also one "
    "of the working directory. Several are several flags.",
  )
  for name, (field, text) in _LIMITS.items():
    flags.DEFINE_string(name, budget.size_text(getattr(Budget, field)).replace(" ", "").removesuffix("iB"), text)
    flags.FLAGS[name].group = "Limits for files from outside"


def _parse(show_help, arguments, argv):
  """Parse the flags; return the program's name and the arguments that are not flags."""
  try:
    if asked := asked_for(argv[1:]):
      print(show_help(asked == FULL))
      sys.exit(process.DONE)
    rest = flags.FLAGS(argv)
    prefer_command_line(argv)
    _check_texts()
    check_names()
  except BrokenPipeError:  # of a reader of the help
    raise
  except (flags.Error, ValueError, OSError) as error:
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
      _import_modules()
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


def _import_modules():
  """Import the modules of --import; raise an `InputError` for what they raise."""
  for name in flags.FLAGS["import"].value or ():
    if os.getcwd() not in sys.path:
      sys.path.append(os.getcwd())
    try:
      with without_noise():
        importlib.import_module(name)
    except Exception as error:  # of any code
      raise InputError(f"--import={name} failed: {gate.reason(error)}") from error


def _budget_from_flags():
  given = {}
  for name, (field, _) in _LIMITS.items():
    given[field] = _amount(name, flags.FLAGS[name].value)
  return Budget(**given, bytes_in=max(Budget.bytes_in, given["memory"]))


def _amount(name, text):
  """A number of bytes or pixels from a text such as 8G, 1.5GiB or 64,000,000."""
  found = re.fullmatch(r"(\d[\d,]{,30}|\d{1,30}\.\d+) ?([KMGT]?)(iB|B)?", text.strip(), re.IGNORECASE)
  if not found:
    raise InputError(f"`--{name}` must be a number such as 500M or 8G, got {text!r}")
  number = float(found[1].replace(",", ""))
  power = " KMGT".index(found[2].upper() or " ")
  return int(number * 1024**power)


def prefer_command_line(argv: Sequence[str]) -> None:
  """Let flags of the command line replace those of flag files, as in a recipe: --epochs replaces a file's --steps."""
  names = {argument.lstrip("-").partition("=")[0] for argument in argv[1:] if argument.startswith("-")}
  values = given_from_flags()
  of_line = {name: value for name, value in values.items() if name in names}
  of_files = {name: value for name, value in values.items() if name not in names}
  for name in replaced_by(of_line, of_files) & {*of_files}:
    flags.FLAGS[name].unparse()


def _check_texts():
  """Raise an `InputError` for a text that no file and no name can have."""
  for name in flags.FLAGS:
    flag, value = flags.FLAGS[name], flags.FLAGS[name].value
    if value in ("", []) and flag.default is None and name not in _MAY_BE_EMPTY:
      raise InputError(f"flag --{name} is empty; leave it out, or give a value")
    for text in value if isinstance(value, list) else [value]:
      if isinstance(text, str) and "\0" in text:
        raise InputError(f"flag --{name} has a NUL character: {text!r}")


def fail(error: str | Exception, code: int = process.BAD_INPUT) -> typing.NoReturn:
  """End the process with one line on stderr, and the further ones of an `InputError`, and an exit code."""
  process.say("error", *getattr(error, "lines", (error,)))
  sys.exit(code)


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
    else "it is one of the files that are read"
    if any(_same(path, file) for file in inputs)
    else None
  )
  if problem:
    raise InputError(f"cannot write {str(path)!r}: {problem}")


def check_differ(**outputs: Path | None) -> None:
  """Raise an `InputError` if two flags, whose values are given by name, say one place to write, in whatever words."""
  flag_of: dict[str, str] = {}
  for flag, path in outputs.items():
    other = flag if path is None else flag_of.setdefault(os.path.realpath(path), flag)
    if other != flag:
      raise InputError(f"--{other} and --{flag} are one file, {os.fspath(outputs[other] or '')!r}; give them two names")


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
  path = f"flowpp-{name}" if program.startswith("flowpp-") else os.path.join(os.path.relpath(folder or "."), name)
  return shlex.join([path, *(f"--import={module}" for module in flags.FLAGS["import"].value or ())])
