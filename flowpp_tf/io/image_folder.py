"""The files below a folder, by name; listing them opens none."""

import mimetypes
import os
import pathlib

from flowpp_tf.core.errors import InputError
from flowpp_tf.types import Path

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
ARRAY_SUFFIXES = (".npy", ".npz")  # of a file with many images
REAL_SUFFIXES = (".tif", ".tiff", ".npy", ".fits", ".fit")  # for a model of real-valued images
DEEP_SUFFIXES = (*SUFFIXES, *REAL_SUFFIXES)  # for a model of more than 256 levels


def open_folder(path: Path, levels: int | None = 256) -> tuple[pathlib.Path, list[str], str]:
  """Return a folder, its `image_files`, and a line that names the kinds of images that are left out, "" for none.

  Args:
    path: the folder.
    levels: number of levels of the model. With more than 256, TIFF, NumPy's and FITS files are image files too. None
      for a model of real-valued images, which reads only these.

  Raises:
    InputError (a ValueError): if the folder does not exist, or has no image file.
  """
  folder = pathlib.Path(path).expanduser()
  if not folder.exists():
    raise InputError(f"folder {str(path)!r} is not there")
  if not folder.is_dir():
    raise InputError(f"{str(path)!r} is not a folder")
  endings = REAL_SUFFIXES if levels is None else SUFFIXES if levels <= 256 else DEEP_SUFFIXES
  every = all_files(folder, hidden=False)
  names = _ending_with(endings, every)
  if not names:
    suffixes = ", ".join(endings)
    raise InputError(f"folder {str(path)!r} has no image: looked for {suffixes} in it and its subfolders")
  others = [name for name in {*every} - {*names} if _is_image(name)]
  kinds = ", ".join(sorted({pathlib.PurePath(name).suffix.lower() for name in others}))
  note = f"left out: {len(others)} ({kinds}), as the model reads {', '.join(endings)}; convert them" if others else ""
  return folder, names, note


def _is_image(name):
  return name.lower().endswith(DEEP_SUFFIXES) or (mimetypes.guess_type(name)[0] or "").startswith("image/")


def _ending_with(suffixes, names):
  return [name for name in names if name.lower().endswith(suffixes)]


def is_array_file(path: Path) -> bool:
  """Return whether a path names an array file, which holds many images, and not a folder."""
  return os.fspath(path).lower().endswith(ARRAY_SUFFIXES) and os.path.isfile(path)


def image_files(folder: pathlib.Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[str]:
  """Return the sorted paths of the image files below a folder, relative to it, with `/`.

  Hidden files and folders are left out; links to folders are not followed.
  """
  return _ending_with(suffixes, all_files(folder, hidden=False))


def all_files(folder: pathlib.Path, hidden: bool = True) -> list[str]:
  """Return the sorted paths of all files below a folder, relative to it, with `/`; links to folders are not followed.

  Args:
    folder: the folder.
    hidden: whether hidden files, and those in hidden folders, are among them.

  Raises:
    InputError (a ValueError): if a folder cannot be read.
  """

  def fail(error):
    raise InputError(f"folder {error.filename!r} cannot be read: {error.strerror}")

  wanted = lambda name: hidden or not name.startswith(".")
  names: list[str] = []
  for root, folders, files in os.walk(folder, onerror=fail):
    folders[:] = filter(wanted, folders)
    names += [(pathlib.Path(root) / name).relative_to(folder).as_posix() for name in filter(wanted, files)]
  return sorted(names)
