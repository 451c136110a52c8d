"""Tables of what is chosen by a name: flags and configs know the names without importing TensorFlow.

A coupling, or a data set, is a file of its own and one line here: the path of the object, for `pkgutil.resolve_name`,
which imports its module when the object is used. `fpp.register_coupling` and `fpp.register_dataset` add objects from
outside of the package to the same tables.
"""

from collections.abc import Iterable
import pkgutil
import re
from typing import Any

from flowpp_tf.core.errors import InputError, unknown_name

SPLITS = ("train", "validation", "test")
WEIGHT_DTYPES = ("float32", "float16", "int8")  # of exported graphs
STRATEGIES = ("auto", "one", "mirrored", "multiworker", "tpu")
JIT = ("off", "blocks")  # what XLA compiles, see tracing.py
ANIMATIONS = {".gif": "GIF", ".apng": "PNG", ".png": "PNG"}  # format by a file's ending

# For --coupling, a `CouplingKind` each.
COUPLINGS: dict[str, Any] = {
  "mixture_logistic": "flowpp_tf.bijectors.mixture_logistic_cdf:MIXTURE_LOGISTIC",
  "affine": "flowpp_tf.bijectors.elementwise:AFFINE",
  "rational_quadratic": "flowpp_tf.bijectors.rational_quadratic:RATIONAL_QUADRATIC",
}

# For --dataset, a function each, which returns an `ImageDataset`; its parameters are those options of
# `data.load_dataset` that it has.
DATASETS: dict[str, Any] = {
  "digits": "flowpp_tf.data.bundled:digits",
  "photos": "flowpp_tf.data.bundled:photos",
  "sky16": "flowpp_tf.data.sky:sky16",
  "random_field": "flowpp_tf.data.gaussian_fields:random_field",
  "elpv": "flowpp_tf.data.bundled:elpv",
  "cifar10": "flowpp_tf.data.tfds:load_set",
  "cifar100": "flowpp_tf.data.tfds:load_set",
  "svhn": "flowpp_tf.data.tfds:load_set",
  "mnist": "flowpp_tf.data.tfds:load_set",
  "fashion_mnist": "flowpp_tf.data.tfds:load_set",
  "imagenet32_old": "flowpp_tf.data.tfds:load_set",
  "imagenet64_old": "flowpp_tf.data.tfds:load_set",
  "imagenet32_new": "flowpp_tf.data.tfds:load_set",
  "imagenet64_new": "flowpp_tf.data.tfds:load_set",
  "celeb_a": "flowpp_tf.data.tfds:load_set",
  "celeb_a_hq": "flowpp_tf.data.tfds:load_set",
  "folder:PATH": "flowpp_tf.data.folder:load_folder",
  "npz:PATH": "flowpp_tf.data.arrays:load_npz",
  "tfds:NAME": "flowpp_tf.data.tfds:load_set",
}

# Functions that make flows, from arguments that a file of a flow holds.
FLOWS: dict[str, Any] = {
  "vector_flow": "flowpp_tf.models.vectors:vector_flow",
  "image_flow": "flowpp_tf.models.images:image_flow",
  "ensemble": "flowpp_tf.posterior.conditional:ensemble",
}
FLOW_FROM_CONFIG = "flowpp_tf.posterior.stored_flow:from_config"  # which Keras files of a flow need


def dataset_entry(name: str) -> str:
  """Return the name in `DATASETS` that stands for the name of a data set: `folder:PATH` for `folder:cats`.

  Raises:
    InputError (a ValueError): for an unknown name, with the known names that are close to it.
  """
  kind, colon, rest = name.partition(":")
  for entry in DATASETS:
    if entry == name or colon and entry.startswith(f"{kind}:"):
      if colon and not rest:
        raise InputError(f"data set {name!r} must have the form {entry}")
      return entry
  raise unregistered("dataset", name, DATASETS)


def register(kind: str, table: dict[str, Any], name: str, value: Any) -> None:
  """Add an object from outside of the package to a table of names.

  Raises:
    InputError (a ValueError): if the name exists already, or a flag cannot give it.
  """
  if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]{,99}", name):
    raise InputError(f"`name` must be letters, digits, '_', '-' and '.', at most 100, got {str(name)[:100]!r}")
  if name in table:
    raise InputError(f"`name` must be new: the {kind} {name!r} exists already")
  table[name] = value


def registered(table: dict[str, Any], name: str) -> Any:
  """Return the object that a table has for a name."""
  entry = table[name]
  if isinstance(entry, str):
    return pkgutil.resolve_name(entry)
  return entry


def unregistered(kind: str, name: str, known: Iterable[str]) -> InputError:
  """Return the error for a name that nothing has registered, with the known names that are close to it."""
  return InputError(f"{unknown_name(kind, name, known)} (--import=MODULE registers others)")
