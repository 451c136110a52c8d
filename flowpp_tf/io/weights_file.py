"""Weights in a file that knows its own checksum: Keras' .weights.h5 with one more attribute.

    attribute "flowpp_tf": {"sha256": of the names, types, shapes and values of all arrays, ...what else is known}

Keras reads such a file as any other. A file without the attribute, as Keras and earlier versions write it, is read
without the check. Files are made and read in memory: HDF5 can crash the process when a disk is full.
"""

from collections.abc import Iterator
import hashlib
import io
import json
from typing import Any, NamedTuple

import h5py
import keras
import numpy as np

from flowpp_tf.io import gate
from flowpp_tf.types import Path

_ATTRIBUTE = "flowpp_tf"
_MOST_BYTES = 64 << 30


class _InMemory(io.BytesIO):
  """A file for `save_weights` and `load_weights`, which look at the end of its name."""

  def __str__(self):
    return "memory.weights.h5"


def weights_to_bytes(model: keras.Model, about: dict[str, Any] | None = None, dtype: str | None = None) -> bytes:
  """Return the content of a weights file.

  Args:
    model: whose weights.
    about: JSON-serializable values to keep with them.
    dtype: dtype of the arrays in the file, to which they are rounded; None for that of the weights.
  """
  file = _InMemory()
  model.save_weights(file)
  if dtype is not None:
    file = _with_dtype(file, dtype)
  with h5py.File(file, "r+") as content:
    content.attrs[_ATTRIBUTE] = json.dumps({"sha256": _checksum(content), **(about or {})})
  return file.getvalue()


class WeightsFile(NamedTuple):
  """The content of a weights file whose checksum is right.

  Attributes:
    content: its bytes.
    about: what is kept with the weights; `{}` for a file without a checksum.
  """

  content: bytes
  about: dict[str, Any]

  @property
  def sha256(self) -> str:
    """SHA-256 of the file, as hexadecimal digits."""
    return hashlib.sha256(self.content).hexdigest()

  def load(self, model: keras.Model) -> None:
    """Set the weights of a model; Keras raises many exceptions for those of another architecture."""
    model.load_weights(_InMemory(self.content))


def read_weights(path: Path) -> WeightsFile:
  """Read a weights file; raise an `InputError` (a ValueError) if it cannot be read or is damaged."""
  with gate.reading(path):
    content = gate.read_bytes(path, _MOST_BYTES)
    return WeightsFile(content, _checked(content))


def load_weights(model: keras.Model, path: Path) -> None:
  """Set the weights of a model from a file.

  Raises:
    InputError (a ValueError): if the file is damaged, when the model is unchanged, or of another architecture.
  """
  weights = read_weights(path)
  with gate.reading(path):
    weights.load(model)


def _checked(content):
  with h5py.File(io.BytesIO(content)) as file:
    arrays = dict(_arrays(file))
    if sum(array.nbytes for array in arrays.values()) > len(content):  # never compressed: else it claims too much
      raise ValueError("its arrays are larger than the file")
    about = file.attrs.get(_ATTRIBUTE)
    if about is None:
      return {}
    about = gate.parse_json(about)
    if about.pop("sha256") != _checksum(file):
      raise ValueError("it is damaged: its arrays do not have the checksum that they were written with")
    return about


def _checksum(file):
  digest = hashlib.sha256()
  for name, array in _arrays(file):
    digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
    digest.update(np.ascontiguousarray(array[()]).tobytes())
  return digest.hexdigest()


def _arrays(group: h5py.Group) -> Iterator[tuple[str, h5py.Dataset]]:
  """Yield the arrays of a file by name, in order; raise a `ValueError` for links, which may lead to other files."""
  for name in sorted(group):
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
      raise ValueError("it has links")
    item = group[name]
    if isinstance(item, h5py.Dataset):
      if item.external or item.is_virtual:
        raise ValueError("its arrays are in other files")
      yield item.name, item
    else:
      yield from _arrays(item)


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
