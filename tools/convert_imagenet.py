#!/usr/bin/env python3
"""Write the .npy file of published files of the old downsampled ImageNet, which the package memory-maps.

    python tools/convert_imagenet.py train_32x32.tar valid_32x32.tar

writes train_32x32.npy and valid_32x32.npy. Each file is one of

    .npz                                 one array under any name
    .tar, .tar.gz, .tgz, .zip, a folder  PNG files of exactly the size that the name says, in the order of their names
"""

import io
import math
import pathlib
import re
import sys
import tarfile
import zipfile

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import numpy as np

from flowpp_tf.core.errors import InputError
from flowpp_tf.data import images
from flowpp_tf.data.published import OTHER_FORMS, check_array
from flowpp_tf.io.budget import claim_output
from flowpp_tf.io.files import create_array, replace_file
from flowpp_tf.io.gate import open_regular, reading
from flowpp_tf.io.image_folder import SUFFIXES, image_files

_ROWS = 1024  # per read
_MOST_BYTES = 1 << 20  # of an image of 64x64 pixels


def convert(file: str | pathlib.Path) -> pathlib.Path:
  """Write the .npy file beside a published file, and return its path.

  Raises:
    InputError (a ValueError): naming the file that does not hold such images, or the .npy file that is there already.
    OSError: if the .npy file cannot be written.
  """
  path = pathlib.Path(file)
  match = re.fullmatch(r"((?:train|valid)_(32|64)x\2)(\..*)?", path.name)
  form = match and (match[3] or "")
  if not match or form not in OTHER_FORMS:
    raise InputError(
      f"{str(path)!r} must have a name such as train_32x32, or that with one of {', '.join(OTHER_FORMS[1:])}"
    )
  shape = (int(match[2]), int(match[2]), 3)
  target = path.with_name(f"{match[1]}.npy")
  if target.exists():
    raise InputError(f"{str(target)!r} is there already; remove it to convert {path.name}")

  def write(temporary):
    with reading(path):
      if form:
        open_regular(path).close()
      read = {"": _of_folder, ".npz": _of_npz, ".zip": _of_zip}.get(form, _of_tar)
      count, parts = read(path, shape)
    array = create_array(temporary, np.uint8, (count, *shape))
    with reading(path):
      for rows, part in parts:
        array[rows] = part
    array.flush()

  replace_file(target, write)
  return target


def _of_folder(path, shape):
  """Return the number of images, and an iterator of rows with their images; so do the other three."""
  names = image_files(path)
  return _decoded(path, shape, names, ((row, name, path / name) for row, name in enumerate(names)))


def _of_zip(path, shape):
  with zipfile.ZipFile(path) as archive:
    for member in filter(lambda member: _is_image(member.filename), archive.infolist()):
      _check_member(path, member.filename, member.file_size)
    names = sorted(set(filter(_is_image, archive.namelist())))

  def opened():
    with zipfile.ZipFile(path) as archive:
      yield from ((row, name, io.BytesIO(archive.read(name))) for row, name in enumerate(names))

  return _decoded(path, shape, names, opened())


def _of_tar(path, shape):
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
          yield rows[member.name], member.name, io.BytesIO(tar.extractfile(member).read())

  return _decoded(path, shape, names, opened())


def _of_npz(path, shape):
  with open_regular(path) as opened, zipfile.ZipFile(opened) as archive:
    names = archive.namelist()
    if len(names) != 1:
      raise InputError(f"{str(path)!r} must hold one array, it has {', '.join(names)}")
    claim_output(archive.infolist()[0].file_size, path.stat().st_size, repr(str(path)))
    with archive.open(names[0]) as file:
      count = _read_header(path, file, shape)
      if archive.infolist()[0].file_size != file.tell() + count * math.prod(shape):
        raise InputError(f"{str(path)!r} does not hold the {count:,} images that its header claims")

  def parts():
    with zipfile.ZipFile(path) as archive, archive.open(names[0]) as file:
      _read_header(path, file, shape)
      for start in range(0, count, _ROWS):
        rows = slice(start, min(start + _ROWS, count))
        size = (rows.stop - start) * math.prod(shape)
        yield rows, np.frombuffer(file.read(size), np.uint8).reshape(-1, *shape)

  return count, parts()


def _read_header(path, file, shape):
  formats = np.lib.format
  read = formats.read_array_header_1_0 if formats.read_magic(file) == (1, 0) else formats.read_array_header_2_0
  found, fortran, dtype = read(file)
  check_array(path, dtype, found, shape)
  if fortran:
    raise InputError(f"{str(path)!r} must hold an array in C order")
  return found[0]


def _decoded(path, shape, names, opened):
  if not names:
    raise InputError(f"{str(path)!r} has no image files")

  def decode(item):
    row, name, file = item
    image = images.read_photograph(file, shape[2], name=f"{path}: {name}")
    if image.shape != shape:
      found = f"{image.shape[1]}x{image.shape[0]}"
      raise InputError(f"{str(path)!r}: {name} must have {shape[1]}x{shape[0]} pixels, got {found}")
    return row, image

  return len(names), images.parallel_map(decode, opened)


def _check_member(path, name, size):
  if size > _MOST_BYTES:
    raise InputError(f"{str(path)!r}: {name} has {size:,} bytes; expected an image of at most {_MOST_BYTES:,}")


def _is_image(name):
  base = name.rpartition("/")[2]
  return base.lower().endswith(SUFFIXES) and not base.startswith(".")


if __name__ == "__main__":
  if len(sys.argv) < 2:
    sys.exit(__doc__)
  try:
    for argument in sys.argv[1:]:
      print(f"wrote {convert(argument)}")
  except (InputError, OSError) as error:
    sys.exit(str(error))
