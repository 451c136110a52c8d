"""Processes that measure: each starts with no memory in use, alone or in turns with others. Linux only."""

import contextlib
import multiprocessing
import os
import pathlib
import re
import tempfile
import time


def in_new_process(function, *arguments):
  """Return what a function of a module returns in a new process."""
  with multiprocessing.get_context("spawn").Pool(1) as pool:
    return pool.apply(function, arguments)


def forget_peak():
  """Start the peak of this process's resident memory again."""
  pathlib.Path("/proc/self/clear_refs").write_text("5")


def peak_bytes():
  """Return the peak resident memory of this process since it was started or `forget_peak` called."""
  status = pathlib.Path("/proc/self/status").read_text()
  return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def limit_cores(count):
  """Let this process, and those that it starts from now on, use so many cores."""
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def busy_seconds():
  """Return the CPU seconds that all processes of this machine have taken since it started."""
  user, nice, system, _, _, irq, softirq = map(int, pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:8])
  return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


class Turns:
  """Turns of a process that `TakesTurns` started: `ready` when all is built, then `begin` and `end` of each turn."""

  def __init__(self, pipe):
    self._pipe = pipe

  def ready(self, **content):
    """Say that the turns can begin, and what the other process is to know."""
    forget_peak()
    self._pipe.send(content)

  def begin(self):
    """Wait for the turn. After the last one the process is killed here."""
    self._pipe.recv()
    self._cpu, self._start = time.process_time(), time.perf_counter()

  def end(self):
    """Say what the turn took: seconds, CPU seconds, and the peak memory of all turns until now."""
    seconds = time.perf_counter() - self._start
    self._pipe.send(dict(seconds=seconds, cpu_s=time.process_time() - self._cpu, peak_bytes=peak_bytes()))


class TakesTurns:
  """A new process that calls `function(turns, *arguments)`; `content` is what it said when it was ready.

  Raises:
    RuntimeError: if it ends early, with the end of what it printed.
  """

  def __init__(self, function, *arguments):
    spawn = multiprocessing.get_context("spawn")
    self._printed = tempfile.NamedTemporaryFile("r")
    self._pipe, pipe = spawn.Pipe()
    name, given = f"{function.__name__}{arguments}", (self._printed.name, pipe, function, arguments)
    self._process = spawn.Process(target=_call, args=given, name=name, daemon=True)
    self._process.start()
    pipe.close()  # it is open in the new process only, so that its end is seen
    self.content = self._read()

  def turn(self):
    """Return what `Turns.end` says of a turn, and `others`: cores that other processes took meanwhile."""
    busy = busy_seconds()
    with contextlib.suppress(BrokenPipeError):  # `_read` says why it ended
      self._pipe.send(None)
    taken = self._read()
    others = (busy_seconds() - busy - taken["cpu_s"]) / taken["seconds"]
    return taken | dict(others=max(0.0, others))

  def end(self):
    """End the process, unless it ended before."""
    self._process.kill()
    self._process.join()
    self._printed.close()

  def _read(self):
    try:
      return self._pipe.recv()
    except (EOFError, ConnectionResetError):
      self._process.join()
      printed = self._printed.read()
      self.end()
      raise RuntimeError(f"{self._process.name} ended early:\n{printed[-3000:]}")


def _call(printed, pipe, function, arguments):
  """Call a function with `Turns`, in a new process; what it prints goes to a file."""
  for stream in (1, 2):
    os.dup2(os.open(printed, os.O_WRONLY | os.O_APPEND), stream)
  function(Turns(pipe), *arguments)
