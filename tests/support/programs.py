"""Calls of the programs: in the process of the tests, which is fast, or in a process of their own.

Nothing here measures time. Who waits, waits for an event; what never happens is an error after `LIMIT` seconds.
"""

import ast
import contextlib
import importlib.util
import io
import json
import logging
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
import types
from typing import NamedTuple
import warnings

from absl import flags
from absl import logging as absl_logging
from absl.testing import flagsaver
import pytest

from flowpp_tf.programs import command, process

ROOT = pathlib.Path(__file__).parent.parent.parent
REFERENCE = ROOT / "tests" / "reference"
# Packages of this process, for one that runs elsewhere.
PACKAGES = os.pathsep.join(filter(None, sys.path))
# Seconds after which what a test waits for is not expected any more, on a machine that is busy, too.
LIMIT = 1200 * float(os.environ.get("FLOWPP_TEST_PATIENCE", 1))


class Result(NamedTuple):
  """What a call of a program leaves: exit code, and what it wrote."""

  code: int
  out: str
  error: str

  def ok(self):
    """Return the result; fail the test if the exit code is not 0."""
    assert self.code == 0, self.error
    return self


def call(program, *arguments, cwd):
  """Call a program in this process, without the lines that say what it does, and return a `Result`.

  The program's flags exist only during the call. An exception that a user would see as a traceback is raised.
  Flags that change the process, such as --deterministic and --num_virtual_cpus, need `run`.
  """
  out, error = io.StringIO(), io.StringIO()
  with (
    pytest.MonkeyPatch.context() as patch,
    _own_flags(),
    _messages_of_a_process(error),
    contextlib.redirect_stdout(out),
    contextlib.redirect_stderr(error),
  ):
    patch.chdir(cwd)
    patch.setattr(process, "phase", lambda line: None)
    patch.setattr(sys, "argv", [str(ROOT / "bin" / program), *map(str, arguments)])
    try:
      command.run_command(program)
      code = 0
    except SystemExit as exit:
      code = exit.code or 0
  return Result(code, out.getvalue(), error.getvalue())


def start(program, *arguments, cwd=None, stderr=subprocess.STDOUT, **environment):
  """Start bin/PROGRAM, or what Python is to run as a list, as a process of its own, as a user does; return its `Popen`.

  Args:
    program: name of a program, or a list of arguments of Python.
    *arguments: arguments of the program.
    cwd: its working directory.
    stderr: as for `Popen`; part of its standard output unless given.
    **environment: more variables of its environment; None removes one.
  """
  command = program if isinstance(program, list) else [str(ROOT / "bin" / program)]
  variables = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": None, **environment}
  return subprocess.Popen(
    [sys.executable, *command, *map(str, arguments)],
    cwd=cwd,
    text=True,
    stdout=subprocess.PIPE,
    stderr=stderr,
    env={name: value for name, value in variables.items() if value is not None},
  )


def finish(process, code=0):
  """Wait for the end of a process; return what it wrote, and fail the test if its exit code is another."""
  out = process.communicate(timeout=LIMIT)[0]
  assert process.returncode == code, out
  return out


def run(program, *arguments, cwd=None, **environment):
  """Run bin/PROGRAM, or what Python is to run as a list, as a process of its own; return a `Result`."""
  process = start(program, *arguments, cwd=cwd, stderr=subprocess.PIPE, **environment)
  out, error = process.communicate(timeout=LIMIT)
  return Result(process.returncode, out, error)


def wait_for(event, process=None):
  """Wait until `event()` is true and return it; fail if a process ends before, or after `LIMIT` seconds."""
  deadline = time.monotonic() + LIMIT
  while not (happened := event()):
    if process is not None and process.poll() is not None:
      happened = event()  # it may have been its last act
      assert happened, f"the process ended with exit code {process.returncode}"
      return happened
    assert time.monotonic() < deadline, f"waited {LIMIT:g} s"
    time.sleep(0.01)
  return happened


def start_workers(program, *arguments, each=((), ()), **options):
  """Start a program on several workers of one run, on loopback; return their processes.

  Args:
    program: as in `start`.
    *arguments: as in `start`.
    each: for each worker the arguments that only it has.
    **options: as in `start`.
  """
  addresses = free_addresses(len(each))
  return [
    start(
      program,
      *arguments,
      *own,
      **options,
      TF_CONFIG=json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}}),
    )
    for i, own in enumerate(each)
  ]


def free_addresses(count):
  """Return addresses on loopback with ports that nobody listens at."""
  sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
  addresses = tuple(f"127.0.0.1:{s.getsockname()[1]}" for s in sockets)
  for s in sockets:
    s.close()
  return addresses


@contextlib.contextmanager
def served(*arguments, **options):
  """Context in which bin/demo serves its page: its address, and its process."""
  (address,) = free_addresses(1)
  process = start("demo", *arguments, f"--port={address.rpartition(':')[2]}", **options)
  try:
    assert process.stdout.readline() == f"the page is at http://{address}; Ctrl-C ends it\n"
    yield f"http://{address}", process
  finally:
    process.kill()
    process.wait()
    process.stdout.close()


def load_file(path):
  """Return a file of Python, by its path from the root of the repository, as a module."""
  spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, ROOT / path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def example(name, **values):
  """Return an example as a module whose flags have these values."""
  module = load_file(f"examples/{name}.py")
  module.FLAGS = types.SimpleNamespace(**values)
  return module


def run_page(path):
  """Execute the Python code of a page, each block by itself."""
  snippets = re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)
  assert snippets
  for snippet in snippets:
    exec(compile(snippet, path, "exec"), {})


def times_of_files(folder):
  """Return when each file and folder below a folder was changed, by its path from there."""
  return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in pathlib.Path(folder).rglob("*")}


def refusal(program, *arguments, cwd):
  """The one line by which a program, called as by `call`, refuses its input with exit code 2 and changes no file."""
  before = times_of_files(cwd)
  result = call(program, *arguments, cwd=cwd)
  assert result.code == 2 and not result.out, result
  (line,) = result.error.splitlines()
  assert line.startswith(f"{program}: error: "), result.error
  assert times_of_files(cwd) == before
  return line


@contextlib.contextmanager
def _own_flags():
  """Context in which flags may be defined and parsed; afterwards all flags are as before."""
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
        warnings.formatwarning(message, category, filename, lineno, line)
      )
      yield
  finally:
    handler.removeFilter(_no_retracing)
    handler.setStream(stream)
    logging.root.handlers[:] = handlers


def _no_retracing(record):
  """Return whether to log a record: TensorFlow counts the traces of all calls in this process as those of one."""
  return "triggered tf.function retracing" not in record.getMessage()


def named_extras():
  """The packages that the library imports by `import_extra` or looks for, each with the extra that it names."""
  found = set()
  for path in (ROOT / "flowpp_tf").rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Call) and getattr(node.func, "id", None) in ("import_extra", "check_extra"):
        module, extra, *_ = (getattr(argument, "value", None) for argument in node.args)
        if isinstance(module, str):  # not a flag's value
          found.add((module.partition(".")[0], extra))
  assert len(found) > 12
  return found
