"""Import TensorFlow late, without its messages, and 1.4 times as fast.

Commands import it only after they have checked their options. Hiding optional packages and pausing the garbage
collector saves the time: `bin/sample --preset=digits --n=1` takes 5.7 s of CPU time in place of 8.0 s (median of 3 in
turns).
"""

from collections.abc import Iterator
import contextlib
import gc
import importlib
import os
import shutil
import subprocess
import sys

from flowpp_tf.programs import process

# Keras and TensorFlow import these packages if they are installed, for wrappers of scikit-learn, pictures of data sets,
# data frames, sparse arrays and transformed images. No program uses them.
_OPTIONAL = ("sklearn", "matplotlib", "pandas", "scipy")
# Messages of TensorFlow's libraries while they are loaded, before any setting can silence them.
_NOISE = (
  r"^([IWE][0-9]{4} [0-9:.]+ +[0-9]+ [^ ]+\.cc:[0-9]+\] |WARNING: All log messages before absl::InitializeLog"
  r"|To enable the following instructions: |[[:space:]]*$)"
)


def import_tensorflow() -> None:
  """Print a line and import TensorFlow and the subpackages that commands use.

  Garbage collection is paused meanwhile and never scans the imported modules: their 600,000 objects live as long as the
  process.
  """
  process.phase("importing TensorFlow")
  if "tensorflow" in sys.modules:  # else `gc.freeze` would keep the garbage of a running process for good
    return
  gc.disable()
  process.AT_ONCE.set()
  try:
    with without_noise(), without_optional_packages():
      for subpackage in ("data", "evaluation", "training"):
        importlib.import_module(f"flowpp_tf.{subpackage}")
    gc.freeze()
  finally:
    process.AT_ONCE.clear()
    gc.enable()


@contextlib.contextmanager
def without_noise() -> Iterator[None]:
  """Filter messages about the machine from stderr while TensorFlow's libraries are loaded.

  Another process filters, so that the last message of a library appears even if the library aborts this process.
  """
  if "tensorflow" in sys.modules or not shutil.which("grep"):
    yield
    return
  sys.stderr.flush()
  stderr = os.dup(2)
  command = ["grep", "--text", "--line-buffered", "--invert-match", "--extended-regexp", _NOISE]
  # A new session, so that Ctrl-C reaches only the process that writes.
  with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stderr, start_new_session=True) as reader:
    assert reader.stdin is not None
    os.dup2(reader.stdin.fileno(), 2)
    try:
      yield
    finally:
      sys.stderr.flush()
      os.dup2(stderr, 2)
      os.close(stderr)


@contextlib.contextmanager
def without_optional_packages() -> Iterator[None]:
  """Hide packages that Keras can do without from imports; later imports find them."""
  hidden = [name for name in _OPTIONAL if name not in sys.modules]
  sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None makes an import raise ImportError
  try:
    yield
  finally:
    for name in hidden:
      del sys.modules[name]
