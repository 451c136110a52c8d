"""Decoded images, kept: in memory if they are few, else once in a file that is mapped into it.

    CACHE_DIR/NAME-0123456789abcdef/   train.npy, validation.npy, ... and about.json

The digits say which source it is: its files with their sizes and times, and how they were read. A folder
appears under its name once all of it is on disk; one that was killed before is left as `.unfinished.*`.
Both can be deleted when no run uses them.
"""

import hashlib
import json
import os
import pathlib
import shutil
import uuid

from absl import logging
import numpy as np

from flowpp_tf.errors import InputError

_IN_MEMORY = 16 << 20  # bytes of files, and of decoded images, up to which no cache is written
_FORMAT = 1  # raised when the same files are decoded to other images
_CHUNK = 1024  # images


def default_cache_dir():
  """`flowpp_tf` in the user's cache folder."""
  return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "flowpp_tf"


def file_identity(paths, root=None):
  """`[name, bytes, time in ns]` of files, the names below `root` if given."""
  return [[os.path.relpath(path, root) if root else os.path.abspath(path), status.st_size,
           status.st_mtime_ns] for path in paths for status in (os.stat(path),)]


def decoded_images(name, identity, counts, image_shape, fill, source_bytes=0, cache_dir=None):
  """The images of each split of a source, decoded unless that has been done before.

  Args:
    name: of the source, for people.
    identity: what JSON can hold, another one for other images.
    counts: `dict` of the number of images in each split.
    image_shape: `(H, W, C)`.
    fill: function that writes into a `dict` of uint8 arrays `[count, H, W, C]`, and returns which rows
      of a split are to be kept, a `dict` of boolean arrays (missing: all), and what else is to be known
      of the images, a `dict` that JSON can hold.
    source_bytes: size of the source.
    cache_dir: folder of the cache; None for `default_cache_dir()`.

  Returns:
    A `dict` of arrays or memory maps, and the `dict` from `fill`.

  Raises:
    InputError (a ValueError): if the cache cannot be written.
  """
  shapes = {split: (count, *image_shape) for split, count in counts.items()}
  if max(source_bytes, sum(map(np.prod, shapes.values()))) <= _IN_MEMORY:
    arrays = {split: np.empty(shape, np.uint8) for split, shape in shapes.items()}
    kept, about = fill(arrays)
    return {split: a[kept[split]] if split in kept else a for split, a in arrays.items()}, about
  digest = hashlib.sha256(json.dumps([_FORMAT, image_shape, identity]).encode()).hexdigest()
  label = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
  folder = pathlib.Path(cache_dir or default_cache_dir()).expanduser() / f"{label}-{digest[:16]}"
  if not folder.exists():
    _write(folder, shapes, fill)
  try:
    about = json.loads((folder / "about.json").read_text())
    return {split: np.load(folder / f"{split}.npy", mmap_mode="r") for split in counts}, about
  except (OSError, ValueError, EOFError) as error:
    raise InputError(f"cache {str(folder)!r} cannot be read: {error}; delete it to have it made "
                     "again") from None


def _write(folder, shapes, fill):
  unfinished = folder.with_name(f".unfinished.{folder.name}.{uuid.uuid4().hex[:8]}")
  try:
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    arrays = {split: _create(unfinished / f"{split}.npy", shape) for split, shape in shapes.items()}
  except OSError as error:
    shutil.rmtree(unfinished, ignore_errors=True)
    raise InputError(
        f"{sum(map(np.prod, shapes.values())) / 1e9:.1f} GB of decoded images cannot be written to the "
        f"cache {str(folder.parent)!r}: {error.strerror}; give another --cache_dir") from None
  logging.warning("decoding %d images into %s, this once", sum(n for n, *_ in shapes.values()), folder)
  try:
    kept, about = fill(arrays)
    for split, rows in kept.items():
      arrays[split] = _compact(unfinished / f"{split}.npy", arrays[split], rows)
    for array in arrays.values():
      array.flush()
    (unfinished / "about.json").write_text(json.dumps(about))
    try:
      os.rename(unfinished, folder)
    except OSError:
      if not folder.exists():  # else another process was faster
        raise
  finally:
    shutil.rmtree(unfinished, ignore_errors=True)


def _create(path, shape):
  array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
  if hasattr(os, "posix_fallocate"):  # a full disk is to be found here, not by a write to the map
    with open(path, "r+b") as file:
      os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
  return array


def _compact(path, array, rows):
  """The rows of an array that are to be kept, in its place."""
  rows = np.flatnonzero(rows)
  smaller = path.with_name(f"kept.{path.name}")
  kept = _create(smaller, (len(rows), *array.shape[1:]))
  for start in range(0, len(rows), _CHUNK):
    kept[start:start + _CHUNK] = array[rows[start:start + _CHUNK]]
  os.replace(smaller, path)
  return kept
