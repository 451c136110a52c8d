"""Weights in a file that knows its own checksum: Keras' .weights.h5 with one more attribute, or .safetensors.

    attribute, or metadata, "flowpp_tf": {"sha256": of the names, types, shapes and values of all arrays, ...what else}

Keras reads such a .weights.h5 as any other. A file without the attribute, as Keras writes it, is read only if
it is known otherwise: by the SHA-256 of a checkpoint's manifest or of a preset.json, or because the caller says so.
Files are made and read in memory: HDF5 can crash the process when a disk is full.

HDF5 can do much that weights do not need, and that a stranger can use: a link to a group of another name, of which each
level doubles the work, a link to another file, arrays that are put together from other files, filters, which unpack
and can be plugins, and values in a heap that many elements share. All of it is refused. Keras and this package write
groups and contiguous arrays of numbers.

A .safetensors file has names, types, shapes and bytes, and nothing that a program could be hidden in. It is the format
to send to strangers: its header is checked against the file's size before anything is made. The names are the paths of
the weights below the model, such as flow/flow_step_0/conditioner/input_conv/kernel.
"""

from collections.abc import Iterable
import hashlib
import io
import json
import pathlib
from typing import Any, BinaryIO, NamedTuple

import h5py
import keras
import numpy as np
import safetensors
import safetensors.numpy

from flowpp_tf.core.errors import InputError
from flowpp_tf.io import budget, gate
from flowpp_tf.types import Path

_ATTRIBUTE = "flowpp_tf"
_MOST_BYTES = 64 << 30
_HDF5 = b"\x89HDF\r\n\x1a\n"
_SAFETENSORS = ".safetensors"
_KINDS = "biufV"  # of numbers; Keras stores those that NumPy does not know as plain bytes
_NO_CHECKSUM = (
  "has no checksum, which it was written with, so that damage would not be found; --accept_unchecked, in Python "
  "`unchecked=True`, uses it all the same"
)


class _InMemory(io.BytesIO):
  """A file for `save_weights` and `load_weights`, which look at the end of its name."""

  def __str__(self):
    return "memory.weights.h5"


def weights_to_bytes(
  model: keras.Model, about: dict[str, Any] | None = None, dtype: str | None = None, suffix: str = ".h5"
) -> bytes:
  """Return the content of a weights file.

  Args:
    model: whose weights.
    about: JSON-serializable values to keep with them.
    dtype: dtype of the arrays in the file, to which they are rounded; None for that of the weights.
    suffix: ".h5" or ".safetensors".
  """
  if suffix == _SAFETENSORS:
    arrays = _arrays_of(model, dtype)
    about = {"sha256": _checksum(sorted(arrays.items())), **(about or {})}
    return safetensors.numpy.save(arrays, {_ATTRIBUTE: json.dumps(about)})
  file = _InMemory()
  model.save_weights(file)
  if dtype is not None:
    file = _with_dtype(file, dtype)
  with h5py.File(file, "r+") as content:
    checksum = _checksum(_read(_claimed_arrays(content, len(file.getbuffer()))))
    content.attrs[_ATTRIBUTE] = json.dumps({"sha256": checksum, **(about or {})})
  return file.getvalue()


class WeightsFile(NamedTuple):
  """The content of a weights file whose checksum is right.

  Attributes:
    name: of the file.
    content: its bytes.
    about: what is kept with the weights.
    checked: whether it has a checksum of its own.
    arrays: those of a .safetensors file, by name.
  """

  name: str
  content: bytes
  about: dict[str, Any]
  checked: bool
  arrays: dict[str, np.ndarray] | None = None

  @property
  def sha256(self) -> str:
    """SHA-256 of the file, as hexadecimal digits."""
    return hashlib.sha256(self.content).hexdigest()

  def load(self, model: keras.Model) -> None:
    """Set the weights of a model; Keras raises many exceptions for those of another architecture."""
    if self.arrays is None:
      model.load_weights(_InMemory(self.content))
    else:
      _set_weights(model, self.arrays)


def read_weights(path: Path, sha256: str | None = None, unchecked: bool = False) -> WeightsFile:
  """Read a weights file.

  Args:
    path: the file, HDF5 or safetensors by its content.
    sha256: SHA-256 that the file must have, where another file says it; None if none does.
    unchecked: whether a file is read too that neither has a checksum nor a `sha256`.

  Raises:
    InputError (a ValueError): if it cannot be read, is damaged, or has no checksum.
  """
  with gate.reading(path):
    content = gate.read_bytes(path, _MOST_BYTES)
    if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
      raise ValueError(f"it is damaged: it has the SHA-256 {found[:12]}..., expected {sha256[:12]}...")
    weights = _checked(pathlib.Path(path).name, content)
  if not (weights.checked or unchecked) and sha256 is None:
    raise InputError(f"{str(path)!r} {_NO_CHECKSUM}")
  return weights


def _checked(name, content):
  if content.startswith(_HDF5):
    with h5py.File(io.BytesIO(content)) as file:
      listed, about = _claimed_arrays(file, len(content)), file.attrs.get(_ATTRIBUTE)
      about = None if about is None else _verified(gate.parse_json(about), _read(listed))
    return WeightsFile(name, content, about or {}, about is not None)
  if pathlib.Path(name).suffix != _SAFETENSORS:
    raise ValueError("it is not an HDF5 file")
  arrays, about = _from_bytes(content)
  about = None if about is None else _verified(about, sorted(arrays.items()))
  return WeightsFile(name, content, about or {}, about is not None, arrays)


def _verified(about, arrays):
  """What is kept with arrays, once they have their checksum."""
  if not isinstance(about, dict) or about.pop("sha256", None) != _checksum(arrays):
    raise ValueError("it is damaged: its arrays do not have the checksum that they were written with")
  return about


def _read(arrays):
  return ((array.name, array[()]) for array in arrays)


def _checksum(arrays: Iterable[tuple[str, np.ndarray]]) -> str:
  digest = hashlib.sha256()
  for name, array in arrays:
    digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()


def in_memory(path: Path) -> BinaryIO:
  """Return a .weights.h5 file, which Keras may have written, as a file in memory that Keras reads.

  Raises:
    InputError (a ValueError): if it cannot be read, or is damaged as far as it can be known.
  """
  return _InMemory(read_weights(path, unchecked=True).content)


def _with_dtype(file, dtype):
  rounded = _InMemory()
  with h5py.File(file) as old, h5py.File(rounded, "w", libver="latest") as new:

    def copy(name, item):
      if isinstance(item, h5py.Dataset):
        new.create_dataset(name, data=item[()].astype(dtype))
      else:
        new.require_group(name).attrs.update(item.attrs)

    new.attrs.update(old.attrs)
    old.visititems(copy)
  return rounded


# --- HDF5 ------------------------------------------------------------------------------------------


def _claimed_arrays(file: h5py.File, size: int) -> list[h5py.Dataset]:
  """Return the arrays of an open file, which are not read yet, in the order of their names.

  Args:
    file: the file; nothing is read but its structure.
    size: bytes of the file.

  Raises:
    ValueError: for what is no plain array or group, and for arrays that are larger than the file.
    BudgetError (an InputError): for more arrays than are read, or more memory than there may be.
  """
  # Not by h5py's visitors, whose work is quadratic in the depth of groups.
  arrays: list[h5py.Dataset] = []
  seen, groups, items = {_address(file)}, [file["/"]], 0
  while groups:
    group = groups.pop()
    items += len(group)
    budget.claim("items", items, "its HDF5 groups")
    for name in group:
      if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError("it has links")
      item = group[name]
      address = _address(item)
      if address in seen:
        raise ValueError(f"it has two names for the same object, {item.name!r} is one of them")
      seen.add(address)
      if isinstance(item, h5py.Group):
        groups.append(item)
      else:
        _check_plain(item)
        arrays.append(item)
  total = sum(array.nbytes for array in arrays)
  if total > size:
    raise ValueError("its arrays are larger than the file")
  budget.claim("memory", total, "its arrays")
  return sorted(arrays, key=lambda array: array.name.split("/"))  # groups in the order of their names, too


def _check_plain(item):
  if not isinstance(item, h5py.Dataset):
    raise ValueError(f"{item.name!r} is not an array")
  if item.external or item.is_virtual:
    raise ValueError("its arrays are in other files")
  if item.chunks is not None or item.id.get_create_plist().get_nfilters():
    raise ValueError(f"the array {item.name!r} is stored in chunks or by filters, as by compression")
  if item.dtype.hasobject or item.dtype.kind not in _KINDS:
    raise ValueError(f"the array {item.name!r} must hold numbers, got {item.dtype}")


def _address(item):
  """What is the same for two names of an object."""
  info = h5py.h5o.get_info(item.id)
  return info.fileno, info.addr


# --- safetensors ----------------------------------------------------------------------------------


def _arrays_of(model: keras.Model, dtype: str | None = None) -> dict[str, np.ndarray]:
  """Return the weights of a model by their paths below it, rounded to `dtype` unless that is None."""
  return {_path(model, weight): np.ascontiguousarray(weight.numpy(), dtype) for weight in model.weights}


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
  about = (header.get("__metadata__") or {}).get(_ATTRIBUTE)
  return arrays, None if about is None else gate.parse_json(about)


def _set_weights(model: keras.Model, arrays: dict[str, np.ndarray]) -> None:
  """Set the weights of a model; raise an `InputError` if they are another architecture's, or not finite.

  The model is then unchanged.
  """
  _check_finite(arrays)
  weights = {_path(model, weight): weight for weight in model.weights}
  expected = {name: tuple(weight.shape) for name, weight in weights.items()}
  found = {name: array.shape for name, array in arrays.items()}
  wrong = [
    f"{name} has shape {found.get(name, 'none')}, expected {expected.get(name, 'none')}"
    for name in sorted({*expected, *found})
    if found.get(name) != expected.get(name)
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
