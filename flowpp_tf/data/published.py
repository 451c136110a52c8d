"""Files of data sets as their authors publish them: CIFAR, MNIST, Fashion-MNIST, and the old downsampled ImageNet.

CIFAR-10 and CIFAR-100 are archives, whole or as Keras unpacks them:

    cifar-10-binary.tar.gz     or cifar-10-batches-bin, its content: records of a label and 3 x 32 x 32 pixels
    cifar-10-python.tar.gz     or cifar-10-batches-py, its content: pickles of a `dict` with `data` and `labels`

The binary form is read if both exist. Images are in the order of TensorFlow Datasets, which sorts each split by
a hash of their index: splits and fingerprints are the same from each source. A pickle can call any function, so a
pickle is opened only if it has the checksum of the published file.

MNIST and Fashion-MNIST are IDX files:

    train-images-idx3-ubyte.gz, t10k-images-idx3-ubyte.gz     or the same without .gz
    train-labels-idx1-ubyte.gz, t10k-labels-idx1-ubyte.gz

An IDX file of images is 0 0 8 3, then the number of images, rows and columns as big-endian 32-bit integers, then the
pixels. One of labels is 0 0 8 1, then their number, then a byte per label.

The old downsampled ImageNet, which TensorFlow Datasets can no longer download, is `train_32x32.npy` and
`valid_32x32.npy`, or with 64: each is one uint8 array `[N, 32, 32, 3]`, memory-mapped. tools/convert_imagenet.py writes
them from the other forms that people have.
"""

from collections.abc import Callable
import functools
import gzip
import hashlib
import io
import itertools
import math
import pathlib
import pickle
import struct
import tarfile
from typing import NamedTuple, TypeAlias

import numpy as np

from flowpp_tf.core.errors import InputError
from flowpp_tf.data import cache
from flowpp_tf.io import budget
from flowpp_tf.io.gate import map_npy, open_regular, reading
from flowpp_tf.types import Path, Shape

_IDX_STEMS = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
_IDX_FOLDERS = {  # where Debian's packages put the files
  "mnist": "/usr/share/datasets/mnist",
  "fashion_mnist": "/usr/share/datasets/fashion-mnist",
}
IMAGENET_SIZES = {"imagenet32_old": 32, "imagenet64_old": 64}


_MOST = 1 << 30  # bytes of a file's content; the largest that are published have 185 MB

Published: TypeAlias = tuple[str, cache.Arrays, cache.Arrays | None]


def read_published(name: str, data_dir: Path | None, labels: bool) -> Published | None:
  """Read the published files of a data set.

  Args:
    name: of the data set.
    data_dir: folder of the files; None for the place of Debian's packages. Of CIFAR also an archive or a folder of
      files itself, or Keras' folder of data sets.
    labels: whether to read the labels, too.

  Returns:
    The names of the files; uint8 arrays or memory maps `[N, H, W, C]` by split; the labels `[N]` by split or None.
    None if the data set has no such files there.

  Raises:
    InputError (a ValueError): naming the file and what is wrong with it, or a set without labels.
  """
  if name in _IDX_FOLDERS:
    return _read_mnist(pathlib.Path(data_dir or _IDX_FOLDERS[name]).expanduser(), labels)
  if data_dir and name in _CIFAR_FORMS:
    return _read_cifar(name, pathlib.Path(data_dir).expanduser(), labels)
  if data_dir and name in IMAGENET_SIZES:
    return _read_imagenet(name, pathlib.Path(data_dir).expanduser(), labels)
  return None


def _content(path):
  """Return the content of a file of at most `_MOST` bytes, unpacked if its name ends with .gz."""
  with open_regular(path) as packed, gzip.open(packed) if path.suffix == ".gz" else packed as file:
    content = file.read(_MOST + 1)
  if len(content) > _MOST:
    raise InputError(f"{str(path)!r} holds more than {budget.size_text(_MOST)}")
  budget.claim("memory", 2 * len(content), repr(str(path)))
  return content


# --- CIFAR ----------------------------------------------------------------------------------------

_SHAPE = 3, 32, 32
_PIXELS = 3 * 32 * 32
_MOST_MEMBERS = 1000  # of an archive; those that are published have 9
_STEMS = {  # names of the files of each split, to which the binary form adds .bin
  "cifar10": {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
  "cifar100": {"train": ["train"], "test": ["test"]},
}
# MD5 of the published pickles. Nobody knows how to make another file with the MD5 of a given one.
_PICKLE_CHECKSUMS = {
  "data_batch_1": "c99cafc152244af753f735de768cd75f",
  "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
  "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
  "data_batch_4": "634d18415352ddfa80567beed471001a",
  "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
  "test_batch": "40351d587109b95175f43aff81a1287e",
  "train": "16019d7e3df5f24257cddd939b257f8d",
  "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
}


class _Form(NamedTuple):
  """A published form: its archive, the folder in it, the ending of its files, and how to read one."""

  archive: str
  folder: str
  ending: str
  read: Callable[[str, bytes], tuple[np.ndarray, np.ndarray]]  # name, content: pixels [N, 3072], labels [N], uint8


def _read_cifar(name, given, with_labels):
  for form in _CIFAR_FORMS[name]:
    splits = {split: [stem + form.ending for stem in stems] for split, stems in _STEMS[name].items()}
    files = sum(splits.values(), [])
    folders = given / form.folder, given / f"{form.folder}-target" / form.folder, given
    found = [folder for folder in folders if any((folder / file).is_file() for file in files)]
    found += [path for path in (given / form.archive, given) if path.name == form.archive and path.is_file()]
    if found:
      images, labels = _read_form(form, found[0], splits, files)
      return found[0].name, images, labels if with_labels else None
  return None


def _read_form(form, path, splits, files):
  """Return the images and the labels by split, in the order of TensorFlow Datasets."""
  archive = _unpacked(path, files) if path.is_file() else None
  images, labels = {}, {}
  for split, split_files in splits.items():
    batches = []
    for file in split_files:
      with reading(path / file, f"expected a file of {form.archive}"):
        content = _content(path / file) if archive is None else archive.pop(file)
        batches.append(form.read(file, content))
    pixels = np.concatenate([pixels for pixels, _ in batches])
    order = sorted(range(len(pixels)), key=functools.partial(_hash, split))
    images[split] = pixels.reshape(-1, *_SHAPE).transpose(0, 2, 3, 1)[order]
    labels[split] = np.concatenate([labels for _, labels in batches])[order]
  return images, labels


def _hash(split, index):
  """The key by which TensorFlow Datasets sorts the examples of a split."""
  return hashlib.md5(f"{split}{index}".encode(), usedforsecurity=False).digest()


def _unpacked(path, files):
  """Return the content of files of an archive by their names."""
  found = {}
  with reading(path):
    content = _content(path)
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
      for member in itertools.islice(archive, _MOST_MEMBERS):
        if member.isfile() and not member.issparse():
          file_name = member.name.rpartition("/")[2]
          found[file_name] = content[member.offset_data : member.offset_data + member.size]
  if missing := {*files} - {*found}:
    raise InputError(f"{str(path)!r} has no {' and no '.join(sorted(missing))}")
  return found


def _records(labels: int, file: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
  """Return the pixels and the last of so many labels of each record."""
  size = labels + _PIXELS
  if not content or len(content) % size:
    raise ValueError(f"it has {len(content):,} bytes, which are not records of {size:,}")
  records = np.frombuffer(content, np.uint8).reshape(-1, size)
  return records[:, labels:], records[:, labels - 1]


def _pickled(key: bytes, file: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
  """Return the pixels of a published pickle, and the labels that it has under a key."""
  checksum = hashlib.md5(content, usedforsecurity=False).hexdigest()
  if checksum != _PICKLE_CHECKSUMS[file]:
    raise ValueError(f"its MD5 is {checksum}, not {_PICKLE_CHECKSUMS[file]}, which the published file has")
  batch = pickle.loads(content, encoding="bytes")
  return batch[b"data"], np.array(batch[key], np.uint8)


_CIFAR_FORMS = {  # by the name of a data set, the form that is preferred first
  "cifar10": (
    _Form("cifar-10-binary.tar.gz", "cifar-10-batches-bin", ".bin", functools.partial(_records, 1)),
    _Form("cifar-10-python.tar.gz", "cifar-10-batches-py", "", functools.partial(_pickled, b"labels")),
  ),
  "cifar100": (  # the binary form has the coarse label, then the fine one
    _Form("cifar-100-binary.tar.gz", "cifar-100-binary", ".bin", functools.partial(_records, 2)),
    _Form("cifar-100-python.tar.gz", "cifar-100-python", "", functools.partial(_pickled, b"fine_labels")),
  ),
}


# --- IDX ------------------------------------------------------------------------------------------


def _read_mnist(folder, with_labels):
  paths = {split: _find_file(folder, stem) for split, stem in _IDX_STEMS.items()}
  if None in paths.values():
    return None
  images = {split: read_idx_images(path) for split, path in paths.items()}
  labels = {split: read_idx_labels(paths[split], len(images[split])) for split in paths} if with_labels else None
  return " and ".join(path.name for path in paths.values()), images, labels


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
  begin = bytes([0, 0, 8, dimensions])
  layout = struct.Struct(f">4x{dimensions}I")
  with reading(path, f"expected an IDX file of {what}, which begins with the bytes {begin.hex(' ')}"):
    content = _content(path)
    if not content.startswith(begin):
      raise ValueError(f"it begins with {content[:4].hex(' ') or 'nothing'}")
    shape = layout.unpack_from(content)
    found = len(content) - layout.size
    if not found or found != math.prod(shape):
      raise ValueError(f"it claims {what} of shape {shape}, and has {found:,} bytes of them")
    return np.frombuffer(content, np.uint8, offset=layout.size).reshape(shape)


# --- ImageNet -------------------------------------------------------------------------------------

OTHER_FORMS = ("", ".npz", ".tar", ".tar.gz", ".tgz", ".zip")


def _read_imagenet(name, folder, with_labels):
  size = IMAGENET_SIZES[name]
  shape = (size, size, 3)
  paths = {}
  for split, stem in (("train", f"train_{size}x{size}"), ("validation", f"valid_{size}x{size}")):
    paths[split] = folder / f"{stem}.npy"
    others = [path for form in OTHER_FORMS if (path := folder / (stem + form)).exists()]
    if others and not paths[split].exists():
      raise InputError(f"{str(others[0])!r} must be converted by `python tools/convert_imagenet.py PATH` in a clone")
  if not all(path.exists() for path in paths.values()):
    return None
  if with_labels:
    raise InputError(f"data set {name!r} has no labels in its published files")
  splits = {}
  for split, path in paths.items():
    with reading(path):
      splits[split] = map_npy(path)
    check_array(path, splits[split].dtype, splits[split].shape, shape)
  return " and ".join(path.name for path in paths.values()), splits, None


def check_array(path: pathlib.Path, dtype: np.dtype, found: Shape, shape: Shape) -> None:
  """Raise an `InputError` unless an array of a file holds uint8 images of a shape."""
  if dtype != np.uint8 or len(found) != 4 or found[1:] != shape:
    raise InputError(
      f"{str(path)!r} must hold a uint8 array [N, {', '.join(map(str, shape))}], got {dtype} {list(found)}"
    )


def files_of(name: str) -> str:
  """Return what can be given as --data_dir for a data set, "" if it has no published files."""
  if name in _CIFAR_FORMS:
    archives = " or ".join(form.archive for form in _CIFAR_FORMS[name])
    return f"a folder with {archives}, whole or unpacked, or Keras' own: ~/.keras/datasets"
  if name in _IDX_FOLDERS:
    debian = "; on Debian also: apt-get install dataset-fashion-mnist" if name == "fashion_mnist" else ""
    return f"a folder with {_IDX_STEMS['train']}.gz and {_IDX_STEMS['test']}.gz{debian}"
  if name in IMAGENET_SIZES:
    size = IMAGENET_SIZES[name]
    return f"a folder with train_{size}x{size}.npy and valid_{size}x{size}.npy, which tools/convert_imagenet.py writes"
  return ""
