"""Processes that measure: each starts with no memory in use, alone or in turns with others. Linux only."""

import contextlib
import json
import multiprocessing
import os
import pathlib
import re
import subprocess
import sys
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
  """The turns of this process, one for each line on stdin. What it prints otherwise goes to stderr.

  `ready` when all is built, then `begin` and `end` of each turn.
  """

  def __init__(self):
    self._out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

  def ready(self, **content):
    """Say that the turns can begin, and what the other process is to know."""
    forget_peak()
    self._say(content)

  def begin(self):
    """Wait for the turn; end the process when there is none."""
    if not sys.stdin.readline():
      os._exit(0)
    self._cpu, self._start = time.process_time(), time.perf_counter()

  def end(self):
    """Say what the turn took: seconds, CPU seconds, and the peak memory of all turns until now."""
    seconds = time.perf_counter() - self._start
    self._say(dict(seconds=seconds, cpu_s=time.process_time() - self._cpu, peak_bytes=peak_bytes()))

  def _say(self, content):
    print(json.dumps(content), file=self._out, flush=True)


class TakesTurns:
  """A process that was started by a command and has `Turns`; `content` is what it said when it was ready.

  Raises:
    RuntimeError: if it ends early, with the end of what it printed.
  """

  def __init__(self, command):
    self._errors = tempfile.TemporaryFile("w+")
    self._process = subprocess.Popen(
      command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
    )
    self.content = self._read()

  def turn(self):
    """Return what `Turns.end` says of a turn, and `others`: cores that other processes took meanwhile."""
    busy = busy_seconds()
    with contextlib.suppress(BrokenPipeError):  # `_read` says why it ended
      self._process.stdin.write("\n")
      self._process.stdin.flush()
    taken = self._read()
    others = (busy_seconds() - busy - taken["cpu_s"]) / taken["seconds"]
    return taken | dict(others=max(0.0, others))

  def end(self):
    """End the process, unless it ended before."""
    if not self._errors.closed:
      with contextlib.suppress(BrokenPipeError), self._process, self._errors:
        self._process.kill()

  def _read(self):
    line = self._process.stdout.readline()
    if not line:
      self._errors.seek(0)
      error = f"{' '.join(map(str, self._process.args))} ended early:\n{self._errors.read()[-3000:]}"
      self.end()
      raise RuntimeError(error)
    return json.loads(line)
