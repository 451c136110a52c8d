"""Run a command from its flags to its end: one clear line and exit code 2 for bad input."""

from collections.abc import Sequence
import importlib
import itertools
import logging as std_logging
import os
import re
import sys
from typing import Any
import warnings

from absl import flags, logging

from flowpp_tf.config.recipe import replaced_by
from flowpp_tf.core.errors import InputError, WorkerLost
from flowpp_tf.io import budget, gate
from flowpp_tf.io.budget import Budget
from flowpp_tf.programs import process
from flowpp_tf.programs.imports import without_noise
from flowpp_tf.programs.options import Flag, Options, flags_in_groups, given_flags, help_text, options_from_flags

_HELP = {"help", "h", "?", "helpshort", "helpfull"}
_LIMITS = {  # flags: field of `Budget`, and help
  "memory": ("memory", "Memory that what a file describes may take, such as 8G."),
  "max_pixels": ("pixels", "Pixels of an image that is decoded, such as 200M."),
  "max_output": ("bytes_out", f"Bytes that may come out of a file that is {Budget.ratio} times smaller, such as 2G."),
}


def run_command(command: str) -> None:
  """Read the flags of a command as its options, and call `run(options)` of the command's module."""
  options_class = options_of(command)
  define_flags(options_class)
  arguments = parse_flags(options_class, sys.argv)[1:]
  logging.use_absl_handler()
  logging.set_verbosity(logging.WARNING)
  std_logging.getLogger("tensorflow").setLevel(std_logging.ERROR)  # else it warns of tracing
  warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # of Pillow: the budget says it better
  try:
    with budget.use(read_budget()):
      _import_modules()
      sys.modules[options_class.__module__].run(options_from_flags(options_class, arguments))
  except BrokenPipeError:
    raise
  except WorkerLost as error:
    process.fail(f"{error}; the same command on all hosts goes on from what is saved", process.FAILED)
  except (InputError, OSError) as error:
    if flags.FLAGS.debug:
      raise
    if isinstance(error, InputError):
      process.fail(error)
    # An error about a path that no function was prepared for, or about the machine.
    where = "" if error.filename is None else f"{os.fspath(error.filename)[:200]!r}: "
    process.fail(f"{where}{gate.reason(error)}", process.FAILED)


def options_of(command: str) -> type[Options]:
  """Return the class of the options of a command: `TrainOptions` for train."""
  return getattr(importlib.import_module(f"{__package__}.{command}"), f"{command.capitalize()}Options")


def flags_of(options_class: type[Options]) -> dict[str, list[Flag]]:
  """Return the flags of a command, and those that all commands have, by the title above them."""
  of_all = [
    Flag("debug", bool, "Show the whole traceback of an error."),
    Flag("version", bool, "Show the version of flowpp_tf."),
    Flag(
      "import",
      list,
      "Module that registers couplings, data sets or configs of your own, by `fpp.register_coupling` and so on; also "
      "one of the working directory. Several are several flags.",
    ),
  ]
  for name, (field, text) in _LIMITS.items():
    of_all.append(Flag(name, str, f"{text} (default: {budget.size_text(getattr(Budget, field))})"))
  return flags_in_groups(options_class) | {"All commands": of_all}


def define_flags(options_class: type[Options]) -> None:
  """Define the flags of a command."""
  for flag in itertools.chain(*flags_of(options_class).values()):
    flag.define()


def parse_flags(options_class: type[Options], argv: Sequence[str]) -> list[str]:
  """Parse the flags; return the program's name and the arguments that are not flags, or show the help and end."""
  names = [argument.lstrip("-") for argument in argv[1:] if argument.startswith("-")]
  if asked := [name for name in names if name in _HELP]:
    print(help_text(options_class, flags_of(options_class), asked[0] == "helpfull"))
    sys.exit(process.DONE)
  try:
    rest = flags.FLAGS(argv)
  except UnicodeDecodeError as error:
    process.fail(f"--flagfile must be a file of text in UTF-8: {error}")
  except (flags.Error, ValueError, OSError, RecursionError) as error:
    # Absl looks by recursion for names like an unknown one; it begins with ERROR where it cannot open a flag file.
    process.fail("a flag's name is too long" if type(error) is RecursionError else str(error).removeprefix("ERROR:: "))
  prefer_command_line(argv)
  if others := rest[1 + len(options_class.ARGUMENTS) :]:
    other = "other " if options_class.ARGUMENTS else ""
    process.fail(f"unexpected argument {others[0]!r}; all {other}settings are flags, see --help")
  return rest


def prefer_command_line(argv: Sequence[str]) -> None:
  """Let flags of the command line replace those of flag files, as in a recipe: --epochs replaces a file's --steps."""
  names = {argument.lstrip("-").partition("=")[0] for argument in argv[1:] if argument.startswith("-")}
  values = given_flags()
  of_line = {name: value for name, value in values.items() if name in names}
  of_files = {name: value for name, value in values.items() if name not in names}
  for name in replaced_by(of_line, of_files) & {*of_files}:
    flags.FLAGS[name].unparse()


def _import_modules():
  """Import the modules of --import; raise an `InputError` for what they raise."""
  for name in flags.FLAGS["import"].value or ():
    sys.path.append(os.getcwd())
    try:
      with without_noise():
        importlib.import_module(name)
    except Exception as error:  # of any code
      raise InputError(f"--import={name} failed: {gate.reason(error)}") from error


def read_budget() -> Budget:
  """Return the limits for files from outside, from the flags that were given."""
  amounts: dict[str, Any] = {
    field: amount(name, flags.FLAGS[name].value)
    for name, (field, _) in _LIMITS.items()
    if flags.FLAGS[name].value is not None
  }
  return Budget(**amounts, bytes_in=max(Budget.bytes_in, amounts.get("memory", 0)))


def amount(name: str, text: str) -> int:
  """Return a number of bytes or pixels from the text of a flag, such as 8G, 1.5GiB or 64,000,000."""
  found = re.fullmatch(r"(\d[\d,]{,30}|\d{1,30}\.\d+) ?([KMGT]?)(iB|B)?", text.strip(), re.IGNORECASE)
  if not found:
    raise InputError(f"`--{name}` must be a number such as 500M or 8G, got {text!r}")
  number = float(found[1].replace(",", ""))
  power = " KMGT".index(found[2].upper() or " ")
  return int(number * 1024**power)
