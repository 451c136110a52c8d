"""Measurements in processes of their own, which start with no memory in use. Linux only."""

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
  status = pathlib.Path("/proc/self/status").read_text()
  return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])
