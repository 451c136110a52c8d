"""Imports of a program in two thirds of their time."""

from collections.abc import Iterator
import contextlib
import gc
import sys

# Of Keras' wrappers for scikit-learn, pictures of data sets, data frames, sparse arrays and transformed images, none of
# which a program uses. Keras and TensorFlow import them only since they are installed.
_OPTIONAL = ("sklearn", "matplotlib", "pandas", "scipy")


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


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
  """Let the collector look for garbage neither while TensorFlow is imported, nor in what was imported later.

  The modules stay to the end of the process, and have 600,000 objects.
  """
  if not gc.isenabled() or "tensorflow" in sys.modules:  # else what the process has left would never be collected
    yield
    return
  gc.disable()
  try:
    yield
    gc.freeze()
  finally:
    gc.enable()
