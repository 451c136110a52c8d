"""What the libraries say of the machine while they are loaded, left out."""

from collections.abc import Iterator
import contextlib
import os
import re
import sys
import tempfile

_NOISE = re.compile(
  rb"[IWE]\d{4} [\d:.]+ +\d+ \S+\.cc:\d+\] |WARNING: All log messages before absl::InitializeLog|"
  rb"To enable the following instructions: |\s*$"
)


@contextlib.contextmanager
def without_noise() -> Iterator[None]:
  """Leave out what TensorFlow's libraries say of the machine while they are loaded, before any setting stops them."""
  with tempfile.TemporaryFile() as kept:
    sys.stderr.flush()
    stderr = os.dup(2)
    os.dup2(kept.fileno(), 2)
    try:
      yield
    finally:
      sys.stderr.flush()
      os.dup2(stderr, 2)
      os.close(stderr)
      kept.seek(0)
      for line in kept:
        if not _NOISE.match(line):
          os.write(2, line)
