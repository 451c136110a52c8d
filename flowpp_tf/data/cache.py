"""Decoded images: a small set stays in memory, a large one is decoded once into memory-mapped files.

    CACHE_DIR/NAME-0123456789abcdef/   train.npy, validation.npy, ... and about.json

The hexadecimal digits identify the source (files, sizes, times) and how it was decoded. A folder gets its name when it
is complete; a killed process leaves `.unfinished.*`. Delete both when no run uses them.
"""

from collections.abc import Callable, Mapping
import hashlib
import json
import math
import os
import pathlib
import shutil
from typing import Any, TypeAlias
import uuid

from absl import logging
import numpy as np

from flowpp_tf.core.errors import InputError
from flowpp_tf.io.budget import size_text
from flowpp_tf.io.files import create_array, sync
from flowpp_tf.io.gate import map_npy, read_json
from flowpp_tf.types import Path, Shape

Arrays: TypeAlias = dict[str, np.ndarray]  # by split

_IN_MEMORY = 16 << 20  # bytes; no cache is written if neither the files nor the decoded images exceed it
_FORMAT = 1  # increase it when the same files are decoded to different images
_CHUNK = 1024  # images


def default_cache_dir() -> pathlib.Path:
  """Return the folder `flowpp_tf` in the user's cache folder."""
  return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "flowpp_tf"


def cache_entry(name: str, identity: Any, cache_dir: Path | None = None) -> pathlib.Path:
  """Return the path in the cache of what a JSON-serializable value identifies; `name` is for the reader of a list."""
  digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
  label = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[:50]  # a name has 255 bytes at most
  return pathlib.Path(cache_dir or default_cache_dir()).expanduser() / f"{label}-{digest[:16]}"


def file_identity(paths: list[pathlib.Path], root: Path | None = None) -> list[list[Any]]:
  """Return `[name, bytes, time in ns]` of each file, with names relative to `root` if it is given.

  A link that leads nowhere has its own size and time: reading it later raises the error.
  """
  return [
    [os.path.relpath(path, root) if root else os.path.abspath(path), status.st_size, status.st_mtime_ns]
    for path in paths
    for status in (os.stat(path) if os.path.exists(path) else os.lstat(path),)
  ]


def decoded_images(
  name: str,
  identity: Any,
  counts: dict[str, int],
  image_shape: Shape,
  fill: Callable[[Arrays], tuple[Mapping[str, int], dict[str, Any]]],
  source_bytes: int = 0,
  cache_dir: Path | None = None,
  dtype: np.dtype | type = np.uint8,
) -> tuple[Arrays, dict[str, Any]]:
  """Return the images of each split of a source; decode them unless the cache has them.

  Args:
    name: readable name of the source.
    identity: JSON-serializable value that differs for different images.
    counts: number of images in each split.
    image_shape: `(H, W, C)`.
    fill: writes the images into the first rows of arrays `[count, H, W, C]`. It returns how many rows it has written
      (of a split that is not named, all), and a JSON-serializable `dict` to store with the images.
    source_bytes: size of the source.
    cache_dir: folder of the cache; None for `default_cache_dir()`.
    dtype: of the images.

  Returns:
    Arrays or memory maps by split, and the `dict` from `fill`.

  Raises:
    InputError (a ValueError): if the cache cannot be written or read.
  """
  shapes = {split: (count, *image_shape) for split, count in counts.items()}
  size = np.dtype(dtype).itemsize * sum(map(np.prod, shapes.values()))
  if max(source_bytes, size) <= _IN_MEMORY:
    arrays = {split: np.empty(shape, dtype) for split, shape in shapes.items()}
    written, about = fill(arrays)
    return {split: array[: written.get(split)] for split, array in arrays.items()}, about
  folder = cache_entry(name, [_FORMAT, image_shape, identity, np.dtype(dtype).name], cache_dir)
  if not folder.exists():
    _write(folder, shapes, fill, dtype)
  try:
    about = read_json(folder / "about.json")
    arrays = {split: map_npy(folder / f"{split}.npy") for split in counts}
    for split, array in arrays.items():
      if array.dtype != dtype or array.shape[1:] != tuple(image_shape) or len(array) > counts[split]:
        raise ValueError(f"{split}.npy holds {array.dtype} of shape {array.shape}")
    return arrays, about
  except (OSError, ValueError, EOFError) as error:
    raise InputError(f"cache {str(folder)!r} cannot be read: {error}; delete it to decode again") from None


def _write(folder, shapes, fill, dtype):
  unfinished = folder.with_name(f".unfinished.{folder.name}.{uuid.uuid4().hex[:8]}")
  size = size_text(np.dtype(dtype).itemsize * sum(map(math.prod, shapes.values())))
  try:
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    arrays = {split: create_array(unfinished / f"{split}.npy", dtype, shape) for split, shape in shapes.items()}
  except OSError as error:
    shutil.rmtree(unfinished, ignore_errors=True)
    raise InputError(
      f"{size} of decoded images cannot be written to the cache {str(folder.parent)!r}: {error.strerror}; give another "
      "--cache_dir"
    ) from None
  logging.warning("decoding images into %s, only once: %s", folder, size)
  try:
    written, about = fill(arrays)
    for split, count in written.items():
      if count < len(arrays[split]):
        arrays[split] = _shortened(unfinished / f"{split}.npy", arrays[split], count)
    for array in arrays.values():
      array.flush()
    (unfinished / "about.json").write_text(json.dumps(about))
    for path in unfinished.iterdir():
      sync(path)
    try:
      os.rename(unfinished, folder)
    except OSError:
      if not folder.exists():  # else another process has written it
        raise
  finally:
    shutil.rmtree(unfinished, ignore_errors=True)


def _shortened(path, array, count):
  """Replace the file of an array by one with only the first rows, and return its map."""
  temporary = path.with_name(f"shortened.{path.name}")
  shortened = create_array(temporary, array.dtype, (count, *array.shape[1:]))
  for start in range(0, count, _CHUNK):
    end = min(start + _CHUNK, count)
    shortened[start:end] = array[start:end]
  os.replace(temporary, path)
  return shortened
