"""Run a command from its flags to its end; print one clear line and exit with code 2 for bad input."""

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
  "memory": ("memory", "Most memory that the content of a file may take, such as 8G."),
  "max_pixels": ("pixels", "Most pixels of an image that is decoded, such as 200M."),
  "max_output": ("bytes_out", f"Most bytes that a file {Budget.ratio} times smaller may decompress to, such as 2G."),
}


def run_command(command: str) -> None:
  """Read the flags of a command as its options, and call `run(options)` of the command's module."""
  options_class = options_of(command)
  define_flags(options_class)
  arguments = parse_flags(options_class, sys.argv)[1:]
  logging.use_absl_handler()
  logging.set_verbosity(logging.WARNING)
  std_logging.getLogger("tensorflow").setLevel(std_logging.ERROR)  # else it warns of tracing
  warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # by Pillow; the budget raises a clearer error
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
    # An unexpected error about a path or the machine.
    where = "" if error.filename is None else f"{os.fspath(error.filename)[:200]!r}: "
    process.fail(f"{where}{gate.reason(error)}", process.FAILED)


def options_of(command: str) -> type[Options]:
  """Return the options class of a command: `TrainOptions` for train."""
  return getattr(importlib.import_module(f"{__package__}.{command}"), f"{command.capitalize()}Options")


def flags_of(options_class: type[Options]) -> dict[str, list[Flag]]:
  """Return the flags of a command and the flags of all commands, by the title above them."""
  common_flags = [
    Flag("debug", bool, "Show the whole traceback of an error."),
    Flag("version", bool, "Show the version of flowpp_tf."),
    Flag(
      "import",
      list,
      "Module that registers your own couplings, data sets or configs, by `fpp.register_coupling` and so on. It may "
      "lie in the working directory. Repeat the flag for several modules.",
    ),
  ]
  for name, (field, text) in _LIMITS.items():
    default = budget.size_text(getattr(Budget, field))
    common_flags.append(Flag(name, str, f"{text} (default: {default})"))
  return flags_in_groups(options_class) | {"All commands": common_flags}


def define_flags(options_class: type[Options]) -> None:
  """Define the flags of a command."""
  for flag in itertools.chain(*flags_of(options_class).values()):
    flag.define()


def parse_flags(options_class: type[Options], argv: Sequence[str]) -> list[str]:
  """Parse the flags and return the program's name and positional arguments; print the help and exit if asked to."""
  names = [argument.lstrip("-") for argument in argv[1:] if argument.startswith("-")]
  if asked := [name for name in names if name in _HELP]:
    print(help_text(options_class, flags_of(options_class), asked[0] == "helpfull"))
    sys.exit(process.DONE)
  try:
    rest = flags.FLAGS(argv)
  except UnicodeDecodeError as error:
    process.fail(f"--flagfile must be a file of text in UTF-8: {error}")
  except (flags.Error, ValueError, OSError, RecursionError) as error:
    if isinstance(error, RecursionError):  # Absl searches by recursion for names like an unknown name
      process.fail("a flag's name is too long")
    process.fail(str(error).removeprefix("ERROR:: "))  # Absl's prefix if it cannot open a flag file
  prefer_command_line(argv)
  if others := rest[1 + len(options_class.ARGUMENTS) :]:
    other = "other " if options_class.ARGUMENTS else ""
    process.fail(f"unexpected argument {others[0]!r}; all {other}settings are flags, see --help")
  return rest


def prefer_command_line(argv: Sequence[str]) -> None:
  """Let the command line replace flags in flag files, as in a recipe: --epochs replaces a file's --steps."""
  flag_texts = [argument.lstrip("-") for argument in argv[1:] if argument.startswith("-")]
  names = {text.partition("=")[0] for text in flag_texts}
  values = given_flags()
  line_values = {name: value for name, value in values.items() if name in names}
  file_values = {name: value for name, value in values.items() if name not in names}
  for name in replaced_by(line_values, file_values) & {*file_values}:
    flags.FLAGS[name].unparse()


def _import_modules():
  """Import the modules of --import; raise an `InputError` for any exception."""
  for name in flags.FLAGS["import"].value or ():
    sys.path.append(os.getcwd())
    try:
      with without_noise():
        importlib.import_module(name)
    except Exception as error:  # users' code may raise anything
      raise InputError(f"--import={name} failed: {gate.reason(error)}") from error


def read_budget() -> Budget:
  """Return the limits for untrusted files, from the flags that were given."""
  amounts: dict[str, Any] = {}
  for name, (field, _) in _LIMITS.items():
    text = flags.FLAGS[name].value
    if text is not None:
      amounts[field] = amount(name, text)
  return Budget(**amounts, bytes_in=max(Budget.bytes_in, amounts.get("memory", 0)))


def amount(name: str, text: str) -> int:
  """Return a number of bytes or pixels from the text of a flag, such as 8G, 1.5GiB or 64,000,000."""
  match = re.fullmatch(r"(\d[\d,]{,30}|\d{1,30}\.\d+) ?([KMGT]?)(iB|B)?", text.strip(), re.IGNORECASE)
  if not match:
    raise InputError(f"`--{name}` must be a number such as 500M or 8G, got {text!r}")
  number = float(match[1].replace(",", ""))
  power = " KMGT".index(match[2].upper() or " ")
  return int(number * 1024**power)
