"""Import TensorFlow when a command has refused what it can: without its messages, and in two thirds of the time.

`bin/sample --preset=digits --n=1` takes 1.4 times the CPU time if optional packages are not hidden and the collector of
garbage is not paused (median of 3 in turns: 8.0 s for 5.7 s).
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

# Of Keras' wrappers for scikit-learn, pictures of data sets, data frames, sparse arrays and transformed images, none of
# which a program uses. Keras and TensorFlow import them only since they are installed.
_OPTIONAL = ("sklearn", "matplotlib", "pandas", "scipy")
# What TensorFlow's libraries say of the machine while they are loaded, before any setting stops them.
_NOISE = (
  r"^([IWE][0-9]{4} [0-9:.]+ +[0-9]+ [^ ]+\.cc:[0-9]+\] |WARNING: All log messages before absl::InitializeLog"
  r"|To enable the following instructions: |[[:space:]]*$)"
)


def import_tensorflow() -> None:
  """Import TensorFlow, and the rooms of the package that commands use, after a line that says so.

  The collector looks for garbage neither meanwhile nor in what was imported later: the modules stay to the end of the
  process, and have 600,000 objects.
  """
  process.phase("importing TensorFlow")
  if "tensorflow" in sys.modules:  # else what the process has left would never be collected
    return
  gc.disable()
  process.AT_ONCE.set()
  try:
    with without_noise(), without_optional_packages():
      for room in ("data", "evaluation", "training"):
        importlib.import_module(f"flowpp_tf.{room}")
    gc.freeze()
  finally:
    process.AT_ONCE.clear()
    gc.enable()


@contextlib.contextmanager
def without_noise() -> Iterator[None]:
  """Leave out what TensorFlow's libraries say of the machine while they are loaded.

  Another process reads stderr, so that what a library says last is seen even if it ends this process.
  """
  if "tensorflow" in sys.modules or not shutil.which("grep"):
    yield
    return
  sys.stderr.flush()
  stderr = os.dup(2)
  command = ["grep", "--text", "--line-buffered", "--invert-match", "--extended-regexp", _NOISE]
  # In a session of its own: Ctrl-C is for the process that writes.
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
  """Let imports find no packages that Keras can do without; what imports them later finds them."""
  hidden = [name for name in _OPTIONAL if name not in sys.modules]
  sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: an import of it is an ImportError
  try:
    yield
  finally:
    for name in hidden:
      del sys.modules[name]
