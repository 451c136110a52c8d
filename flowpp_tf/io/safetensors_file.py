"""Weights as .safetensors: names, types, shapes and bytes, and nothing that a program could be hidden in.

The names are the paths of the weights below the model, such as flow/flow_step_0/conditioner/input_conv/kernel. Its
metadata has the entry "flowpp_tf", which is that of weights_file.py. The format to send to strangers: its header is
checked against the file's size before anything is made.
"""

import json
from typing import Any

import keras
import numpy as np
import safetensors
import safetensors.numpy

from flowpp_tf.core.errors import InputError
from flowpp_tf.io import budget, gate

SUFFIX = ".safetensors"
_METADATA = "__metadata__"


def arrays_of(model: keras.Model, dtype: str | None = None) -> dict[str, np.ndarray]:
  """Return the weights of a model by their paths below it, rounded to `dtype` unless that is None.

  Raises:
    InputError (a ValueError): for weights that are not finite.
  """
  arrays = {_path(model, weight): np.asarray(weight.numpy()) for weight in model.weights}
  if dtype is not None:
    arrays = {name: array.astype(dtype) for name, array in arrays.items()}
  _check_finite(arrays)
  return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def to_bytes(arrays: dict[str, np.ndarray], about: dict[str, Any]) -> bytes:
  """Return the content of a file of arrays, with what is kept with them."""
  return safetensors.numpy.save(arrays, {"flowpp_tf": json.dumps(about)})


def from_bytes(content: bytes) -> tuple[dict[str, np.ndarray], Any]:
  """Return the arrays of a file, and what is kept with them; None if it has nothing of this package.

  Raises:
    ValueError: for another file; the message says why.
    BudgetError (an InputError): for a header, or arrays, of more than the budget.
  """
  length = int.from_bytes(content[:8], "little")
  if not 0 < length <= len(content) - 8:
    raise ValueError("it is no safetensors file, or is cut off")
  header = gate.parse_json(content[8 : 8 + length].decode())
  if not isinstance(header, dict):
    raise ValueError("its header is no table")
  budget.claim("items", len(header), "its header")
  budget.claim("memory", len(content), "its arrays")  # its library checks that they fill the file
  try:
    arrays = safetensors.numpy.load(content)
  except (safetensors.SafetensorError, KeyError, TypeError) as error:
    raise ValueError(f"it is no safetensors file: {error}") from None
  about = (header.get(_METADATA) or {}).get("flowpp_tf")
  return arrays, None if about is None else gate.parse_json(about)


def set_weights(model: keras.Model, arrays: dict[str, np.ndarray]) -> None:
  """Set the weights of a model; raise an `InputError` if they are another architecture's, or not finite.

  The model is then unchanged.
  """
  _check_finite(arrays)
  weights = {_path(model, weight): weight for weight in model.weights}
  wrong = [f"missing {name}" for name in weights if name not in arrays]
  wrong += [f"unexpected {name}" for name in arrays if name not in weights]
  wrong += [
    f"{name} has shape {arrays[name].shape}, expected {tuple(weight.shape)}"
    for name, weight in weights.items()
    if name in arrays and arrays[name].shape != tuple(weight.shape)
  ]
  if wrong:
    more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    raise InputError(f"the weights do not fit the model: {'; '.join(wrong[:3])}{more}")
  for name, weight in weights.items():
    weight.assign(arrays[name].astype(weight.dtype))
  if hasattr(model, "initialized"):
    model.initialized = True


def _check_finite(arrays):
  for name, array in arrays.items():
    if array.dtype.kind not in "biu" and not np.all(np.isfinite(array.astype(np.float64))):
      raise InputError(f"the weights must be finite, got NaN or infinity in {name}")


def _path(model, weight):
  """The path of a weight below the model, whose name may be any."""
  return weight.path.removeprefix(f"{model.name}/")
