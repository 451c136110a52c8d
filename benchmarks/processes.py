"""Measurements in processes of their own, which start with no memory in use. Linux only."""

import ctypes
import multiprocessing
import pathlib
import re


def in_new_process(function, *arguments):
  """What a function of a module gives in a new process."""
  with multiprocessing.get_context("spawn").Pool(1) as pool:
    return pool.apply(function, arguments)


def forget_peak():
  """The peak of this process's resident memory starts anew."""
  pathlib.Path("/proc/self/clear_refs").write_text("5")


def peak_bytes():
  """Peak resident memory of this process since it was started or `forget_peak` called."""
  return _status("VmHWM")


def memory_of(run):
  """Resident bytes of this process before a call of `run`, and at their peak in it.

  Before, the allocator gives back what it keeps of earlier calls.
  """
  ctypes.CDLL(None).malloc_trim(0)
  forget_peak()
  before = _status("VmRSS")
  run()
  return before, peak_bytes()


def _status(name):
  status = pathlib.Path("/proc/self/status").read_text()
  return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", status)[1])
