"""The arrays of an HDF5 file from outside: plain ones, each once, in the file itself, claimed before they are read.

HDF5 can do much that weights do not need, and that a stranger can use: a link to a group of another name, of which each
level doubles the work, a link to another file, arrays that are put together from other files, filters, which unpack
and can be plugins, and values in a heap that many elements share. All of it is refused. Keras and this package write
groups and contiguous arrays of numbers.
"""

from typing import NamedTuple

import h5py

from flowpp_tf.io import budget

_KINDS = "biufV"  # of numbers; Keras stores those that NumPy does not know as plain bytes


class Array(NamedTuple):
  """An array of a file, which is not read yet, and its name."""

  name: str
  dataset: h5py.Dataset


def claimed_arrays(file: h5py.File, size: int) -> list[Array]:
  """Return the arrays of an open file in the order of their names.

  Args:
    file: the file; nothing is read but its structure.
    size: bytes of the file.

  Raises:
    ValueError: for what is no plain array or group, and for arrays that are larger than the file.
    BudgetError (an InputError): for more arrays than are read, or more memory than there may be.
  """
  arrays: list[Array] = []
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
        arrays.append(Array(item.name, item))
  total = sum(array.dataset.nbytes for array in arrays)
  if total > size:
    raise ValueError("its arrays are larger than the file")
  budget.claim("memory", total, "its arrays")
  return sorted(arrays, key=lambda array: array.name.split("/"))  # groups in the order of their names, too


def _check_plain(item):
  if not isinstance(item, h5py.Dataset):
    raise ValueError(f"{item.name!r} is no array")
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
