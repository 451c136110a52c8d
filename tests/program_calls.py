"""Calls of the programs: in the process of the tests, which is fast, or in a process of their own."""

import contextlib
import importlib.util
import io
import logging
import os
import pathlib
import subprocess
import sys
import types
from typing import NamedTuple
import warnings

from absl import app
from absl import flags
from absl import logging as absl_logging
from absl.testing import flagsaver
import pytest

ROOT = pathlib.Path(__file__).parent.parent


class Result(NamedTuple):
  """What a call of a program leaves: exit code, and what it wrote."""
  code: int
  out: str
  error: str


def call(program, *arguments, cwd):
  """Call a program's `main()` in this process and return a `Result`.

  The program's flags exist only during the call. An exception that a user would see as a traceback is raised.
  Flags that change the process, such as --deterministic and --num_virtual_cpus, need `run`.
  """
  main = importlib.import_module(f"flowpp_tf.programs.{program}").main
  out, error = io.StringIO(), io.StringIO()
  with pytest.MonkeyPatch.context() as patch, _own_flags(), _messages_of_a_process(error), \
       contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
    patch.chdir(cwd)
    patch.setattr(sys, "argv", [str(ROOT / "bin" / program), *map(str, arguments)])
    patch.setattr(sys.modules["__main__"], "__doc__", None)  # the help text
    try:
      main()
      code = 0
    except SystemExit as exit:
      code = exit.code or 0
  return Result(code, out.getvalue(), error.getvalue())


def run(program, *arguments, cwd=None, **environment):
  """Run bin/PROGRAM, or the command that a list starts with, as a process of its own; return a `Result`."""
  command = program if isinstance(program, list) else [str(ROOT / "bin" / program)]
  inherited = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}  # as a user's
  result = subprocess.run(
      [sys.executable, *command, *map(str, arguments)], cwd=cwd, text=True, capture_output=True, timeout=300,
      env={**inherited, "PYTHONPATH": "", **environment})
  return Result(result.returncode, result.stdout, result.stderr)


def example(name, **values):
  """Return an example as a module whose flags have these values."""
  spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  module.FLAGS = types.SimpleNamespace(**values)
  return module


def times_of_files(folder):
  """Return when each file and folder below a folder was changed, by its path from there."""
  return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in pathlib.Path(folder).rglob("*")}


@contextlib.contextmanager
def _own_flags():
  """Context in which flags may be defined and parsed; afterwards all flags are as before."""
  app.define_help_flags()
  parsed = flags.FLAGS.is_parsed()
  try:
    with flagsaver.flagsaver():
      yield
  finally:
    if not parsed:
      flags.FLAGS.unparse_flags()


@contextlib.contextmanager
def _messages_of_a_process(error):
  """Context in which log messages and warnings go to a file, as a process writes them on stderr."""
  handlers = list(logging.root.handlers)
  absl_logging.use_absl_handler()
  handler = absl_logging.get_absl_handler().python_handler
  stream = handler.stream
  handler.setStream(error)
  handler.addFilter(_no_retracing)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("default")
      for hidden in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", hidden)
      warnings.showwarning = lambda message, category, filename, lineno, file=None, line=None: error.write(
          warnings.formatwarning(message, category, filename, lineno, line))
      yield
  finally:
    handler.removeFilter(_no_retracing)
    handler.setStream(stream)
    logging.root.handlers[:] = handlers


def _no_retracing(record):
  """Return whether to log a record: TensorFlow counts the traces of all calls in this process as those of one."""
  return "triggered tf.function retracing" not in record.getMessage()
