"""CIFAR-10 and CIFAR-100 as their author publishes them: archives, whole or unpacked, and what Keras leaves of them.

    cifar-10-binary.tar.gz     or cifar-10-batches-bin, its content: records of a label and 3 x 32 x 32 pixels
    cifar-10-python.tar.gz     or cifar-10-batches-py, its content: pickles of a `dict` with `data` and `labels`

The binary form is read if both exist. Images are in the order of TensorFlow Datasets, which sorts those of a split by
a hash of their index: splits and fingerprints are the same from each source.

A pickle can call any function. Nothing that these name is called: each object of NumPy becomes a record of its
arguments and its state, from which the array is read.
"""

from collections.abc import Callable
import dataclasses
import functools
import gzip
import hashlib
import io
import itertools
import pathlib
import pickle
import pickletools
import tarfile

import numpy as np

from flowpp_tf.core.errors import InputError
from flowpp_tf.io import budget
from flowpp_tf.io.gate import open_regular, read_bytes, reading
from flowpp_tf.types import Path

_SHAPE = 3, 32, 32
_PIXELS = 3 * 32 * 32
_MOST = 256 << 20  # bytes of an archive's content; those that are published have 185 MB
_MOST_MEMBERS = 1000  # of an archive; those that are published have 9
_OPCODES = set(
  "PROTO MARK STOP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 STRING BINSTRING SHORT_BINSTRING EMPTY_TUPLE TUPLE "
  "TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS GLOBAL REDUCE BUILD GET BINGET "
  "LONG_BINGET PUT BINPUT LONG_BINPUT".split()
)


class _Recorded:
  """An object of a pickle, as the arguments that it is made from and the state that it gets."""

  __slots__ = ("arguments", "state")

  def __init__(self, *arguments):
    self.arguments, self.state = arguments, None

  def __setstate__(self, state):
    self.state = state


_STAND_INS = {"numpy.core.multiarray _reconstruct": _Recorded, "numpy dtype": _Recorded, "numpy ndarray": None}


@dataclasses.dataclass(frozen=True)
class _Form:
  """A published form: its archive, the folder in it, the files of each split, and how to read one."""

  archive: str
  folder: str
  splits: dict[str, tuple[str, ...]]
  read: Callable[[bytes], tuple[np.ndarray, np.ndarray]]  # pixels [N, 3072] and labels [N], uint8


def find_cifar(name: str, data_dir: Path) -> dict[str, pathlib.Path] | None:
  """Return the archive or the folder of `train` and `test`, or None if there is none.

  Args:
    name: "cifar10" or "cifar100".
    data_dir: the archive or the folder itself, what holds it, or Keras' folder of data sets.
  """
  given = pathlib.Path(data_dir).expanduser()
  for form in FORMS[name]:
    folders = given / form.folder, given / f"{form.folder}-target" / form.folder, given
    found = [folder for folder in folders if any((folder / file).is_file() for file in _files(form))]
    found += [path for path in (given / form.archive, given) if path.name == form.archive and path.is_file()]
    if found:
      return {split: found[0] for split in form.splits}
  return None


def read_cifar(name: str, path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Read a result of `find_cifar`.

  Returns:
    Images `[N, 32, 32, 3]` and labels `[N]` by split, uint8.

  Raises:
    InputError (a ValueError): naming the file and what is wrong with it.
  """
  path = pathlib.Path(path)
  form = next(
    form
    for form in FORMS[name]
    if path.name == form.archive or path.is_dir() and any((path / file).is_file() for file in _files(form))
  )
  content = _unpacked(form, path) if path.is_file() else lambda file: read_bytes(path / file, _MOST)
  images, labels = {}, {}
  for split, files in form.splits.items():
    batches = []
    for file in files:
      with reading(path / file, f"expected a file of {form.archive}"):
        batches.append(form.read(content(file)))
    pixels, of_split = map(np.concatenate, zip(*batches))
    order = sorted(range(len(pixels)), key=functools.partial(_hash, split))
    images[split] = pixels.reshape(-1, *_SHAPE).transpose(0, 2, 3, 1)[order]
    labels[split] = of_split[order]
  return images, labels


def _files(form):
  return itertools.chain(*form.splits.values())


def _hash(split, index):
  """The key by which TensorFlow Datasets sorts the examples of a split."""
  return hashlib.md5(f"{split}{index}".encode(), usedforsecurity=False).digest()


def _unpacked(form, path):
  """A function that returns the content of a file of an archive."""
  with reading(path):
    with open_regular(path) as packed, gzip.open(packed) as file:
      content = file.read(_MOST + 1)
    if len(content) > _MOST:
      raise InputError(f"{str(path)!r} would unpack to more than {budget.size_text(_MOST)}")
    budget.claim("memory", 2 * len(content), repr(str(path)))
    wanted, found = {*_files(form)}, {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
      for member in itertools.islice(archive, _MOST_MEMBERS):
        file_name = member.name.rpartition("/")[2]
        if file_name in wanted and member.isfile() and not member.issparse():
          found[file_name] = content[member.offset_data : member.offset_data + member.size]
    if missing := wanted - {*found}:
      raise InputError(f"{str(path)!r} has no {' and no '.join(sorted(missing))}")
  return found.pop


def _records(labels: int, content: bytes) -> tuple[np.ndarray, np.ndarray]:
  """Return the pixels and the last of so many labels of each record."""
  size = labels + _PIXELS
  if not content or len(content) % size:
    raise ValueError(f"it has {len(content):,} bytes, which are not records of {size:,}")
  records = np.frombuffer(content, np.uint8).reshape(-1, size)
  return records[:, labels:], records[:, labels - 1]


def _batch(key: bytes, content: bytes) -> tuple[np.ndarray, np.ndarray]:
  """Return the pixels of a pickled batch, and the labels that it has under a key."""
  batch = _unpickled(content)
  data, labels = (batch.get(b"data"), batch.get(key)) if isinstance(batch, dict) else (None, None)
  match getattr(data, "state", None):
    case (_, (int(count), 3072), _Recorded(arguments=(b"u1", *_)), False, bytes(pixels)) if (
      0 < count * _PIXELS == len(pixels)
    ):
      pass
    case _:
      raise ValueError(f"its `data` is not an array of uint8 [N, {_PIXELS}]")
  if not (isinstance(labels, list) and len(labels) == count and all(type(n) is int and 0 <= n < 256 for n in labels)):
    raise ValueError(f"its `{key.decode()}` is not a list of {count:,} labels")
  return np.frombuffer(pixels, np.uint8).reshape(count, _PIXELS), np.array(labels, np.uint8)


def _unpickled(content):
  """The content of a pickle that holds nothing but what the published ones do."""
  for count, (opcode, argument, _) in enumerate(pickletools.genops(content), 1):
    budget.claim("items", count, "its pickle")
    if opcode.name not in _OPCODES or opcode.name == "GLOBAL" and argument not in _STAND_INS:
      found = argument if opcode.name == "GLOBAL" else opcode.name
      raise ValueError(f"its pickle holds {found}, which the published ones do not; nothing of it was called")
    if opcode.name.endswith("PUT"):  # a place in a table that grows with it
      budget.claim("items", int(str(argument)), "its pickle")
  return _Unpickler(io.BytesIO(content), encoding="bytes").load()


class _Unpickler(pickle.Unpickler):
  def find_class(self, module, name):
    return _STAND_INS[f"{module} {name}"]


_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
FORMS = {  # by the name of a data set, the form that is preferred first
  "cifar10": (
    _Form(
      "cifar-10-binary.tar.gz",
      "cifar-10-batches-bin",
      {"train": tuple(f"{name}.bin" for name in _BATCHES), "test": ("test_batch.bin",)},
      functools.partial(_records, 1),
    ),
    _Form(
      "cifar-10-python.tar.gz",
      "cifar-10-batches-py",
      {"train": _BATCHES, "test": ("test_batch",)},
      functools.partial(_batch, b"labels"),
    ),
  ),
  "cifar100": (
    _Form(
      "cifar-100-binary.tar.gz",
      "cifar-100-binary",
      {"train": ("train.bin",), "test": ("test.bin",)},
      functools.partial(_records, 2),  # the coarse label, then the fine one
    ),
    _Form(
      "cifar-100-python.tar.gz",
      "cifar-100-python",
      {"train": ("train",), "test": ("test",)},
      functools.partial(_batch, b"fine_labels"),
    ),
  ),
}
