"""The published files of the old downsampled ImageNet, which TensorFlow Datasets can no longer download.

The folder has, for example for size 32, `train_32x32` and `valid_32x32`, each in one of these forms:

    .npy                             one array, memory-mapped
    .npz                             one array under any name
    .tar, .tar.gz, .zip, a folder    PNG files of exactly this size, in the order of their names
"""

import io
import math
import pathlib
import tarfile
import zipfile

import numpy as np

from flowpp_tf.core.errors import InputError
from flowpp_tf.data import cache, images
from flowpp_tf.data import folder as folders
from flowpp_tf.io.gate import check_sizes, open_regular, reading
from flowpp_tf.io.image_file import ImageFileError, open_image
from flowpp_tf.types import Path

FORMS = (".npy", ".npz", ".tar", ".tar.gz", ".tgz", ".zip", "")
_ROWS = 1024  # per read
_MOST_BYTES = 1 << 20  # of an image of 64x64 pixels


def find_published(data_dir: Path, size: int) -> dict[str, pathlib.Path] | None:
  """Return the paths of `train` and `validation`, or None unless both are there."""
  found: dict[str, pathlib.Path] = {}
  for split, stem in (("train", "train"), ("validation", "valid")):
    for form in FORMS:
      path = pathlib.Path(data_dir).expanduser() / f"{stem}_{size}x{size}{form}"
      if split not in found and path.exists() and (form or path.is_dir()):
        found[split] = path
  return found if len(found) == 2 else None


def load_published(paths: dict[str, pathlib.Path], size: int, cache_dir: Path | None = None) -> cache.Arrays:
  """Load the result of `find_published`: uint8 arrays or memory maps `[N, size, size, 3]` by split.

  Raises:
    InputError (a ValueError): naming the file that does not hold such images.
  """
  shape = size, size, 3
  return {split: _load(path, shape, cache_dir) for split, path in paths.items()}


def _load(path, shape, cache_dir):
  with reading(path):
    if not path.is_dir():
      open_regular(path).close()
    if path.suffix == ".npy":
      array = np.load(path, mmap_mode="r")
      _check(path, array.dtype, array.shape, shape)
      return array
    names, read = _contents(path, shape)
    identity = cache.file_identity([path / name for name in names] if path.is_dir() else [path])
    size = sum(row[1] for row in identity)
    arrays, _ = cache.decoded_images(path.name, identity, {"images": len(names)}, shape, read, size, cache_dir)
    return arrays["images"]


def _contents(path, shape):
  """Return the names of a file's images, and the `fill` for `cache.decoded_images`."""
  if path.is_dir():
    names = folders.image_files(path)
    opened = lambda: ((row, name, path / name) for row, name in enumerate(names))
  elif path.suffix == ".npz":
    return _array_in_zip(path, shape)
  elif path.suffix == ".zip":
    with zipfile.ZipFile(path) as archive:
      for member in filter(lambda member: _is_image(member.filename), archive.infolist()):
        _check_member(path, member.filename, member.file_size)
      names = sorted(set(filter(_is_image, archive.namelist())))

    def opened():
      with zipfile.ZipFile(path) as archive:
        yield from ((row, name, io.BytesIO(archive.read(name))) for row, name in enumerate(names))
  else:
    with tarfile.open(path) as tar:
      names = sorted(set(filter(_is_image, tar.getnames())))
      if path.suffix == ".tar":  # tarfile itself detects truncated compressed files
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # a complete file ends in zeros
          raise InputError(f"{str(path)!r} is cut off after {len(names)} images")
    rows = {name: row for row, name in enumerate(names)}

    def opened():
      with tarfile.open(path) as tar:
        for member in tar:  # in the archive's order: a tar has no index
          if member.name in rows:
            if not member.isreg():
              raise InputError(f"{str(path)!r}: {member.name} is no image: it is a folder, a link or a device")
            _check_member(path, member.name, member.size)
            yield rows[member.name], member.name, io.BytesIO(tar.extractfile(member).read())  # type: ignore[union-attr]

  if not names:
    raise InputError(f"{str(path)!r} has no image files")

  def decode(item):
    row, name, file = item
    try:
      with open_image(file, name) as image:
        if image.size != shape[1::-1]:
          raise InputError(f"it has {image.width}x{image.height} pixels")
        return row, images.fit_image(images.upright(image), shape)[0]
    except ImageFileError as error:
      size = f"{shape[1]}x{shape[0]}"
      raise InputError(f"{str(path)!r}: {name} is no image of {size} pixels: {error.reason}") from None

  def fill(arrays):
    for row, image in images.parallel_map(decode, opened()):
      arrays["images"][row] = image
    return {}, {}

  return names, fill


def _check_member(path, name, size):
  if size > _MOST_BYTES:
    raise InputError(f"{str(path)!r}: {name} has {size:,} bytes; expected an image of at most {_MOST_BYTES:,}")


def _array_in_zip(path, shape):
  with open_regular(path) as opened, zipfile.ZipFile(opened) as archive:
    names = archive.namelist()
    if len(names) != 1:
      raise InputError(f"{str(path)!r} must hold one array, it has {', '.join(names)}")
    check_sizes(archive.infolist(), opened)
    with archive.open(names[0]) as file:
      count = _read_header(path, file, shape)
      if archive.infolist()[0].file_size != file.tell() + count * math.prod(shape):
        raise InputError(f"{str(path)!r} does not hold the {count:,} images that its header claims")

  def fill(arrays):
    with zipfile.ZipFile(path) as archive, archive.open(names[0]) as file:
      _read_header(path, file, shape)
      for start in range(0, count, _ROWS):
        rows = arrays["images"][start : start + _ROWS]
        rows[...] = np.frombuffer(file.read(rows.size), np.uint8).reshape(rows.shape)
    return {}, {}

  return range(count), fill


def _read_header(path, file, shape):
  formats = np.lib.format
  read = formats.read_array_header_1_0 if formats.read_magic(file) == (1, 0) else formats.read_array_header_2_0
  found, fortran, dtype = read(file)
  _check(path, dtype, found, shape)
  if fortran:
    raise InputError(f"{str(path)!r} must hold an array in C order")
  return found[0]


def _check(path, dtype, found, shape):
  if dtype != np.uint8 or len(found) != 4 or found[1:] != shape:
    raise InputError(
      f"{str(path)!r} must hold a uint8 array [N, {', '.join(map(str, shape))}], got {dtype} {list(found)}"
    )


def _is_image(name):
  base = name.rpartition("/")[2]
  return base.lower().endswith(images.SUFFIXES) and not base.startswith(".")
