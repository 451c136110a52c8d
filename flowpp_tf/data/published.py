"""Files of data sets as their authors publish them: CIFAR, MNIST, Fashion-MNIST, and the old downsampled ImageNet.

CIFAR-10 and CIFAR-100 are archives, whole or as Keras unpacks them:

    cifar-10-binary.tar.gz     or cifar-10-batches-bin, its content: records of a label and 3 x 32 x 32 pixels
    cifar-10-python.tar.gz     or cifar-10-batches-py, its content: pickles of a `dict` with `data` and `labels`

The binary form is read if both exist. Images are in the order of TensorFlow Datasets, which sorts those of a split by
a hash of their index: splits and fingerprints are the same from each source. A pickle can call any function. Nothing
that these name is called: each object of NumPy becomes a record of its arguments and its state, from which the array
is read.

MNIST and Fashion-MNIST are IDX files:

    train-images-idx3-ubyte.gz, t10k-images-idx3-ubyte.gz     or the same without .gz
    train-labels-idx1-ubyte.gz, t10k-labels-idx1-ubyte.gz

An IDX file of images is 0 0 8 3, then the number of images, rows and columns as big-endian 32-bit integers, then the
pixels. One of labels is 0 0 8 1, then their number, then a byte per label.

The old downsampled ImageNet, which TensorFlow Datasets can no longer download, is `train_32x32` and `valid_32x32`, or
with 64, each in one of these forms:

    .npy        one uint8 array `[N, 32, 32, 3]`, memory-mapped
    a folder    PNG files of exactly this size, in the order of their names: the published .tar, unpacked

tools/convert_imagenet.py makes the .npy of the other forms that people have.
"""

from collections.abc import Callable
import dataclasses
import functools
import gzip
import hashlib
import io
import itertools
import math
import os
import pathlib
import pickle
import pickletools
import struct
import tarfile
from typing import BinaryIO, NamedTuple

import numpy as np

from flowpp_tf.core.errors import InputError
from flowpp_tf.data import cache, images
from flowpp_tf.io import budget
from flowpp_tf.io.gate import map_npy, open_regular, read_bytes, reading
from flowpp_tf.io.image_file import ImageFileError, open_image
from flowpp_tf.io.image_folder import image_files
from flowpp_tf.types import Path, Shape

_IDX_STEMS = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
_IDX_FOLDERS = {  # where Debian's packages put the files
  "mnist": "/usr/share/datasets/mnist",
  "fashion_mnist": "/usr/share/datasets/fashion-mnist",
}
IMAGENET_SIZES = {"imagenet32_old": 32, "imagenet64_old": 64}


class Published(NamedTuple):
  """Published files that exist.

  Attributes:
    version: their names.
    read: returns, given whether to read the labels and the folder of the cache, uint8 arrays or memory maps
      `[N, H, W, C]` by split, and the labels `[N]` by split or None.
  """

  version: str
  read: Callable[[bool, Path | None], tuple[cache.Arrays, cache.Arrays | None]]


def find_published(name: str, data_dir: Path | None) -> Published | None:
  """Return the published files of a data set, or None if it has none there.

  Args:
    name: of the data set.
    data_dir: folder of the files; None for the place of Debian's packages. Of CIFAR also an archive or a folder of
      files itself, or Keras' folder of data sets.

  Raises:
    InputError (a ValueError): if a split exists only in a form that has to be converted. `read` raises one that names
      the file and what is wrong with it, or a set without labels.
  """
  if name in _IDX_FOLDERS:
    return _find_idx(pathlib.Path(data_dir or _IDX_FOLDERS[name]).expanduser())
  if data_dir and name in _CIFAR_FORMS:
    return _find_cifar(name, pathlib.Path(data_dir).expanduser())
  if data_dir and name in IMAGENET_SIZES:
    return _find_imagenet(name, pathlib.Path(data_dir).expanduser())
  return None


# --- CIFAR ----------------------------------------------------------------------------------------

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


def _find_cifar(name, given):
  for form in _CIFAR_FORMS[name]:
    folders = given / form.folder, given / f"{form.folder}-target" / form.folder, given
    found = [folder for folder in folders if any((folder / file).is_file() for file in _files(form))]
    found += [path for path in (given / form.archive, given) if path.name == form.archive and path.is_file()]
    if found:
      return Published(found[0].name, functools.partial(_read_cifar, form, found[0]))
  return None


def _read_cifar(form, path, with_labels, cache_dir):
  del cache_dir
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
  return images, labels if with_labels else None


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
_CIFAR_FORMS = {  # by the name of a data set, the form that is preferred first
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


# --- IDX ------------------------------------------------------------------------------------------


def _find_idx(folder):
  paths = {split: path for split, stem in _IDX_STEMS.items() if (path := _find_file(folder, stem))}
  names = " and ".join(path.name for path in paths.values())
  return Published(names, functools.partial(_read_idx_files, paths)) if len(paths) == len(_IDX_STEMS) else None


def _read_idx_files(paths, with_labels, cache_dir):
  del cache_dir
  images = {split: read_idx_images(path) for split, path in paths.items()}
  labels = {split: read_idx_labels(paths[split], len(images[split])) for split in paths} if with_labels else None
  return images, labels


def read_idx_images(path: Path) -> np.ndarray:
  """Read the images of an IDX file, compressed or not.

  Returns:
    uint8 `[N, H, W, 1]`.

  Raises:
    InputError (a ValueError): naming the file and what is wrong with it.
  """
  return _read_idx(pathlib.Path(path), "images", 3)[..., np.newaxis]


def read_idx_labels(images_path: Path, count: int) -> np.ndarray:
  """Read the labels that belong to an IDX file of images, from the same folder.

  Args:
    images_path: path of the images.
    count: number of the images.

  Returns:
    uint8 `[count]`.

  Raises:
    InputError (a ValueError): naming the file that is missing, or what is wrong with it.
  """
  images_path = pathlib.Path(images_path)
  stem = images_path.name.removesuffix(".gz").replace("images-idx3", "labels-idx1")
  path = _find_file(images_path.parent, stem)
  if path is None:
    raise InputError(f"{str(images_path)!r} has no labels: looked for {stem} and {stem}.gz in its folder")
  labels = _read_idx(path, "labels", 1)
  if len(labels) != count:
    raise InputError(f"{str(path)!r} has {len(labels):,} labels; expected one for each of the {count:,} images")
  return labels


def _find_file(folder, stem):
  paths = folder / stem, folder / f"{stem}.gz"
  return next((path for path in paths if path.is_file()), None)


def _read_idx(path, what, dimensions):
  """Read a uint8 array of so many dimensions; `what` names its content in errors."""
  layout = struct.Struct(f">4B{dimensions}I")
  with reading(path), open_regular(path) as opened:
    with gzip.open(opened) if path.suffix == ".gz" else opened as file:
      header = file.read(layout.size)
      if len(header) < layout.size:
        raise InputError(f"{str(path)!r} is not an IDX file of {what}: it has {len(header)} bytes")
      shape = layout.unpack(header)[4:]
      if header[:4] != bytes([0, 0, 8, dimensions]):
        raise InputError(
          f"{str(path)!r} is not an IDX file of {what}: it must begin with the bytes 0 0 8 {dimensions}, "
          f"got {' '.join(map(str, header[:4]))}"
        )
      size, claim = math.prod(shape), f"{str(path)!r} claims {what} of shape {shape}"
      if not size:
        raise InputError(f"{claim}; expected at least one")
      budget.claim_output(size, os.fstat(opened.fileno()).st_size, claim)
      budget.claim("memory", size, f"{claim}, which")
      content = file.read(size + 1)
  if len(content) != size:
    found = "is cut off: it has" if len(content) < size else "is too long: it has more than"
    raise InputError(f"{str(path)!r} {found} {min(len(content), size):,} of the {size:,} bytes that its header claims")
  return np.frombuffer(content, np.uint8).reshape(shape)


# --- ImageNet -------------------------------------------------------------------------------------

_FORMS = (".npy", "")
OTHER_FORMS = (".npz", ".tar", ".tar.gz", ".tgz", ".zip")


def _find_imagenet(name, folder):
  size, found = IMAGENET_SIZES[name], {}
  for split, stem in (("train", f"train_{size}x{size}"), ("validation", f"valid_{size}x{size}")):
    paths = {form: folder / (stem + form) for form in (*_FORMS, *OTHER_FORMS)}
    form = next((form for form, path in paths.items() if path.exists() and (form or path.is_dir())), None)
    if form in OTHER_FORMS:
      raise InputError(f"{str(paths[form])!r} must be converted by `python tools/convert_imagenet.py FILE` in a clone")
    if form is not None:
      found[split] = paths[form]
  names = " and ".join(path.name for path in found.values())
  return Published(names, functools.partial(_read_imagenet, name, found)) if len(found) == 2 else None


def _read_imagenet(name, paths, with_labels, cache_dir):
  if with_labels:
    raise InputError(f"data set {name!r} has no labels in its published files")
  shape, splits = (IMAGENET_SIZES[name], IMAGENET_SIZES[name], 3), {}
  for split, path in paths.items():
    with reading(path):
      if path.is_dir():
        splits[split] = _read_folder(path, shape, cache_dir)
      else:
        splits[split] = map_npy(path)
        check_array(path, splits[split].dtype, splits[split].shape, shape)
  return splits, None


def _read_folder(path, shape, cache_dir):
  names = image_files(path)
  if not names:
    raise InputError(f"{str(path)!r} has no image files")
  decode = lambda name: ("images", decode_exactly(path, name, path / name, shape)[np.newaxis])
  parts = images.parallel_map(decode, names)
  identity = cache.file_identity([path / name for name in names])
  size = sum(row[1] for row in identity)
  arrays, _ = cache.decoded_images(path.name, identity, {"images": len(names)}, shape, parts, size, cache_dir)
  return arrays["images"]


def decode_exactly(source: pathlib.Path, name: str, file: Path | BinaryIO, shape: Shape) -> np.ndarray:
  """Return an image file of `source` as uint8 `[H, W, C]`; raise an `InputError` if it has another size."""
  try:
    with open_image(file, name) as image:
      if image.size != shape[1::-1]:
        raise InputError(f"it has {image.width}x{image.height} pixels")
      return images.fit_image(images.upright(image), shape)[0]
  except ImageFileError as error:
    size = f"{shape[1]}x{shape[0]}"
    raise InputError(f"{str(source)!r}: {name} is not an image of {size} pixels: {error.reason}") from None


def check_array(path: pathlib.Path, dtype: np.dtype, found: Shape, shape: Shape) -> None:
  """Raise an `InputError` unless an array of a file holds uint8 images of a shape."""
  if dtype != np.uint8 or len(found) != 4 or found[1:] != shape:
    raise InputError(
      f"{str(path)!r} must hold a uint8 array [N, {', '.join(map(str, shape))}], got {dtype} {list(found)}"
    )


FILES = {  # by the name of a data set, what can be given as --data_dir
  **{
    name: f"a folder with {' or '.join(form.archive for form in forms)}, whole or unpacked, or Keras' own: "
    "~/.keras/datasets"
    for name, forms in _CIFAR_FORMS.items()
  },
  **dict.fromkeys(_IDX_FOLDERS, f"a folder with {_IDX_STEMS['train']}.gz and {_IDX_STEMS['test']}.gz"),
  **{
    name: f"the folder of the unpacked train_{size}x{size}.tar and valid_{size}x{size}.tar"
    for name, size in IMAGENET_SIZES.items()
  },
}
FILES["fashion_mnist"] += "; on Debian also: apt-get install dataset-fashion-mnist"
