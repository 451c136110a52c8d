"""What the libraries say of the machine while they are loaded, left out."""

from collections.abc import Iterator
import contextlib
import os
import re
import signal
import sys

_NOISE = re.compile(
  rb"[IWE]\d{4} [\d:.]+ +\d+ \S+\.cc:\d+\] |WARNING: All log messages before absl::InitializeLog|"
  rb"To enable the following instructions: |\s*$"
)


@contextlib.contextmanager
def without_noise() -> Iterator[None]:
  """Leave out what TensorFlow's libraries say of the machine while they are loaded, before any setting stops them.

  A process of its own reads stderr, so that what a library says last is seen even if it ends this process.
  """
  if "tensorflow" in sys.modules or not hasattr(os, "fork"):
    yield
    return
  sys.stderr.flush()
  readable, writable = os.pipe()
  reader = os.fork()
  if not reader:
    _pass_on(readable, writable)
  os.close(readable)
  stderr = os.dup(2)
  os.dup2(writable, 2)
  os.close(writable)
  try:
    yield
  finally:
    sys.stderr.flush()
    os.dup2(stderr, 2)
    os.close(stderr)
    os.waitpid(reader, 0)


def _pass_on(readable, writable):
  """Write the lines of a pipe to stderr, except for noise, until it ends; then end this process."""
  try:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # those are for the process that writes
      signal.signal(number, signal.SIG_IGN)
    os.close(writable)
    with open(readable, "rb") as lines:
      for line in lines:
        if not _NOISE.match(line):
          os.write(2, line)
  finally:
    os._exit(0)
