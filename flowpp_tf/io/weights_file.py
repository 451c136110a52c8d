"""Weights in a .safetensors file that knows its own checksum.

    metadata "flowpp_tf": {"sha256": of the names, types, shapes and values of all arrays, ...what else}

A .safetensors file has names, types, shapes and bytes, and nothing that a program could be hidden in: its header is
checked against the file's size before anything is made. The names are the paths of the weights below the model, such as
flow/flow_step_0/conditioner/input_conv/kernel. A file of another program, which has no checksum, is read only if
preset.json has its SHA-256, or because the caller says so. Keras' own .weights.h5 are for `load_weights` of the model.
"""

from collections.abc import Mapping
import hashlib
import json
from typing import Any, NamedTuple

import keras
import numpy as np
import safetensors
import safetensors.numpy

from flowpp_tf.core.errors import InputError
from flowpp_tf.io import budget, gate
from flowpp_tf.types import Path

WEIGHTS = "best.weights.safetensors"  # of runs and presets
_METADATA = "flowpp_tf"
_MOST_BYTES = 64 << 30
_NO_CHECKSUM = (
  "has no checksum, which it was written with, so that damage would not be found; --accept_unchecked, in Python "
  "`unchecked=True`, uses it all the same"
)


def weights_to_bytes(model: keras.Model, about: dict[str, Any] | None = None, dtype: str | None = None) -> bytes:
  """Return the content of a file of a model's weights; arguments as of `named_weights_to_bytes`."""
  return named_weights_to_bytes(weights_by_path(model), about, dtype)


def named_weights_to_bytes(
  weights: Mapping[str, keras.Variable], about: dict[str, Any] | None = None, dtype: str | None = None
) -> bytes:
  """Return the content of a weights file.

  Args:
    weights: by name.
    about: JSON-serializable values to keep with them.
    dtype: dtype of the arrays in the file, to which they are rounded; None for the weights' dtype.
  """
  arrays = {name: np.asarray(weight.numpy(), dtype, order="C") for name, weight in weights.items()}
  about = {"sha256": _checksum(arrays), **(about or {})}
  return safetensors.numpy.save(arrays, {_METADATA: json.dumps(about)})


class WeightsFile(NamedTuple):
  """The content of a weights file whose checksum is right.

  Attributes:
    sha256: SHA-256 of the file, as hexadecimal digits.
    about: what is kept with the weights.
    arrays: the weights by name.
  """

  sha256: str
  about: dict[str, Any]
  arrays: dict[str, np.ndarray]

  def load(self, model: keras.Model) -> None:
    """Set the weights of a model; raise an `InputError` if they are another architecture's, or not finite.

    The model is then unchanged.
    """
    self.assign(weights_by_path(model))
    if hasattr(model, "initialized"):
      model.initialized = True

  def assign(self, weights: Mapping[str, keras.Variable]) -> None:
    """Set weights by their names; errors as of `load`."""
    for name, array in self.arrays.items():
      if array.dtype.kind not in "biu" and not np.all(np.isfinite(array.astype(np.float64))):
        raise InputError(f"the weights must be finite, got NaN or infinity in {name}")
    expected = {name: tuple(weight.shape) for name, weight in weights.items()}
    found = {name: array.shape for name, array in self.arrays.items()}
    wrong = [
      f"{name} has shape {found.get(name, 'none')}, expected {expected.get(name, 'none')}"
      for name in sorted({*expected, *found})
      if found.get(name) != expected.get(name)
    ]
    if wrong:
      more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
      raise InputError(f"the weights do not fit the model: {'; '.join(wrong[:3])}{more}")
    for name, weight in weights.items():
      dtype = self.arrays[name].dtype
      if (dtype.kind in "biu") != keras.backend.is_int_dtype(weight.dtype):
        raise InputError(f"the weights must be of the model's kind, {weight.dtype}, got {dtype.name} in {name}")
    for name, weight in weights.items():
      weight.assign(self.arrays[name].astype(weight.dtype))


def read_weights(path: Path, sha256: str | None = None, unchecked: bool = False) -> WeightsFile:
  """Read a weights file.

  Args:
    path: the file.
    sha256: SHA-256 that the file must have, where another file says it; None if none does.
    unchecked: whether a file is read too that neither has a checksum nor a `sha256`.

  Raises:
    InputError (a ValueError): if it cannot be read, is damaged, or has no checksum.
  """
  with gate.reading(path):
    content = gate.read_bytes(path, _MOST_BYTES)
    found = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, found):
      raise ValueError(f"it is damaged: it has the SHA-256 {found[:12]}..., expected {sha256[:12]}...")
    arrays, about = _from_bytes(content)
    if about is not None and (not isinstance(about, dict) or about.pop("sha256", None) != _checksum(arrays)):
      raise ValueError("it is damaged: its arrays do not have the checksum that they were written with")
  if about is None and sha256 is None and not unchecked:
    raise InputError(f"{str(path)!r} {_NO_CHECKSUM}")
  return WeightsFile(found, about or {}, arrays)


def _from_bytes(content: bytes) -> tuple[dict[str, np.ndarray], Any]:
  """Return the arrays of a file, and what is kept with them; None if it has nothing of this package.

  Raises:
    ValueError: for another file; the message says why.
    BudgetError (an InputError): for a header, or arrays, of more than the budget.
  """
  length = int.from_bytes(content[:8], "little")
  if not 0 < length <= len(content) - 8:
    raise ValueError("it is not a safetensors file, or is cut off")
  header = gate.parse_json(content[8 : 8 + length].decode())
  if not isinstance(header, dict):
    raise ValueError("its header is not a table")
  budget.claim("items", len(header), "its header")
  budget.claim("memory", len(content), "its arrays")  # its library checks that they fill the file
  try:
    arrays = safetensors.numpy.load(content)
  except (safetensors.SafetensorError, KeyError, TypeError) as error:
    raise ValueError(f"it is not a safetensors file: {error}") from None
  about = (header.get("__metadata__") or {}).get(_METADATA)
  return arrays, None if about is None else gate.parse_json(about)


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
  digest = hashlib.sha256()
  for name, array in sorted(arrays.items()):
    digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
    digest.update(array.tobytes())
  return digest.hexdigest()


def weights_by_path(model: keras.Model) -> dict[str, keras.Variable]:
  """Return the weights of a model by their paths below it, whose name may be any."""
  weights = {weight.path.removeprefix(f"{model.name}/"): weight for weight in model.weights}
  if len(weights) < len(model.weights):
    raise InputError("two weights of the model have the same path; layers in one layer must differ in their names")
  return weights
