"""What a program does as a process: signals, exit codes, and one line for the last error.

    0     done
    1     failed: the line on stderr says why, --debug shows where
    2     bad input
    3     stopped by a signal, and saved: the same command resumes
    4     stopped by a signal or a failure, and the last state could not be saved
    130   stopped by Ctrl-C with nothing to save; 143 by SIGTERM, 129 by a lost terminal

This module imports nothing that takes time, so that a program answers signals from its first line to its last.
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
_SIGNALLED = 128  # exit codes of processes that a signal ended are above
_LONGEST = 4000  # characters of a line: names in files of strangers may have millions
# A signal ends the process itself while TensorFlow is imported: its C++ calls Python, and would abort at an exception.
AT_ONCE = threading.Event()


class Interrupted(BaseException):
  """A signal asked the program to end, where it has nothing to save."""

  def __init__(self, number: int) -> None:
    super().__init__(f"stopped by {'Ctrl-C' if number == signal.SIGINT else signal.Signals(number).name}")
    self.code = _SIGNALLED + number


def say(kind: str, text: object, *more: str) -> None:
  """Print a line on stderr with the program's name, and more lines below it; `kind` may be empty."""
  name = os.path.basename(sys.argv[0])
  begin = [f"{word}:" for word in ("flowpp" if name == "__main__.py" else name, kind) if word]
  _print(" ".join([*begin, *str(text).split()]))
  for line in more:
    _print(f"  {line}")


def warn(text: str) -> None:
  """Print a warning on stderr."""
  say("warning", text)


def fail(error: str | Exception, code: int = BAD_INPUT) -> NoReturn:
  """End the process with one line on stderr, and the further ones of an `InputError`, and an exit code."""
  say("error", *getattr(error, "lines", (error,)))
  sys.exit(code)


def phase(line: str) -> None:
  """Print a line on stderr that says what the program does from here on."""
  _print(line)


def _print(line):
  """Print a line on stderr in any encoding, even if nobody reads it."""
  with contextlib.suppress(OSError, ValueError):
    line = printable(line)
    print(line if len(line) <= _LONGEST else f"{line[:_LONGEST]}...", file=sys.stderr, flush=True)


def run_and_exit(main: Callable[[], object]) -> NoReturn:
  """Run a program and end the process: with its exit code, and with one line on what ended it early.

  Args:
    main: the program; it ends by returning, or by `SystemExit`.
  """
  ended: list[int] = []
  atexit.register(_skip_teardown, ended)
  # The names of files may be of any bytes, and terminals have few characters.
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):
      stream.reconfigure(errors="backslashreplace")
  try:
    code = _run(main)
  except Interrupted as interrupted:  # while the last line was printed
    code = interrupted.code
  _end_at_a_signal(code or None)
  code = _flushed(code)
  _end_at_a_signal(code)
  if code > _SIGNALLED:  # at once: threads of libraries may still compute with what the interpreter would tear down
    os._exit(code)
  ended.append(code)
  sys.exit(code)


def _skip_teardown(ended: list[int]) -> None:
  """End the process after the functions that libraries have registered since: tearing TensorFlow down takes seconds."""
  if ended:
    os._exit(_flushed(*ended))


def keep_teardown() -> None:
  """Let libraries end as they do: the workers of a run take leave of each other."""
  atexit.unregister(_skip_teardown)


def _run(main: Callable[[], object]) -> int:
  """Run a program; print one line on what ended it early, and return its exit code."""
  arrived: list[Interrupted] = []
  try:
    _answer_signals(arrived)
    main()
  except BaseException as error:
    # A library may make another error of an interruption, where C++ has called Python; a program may have answered it.
    answered = isinstance(error, SystemExit) and error.code in (None, DONE, STOPPED_AND_SAVED, STOPPED_NOT_SAVED)
    return _report(arrived[0] if arrived and not answered else error)
  return DONE


def _report(error: BaseException) -> int:
  """Print one line on what ended a program early; return its exit code."""
  if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
    return error.code or DONE
  if isinstance(error, KeyboardInterrupt):
    error = Interrupted(signal.SIGINT)
  if isinstance(error, Interrupted):
    say("", error)
    return error.code
  if isinstance(error, BrokenPipeError):  # as with `| head`: nobody reads on
    _discard_output()
    return _SIGNALLED + signal.SIGPIPE
  if debugged():
    raise error
  say("error", _last_line(error))
  return FAILED


def _flushed(code: int) -> int:
  """Write what is left of the output; return the exit code, that of a failure if it cannot be written."""
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
  return f"{type(error).__name__}: {text if len(text) < 500 else f'{text[:500]}...'} (--debug shows where)"


def _discard_output() -> None:
  """Let the interpreter end without a word about output that nobody takes."""
  with contextlib.suppress(OSError, ValueError):
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _answer_signals(arrived: list[Interrupted]) -> None:
  """Let a signal raise `Interrupted`, which `arrived` then has; a second one, or one `AT_ONCE`, ends the process."""

  def on_signal(number: int, frame: FrameType | None) -> None:
    interrupted = Interrupted(number)
    if AT_ONCE.is_set():
      say("", interrupted)
    # A second one: the exception was not heard, in a callback of a library, or in a thread that is waited for.
    if arrived or AT_ONCE.is_set():
      os._exit(interrupted.code)
    arrived.append(interrupted)
    raise interrupted

  if threading.current_thread() is threading.main_thread():
    for number in _SIGNALS:
      if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
        signal.signal(number, on_signal)


def _end_at_a_signal(code):
  """From here on a signal ends the process at once, with a code; None for that of the signal."""
  if threading.current_thread() is threading.main_thread():
    for number in _SIGNALS:
      signal.signal(number, lambda number, frame: os._exit(_SIGNALLED + number if code is None else code))
