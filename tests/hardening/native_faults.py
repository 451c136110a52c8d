"""Faults of calls to the C library: those of TensorFlow's and HDF5's writers too, which `Faults` does not see.

A process needs the library of native_faults.c in LD_PRELOAD; `library(folder)` compiles it.
"""

import contextlib
import ctypes
import errno
import os
import pathlib
import subprocess

KINDS = ("open to write", "write", "fsync", "rename", "mkdir", "link")  # in the order of native_faults.c


def library(folder):
  """Compile the library; return its path."""
  path = pathlib.Path(folder) / "faults.so"
  source = pathlib.Path(__file__).with_suffix(".c")
  subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", path, source, "-ldl"], check=True)
  return path


class NativeFaults(contextlib.AbstractContextManager):
  """A context in which calls to the C library that write below a folder are counted, and one fails, as in `Faults`."""

  def __init__(self, folder, number=None, error=errno.ENOSPC, lasting=False):
    self._arguments = os.fsencode(os.path.realpath(folder)), -1 if number is None else number, error, lasting
    self._library = ctypes.CDLL(None)
    self._library.faults_place.restype = ctypes.c_char_p
    self.calls, self.failed = [], []

  def __enter__(self):
    self._library.faults_begin(*self._arguments)
    return self

  def __exit__(self, *error):
    c = self._library
    c.faults_end()
    self.calls = [(KINDS[c.faults_kind(i)], os.fsdecode(c.faults_place(i))[1:]) for i in range(c.faults_count())]
    self.failed = [self.calls[self._arguments[1]][0]] * c.faults_failed()
