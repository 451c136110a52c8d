"""Packages that only an extra of the package installs: imported where they are used, named in one line if missing.

    datasets = import_extra("sklearn.datasets", "the data set 'digits'")

pyproject.toml has the extras. No module of the package imports one of these at its top, so that what needs none of
them runs without them.
"""

import importlib
import importlib.util
from typing import Any

from flowpp_tf.core.errors import InputError

# By the name that is imported: the name on the package index, and the extra that installs it.
EXTRAS = {
  "sklearn": ("scikit-learn", "data"),
  "skimage": ("scikit-image", "data"),
  "tensorflow_datasets": ("tensorflow-datasets", "data"),
  "elpv_dataset": ("elpv-dataset", "elpv"),
  "tensorboard": ("tensorboard", "train"),
  "matplotlib": ("matplotlib", "plots"),
  "constriction": ("constriction", "compression"),
  "imagecodecs": ("imagecodecs", "codecs"),
  "tifffile": ("tifffile", "science"),
  "astropy": ("astropy", "science"),
  "galsim": ("galsim", "sky"),
  "gradio": ("gradio", "demo"),
  "onnx": ("onnx", "onnx"),
  "openvino": ("openvino", "openvino"),
  "huggingface_hub": ("huggingface_hub", "hub"),
  "kagglehub": ("kagglehub", "hub"),
}


def check_extra(package: str, what: str) -> None:
  """Raise an `InputError` (a ValueError) if a package of an extra is not installed; nothing is imported.

  Args:
    package: its name in Python, one of `EXTRAS`.
    what: what needs it, the subject of the message: "the data set 'digits'".
  """
  if importlib.util.find_spec(package) is None:
    raise _missing(package, what)


def import_extra(module: str, what: str) -> Any:
  """Return a module of a package that an extra installs.

  Args:
    module: its name, such as "sklearn.datasets".
    what: what needs it, the subject of the message.

  Raises:
    InputError (a ValueError): if the package is not installed.
  """
  try:
    return importlib.import_module(module)
  except ModuleNotFoundError as error:
    package = module.partition(".")[0]
    if error.name is not None and error.name.partition(".")[0] != package:  # it is installed, but broken
      raise
    raise _missing(package, what) from None


def _missing(package, what):
  name, extra = EXTRAS[package]
  return InputError(f"{what} needs {name}, which is not installed: pip install 'flowpp_tf[{extra}]'")
