"""What this installation and this machine have: packages of extras, cores, accelerators, the backend of Keras.

    datasets = import_extra("sklearn.datasets", "data", "the data set 'digits'")

A package that only an extra installs is imported where it is used, and named in one line if it is missing.
pyproject.toml has the extras. No module of the package imports one of these at its top, so that what needs none of
them runs without them.
"""

import importlib
import importlib.util
import os
from typing import Any

from flowpp_tf.core.errors import InputError


def check_extra(package: str, extra: str, what: str) -> None:
  """Raise an `InputError` (a ValueError) if a package of an extra is not installed; nothing is imported.

  Args:
    package: its name in Python.
    extra: the extra of flowpp_tf that installs it.
    what: what needs it, the subject of the message: "the data set 'digits'".
  """
  if importlib.util.find_spec(package) is None:
    raise InputError(f"{what} needs {package}, which is not installed: pip install 'flowpp_tf[{extra}]'")


def import_extra(module: str, extra: str, what: str) -> Any:
  """Return a module of a package that an extra installs.

  Args:
    module: its name, such as "sklearn.datasets".
    extra: the extra of flowpp_tf that installs it.
    what: what needs it, the subject of the message.

  Raises:
    InputError (a ValueError): if the package is not installed.
  """
  try:
    return importlib.import_module(module)
  except ModuleNotFoundError:
    check_extra(module.partition(".")[0], extra, what)
    raise  # it is installed, but broken


def usable_cores() -> list[int]:
  """Return the numbers of the cores that this process may use: not all under `taskset`, in containers, on clusters."""
  if hasattr(os, "sched_getaffinity"):
    return sorted(os.sched_getaffinity(0))
  return [*range(os.cpu_count() or 1)]  # macOS and Windows


def has_accelerator() -> bool:
  """Return whether TensorFlow sees a GPU or a TPU."""
  import tensorflow as tf

  return any(tf.config.list_physical_devices(kind) for kind in ("GPU", "TPU"))


def check_backend() -> None:
  """Raise an ImportError unless Keras runs on TensorFlow: on another backend couplings would have no weights."""
  import keras

  if keras.backend.backend() != "tensorflow":
    raise ImportError(
      f"flowpp_tf needs Keras on TensorFlow, got the backend {keras.backend.backend()!r}; set the "
      "environment variable KERAS_BACKEND=tensorflow before Keras is imported"
    )
