"""Run a program as a process: answer signals, print one line for the last error, and exit with a code.

    0     done
    1     failed: the line on stderr says why, --debug shows where
    2     bad input
    3     stopped by a signal, and saved: the same command resumes
    4     stopped by a signal or a failure, and the last state could not be saved
    130   stopped by Ctrl-C with nothing to save; 143 by SIGTERM, 129 by a lost terminal

This module imports only fast modules, so that a program answers signals from its first line to its last.
"""

import atexit
from collections.abc import Callable
import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

from flowpp_tf.core.errors import printable

DONE, FAILED, BAD_INPUT, STOPPED_AND_SAVED, STOPPED_NOT_SAVED = range(5)
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_SIGNALLED = 128  # plus the signal's number: exit codes of processes that a signal ended
_LONGEST = 4000  # characters of a line: names in untrusted files may have millions
# While TensorFlow is imported, a signal ends the process directly: TensorFlow's C++ calls Python, and would abort at an
# exception.
AT_ONCE = threading.Event()


class Interrupted(BaseException):
  """Raised by a signal that asks the program to end, where it has nothing to save."""

  def __init__(self, number: int) -> None:
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    super().__init__(f"stopped by {name}")
    self.code = _SIGNALLED + number


def say(kind: str, text: object, *more: str) -> None:
  """Print a line on stderr with the program's name, and more lines below it; `kind` may be empty."""
  program = os.path.basename(sys.argv[0])
  if program == "__main__.py":
    program = "flowpp"
  prefixes = [f"{word}:" for word in (program, kind) if word]
  _print(" ".join([*prefixes, *str(text).split()]))
  for line in more:
    _print(f"  {line}")


def warn(text: str) -> None:
  """Print a warning on stderr."""
  say("warning", text)


def fail(error: str | Exception, code: int = BAD_INPUT) -> NoReturn:
  """Print an error on stderr, with the further lines of an `InputError`, and exit with a code."""
  say("error", *getattr(error, "lines", (error,)))
  sys.exit(code)


def phase(line: str) -> None:
  """Print a line on stderr that names the next phase of the work."""
  _print(line)


def _print(line):
  """Print a line on stderr in any encoding; ignore a closed stderr."""
  with contextlib.suppress(OSError, ValueError):
    line = printable(line)
    if len(line) > _LONGEST:
      line = f"{line[:_LONGEST]}..."
    print(line, file=sys.stderr, flush=True)


def run_and_exit(main: Callable[[], object]) -> NoReturn:
  """Run a program and end the process with its exit code; print one line if an error or a signal ended it early.

  Args:
    main: the program; it ends by returning, or by `SystemExit`.
  """
  ended: list[int] = []
  atexit.register(_skip_teardown, ended)
  # File names may hold any bytes, and not all terminals can show them.
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):
      stream.reconfigure(errors="backslashreplace")
  try:
    code = _run(main)
  except Interrupted as interrupted:  # the signal came while the last line was printed
    code = interrupted.code
  _end_at_a_signal(code or None)
  code = _flushed(code)
  _end_at_a_signal(code)
  if code > _SIGNALLED:  # skip teardown: threads of libraries may still use what the interpreter would tear down
    os._exit(code)
  ended.append(code)
  sys.exit(code)


def _skip_teardown(ended: list[int]) -> None:
  """End the process after the exit functions of libraries: tearing TensorFlow down would take seconds."""
  if ended:
    os._exit(_flushed(*ended))


def keep_teardown() -> None:
  """Let libraries tear down normally: the workers of a run must disconnect from each other."""
  atexit.unregister(_skip_teardown)


def _run(main: Callable[[], object]) -> int:
  """Run a program and return its exit code; print one line if an error or a signal ended it early."""
  arrived: list[Interrupted] = []
  try:
    _answer_signals(arrived)
    main()
  except BaseException as error:
    # Where C++ calls Python, a library may turn an interruption into another error; the program may have handled it.
    handled = isinstance(error, SystemExit) and error.code in (None, DONE, STOPPED_AND_SAVED, STOPPED_NOT_SAVED)
    if arrived and not handled:
      error = arrived[0]
    return _report(error)
  return DONE


def _report(error: BaseException) -> int:
  """Print one line on the error that ended a program; return its exit code."""
  if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
    return error.code or DONE
  if isinstance(error, KeyboardInterrupt):
    error = Interrupted(signal.SIGINT)
  if isinstance(error, Interrupted):
    say("", error)
    return error.code
  if isinstance(error, BrokenPipeError):  # the reader has closed the pipe, as `| head` does
    _discard_output()
    return _SIGNALLED + signal.SIGPIPE
  if debugged():
    raise error
  say("error", _last_line(error))
  return FAILED


def _flushed(code: int) -> int:
  """Write the rest of the output; return the exit code, or `FAILED` if the output cannot be written."""
  with contextlib.suppress(OSError, ValueError):
    sys.stderr.flush()
  try:
    sys.stdout.flush()
  except (OSError, ValueError) as error:
    code = code or FAILED
    if not isinstance(error, BrokenPipeError):
      say("error", f"standard output cannot be written: {error}")
    _discard_output()
  return code


def debugged() -> bool:
  """Return whether --debug asks for tracebacks."""
  return any(argument.lstrip("-") in ("debug", "debug=true", "debug=1") for argument in sys.argv[1:])


def _last_line(error: BaseException) -> str:
  if isinstance(error, SystemExit):
    return str(error.code)
  if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
    return "out of memory; a smaller --batch_size takes less"
  if isinstance(error, ModuleNotFoundError):
    return f"{error.name} is not installed here: activate your environment, or `pip install -r requirements.txt`"
  text = " ".join(str(error).split())
  if len(text) >= 500:
    text = f"{text[:500]}..."
  return f"{type(error).__name__}: {text} (--debug shows where)"


def _discard_output() -> None:
  """Redirect output that nobody reads, so that the interpreter does not print an error about it."""
  with contextlib.suppress(OSError, ValueError):
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _answer_signals(arrived: list[Interrupted]) -> None:
  """Let a signal raise `Interrupted` and append it to `arrived`; a second one, or `AT_ONCE`, ends the process."""

  def on_signal(number: int, frame: FrameType | None) -> None:
    interrupted = Interrupted(number)
    if AT_ONCE.is_set():
      say("", interrupted)
    # A second signal means that the first exception was lost in a callback, or that the program waits for a thread.
    if arrived or AT_ONCE.is_set():
      os._exit(interrupted.code)
    arrived.append(interrupted)
    raise interrupted

  if threading.current_thread() is threading.main_thread():
    for number in _SIGNALS:
      if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
        signal.signal(number, on_signal)


def _end_at_a_signal(code):
  """From here on let a signal end the process at once, with a code, or with the signal's code for None."""

  def on_signal(number, frame):
    os._exit(_SIGNALLED + number if code is None else code)

  if threading.current_thread() is threading.main_thread():
    for number in _SIGNALS:
      signal.signal(number, on_signal)
