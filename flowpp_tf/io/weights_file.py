"""Weights in a file that knows its own checksum: Keras' .weights.h5 with one more attribute, or .safetensors.

    attribute, or metadata, "flowpp_tf": {"sha256": of the names, types, shapes and values of all arrays, ...what else}

Keras reads such a .weights.h5 as any other. A file without the attribute, as Keras writes it, is read only if
it is known otherwise: by the SHA-256 of a checkpoint's manifest or of a preset.json, or because the caller says so.
Files are made and read in memory: HDF5 can crash the process when a disk is full.
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

from flowpp_tf.core.errors import InputError
from flowpp_tf.io import gate, hdf5, safetensors_file
from flowpp_tf.types import Path

_ATTRIBUTE = "flowpp_tf"
_MOST_BYTES = 64 << 30
_HDF5 = b"\x89HDF\r\n\x1a\n"
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
  if suffix == safetensors_file.SUFFIX:
    arrays = safetensors_file.arrays_of(model, dtype)
    return safetensors_file.to_bytes(arrays, {"sha256": _checksum(sorted(arrays.items())), **(about or {})})
  file = _InMemory()
  model.save_weights(file)
  if dtype is not None:
    file = _with_dtype(file, dtype)
  with h5py.File(file, "r+") as content:
    checksum = _checksum(_read(hdf5.claimed_arrays(content, len(file.getbuffer()))))
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
      safetensors_file.set_weights(model, self.arrays)


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
      listed, about = hdf5.claimed_arrays(file, len(content)), file.attrs.get(_ATTRIBUTE)
      about = None if about is None else _verified(gate.parse_json(about), _read(listed))
    return WeightsFile(name, content, about or {}, about is not None)
  if pathlib.Path(name).suffix != safetensors_file.SUFFIX:
    raise ValueError("it is no HDF5 file")
  arrays, about = safetensors_file.from_bytes(content)
  about = None if about is None else _verified(about, sorted(arrays.items()))
  return WeightsFile(name, content, about or {}, about is not None, arrays)


def _verified(about, arrays):
  """What is kept with arrays, once they have their checksum."""
  if not isinstance(about, dict) or about.pop("sha256", None) != _checksum(arrays):
    raise ValueError("it is damaged: its arrays do not have the checksum that they were written with")
  return about


def _read(arrays):
  return ((array.name, array.dataset[()]) for array in arrays)


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
